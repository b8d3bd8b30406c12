"""What goes with what: one table of the things that a recipe cannot have together, and why.

The table holds what depends on the task, the data and the objectives; what a recipe's own keys tell is refused when the
recipe is read, and what a trainer needs is checked by it. :func:`table` gives the rows for the documentation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from hf_distill.data.load import Data
from hf_distill.errors import TeacherError
from hf_distill.evaluation.language_modeling import AGAINST_TEACHER
from hf_distill.objectives import Objective
from hf_distill.pipeline.experiment import Experiment, Stage
from hf_distill.pipeline.rules import RecipeCase, Rule, TargetsCase
from hf_distill.recipe import CacheConfig, Recipe
from hf_distill.tasks import Task
from hf_distill.training.setup import check_objectives

RULES_OF_RECIPES = (
    Rule(
        teacher="served",
        what="a student made of its teacher's layers",
        breaks=lambda case: case.recipe.student.needs_teacher,
        message="recipe.student: it is made of its teacher's layers, and those of a served teacher are not here; name "
        "student.pretrained, or student.config with a model_type and a tokenizer",
    ),
    Rule(
        teacher="served",
        what="a metric that compares with the teacher",
        breaks=lambda case: case.metric in AGAINST_TEACHER,
        message="recipe.evaluate.metric: {case.metric} compares with all that a teacher says, and a server tells the "
        "likeliest tokens alone; set it to loss, or remove it",
    ),
    Rule(
        teacher="none",
        what="a metric that compares with the teacher",
        breaks=lambda case: case.metric in AGAINST_TEACHER,
        message="recipe.evaluate.metric: {case.metric} compares with a teacher, and the recipe names none",
    ),
    Rule(
        teacher="several",
        what="evaluate.scorers",
        breaks=lambda case: bool(case.scorers),
        message="recipe.evaluate.scorers: several teachers score texts together, and write none that {case.scorers} "
        "could judge; remove them, or name one teacher",
    ),
    Rule(
        teacher="cached",
        what="a task whose rows have classes of their own",
        breaks=lambda case: not case.task.cache_schemes,
        message="recipe.teacher.kind: a cache keeps one number for each class, but in {case.task.name} every row has "
        "its own; set it to live",
    ),
    Rule(
        teacher=None,
        what="task.out_of_scope without such rows",
        breaks=lambda case: (
            case.task.out_of_scope is not None and not len(case.data.outside[case.recipe.evaluate.split])
        ),
        message="task.out_of_scope: no {case.recipe.evaluate.split} row is labelled {case.task.out_of_scope!r}, so "
        "nothing can be told from rows in scope; {case.outside_split}, or remove it",
    ),
    Rule(
        teacher=None,
        what="evaluate.floor with several labels, numbers or a stream",
        breaks=lambda case: (
            case.recipe.evaluate.floor
            and (case.task.problem_type != "single_label_classification" or case.recipe.data.streaming)
        ),
        message="recipe.evaluate.floor: only for one class of many and data that fits in memory; set it to false",
    ),
    Rule(
        teacher=None,
        what="evaluate.generation where nothing is written",
        breaks=lambda case: bool(case.recipe.evaluate.generation) and not case.scorers,
        message="recipe.evaluate.generation: nothing is written in {case.task.name} unless recipe.evaluate.scorers "
        "says what judges it; add some, or remove the settings",
    ),
    Rule(
        teacher=None,
        what="student.disable_dropout with an objective that reads a text twice",
        breaks=lambda case: case.recipe.student.disable_dropout and bool(case.reads_twice),
        message="recipe.student.disable_dropout: objective {case.reads_twice} reads a text that stands alone twice, "
        "and without dropout both views are the same; set it to false, remove the objective, or name text pairs in "
        "data.columns",
    ),
    Rule(
        teacher="served",
        what="teacher.kind: cached where no objective needs logits",
        breaks=lambda case: "cached" in case.teacher and not case.asks,
        message="recipe.teacher.kind: no objective asks the teacher, so there is nothing to cache; add logits, or set "
        "it to live",
    ),
    Rule(
        teacher="served",
        what="teacher.server.top_k where no objective needs logits",
        breaks=lambda case: case.top_k is not None and not case.asks,
        message="recipe.teacher.server.top_k: no objective asks for the teacher's probabilities, so it does nothing; "
        "add logits, or remove it",
    ),
)
"""Of a recipe as a whole, its task and its data."""

RULES_OF_OBJECTIVES = (
    Rule(
        teacher="none",
        what="an objective that needs a teacher",
        breaks=lambda case: bool(case.beyond),
        message="objective {case.name} needs a teacher, but the recipe names none; add teacher.model, or "
        "teacher.recipe",
    ),
    Rule(
        teacher="several",
        what="an objective that needs what lies within one model",
        breaks=lambda case: bool(case.beyond),
        message="objective {case.name} needs the teacher's {case.beyond}, but several teachers say together how "
        "likely each answer is, and nothing of what lies within one of them; use logits, or name one teacher",
        error=TeacherError,
    ),
    Rule(
        teacher="several",
        what="cross_tokenizer",
        breaks=lambda case: case.objective.cross_tokenizer,
        message="objective {case.name}: cross_tokenizer compares a student with one teacher, and several mix what "
        "they say token by token; remove it and take a student with their tokenizer, or name one teacher",
        error=TeacherError,
    ),
    Rule(
        teacher="served",
        what="an objective that needs more than logits",
        breaks=lambda case: bool(case.beyond),
        message="objective {case.name} needs the teacher's {case.beyond}, which no server gives; use logits, or a "
        "teacher that is loaded here (teacher.model)",
        error=TeacherError,
    ),
    Rule(
        teacher="cached",
        what="cross_tokenizer",
        breaks=lambda case: case.objective.cross_tokenizer,
        message="objective {case.name}: cross_tokenizer needs a live teacher: what a cache keeps is found by the "
        "student's tokens, which the teacher does not have; set teacher.kind to live",
        error=TeacherError,
    ),
    Rule(
        teacher="cached",
        what="an objective that needs more than logits and hidden states",
        breaks=lambda case: bool(case.beyond),
        message="objective {case.name} needs the teacher's {case.beyond}, which a cache does not keep: they would be "
        "larger than the model; use a live teacher (teacher.kind: live), or hidden, of the side that writes",
        error=TeacherError,
    ),
    Rule(
        teacher=None,
        what="only some probabilities (served, or cached over a vocabulary) with a divergence other than forward_kl",
        breaks=lambda case: case.asks and case.divergence != "forward_kl",
        message="objective {case.name} ({case.divergence}) needs the probability of every token, and {case.words[0]} "
        "{case.words[1]} some of them: use divergence: forward_kl, or {case.words[3]}",
        error=TeacherError,
    ),
    Rule(
        teacher=None,
        what="only some probabilities with a schedule of the temperature",
        breaks=lambda case: case.asks and "temperature" in case.objective.schedules,
        message="objective {case.name}: temperature goes from {case.objective.schedules[temperature]}, but some "
        "probabilities of a distribution, known at one temperature, cannot be taken to another; use one temperature, "
        "or {case.words[3]}",
        error=TeacherError,
    ),
)
"""Of each objective of each stage."""

RULES_OF_STAGES = (
    Rule(
        teacher="cached",
        what="cache.scheme: dense over a vocabulary",
        breaks=lambda case: case.scheme == "dense" and "dense" not in case.task.cache_schemes,
        message="teacher.cache.scheme: dense keeps all logits of a few classes, but those over a vocabulary are never "
        "held whole; use sampled, or top_k",
        error=TeacherError,
    ),
    Rule(
        teacher="cached",
        what="cache.scheme: sampled or top_k over a few classes",
        breaks=lambda case: case.scheme not in case.task.cache_schemes,
        message="teacher.cache.scheme: {case.scheme} is for vocabularies; use dense, which keeps all classes",
        error=TeacherError,
    ),
    Rule(
        teacher="cached",
        what="cache.draws over a few classes",
        breaks=lambda case: case.cache.draws is not None and case.scheme == "dense",
        message="teacher.cache.draws: does nothing for classes, of which all logits are kept; remove it",
        error=TeacherError,
    ),
    Rule(
        teacher=None,
        what="only some probabilities at several temperatures",
        breaks=lambda case: case.knows_some and len(set(case.temperatures.values())) > 1,
        message="{case.words[0]} {case.words[2]} at one temperature, but the objectives ask for several "
        "({case.shown_temperatures}); use one",
        error=TeacherError,
    ),
    Rule(
        teacher="served",
        what="a temperature other than 1",
        breaks=lambda case: bool(set(case.temperatures.values()) - {1.0}),
        message="the objectives compare at temperature {case.shown_temperatures}, but a server tells the likeliest "
        "tokens at 1, and some probabilities of a distribution cannot be taken to another temperature; set "
        "temperature: 1.0, or use a teacher that is loaded here (teacher.model)",
        error=TeacherError,
    ),
)
"""Of a teacher and all objectives of a stage together."""


def check_recipe(recipe: Recipe, task: Task, data: Data, stages: Sequence[Stage]) -> None:
    """Refuse what a recipe's keys, its task and its data cannot do for each other.

    Raises:
        HfDistillError: For the first rule that is broken, with the way out.
    """
    traits = recipe.teacher.traits if recipe.teacher is not None else frozenset()
    if "several" in traits:
        task.check_mixture()
    if "served" in traits:
        task.check_served()
    objectives = {f"{stage.name} {name}".strip(): each for stage in stages for name, each in stage.objectives.items()}
    _check(RULES_OF_RECIPES, RecipeCase(recipe=recipe, task=task, data=data, objectives=objectives))


def check_targets(
    traits: Collection[str], cache: CacheConfig | None, task: Task, objectives: Mapping[str, Objective]
) -> None:
    """Refuse objectives that a teacher of a kind cannot serve.

    Args:
        traits: What can be said of the teacher, see :data:`hf_distill.pipeline.rules.Trait`.
        cache: What is kept of a cached one; the defaults unless given.
        task: Whose outputs are compared.
        objectives: By name.

    Raises:
        HfDistillError: For the first rule that is broken, with the way out.
    """
    case = TargetsCase(teacher=frozenset(traits), cache=cache or CacheConfig(), task=task, objectives=objectives)
    for name in objectives:
        _check(RULES_OF_OBJECTIVES, replace(case, name=name))
    _check(RULES_OF_STAGES, case)


def cache_temperatures(experiment: Experiment) -> set[float]:
    """The temperatures at which a cache of some of a vocabulary must be made for a run."""
    teacher, task = experiment.recipe.teacher, experiment.task
    if teacher is None:
        return set()
    cases = [
        TargetsCase(
            teacher=teacher.traits, cache=teacher.cache or CacheConfig(), task=task, objectives=stage.objectives
        )
        for stage in experiment.stages
    ]
    return {value for case in cases if case.knows_some for value in case.temperatures.values()}


def check_stage(stage: Stage, task: Task) -> None:
    """Refuse objectives that the task, the way of training and the teacher cannot serve.

    Raises:
        HfDistillError: For the first that is refused, with the way out.
    """
    check_objectives(stage.objectives, task, stage.arguments)
    teacher = stage.recipe.teacher
    traits, cache = (teacher.traits, teacher.cache) if teacher is not None else (("none",), None)
    check_targets(traits, cache, task, stage.objectives)


def table() -> Iterator[tuple[str, str, str]]:
    """The rules for people: what is said of the teacher, what does not go with it, and what is told."""
    for rule in (*RULES_OF_RECIPES, *RULES_OF_OBJECTIVES, *RULES_OF_STAGES):
        yield rule.teacher or "any", rule.what, rule.message


def _check(rules: Sequence[Rule], case: TargetsCase | RecipeCase) -> None:
    for rule in rules:
        rule.check(case)
