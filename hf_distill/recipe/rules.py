"""What goes with what in a recipe: one table, whose rows are the refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hf_distill.errors import HfDistillError, RecipeError
from hf_distill.recipe.server import GENERATION
from hf_distill.recipe.stages import replaced_by_all

if TYPE_CHECKING:
    from hf_distill.recipe import Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Rule(Generic[T]):
    """Something that does not go with something else; the documentation's table is printed from such rows.

    ``{}`` in a text stands for what ``found`` gives; where that are several things, for one after the other.
    """

    what: str
    """The key, which begins the message: ``recipe.rollout``."""
    beside: str
    """What it does not go with, for the table: ``a cached teacher``."""
    found: Callable[[T], object]
    """What is forbidden in a subject, to be told; nothing (None, False, an empty text) where the rule is kept."""
    why: str
    instead: str
    error: type[HfDistillError] = RecipeError


def check_rules(rules: Iterable[Rule[T]], subject: T) -> None:
    """Refuse a subject that breaks a rule."""
    for rule in rules:
        found = rule.found(subject)
        if found:
            text = f"{rule.what}: {rule.why}; {rule.instead}"
            for each in found if isinstance(found, tuple) else [found] * text.count("{}"):
                text = text.replace("{}", str(each), 1)
            raise rule.error(text)


def _is_cached(recipe: Recipe) -> bool:
    return recipe.teacher is not None and recipe.teacher.is_cached


def _route(recipe: Recipe) -> str:
    return recipe.teacher.columns[0] if recipe.teacher is not None and recipe.teacher.columns else ""


def _same_names(recipe: Recipe) -> str:
    names = [stage.name for stage in recipe.stages]  # A file system may not tell large letters from small.
    return ", ".join(names) if len({name.lower() for name in names}) < len(names) else ""


def _asked(recipe: Recipe, section: str) -> Any:
    """A section of the recipe, where a served teacher has to do what it says; else None."""
    return getattr(recipe, section) if recipe.teacher is not None and recipe.teacher.endpoint is not None else None


# Rows of a table: the key, what it does not go with, when; why, what to do.
# fmt: off
def _generation_rules(section: str) -> tuple[Rule[Recipe], ...]:
    """What a served teacher cannot be asked for, by ``evaluate`` or ``label``."""

    def settings(recipe: Recipe) -> dict[str, Any]:
        part = _asked(recipe, section)
        return {} if part is None else part.generation

    def idle(recipe: Recipe) -> Iterable[str]:
        return () if settings(recipe).get("do_sample") is True else ("temperature", "top_p", "top_k")

    where = f"recipe.{section}.generation"
    return (
        Rule(f"{where}.num_beams", "a served teacher",
             lambda recipe: (beams := settings(recipe).get("num_beams", 1)) != 1 and repr(beams),
             "a served teacher does not search with beams, got {}",
             "remove it (the likeliest token each time), or set do_sample: true"),
        Rule(f"{where}.{{}}", "a served teacher",
             lambda recipe: next((name for name in settings(recipe) if name not in (*GENERATION, "num_beams")), None),
             "a served teacher cannot be asked for it", f"it knows {', '.join(GENERATION)}: remove it"),
        Rule(f"{where}.{{}}", "a served teacher that does not draw",
             lambda recipe: next((name for name in idle(recipe) if name in settings(recipe)), None),
             "does nothing without do_sample: true", "set it, or remove it"),
    )

RULES: tuple[Rule[Recipe], ...] = (
    Rule("recipe.data", "no teacher", lambda recipe: recipe.teacher is None and recipe.data != recipe.data.labelled(),
         "unlabelled rows teach nothing without a teacher",
         "remove unlabelled_split and unlabelled_files, or name a teacher"),
    Rule("recipe.evaluate.examples", "no teacher",
         lambda recipe: recipe.evaluate.examples is True and recipe.teacher is None,
         "without a teacher there are no rows that the student loses against it",
         "remove it, or name a teacher"),
    Rule("recipe.rollout", "no teacher", lambda recipe: recipe.rollout is not None and recipe.teacher is None,
         "only a teacher can judge what a student writes", "name one, or remove it"),
    Rule("recipe.teacher.kind", "cached, with rollout",
         lambda recipe: recipe.rollout is not None and _is_cached(recipe),
         "a cache holds what a teacher said of the data, nothing of what a student will write",
         "set it to live, or remove rollout"),
    Rule("recipe.teacher.kind", "cached, with data.streaming",
         lambda recipe: recipe.data.streaming and _is_cached(recipe),
         "a stream's rows have no ids to be found by", "set it to live"),
    Rule("recipe.data", "unlabelled rows, with data.streaming",
         lambda recipe: recipe.data.streaming and recipe.data != recipe.data.labelled(),
         "unlabelled rows cannot be mixed into a stream", "set data.streaming to false"),
    Rule("recipe.teacher.route", "data.streaming", lambda recipe: recipe.data.streaming and _route(recipe),
         "who teaches a row ({}) is checked before anything is trained, which a stream does not allow",
         "set data.streaming to false, or remove route"),
    Rule("recipe.teacher.route", "rollout", lambda recipe: recipe.rollout is not None and _route(recipe),
         "what a student writes names no teacher", "remove route, or remove rollout"),
    Rule("recipe.label", "no teacher", lambda recipe: recipe.label is not None and recipe.teacher is None,
         "nobody is there to write", "name a teacher, or remove it"),
    Rule("recipe.label", "teacher.ensemble",
         lambda recipe: recipe.label is not None and recipe.teacher is not None and recipe.teacher.members,
         "several teachers score texts together, and write none", "name one teacher, or remove label"),
    Rule("recipe.label", "a cached teacher", lambda recipe: recipe.label is not None and _is_cached(recipe),
         "a cached teacher keeps what it says of the data's texts, and writes none",
         "set teacher.kind to live, or remove label"),
    Rule("recipe.label", "data.streaming", lambda recipe: recipe.label is not None and recipe.data.streaming,
         "a stream's rows have no ids to be written for once", "set data.streaming to false"),
    Rule("recipe.training.max_steps", "none, with data.streaming",
         lambda recipe: recipe.data.streaming and not recipe.stages and not recipe.training.get("max_steps"),
         "required with data.streaming, a stream has no known length", "say after how many steps the training ends"),
    Rule("recipe.label.batch_size", "a served teacher",
         lambda recipe: (label := _asked(recipe, "label")) and label.batch_size != type(label).batch_size,
         "does nothing for a served teacher",
         "teacher.server.concurrency tells how many rows it writes for at once: remove it"),
    Rule("recipe.label.hypotheses", "a served teacher that does not draw",
         lambda recipe: (label := _asked(recipe, "label")) and label.hypotheses > 1 and not label.draws,
         "a served teacher that does not draw writes the same text each time",
         "set label.generation.do_sample: true, or hypotheses: 1"),
    *_generation_rules("evaluate"),
    *_generation_rules("label"),
    Rule("recipe.stages", "a single one", lambda recipe: len(recipe.stages) == 1,
         "expected at least two", "a single one is the recipe itself, without stages"),
    Rule("recipe.stages", "the same name twice", _same_names,
         "each needs a name of its own, got {}", "they name folders"),
    Rule("recipe.training.{}", "stages that all have their own",
         lambda recipe: next((key for key in recipe.training if replaced_by_all(key, recipe.stages)), None),
         "does nothing, for every stage has its own", "remove it"),
    Rule("recipe.rollout", "stages", lambda recipe: bool(recipe.stages) and recipe.rollout is not None,
         "does nothing beside stages", "put it into those that write"),
    Rule("recipe.student.lora.merge", "stages",
         lambda recipe: recipe.stages and recipe.student.adapters and recipe.student.adapters.merge,
         "a stage goes on with the adapters that the one before left, and merged ones are gone",
         "set it to false, or remove stages"),
)
"""What a recipe alone tells; what takes its task, objectives or data is refused where these are known."""
