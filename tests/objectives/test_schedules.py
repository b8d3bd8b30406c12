"""Weights and temperatures that change while the student trains."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import TrainerCallback

from hf_distill import Labels, Logits
from hf_distill.errors import TeacherError
from hf_distill.objectives import make_objective
from hf_distill.pipeline.cases import TargetsCase
from hf_distill.pipeline.compatibility import check_targets
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.report.card_making import making
from hf_distill.tasks import CausalLanguageModeling, TextClassification
from tests.helpers import tiny
from tests.helpers.trainers import assert_same, trained, trainer

WEIGHT = {"from": 1.0, "to": 0.2, "shape": "cosine"}
TEMPERATURE = {"from": 4.0, "to": 1.0, "shape": "linear"}


def moving() -> list:
    return [Labels(), Logits(weight=WEIGHT, temperature=TEMPERATURE)]


def logged(one) -> list[dict[str, float]]:
    return [entry for entry in one.state.log_history if "loss" in entry]


def test_a_weight_follows_the_steps_and_is_logged_as_it_was(tmp_path):
    one = trainer(tmp_path, [Labels(), Logits(weight={"from": 1.0, "to": 0.0})], max_steps=4)
    one.train()
    shares = [entry["weighted_loss_logits"] / entry["loss_logits"] for entry in logged(one)]
    assert shares == pytest.approx([1.0, 0.75, 0.5, 0.25])
    for entry in logged(one):
        parts = entry["weighted_loss_labels"] + entry["weighted_loss_logits"]
        assert parts == pytest.approx(entry["loss"], abs=1e-5)


def test_every_part_of_a_step_has_the_same_weight_and_temperature(tmp_path):
    options = {"optim": "sgd", "learning_rate": 0.05}
    whole = trained(tmp_path, moving(), per_device_train_batch_size=8, **options)
    split = trained(tmp_path, moving(), per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert_same(whole, split)


def test_evaluations_take_the_last_values_and_training_goes_on_with_its_own(tmp_path):
    options = {"max_steps": 4, "eval_dataset": tiny.rows(16, 1)}
    plain = trained(tmp_path, moving(), **options)
    watched = trained(tmp_path, moving(), eval_strategy="steps", eval_steps=1, **options)
    assert_same(plain, watched, 0.0)
    one = trainer(tmp_path, moving(), **options)
    last = trainer(tmp_path, [Labels(), Logits(weight=0.2, temperature=1.0)], student=one.model, **options)
    assert one.evaluate()["eval_loss"] == pytest.approx(last.evaluate()["eval_loss"], abs=1e-6)


def test_a_schedule_goes_on_where_a_run_was_broken_off(tmp_path):
    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    student = tiny.bert(2, 32, seed=1)
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}
    _, unbroken = trained(tmp_path / "a", moving(), student=copy.deepcopy(student), **options)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "b", moving(), student=copy.deepcopy(student), callbacks=[StopAt()], **options).train()
    one = trainer(tmp_path / "b", moving(), student=copy.deepcopy(student), **options)
    one.train(resume_from_checkpoint=True)
    assert all(torch.equal(value, unbroken[name]) for name, value in one.model.state_dict().items())


def test_a_schedule_from_a_value_to_itself_is_that_value(tmp_path):
    still = [Labels(), Logits(weight={"from": 0.5, "to": 0.5}, temperature={"from": 3, "to": 3})]
    assert not still[1].schedules
    assert_same(trained(tmp_path, still), trained(tmp_path, [Labels(), Logits(weight=0.5, temperature=3.0)]), 0.0)


def test_a_recipe_holds_schedules_and_its_card_tells_them():
    objectives = [{"kind": "labels"}, {"kind": "logits", "weight": WEIGHT, "temperature": TEMPERATURE}]
    config = load_recipe(tiny.recipe(objectives=objectives)).objectives[1]
    objective = make_objective(config.kind, {"weight": config.weight, **config.options})
    assert {name: str(each) for name, each in objective.schedules.items()} == {
        "weight": "1 to 0.2 (cosine)",
        "temperature": "4 to 1 (linear)",
    }
    told = {"kind": "logits", "weight": config.weight, "options": config.options, "paper": "a paper"}
    models = {"student": {"origin": "here"}}
    *_, lines = (
        line
        for _, line in zip(
            range(3), making({"models": models, "seed": 1, "data": {}, "objectives": [told]}), strict=False
        )
    )
    assert lines == "* logits, weight 1 to 0.2 (cosine), temperature 4 to 1 (linear): a paper"


def test_a_temperature_that_moves_is_refused_with_a_cache_made_at_one():
    objectives = {"logits": Logits(temperature=TEMPERATURE)}
    tokens, classes = (
        TargetsCase(traits=frozenset({"cached"}), task=task, objectives=objectives)
        for task in (CausalLanguageModeling(), TextClassification())
    )
    with pytest.raises(TeacherError, match=r"temperature goes from 4 to 1 \(linear\)"):
        check_targets(tokens)
    check_targets(classes)
