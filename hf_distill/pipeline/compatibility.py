"""What goes with what where task, data and objectives are known: tables whose rows are the refusals.

:mod:`hf_distill.recipe.rules` has the rows that a recipe's keys alone decide; what a trainer needs is checked
by it. :func:`table` gives all rows for the documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PretrainedConfig

from hf_distill.data.rows import Data
from hf_distill.errors import RecipeError, TeacherError
from hf_distill.evaluation.metrics import AGAINST_TEACHER, primary_metric
from hf_distill.models.precision import trouble
from hf_distill.pipeline.cases import (
    RecipeCase,
    TargetsCase,
    beyond,
    crosses,
    moving_temperature,
    no_outside_rows,
    other_divergence,
    reads_twice,
    several_temperatures,
)
from hf_distill.pipeline.experiment import Experiment, Stage
from hf_distill.recipe import CacheConfig, Recipe
from hf_distill.recipe.rules import RULES, Rule, check_rules
from hf_distill.tasks import Task
from hf_distill.teachers import teacher_class
from hf_distill.training.setup import check_objectives
from hf_distill.types import Need

# fmt: off
RULES_OF_RECIPES: tuple[Rule[RecipeCase], ...] = (
    Rule("recipe.teacher.server", "a task other than causal-lm",
         lambda case: case.task.name if "served" in case.traits and not case.task.reads_served else None,
         "a server tells what comes next in a text, which is asked for causal-lm alone, got {}",
         "use a teacher that is loaded here (teacher.model), or let a served one write, with rows of prompt or "
         "messages (task: causal-lm, hf-distill label), and train on its texts"),
    Rule("recipe.student", "made of parts of a served teacher",
         lambda case: "served" in case.traits and case.recipe.student.cut and not case.recipe.student.start,
         "it is made of its teacher's layers, and those of a served teacher are not here",
         "name student.pretrained, or student.config with a model_type and a tokenizer"),
    Rule("recipe.evaluate.metric", "one that compares with the teacher, which is served",
         lambda case: case.metric if "served" in case.traits and case.metric in AGAINST_TEACHER else None,
         "{} compares with all that a teacher says, and a server tells the likeliest tokens alone",
         "set it to loss, or remove it"),
    Rule("recipe.evaluate.metric", "one that compares with the teacher, without one",
         lambda case: case.metric if "none" in case.traits and case.metric in AGAINST_TEACHER else None,
         "{} compares with a teacher, and the recipe names none", "choose another, or name a teacher"),
    Rule("recipe.evaluate.scorers", "several teachers", lambda case: "several" in case.traits and case.scorers,
         "several teachers score texts together, and write none that {} could judge",
         "remove them, or name one teacher"),
    Rule("recipe.teacher.kind", "cached, for a task whose rows have classes of their own",
         lambda case: case.task.name if "cached" in case.traits and not case.task.cache_schemes else None,
         "a cache keeps one number for each class, but in {} every row has its own, or is another in each epoch",
         "set it to live, or see the same in each epoch (crop: 1, and no flip, mixup or cutmix)"),
    Rule("recipe.teacher.kind", "cached, where no objective needs logits of a served teacher",
         lambda case: {"served", "cached"} <= case.traits and not case.asks,
         "no objective asks the teacher, so there is nothing to cache", "add logits, or set it to live"),
    Rule("recipe.teacher.server.top_k", "objectives that do not need logits",
         lambda case: case.sets_top_k and not case.asks,
         "no objective asks for the teacher's probabilities, so it does nothing", "add logits, or remove it"),
    Rule("task.out_of_scope", "no such rows", no_outside_rows,
         "no {} row is labelled {}, so nothing can be told from rows in scope", "{}, or remove it"),
    Rule("recipe.evaluate.floor", "several labels, numbers or a stream",
         lambda case: case.recipe.evaluate.floor
         and (case.task.problem_type != "single_label_classification" or case.recipe.data.streaming),
         "only for one class of many and data that fits in memory", "set it to false"),
    Rule("recipe.evaluate.generation", "a task in which nothing is written",
         lambda case: case.task.name if case.recipe.evaluate.generation and not case.scorers else None,
         "nothing is written in {} unless recipe.evaluate.scorers says what judges it",
         "add some, or remove the settings"),
    Rule("recipe.student.disable_dropout", "an objective that reads a text that stands alone twice", reads_twice,
         "objective {} reads a text that stands alone twice, and without dropout both views are the same",
         "set it to false, remove the objective, or name text pairs in data.columns"),
)
"""Of a recipe as a whole, its task and its data."""

RULES_OF_OBJECTIVES: tuple[Rule[TargetsCase], ...] = (
    Rule("objective {}", "no teacher", beyond("none"),
         "needs {} of a teacher, but the recipe names none", "add teacher.model, or teacher.recipe"),
    Rule("objective {}", "several teachers, for what lies within one", beyond("several"),
         "needs the teacher's {}, but several teachers say together how likely each answer is, and nothing of what "
         "lies within one of them", "use logits, or name one teacher", error=TeacherError),
    Rule("objective {}", "several teachers, with cross_tokenizer", crosses("several"),
         "cross_tokenizer compares a student with one teacher, and several mix what they say token by token",
         "remove it and take a student with their tokenizer, or name one teacher", error=TeacherError),
    Rule("objective {}", "a served teacher, for more than logits", beyond("served"),
         "needs the teacher's {}, which no server gives",
         "use logits, or a teacher that is loaded here (teacher.model)", error=TeacherError),
    Rule("objective {}", "a cached teacher, with cross_tokenizer", crosses("cached"),
         "cross_tokenizer needs a live teacher: what a cache keeps is found by the student's tokens, which the "
         "teacher does not have", "set teacher.kind to live", error=TeacherError),
    Rule("objective {}", "a cached teacher, for more than logits and hidden states", beyond("cached"),
         "needs the teacher's {}, which a cache does not keep: they would be larger than the model",
         "use a live teacher (teacher.kind: live), or hidden, of the side that writes", error=TeacherError),
    Rule("objective {}", "a teacher that does not provide what it needs", beyond(""),
         "needs the teacher's {}, which it does not give", "take an objective that needs less, or another teacher",
         error=TeacherError),
    Rule("objective {}",
         "a teacher of whom only some probabilities are known (served, or cached over a vocabulary), with a "
         "divergence other than forward_kl", other_divergence,
         "{} needs the probability of every token, and {} {} some of them", "use divergence: forward_kl, or {}",
         error=TeacherError),
    Rule("objective {}", "a teacher of whom only some probabilities are known, with a schedule of the temperature",
         moving_temperature,
         "temperature goes from {}, but some probabilities of a distribution, known at one temperature, cannot be "
         "taken to another", "use one temperature, or {}", error=TeacherError),
)
"""Of each objective of each stage."""

RULES_OF_STAGES: tuple[Rule[TargetsCase], ...] = (
    Rule("teacher.cache.scheme", "dense, over a vocabulary",
         lambda case: "cached" in case.traits and case.scheme == "dense" and "dense" not in case.task.cache_schemes,
         "dense keeps all logits of a few classes, but those over a vocabulary are never held whole",
         "use sampled, or top_k", error=TeacherError),
    Rule("teacher.cache.scheme", "sampled or top_k, over a few classes",
         lambda case: "cached" in case.traits and case.scheme not in ("none", *case.task.cache_schemes) and case.scheme,
         "{} is for vocabularies", "use dense, which keeps all classes", error=TeacherError),
    Rule("teacher.cache.draws", "a few classes",
         lambda case: "cached" in case.traits and case.cache.draws is not None and case.scheme == "dense",
         "does nothing for classes, of which all logits are kept", "remove it", error=TeacherError),
    Rule("objectives", "a teacher of whom only some probabilities are known, at several temperatures",
         several_temperatures,
         "{} {} at one temperature, but the objectives ask for several ({})", "use one", error=TeacherError),
    Rule("objectives", "a served teacher, at another temperature than 1",
         lambda case: "served" in case.traits and next((f"{t:g}" for t in case.temperatures.values() if t != 1), None),
         "they compare at temperature {}, but a server tells the likeliest tokens at 1, and some probabilities of a "
         "distribution cannot be taken to another temperature",
         "set temperature: 1.0, or use a teacher that is loaded here (teacher.model)", error=TeacherError),
)
"""Of a teacher and all objectives of a stage together."""
# fmt: on


def check_recipe(recipe: Recipe, task: Task, data: Data, stages: Sequence[Stage]) -> None:
    """Refuse what a recipe's keys, its task and its data cannot do for each other."""
    objectives = {f"{stage.name} {name}".strip(): each for stage in stages for name, each in stage.objectives.items()}
    case = RecipeCase(recipe=recipe, task=task, data=data, objectives=objectives)
    primary_metric(task, recipe.evaluate)  # Refuses a metric that the task does not have.
    if "several" in case.traits:
        task.check_mixture()
    check_rules(RULES_OF_RECIPES, case)


