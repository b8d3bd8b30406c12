"""Recipes of pictures and sounds, from the data to a student that Transformers loads alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForAudioClassification, AutoModelForImageClassification

from hf_distill import check, plan, run, sweep
from hf_distill.errors import HfDistillError
from tests.helpers import media, media_models, media_rows
from tests.helpers.command_line import process
from tests.helpers.media_models import SAMPLES, SIDE

KINDS = {
    "image-classification": ("vit", AutoModelForImageClassification, "picture_splits", media_rows.image_processor),
    "audio-classification": ("wav2vec2", AutoModelForAudioClassification, "sound_splits", media_rows.waves),
}


def recipe(folder, kind_of_rows: str, **changes: Any) -> dict[str, Any]:
    """A teacher that knows its data, and a student of half its layers."""
    kind, loader, splits, processor = KINDS[kind_of_rows]
    if not (folder / "teacher").is_dir():
        media_models.model(loader, kind, 3).save_pretrained(folder / "teacher")
        processor().save_pretrained(folder / "teacher")
    options = {"max_seconds": SAMPLES / media_rows.RATE} if kind == "wav2vec2" else {}
    return {
        "version": 1,
        "name": "media",
        "task": {"name": kind_of_rows, **options},
        "data": {"path": f"tests.helpers.media_rows:{splits}", "validation_size": 12},
        "teacher": {
            "recipe": {
                "student": {"pretrained": str(folder / "teacher")},
                "training": {"max_steps": 30, "learning_rate": 3e-3, "use_cpu": True, "eval_strategy": "no"},
            }
        },
        "student": {"layers": 2},
        "objectives": [{"kind": "labels"}, {"kind": "logits"}, {"kind": "hidden"}],
        "training": {"max_steps": 4, "per_device_train_batch_size": 8, "use_cpu": True, "eval_strategy": "no"},
        "evaluate": {"resamples": 100},
        **changes,
    }


def ran(made: dict[str, Any], runs) -> Any:
    return run(made, runs=runs, report=lambda line: None, allow_code=True)


@pytest.fixture(autouse=True)
def _any_teacher(monkeypatch):
    monkeypatch.setattr("hf_distill.evaluation.scores.Scores.check_above_chance", lambda *_: None)
    monkeypatch.setattr("hf_distill.evaluation.speed.ROUNDS", 1)


LOADED = """
import sys
from transformers import pipeline
model, given = pipeline(sys.argv[1], sys.argv[2]), sys.argv[3]
if given.endswith(".wav"):  # Else Transformers would call ffmpeg.
    import soundfile
    samples, rate = soundfile.read(given, dtype="float32")
    given = {"raw": samples, "sampling_rate": rate}
