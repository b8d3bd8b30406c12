"""What a run will cost and lose is told before it, in the words in which the run tells it."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

import hf_distill
from hf_distill.data import lost_rows
from hf_distill.errors import RecipeError
from hf_distill.tasks import make_task
from tests.helpers import tiny

SHORT = {"messages": [{"role": "user", "content": "good"}, {"role": "assistant", "content": "bad"}]}
LONG = {"messages": [{"role": "user", "content": "good card " * 20}, {"role": "assistant", "content": "bad"}]}
OF_TWO_TURNS = {"messages": [*SHORT["messages"], *SHORT["messages"]]}
CUT_SHORT = {"messages": [{"role": "user", "content": "good"}, {"role": "assistant", "content": "bad card " * 20}]}


def lines(recipe, verb=hf_distill.check, **options):
    found = []
    verb(recipe, report=found.append, **options)
    return found


def of_chats(folder, train):
    """A recipe of a small writer that learns from chats."""
    tiny.decoder(1).save_pretrained(folder / "student")
    tiny.chat_tokenizer(tiny.CHAT_TEMPLATE).save_pretrained(folder / "student")
    for name, rows in (("train", train), ("other", [SHORT] * 4)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {
        name: str(folder / f"{'train' if name == 'train' else 'other'}.jsonl")
        for name in ("train", "validation", "test")
    }
    return {
        "version": 1,
        "name": "chats",
        "task": {"name": "causal-lm", "max_length": 16},
        "data": {"files": files},
        "student": {"pretrained": str(folder / "student")},
        "objectives": [{"kind": "labels"}],
        "training": {"use_cpu": True, "max_steps": 1, "eval_strategy": "no", "save_strategy": "no"},
        "evaluate": {"resamples": 100},
    }


def test_check_and_run_tell_rows_that_are_dropped_and_cut_in_the_same_words(tmp_path):
    recipe = of_chats(tmp_path, [SHORT] * 3 + [LONG] * 5 + [CUT_SHORT] * 2 + [OF_TWO_TURNS])
    told = [line.removeprefix("train: ") for line in lines(recipe) if line.startswith("train: ")]
    ran = lines(recipe, hf_distill.run, runs=tmp_path / "runs")
    assert told == [
        "5 of 11 rows will be dropped: their prompts are longer than task.max_length (16 tokens)",
        "2 of 11 rows will be cut: they are longer than task.max_length (16 tokens)",
    ]
    assert [line.removeprefix("student: ") for line in ran if "rows are" in line] == [
        line.replace("will be", "are") for line in told
    ]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_that_loses_all_rows_is_refused_before_anything_is_loaded(split, tmp_path):
    recipe = of_chats(tmp_path, [SHORT] * 4)
    (tmp_path / "long.jsonl").write_text((json.dumps(LONG) + "\n") * 3)
    recipe["data"]["files"][split] = str(tmp_path / "long.jsonl")
    with pytest.raises(
        hf_distill.errors.DataError, match=f"split '{split}': none of 3 rows is left: every prompt fills"
    ):
        lines(recipe)


ROWS = {
    "text-classification": {"text": ["good card", "good card " * 40] * 4, "label": ["a", "b"] * 4},
    "token-classification": {"tokens": [["good"], ["good"] * 60] * 4, "labels": [["O"], ["B-X"] * 60] * 4},
    "embeddings": {"text": ["good card", "good card " * 40] * 4},
    "translation": {"source": ["good card", "good card " * 40] * 4, "target": ["good"] * 8},
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_will_be_cut_are_counted_in_every_task_that_cuts(name, monkeypatch):
    task, rows = make_task(name, {"max_length": 16}), Dataset.from_dict(ROWS[name])
    task.read_labels(rows)
    limit = task.length_limit
    (line,) = task.check_rows(rows, tiny.tokenizer())
    assert line == f"4 of 8 rows will be cut: they are longer than {limit}"
    monkeypatch.setattr(lost_rows, "LOOKED_AT", 6)
    (line,) = task.check_rows(rows, tiny.tokenizer())
    assert line == f"3 of the first 6 rows will be cut: they are longer than {limit}"
    assert list(task.check_rows(rows.select([0, 2]), tiny.tokenizer())) == []


def test_what_making_the_teacher_takes_is_told():
    recipe = tiny.recipe()
    recipe["teacher"]["recipe"]["name"] = "big"
    told = lines(recipe)
    assert any(line.startswith("teacher: made first, by the recipe big: bert, ") for line in told)
    # 192 rows without the validation rows, in steps of 16, five times.
    assert "teacher big: trained first, on 192 rows, 60 steps" in told


def test_a_teacher_that_is_there_is_not_said_to_be_trained(finished):
    told = []
    recipe = hf_distill.load_recipe(tiny.recipe())
    from hf_distill.pipeline.preflight import resolve

    with hf_distill.logs.reported(told.append):
        resolve(recipe, finished.parent)
    assert [line for line in told if line.startswith("teacher tiny-teacher: ")] == [
        "teacher tiny-teacher: trained first, on 192 rows, 60 steps; it is there"
    ]


def test_a_teacher_that_cannot_be_made_is_refused_by_its_name():
    recipe = tiny.recipe()
    recipe["teacher"]["recipe"] |= {"name": "big", "evaluate": {"metric": "bleu"}}
    with pytest.raises(RecipeError, match=r"teacher big: recipe.evaluate.metric: 'bleu' is not measured"):
        lines(recipe)


def test_what_a_cached_teacher_reads_is_told():
    recipe = tiny.recipe()
    recipe["teacher"] |= {"kind": "cached"}
    assert "cache: the teacher reads 256 rows once, before the student learns" in lines(recipe)


def test_a_training_without_a_batch_is_refused():
    recipe = tiny.recipe(data={"path": "tests.helpers.tiny:splits", "train_limit": 10})
    recipe["training"] |= {"dataloader_drop_last": True}
    with pytest.raises(RecipeError, match=r"dataloader_drop_last: 10 training rows make no batch of 16"):
        lines(recipe)