def check_targets(case: TargetsCase) -> None:
    """Refuse objectives that a teacher of a kind cannot serve."""
    for name in case.objectives:
        check_rules(RULES_OF_OBJECTIVES, replace(case, name=name))
    check_rules(RULES_OF_STAGES, case)


def targets_case(stage: Stage, task: Task) -> TargetsCase:
    """The objectives of a stage, and what can be said of their teacher."""
    teacher = stage.recipe.teacher
    traits, cache = (teacher.traits, teacher.cache_settings) if teacher is not None else ({"none"}, CacheConfig())
    provides = teacher_class(teacher).provides if teacher is not None else frozenset[Need]()
    case = TargetsCase(traits=frozenset(traits), cache=cache, task=task, objectives=stage.objectives)
    return replace(case, provides=provides)


def check_stage(stage: Stage, task: Task) -> None:
    """Refuse objectives that the task, the way of training and the teacher cannot serve."""
    check_objectives(stage.objectives, task, stage.arguments)
    check_targets(targets_case(stage, task))


def cache_temperatures(experiment: Experiment) -> set[float]:
    """The temperatures at which a cache of some of a vocabulary must be made for a run."""
    cases = [targets_case(stage, experiment.task) for stage in experiment.stages]
    return {value for case in cases if case.knows_some for value in case.temperatures.values()}