print("found", model(given)[0]["label"], "hf_distill" in sys.modules)
"""


@pytest.mark.parametrize("task", KINDS)
def test_a_student_is_loaded_by_pipeline_in_a_process_without_hf_distill(task, tmp_path):
    made = ran(recipe(tmp_path, task), tmp_path / "runs")
    file = media.write_image(tmp_path / "a.png") if task.startswith("image") else media.write_sound(tmp_path / "a.wav")
    done = process("-c", LOADED, task, str(made.student), str(file))
    assert done.returncode == 0, done.stderr[-1500:]
    label, loaded = done.stdout.split("found ")[1].split()
    assert label in media_models.NAMES
    assert loaded == "False"
    card = (made.student / "README.md").read_text()
    assert f'pipeline("{task}"' in card
    assert ("your_picture.jpg" if task.startswith("image") else "your_sound.wav") in card
    assert ("real-time factor" in card) == task.startswith("audio")
    for model in made.results["models"].values():
        assert ("real_time_factor" in model) == task.startswith("audio")
    assert set(made.results["models"]) == {"teacher", "student", "control"}
    assert json.loads((made.folder / "analysis.json").read_text())["summary"]


def test_pictures_are_shown_only_where_rows_may_be_quoted(tmp_path):
    for examples in (True, False):
        made = recipe(tmp_path, "image-classification", name=f"media-{examples}".lower())
        found = ran({**made, "evaluate": {"resamples": 100, "examples": examples, "control": False}}, tmp_path / "runs")
        assert found.metrics["accuracy"] < 1
        assert (found.student / "figures" / "mistaken.png").is_file() == examples
        assert ("mistaken.png" in (found.student / "README.md").read_text()) == examples
        assert (found.results["card"]["quoted_rows"] > 0) == examples


@pytest.mark.parametrize("task", KINDS)
def test_live_and_cached_teachers_make_the_same_student(task, tmp_path):
    weights = []
    for kind in ("live", "cached"):
        made = recipe(tmp_path, task, name=kind, evaluate={"resamples": 100, "control": False})
        made["teacher"]["kind"] = kind
        weights.append(load_file(ran(made, tmp_path / "runs").student / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(value.allclose(weights[1][name], atol=1e-5) for name, value in weights[0].items())


def test_a_student_of_another_size_has_a_processor_of_its_own(tmp_path):
    small = {"model_type": "vit", "image_size": SIDE // 2, "patch_size": 4, "num_hidden_layers": 1}
    small |= {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    made = recipe(tmp_path, "image-classification", student={"config": small})
    made["objectives"] = made["objectives"][:2]
    student = ran(made, tmp_path / "runs").student
    size = json.loads((student / "preprocessor_config.json").read_text())["size"]
    assert size == {"height": SIDE // 2, "width": SIDE // 2}


SMALL = {"num_hidden_layers": 1}
REFUSED = {
    "views of a cached teacher": ({"task": {"name": "image-classification", "crop": 0.5}}, "cached", "live"),
    "a tokenizer": ({"student": {"config": SMALL, "tokenizer": {"vocab_size": 9}}}, "live", "tokenizer"),
    "no such setting": ({"student": {"config": SMALL, "processor": {"sice": 9}}}, "live", "sice"),
    "a bag of words": ({"evaluate": {"floor": True}}, "live", "floor"),
    "width": ({"student": {"width": {"ratio": 0.5}}}, "live", "width"),
    "a vocabulary": ({"student": {"vocabulary": {"min_count": 1}}}, "live", "vocabulary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_nothing_for_pictures_is_refused(name, tmp_path):
    changes, kind, told = REFUSED[name]
    made = recipe(tmp_path, "image-classification", **changes)
    made["teacher"]["kind"] = kind
    with pytest.raises(HfDistillError, match=told):
        check(made, report=lambda line: None, allow_code=True)


# --- other ways ------------------------------------------------------------------------------------------------------


def ready(folder, kind_of_rows: str, seeds: tuple[int, ...] = (3,)) -> list[str]:
    """Folders of teachers that need not be trained."""
    kind, loader, _, processor = KINDS[kind_of_rows]
    paths = [folder / f"teacher-{seed}" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        media_models.model(loader, kind, seed).save_pretrained(path)
        processor().save_pretrained(path)
    return list(map(str, paths))


@pytest.mark.slow
@pytest.mark.parametrize("task", KINDS)
def test_several_teachers_teach_in_stages(task, tmp_path):
    first, second = ready(tmp_path, task, (3, 4))
    made = recipe(tmp_path, task, teacher={"ensemble": [{"model": first}, {"model": second}]})
    objectives, steps = made.pop("objectives"), made["training"].pop("max_steps")
    made["stages"] = [
        {"name": "first", "objectives": objectives[1:2], "training": {"max_steps": steps}},
        {"name": "second", "objectives": objectives[:2], "training": {"max_steps": steps}},
    ]
    found = ran(made, tmp_path / "runs").results
    assert set(found["training"]["student"]["stages"]) == {"first", "second"}
    assert set(found["models"]) == {"teacher", "student", "control"}


@pytest.mark.slow
@pytest.mark.parametrize("task", KINDS)
def test_a_sweep_and_a_plan_of_students_that_see_or_hear(task, tmp_path, monkeypatch):
    (model,) = ready(tmp_path, task)
    made = recipe(tmp_path, task, teacher={"model": model, "kind": "cached"})
    told = sweep(
        made, {"objectives.1.temperature": [1.0, 2.0]}, runs=tmp_path / "sweeps", report=lambda _: None, allow_code=True
    )
    assert told.folder.is_dir()
    found = plan(made, max_parameters=0.9e9, runs=tmp_path / "plans", report=lambda _: None, allow_code=True)
    assert found
