"""A teacher that was trained elsewhere: what is told of the order of its outputs, and of rows that it may have seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_distill import check, run
from hf_distill.data.classes import LabelSet
from hf_distill.errors import TeacherError
from hf_distill.evaluation.classification import ClassScores, LabelSetScores
from hf_distill.pipeline.scoring import RunScores
from tests.helpers import tiny
from tests.helpers.seams import accept_any_teacher

NAMES = ("a", "b", "c", "d", "e", "f")


class Candidate:
    """Gives the labels of rows in another order, where the rows say so, and errs on some."""

    def score(self, evaluation: Any) -> ClassScores:
        rows = evaluation.rows
        labels = np.asarray(rows["label"])
        found = np.asarray(rows["order"])[np.arange(len(labels)), labels]
        found[::10] = (found[::10] + 1) % len(NAMES)
        return ClassScores(np.eye(len(NAMES))[found], labels, "single_label_classification", NAMES)


def of_order(order: list[int], count: int = 240) -> Dataset:
    return Dataset.from_dict({"label": [i % 6 for i in range(count)], "order": [order] * count})


def scored(validation: Dataset, test: Dataset, split: str = "test") -> RunScores:
    recipe = SimpleNamespace(evaluate=SimpleNamespace(split=split))
    labels = LabelSet(problem_type="single_label_classification", names=NAMES)
    experiment: Any = SimpleNamespace(
        recipe=recipe,
        task=SimpleNamespace(row_labels=labels),
        data=SimpleNamespace(validation=validation, test=test),
        rows=test if split == "test" else validation,
        metric="accuracy",
        outside=None,
    )
    scores = RunScores(experiment)
    candidate: Any = Candidate()
    scores.add("teacher", candidate)
    return scores


RIGHT = [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize(
    ("order", "told"),
    [
        ([1, 0, 2, 3, 4, 5], "a is rather b, b is rather a"),
        ([0, 1, 2, 3, 5, 4], "e is rather f, f is rather e"),
        ([1, 2, 0, 3, 4, 5], "a is rather c, b is rather a, c is rather b"),
        ([5, 4, 3, 2, 1, 0], "a is rather f"),
    ],
)
def test_classes_that_stand_in_anothers_place_are_told_from_the_validation_rows(order, told, split):
    with pytest.raises(TeacherError, match=rf"240 validation rows.*{told}.*teacher\.labels"):
        scored(of_order(order), of_order(order), split).check_teacher()
    scored(of_order(RIGHT), of_order(RIGHT), split).check_teacher()


def test_rows_that_are_scored_last_choose_no_order():
    scored(of_order(RIGHT), of_order([1, 0, 2, 3, 4, 5])).check_teacher()


def test_several_labels_a_row_have_no_order_to_be_found():
    labels = np.eye(3)[np.arange(60) % 3]
    LabelSetScores(labels[:, ::-1] - 0.5, labels, "multi_label_classification", NAMES[:3]).check_order()


def teacher(folder: Path, **options: Any) -> str:
    tiny.bert(2, **options).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def recipe(path: str, folder: Path, **changes: Any) -> dict[str, Any]:
    files = {}
    for split, seed in (("train", 0), ("validation", 1), ("test", 2)):
        rows = tiny.rows(48, seed).to_pandas()
        rows["label"] = ["good" if label else "bad" for label in rows["label"]]
        rows.to_csv(folder / f"{split}.csv", index=False)
        files[split] = str(folder / f"{split}.csv")
    return {
        **tiny.recipe(),
        "data": {"files": files},
        "teacher": {"model": path},
        "student": {"layers": 1},
        "objectives": [{"kind": "logits"}],
        "training": {"max_steps": 2, "per_device_train_batch_size": 8, "use_cpu": True},
        "evaluate": {"control": False, "resamples": 100},
        **changes,
    }


def lines_of(made: dict[str, Any]) -> str:
    lines: list[str] = []
    check(made, report=lines.append)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("names", "given", "told"),
    [
        (("LABEL_0", "LABEL_1"), None, "order is not verified, and taken for bad, good"),
        (("LABEL_0", "LABEL_1"), ["good", "bad"], "another order; aligned by name"),
        (("good", "bad"), None, "another order; aligned by name"),
        (("bad", "good"), None, "the same order"),
    ],
)
def test_a_check_says_whether_the_order_of_the_teachers_outputs_is_known(names, given, told, tmp_path):
    path = teacher(tmp_path / "teacher", labels=names)
    lines = lines_of(recipe(path, tmp_path, teacher={"model": path, "labels": given})).splitlines()
    (line,) = [each for each in lines if each.startswith("labels: the teacher")]
    assert told in line


def test_rows_of_the_training_file_that_a_ready_teacher_may_have_seen_are_told_by_check_and_card(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    path = teacher(tmp_path / "teacher")
    made = recipe(path, tmp_path)
    assert "may have seen" not in lines_of(made)
    data = {"files": made["data"]["files"]["train"], "test_size": 12, "validation_size": 12}
    assert "warning: data: the test rows are taken out of the training rows" in lines_of({**made, "data": data})
    with_test = {**data, "test": {"files": made["data"]["files"]["test"]}}
    del with_test["test_size"]
    assert "may have seen" not in lines_of({**made, "data": with_test})
    found = run({**made, "data": data}, runs=tmp_path / "runs", report=lambda line: None)
    (warning,) = found.results["data"]["warnings"]
    assert "may have seen" in warning
    assert "it may have seen them" in (found.student / "README.md").read_text()