def table() -> str:
    """All rules as a table in Markdown: the key, what it does not go with, why, and what to do instead."""
    rules: tuple[Rule[Any], ...] = (*RULES, *RULES_OF_RECIPES, *RULES_OF_OBJECTIVES, *RULES_OF_STAGES)
    rows = [("key", "does not go with", "why", "instead"), ("---",) * 4]
    rows += [(f"`{rule.what}`", rule.beside, rule.why, rule.instead) for rule in rules]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("{}", "...")


def with_warning(recipe: Recipe, data: Data) -> Data:
    """The data, with a warning where a teacher that was trained elsewhere may have seen what it is scored on."""
    teacher, split = recipe.teacher, recipe.evaluate.split
    ready = teacher is not None and (
        teacher.endpoint is not None or any(each.match(lambda _: True, lambda _: False) for each in teacher.models)
    )
    if not ready or split not in data.taken_from_train:
        return data
    warning = (
        f"the {split} rows are taken out of the training rows, and the teacher was trained elsewhere: it may have seen "
        "them, and its score be too high; name rows that it never saw (data.test_split, data.test)"
    )
    if warning in data.warnings:
        return data
    return replace(data, warnings=(*data.warnings, warning), notes=(*data.notes, f"warning: data: {warning}"))


def prompts_are_enough(recipe: Recipe, task: Task) -> bool:
    """Whether a model writes whatever is learned, so that training rows need no answers of their own."""
    rollouts = [stage.rollout for stage in recipe.by_stage().values()]
    written = all(rollout is not None and rollout.share == 1.0 for rollout in rollouts)
    return "messages" in task.optional and (recipe.label is not None or written)


def check_prompts(recipe: Recipe, data: Data) -> None:
    """Refuse keys that ask for what training rows without answers do not say."""
    row, label = next(iter(data.train)), recipe.label
    is_open = "completion" in row and row["completion"] is None
    if row.get("messages") is not None:
        is_open = not any(turn["role"] == "assistant" for turn in row["messages"])
    if is_open and label is None and recipe.evaluate.control:
        raise RecipeError(
            "recipe.evaluate.control: a control learns from the data's answers alone, and the training rows are "
            "prompts without any; set it to false"
        )
    if is_open and label is not None and (label.scores or label.keep_original):
        raise RecipeError(
            "recipe.label: the training rows are prompts without answers, which nothing can be judged by or kept; "
            "remove keep_original, choose: best, scorer and filters.reference_score"
        )


def check_precision(stages: Sequence[Stage], task: Task, config: PretrainedConfig) -> None:
    """Refuse mixed precision that models of the student's kind do not compute in."""
    for stage in stages:
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            if getattr(stage.arguments, name) and (reason := trouble(task.tried, config, dtype, autocast=True)):
                raise RecipeError(
                    f"training.{name}: {config.model_type} does not compute in it ({reason}); set it to false"
                )
