"""A teacher that knows nothing is refused, one that finds the rare rows is not; wrong orders of classes are told."""

from __future__ import annotations

import numpy as np
import pytest

from hf_distill.errors import TeacherError
from hf_distill.evaluation.bootstrap import _interval
from hf_distill.evaluation.classification import ClassScores

NAMES = ("a", "b", "c", "d", "e", "f")


def scores(labels: np.ndarray, decisions: np.ndarray, classes: int = 2) -> ClassScores:
    return ClassScores(np.eye(classes)[decisions], labels, "single_label_classification", NAMES[:classes])


@pytest.mark.parametrize(("rare", "count"), [(1, 100), (4, 100), (3, 900), (10, 1000), (1, 12)])
def test_a_perfect_teacher_of_a_rare_class_teaches_and_one_that_never_names_it_does_not(rare, count):
    labels = (np.arange(count) < rare).astype(int)
    scores(labels, labels).check_above_chance("accuracy")
    with pytest.raises(TeacherError, match="no better than chance"):
        scores(labels, np.zeros(count, dtype=int)).check_above_chance("accuracy")


def test_a_teacher_that_finds_most_rare_rows_teaches_though_it_errs_as_often_as_one_that_finds_none():
    labels = (np.arange(1000) < 10).astype(int)
    decisions = ((np.arange(1000) >= 2) & (np.arange(1000) < 18)).astype(int)
    assert scores(labels, decisions).metrics()["accuracy"] == pytest.approx(0.99)
    scores(labels, decisions).check_above_chance("accuracy")


@pytest.mark.parametrize("seed", range(3))
def test_a_teacher_that_guesses_is_refused(seed):
    generator = np.random.default_rng(seed)
    with pytest.raises(TeacherError):
        scores(generator.integers(0, 2, 400), generator.integers(0, 2, 400)).check_above_chance("accuracy")


@pytest.mark.parametrize(
    ("order", "told"), [([1, 0, 2, 3, 4, 5], "a is rather b, b is rather a"), ([1, 2, 0, 3, 4, 5], "")]
)
def test_classes_in_another_order_are_told_by_name(order, told):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 6, 300)
    right = np.where(generator.random(300) < 0.9, labels, generator.integers(0, 6, 300))
    scores(labels, right, 6).check_order()
    with pytest.raises(TeacherError, match=f"{told}.*teacher.labels"):
        scores(labels, np.array(order)[right], 6).check_order()


def test_a_point_lies_in_its_interval():
    found = _interval(0.9, np.full(100, 0.9 + 7e-9))
    assert found["low"] <= found["value"] <= found["high"]
