"""A Whisper transcribes recordings: whole after any kill, judged against what is said where that is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from hf_distill import label
from hf_distill.errors import RecipeError
from hf_distill.generation.writer import Hypothesis
from hf_distill.labelling.selection import Choice, choose, keep
from hf_distill.labelling.shards import WrittenRow
from hf_distill.recipe import LabelConfig, LabelFilters
from tests.helpers import whispers
from tests.helpers.whispers import splits

BEAMS = {"num_beams": 2, "max_new_tokens": 6}


def silent(line: str) -> None:
    """Nobody reads it."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    whispers.save(folder)
    return folder


def recipe(teacher: Path, **label_keys: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "heard",
        "task": {"name": "speech-recognition", "language": "en", "max_target_length": 32},
        "data": {"path": "tests.helpers.whispers:splits"},
        "teacher": {"model": str(teacher), "dtype": "float32"},
        "label": {"generation": BEAMS, "batch_size": 4, **label_keys},
        "student": {"layers": {"decoder": [0]}, "freeze": ["encoder"]},
        "objectives": [{"kind": "labels"}],
        "training": {"max_steps": 1, "use_cpu": True, "eval_strategy": "no"},
    }


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix == ".jsonl"}


def test_each_recording_gets_the_text_that_the_teacher_writes_and_keeps_its_sound(teacher, tmp_path):
    folder = label(recipe(teacher, scorer="wer"), runs=tmp_path, report=silent)
    found = load_dataset("parquet", data_files=str(folder / "datasets" / "train-*.parquet"), split="train")
    given = splits()["train"].select(found["row_id"])
    assert len(given) > 8  # An empty text or two are dropped.
    assert found["original_target"] == given["text"]
    assert [cell["bytes"] for cell in found["audio"]] == [cell["bytes"] for cell in given["audio"]]
    assert len(set(found["text"])) > 3
    assert all(score > 0 for score in found["score"])
    written = content(tmp_path)
    (shard,) = tmp_path.rglob("shard-*.jsonl")
    shard.unlink()
    shutil.rmtree(folder)
    label(recipe(teacher, scorer="wer"), runs=tmp_path, report=silent)
    assert content(tmp_path) == written


def test_filters_count_what_they_drop(teacher, tmp_path):
    filters = {"repetition": 0.2, "mean_log_probability": -3.2, "reference_score": 1.4}
    folder = label(recipe(teacher, scorer="wer", filters=filters), runs=tmp_path, report=silent)
    facts = json.loads((folder / "provenance.json").read_text())
    dropped = facts["dropped"]
    assert {"repetition", "mean_log_probability", "reference_score"} <= dropped.keys()
    assert facts["rows"]["kept"] + sum(dropped.values()) == facts["rows"]["asked"] == 12
    found = load_dataset("parquet", data_files=str(folder / "datasets" / "train-*.parquet"), split="train")
    assert max(found["score"]) <= 1.4
    assert min(found["mean_log_probability"]) >= -3.2


def test_lengths_are_not_compared_where_texts_are_written_after_sound(teacher, tmp_path):
    given = recipe(teacher, filters={"length_ratio": [0.5, 2.0]})
    with pytest.raises(RecipeError, match=r"recipe\.label\.filters\.length_ratio: in speech-recognition"):
        label(given, runs=tmp_path, report=silent)


@pytest.mark.parametrize(("scorer", "best", "bound"), [("wer", "one two", 0.5), ("rouge", "one two", 0.8)])
def test_the_best_text_has_the_fewest_errors_or_the_highest_score(scorer, best, bound):
    def hypothesis(text: str) -> Any:
        more = {"tokens": 2, "mean_log_probability": -1.0, "repetition": 0.0, "ended": True}
        return Hypothesis(text=text, **more)

    row = WrittenRow(row_id=0, source_tokens=0, hypotheses=[hypothesis("six six"), hypothesis(best)])
    config = LabelConfig(hypotheses=2, choose="best", scorer=scorer)
    (choice,) = choose([row], {0: "one two"}, config, scorer)
    assert choice.hypothesis.text == best
    other = Choice(row_id=1, source_tokens=0, hypothesis=hypothesis("six"), score=1.0 if scorer == "wer" else 0.0)
    kept, dropped = keep([choice, other], LabelFilters(reference_score=bound), scorer)
    assert kept == [choice]
    assert dropped["reference_score"] == 1
