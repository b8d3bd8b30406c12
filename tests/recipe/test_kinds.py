"""Kinds of teachers and students: chosen by their keys, with no key of another kind, and of one's own by a path."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_distill.errors import RecipeError
from hf_distill.recipe import (
    EnsembleTeacher,
    EvaluateConfig,
    FromConfig,
    FromParts,
    FromPretrained,
    LocalTeacher,
    PluginStudent,
    PluginTeacher,
    ServedTeacher,
    StudentConfig,
    TrainedTeacher,
)
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.recipe.parse import read
from hf_distill.recipe.rules import RULES
from hf_distill.students.build import build_student
from hf_distill.students.request import Student, StudentRequest
from tests.helpers import tiny

SERVER = {"url": "http://localhost:8000/v1", "model": "m"}


def smallest(request: StudentRequest[PluginStudent]) -> Student:
    return Student(model=tiny.bert(request.config.options["layers"], 32), tokenizer=tiny.tokenizer(), origin="mine")


@pytest.mark.parametrize(
    ("teacher", "kind"),
    [
        ({"model": "a/b"}, LocalTeacher),
        ({"recipe": {"student": {"pretrained": "a/b"}}}, TrainedTeacher),
        ({"ensemble": [{"model": "a/b"}]}, EnsembleTeacher),
        ({"server": SERVER}, ServedTeacher),
        ({"kind": "mine:Teacher", "size": 3}, PluginTeacher),
    ],
)
@pytest.mark.parametrize(
    ("student", "made"),
    [
        ({"pretrained": "a/b"}, FromPretrained),
        ({"pretrained": "a/b", "layers": 2}, FromParts),
        ({"config": {"model_type": "bert"}}, FromConfig),
        ({"kind": "mine:build", "size": 3, "freeze": ["embeddings"]}, PluginStudent),
    ],
)
def test_keys_decide_the_kind_and_plain_data_read_again_to_the_same(teacher, kind, student, made):
    recipe = load_recipe(tiny.recipe(teacher=teacher, student=student), allow_code=True)
    assert (type(recipe.teacher), type(recipe.student)) == (kind, made)
    assert load_recipe(recipe.to_dict(), allow_code=True) == recipe


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": {"server": SERVER, "device_map": "auto"}}, "recipe.teacher.device_map: does nothing for a served"),
        ({"teacher": {"modle": "a/b"}}, "recipe.teacher.modle: no such key; did you mean model"),
        ({"student": {"pretraned": "a/b"}}, "recipe.student.pretraned: no such key; did you mean pretrained"),
        (
            {"teacher": {"recipe": {"student": {"layers": 2}, "evaluate": {"resamples": 3}}}},
            "recipe.teacher.recipe.evaluate.resamples: expected at least 100, got 3",
        ),
        ({"evaluate": {"scorers": "bleu"}}, "recipe.evaluate.scorers: expected a list"),
    ],
)
def test_a_key_that_does_not_fit_is_refused_where_it_stands(changes, told):
    with pytest.raises(RecipeError, match=told):
        load_recipe(tiny.recipe(**changes))


def test_bounds_hold_in_python_too():
    with pytest.raises(RecipeError, match=r"recipe\.evaluate\.resamples: expected at least 100, got 3"):
        EvaluateConfig(resamples=3)


def test_a_function_of_ones_own_builds_a_student():
    config = read(
        StudentConfig, {"kind": f"{__name__}:smallest", "layers": 1, "freeze": ["embeddings"]}, "recipe.student"
    )
    torch.manual_seed(0)
    student = build_student(
        config,
        auto_model=AutoModelForSequenceClassification,
        teacher=None,
        teacher_tokenizer=None,
        texts=list,
        model_options={},
    )
    assert student.origin == "mine"
    assert not student.model.get_input_embeddings().weight.requires_grad


def test_every_rule_says_what_beside_what_why_and_what_to_do():
    rows = [(rule.what, rule.beside) for rule in RULES]
    assert len({*rows}) == len(rows)
    assert all(rule.what.startswith("recipe.") and rule.beside and rule.why and rule.instead for rule in RULES)
