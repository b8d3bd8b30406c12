"""A teacher with a CTC head writes down the training clips, and its texts train a student like any others."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset, DatasetDict

from hf_distill import label, run
from hf_distill.errors import RecipeError
from hf_distill.generation.frame_writer import FrameWriter
from hf_distill.recipe import LabelConfig
from tests.helpers import speech


def splits() -> DatasetDict:
    return DatasetDict(train=speech.rows(repeats=3), validation=speech.rows(), test=speech.rows())


def recipe(folder, **label_keys):
    speech.listener(seed=2).save_pretrained(folder / "teacher")
    speech.processor().save_pretrained(folder / "teacher")
    splits().save_to_disk(folder / "rows")
    return {
        "version": 1,
        "name": "letters",
        "task": {"name": "speech-recognition-ctc"},
        "data": {"path": str(folder / "rows")},
        "teacher": {"model": str(folder / "teacher"), "dtype": "float32"},
        "label": label_keys,
        "student": {"layers": 1},
        "objectives": [{"kind": "labels"}, {"kind": "logits"}],
        "training": {"max_steps": 2, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no"},
        "evaluate": {"resamples": 100},
    }


def test_a_clip_is_written_the_same_alone_and_beside_longer_ones():
    task, model, processor = speech.bound(), speech.listener(seed=2), speech.processor()
    writer = FrameWriter(model, processor, LabelConfig(), task)
    prompts = task.prompts(speech.rows(), processor)
    together = writer.write(prompts, range(6), 0)
    for place, (found,) in enumerate(together):
        ((alone,),) = writer.write(prompts, [place], 0)
        assert alone.text == found.text
        assert alone.mean_log_probability == pytest.approx(found.mean_log_probability, abs=1e-4)
    batch = prompts.read(range(6))
    with torch.no_grad():
        logits = model(**task.student_inputs(batch)).logits
    assert [found.text for (found,) in together] == task.written(logits, batch, model, processor)


def test_a_data_set_of_transcripts_is_made_once(tmp_path):
    made = recipe(tmp_path, scorer="wer")
    told: list[str] = []
    folder = label(made, runs=tmp_path / "runs", report=told.append)
    rows = Dataset.from_parquet(str(folder / "datasets" / "train-00000-of-00001.parquet"))
    assert set(rows["writer"]) == {"teacher"}
    assert all(rows["text"])  # Clips in which an untrained teacher hears nothing are dropped, and counted.
    assert set(rows["original_target"]) <= set(speech.TEXTS)
    counts = json.loads((folder / "provenance.json").read_text())
    assert counts["rows"]["asked"] == 18 == len(rows) + sum(counts["dropped"].values())
    assert all(score >= 0 for score in rows["score"])
    assert label(made, runs=tmp_path / "runs", report=told.append) == folder
    assert sum("writes for" in line for line in told) <= 2


def test_a_student_learns_from_transcripts_and_its_control_from_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.evaluation.scores.Scores.check_above_chance", lambda *_: None)
    monkeypatch.setattr("hf_distill.evaluation.speed.ROUNDS", 1)
    found = run(recipe(tmp_path), runs=tmp_path / "runs", report=lambda _: None).results
    assert set(found["models"]) == {"teacher", "student", "control"}
    assert 0 < found["labels"]["rows"]["kept"] <= found["labels"]["rows"]["asked"] == 18


@pytest.mark.parametrize(
    "keys", [{"generation": {"num_beams": 3}}, {"generation": {"do_sample": True}, "hypotheses": 2}]
)
def test_what_such_a_teacher_cannot_do_is_refused(keys, tmp_path):
    with pytest.raises(RecipeError, match="one text for each clip"):
        label(recipe(tmp_path, **keys), runs=tmp_path / "runs", report=lambda _: None)
