"""Recipes of speech, from clips to a student that Transformers loads alone and that writes down what it hears."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets
from safetensors.torch import load_file

from hf_distill import check, run
from hf_distill.errors import DataError
from tests.helpers import media, speech, whispers
from tests.helpers.command_line import process

LOADED = """
import sys, soundfile
from transformers import pipeline
samples, rate = soundfile.read(sys.argv[2], dtype="float32")
written = pipeline("automatic-speech-recognition", sys.argv[1])({"raw": samples, "sampling_rate": rate})["text"]
print("found", isinstance(written, str), "hf_distill" in sys.modules)
"""


@pytest.fixture(autouse=True)
def _any_teacher(monkeypatch):
    monkeypatch.setattr("hf_distill.evaluation.scores.Scores.check_above_chance", lambda *_: None)
    monkeypatch.setattr("hf_distill.evaluation.speed.ROUNDS", 1)


def recipe(folder, task: str, **changes: Any) -> dict[str, Any]:
    if not (folder / "teacher").is_dir():
        if task == "speech-recognition":
            whispers.save(folder / "teacher")
            whispers.splits().save_to_disk(folder / "rows")
        else:
            speech.listener(seed=2).save_pretrained(folder / "teacher")
            speech.processor().save_pretrained(folder / "teacher")
            parts = {"train": speech.rows(repeats=2), "validation": speech.rows(), "test": speech.rows()}
            DatasetDict(parts).save_to_disk(folder / "rows")
    student = {"layers": {"decoder": [0, -1]}, "freeze": ["encoder"]} if task == "speech-recognition" else {"layers": 1}
    options = {"language": "en", "max_target_length": 32} if task == "speech-recognition" else {}
    writes = {"generation": {"max_new_tokens": 6}} if task == "speech-recognition" else {}
    return {
        "version": 1,
        "name": "speech",
        "task": {"name": task, **options},
        "data": {"path": str(folder / "rows")},
        "teacher": {"model": str(folder / "teacher"), "dtype": "float32"},
        "student": student,
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
        "training": {"max_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True, "eval_strategy": "no"},
        "evaluate": {"resamples": 100, **writes},
        **changes,
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", ["speech-recognition-ctc", "speech-recognition"])
def test_a_student_writes_down_a_file_in_a_process_without_hf_distill(task, tmp_path):
    made = run(recipe(tmp_path, task), runs=tmp_path / "runs", report=lambda line: None)
    assert set(made.results["models"]) == {"teacher", "student", "control"}
    assert all(model["real_time_factor"] > 0 for model in made.results["models"].values())
    assert {"wer", "cer"} <= made.metrics.keys()
    card = (made.student / "README.md").read_text()
    assert 'pipeline("automatic-speech-recognition"' in card
    assert '"your_sound.wav"' in card
    done = process("-c", LOADED, str(made.student), str(media.write_sound(tmp_path / "a.wav")))
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.split("found ")[1].split() == ["True", "False"]


@pytest.mark.slow
def test_live_and_cached_teachers_of_letters_make_the_same_student(tmp_path):
    weights = []
    for kind in ("live", "cached"):
        made = recipe(tmp_path, "speech-recognition-ctc", name=kind, evaluate={"resamples": 100, "control": False})
        made["teacher"]["kind"] = kind
        weights.append(
            load_file(run(made, runs=tmp_path / "runs", report=lambda _: None).student / "model.safetensors")
        )
    assert weights[0].keys() == weights[1].keys()
    assert all(value.allclose(weights[1][name], atol=1e-5) for name, value in weights[0].items())


def test_recordings_that_are_longer_than_a_whisper_hears_are_refused_or_dropped(tmp_path):
    made = recipe(tmp_path, "speech-recognition")
    splits = whispers.splits()
    longer = Dataset.from_dict({"audio": [whispers.recording(seconds=1.5)], "text": ["one two"]})
    splits["train"] = concatenate_datasets([splits["train"], longer])
    splits.save_to_disk(tmp_path / "longer")
    made["data"]["path"] = str(tmp_path / "longer")
    made["task"]["max_seconds"] = 1
    with pytest.raises(DataError, match=r"row 12 .*1\.50 s long, longer than 1\.01 s"):
        check(made)
    made["data"]["invalid_rows"] = "drop"
    told: list[str] = []
    check(made, report=told.append)
    assert any("1 of 13 rows are dropped" in line and "too long" in line for line in told), told
