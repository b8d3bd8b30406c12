"""A recipe's file: read strictly, overridden by dotted keys, and written so that it loads again to the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_distill.errors import RecipeError
from hf_distill.names import nearest_or_all
from hf_distill.recipe import UNLABELLED, ObjectiveConfig, Recipe, StageConfig
from hf_distill.recipe.parse import read, read_yaml, read_yaml_value, refuse_unless, shown, write_yaml

RESERVED_TRAINING = {
    "output_dir": "the run's folder is runs/<name>, see name and --runs",
    "seed": "use recipe.seed",
    "data_seed": "use recipe.seed",
    "hub_token": "log in with `hf auth login` or set HF_TOKEN",
    "push_to_hub": "use recipe.hub.push",
    "hub_model_id": "use recipe.hub.model_id",
    "hub_private_repo": "use recipe.hub.private",
    "hub_strategy": "the student is pushed once, when the run is complete",
    "hub_always_push": "the student is pushed once, when the run is complete",
    "hub_revision": "the student is pushed to the main branch",
    "label_smoothing_factor": "it would do nothing here; the teacher's logits are the soft labels",
    "label_names": "it would do nothing here; the task knows its labels",
    "average_tokens_across_devices": "it would do nothing here; every term is divided by its count over all processes",
    "resume_from_checkpoint": "a run goes on by itself; delete its folder to start anew",
    "do_train": "a run always trains",
    "do_predict": "a run always evaluates",
}
"""Keys of TrainingArguments that have their place elsewhere, or would do nothing, and why."""


NUMERIC_TRAINING = (
    "learning_rate",
    "num_train_epochs",
    "weight_decay",
    "warmup_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "logging_steps",
)
"""Keys of TrainingArguments whose values must be finite numbers of at least 0."""


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Recipe:
    """Read a recipe, put in the overrides, and check every key.

    Args:
        source: A YAML file, a mapping of the same keys, or a loaded recipe.
        overrides: ``["a.b=value"]``, values in YAML, or ``{"a.b": value}``; numbers index lists.

    Raises:
        RecipeError: For anything that does not fit, by its dotted path.
    """
    if isinstance(source, Recipe):
        source = source.to_dict()
    path = None if isinstance(source, Mapping) else Path(source)
    content: Any = dict(source) if isinstance(source, Mapping) else read_yaml(Path(source))
    if not isinstance(content, Mapping):
        raise RecipeError(
            f"{path}: expected a mapping of recipe keys, got {type(content).__name__}; see `hf-distill init`"
        )
    content = _copied(content)
    for where, teacher in _teachers(content, "recipe"):
        if isinstance(teacher.get("recipe"), str):
            inlined = read_yaml((path.parent if path else Path()) / teacher["recipe"])
            refuse_unless(
                isinstance(inlined, Mapping), f"{where}.recipe: {teacher['recipe']} holds no mapping of recipe keys"
            )
            teacher["recipe"] = _copied(inlined)
    for key, value in parsed_overrides(overrides):
        _override(content, key, value)
    return _recipe(content, "recipe")


def dump_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe so that it loads again to an equal one."""
    write_yaml(recipe.to_dict(), path)


def check_training(training: Mapping[str, Any]) -> None:
    """Refuse keys that TrainingArguments does not know.

    Raises:
        RecipeError: With the nearest name.
    """
    from transformers import TrainingArguments

    known = [each.name for each in dataclasses.fields(TrainingArguments) if each.init]
    for key in training:
        if key not in known:
            raise RecipeError(f"recipe.training.{key}: TrainingArguments has no such key{nearest_or_all(key, known)}")


def _recipe(given: Mapping[str, Any], where: str) -> Recipe:
    content: dict[str, Any] = _copied(given)
    if isinstance(content.get("task"), str):
        content["task"] = {"name": content["task"]}
    content["task"] = _with_options(content.get("task"), ("name",), f"{where}.task")
    if "stages" in content:
        refuse_unless(
            "objectives" not in content,
            f"{where}.objectives: do nothing beside stages, each of which has its own; remove them",
        )
        content["stages"] = _stages(content["stages"], f"{where}.stages")
    content["objectives"] = _objectives(content.get("objectives", [{"kind": "labels"}]), f"{where}.objectives")
    _check_training_values(content.get("training", {}), f"{where}.training")
    for place, teacher in _teachers(content, where):
        if isinstance(teacher.get("recipe"), Mapping):
            own = {**_inherited(content, place), **teacher["recipe"]}
            teacher["recipe"] = _recipe(own, f"{place}.recipe")
    return read(Recipe, content, where)


def _teachers(content: Mapping[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    """The teacher, or each of several, by where it stands."""
    teacher = content.get("teacher")
    if not isinstance(teacher, dict):
        return []
    several = teacher.get("ensemble")
    members = several if isinstance(several, list) else []
    named = [(f"{where}.teacher.ensemble.{i}", member) for i, member in enumerate(members) if isinstance(member, dict)]
    return [(f"{where}.teacher", teacher), *named]


def _inherited(content: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What a teacher's own recipe holds unless it says otherwise."""
    inherited = {key: content[key] for key in ("version", "seed", "task", "data") if key in content}
    if isinstance(content.get("data"), Mapping):
        inherited["data"] = {k: v for k, v in content["data"].items() if k not in UNLABELLED}
        columns, route = inherited["data"].get("columns"), content["teacher"].get("route")
        if isinstance(columns, Mapping) and route in columns:  # Which a teacher of its own does not ask for.
            inherited["data"]["columns"] = {k: v for k, v in columns.items() if k != route}
    inherited["task"] = {"name": content["task"]["name"], **content["task"]["options"]}
    number = place.rpartition(".")[2]
    return {"name": f"{content.get('name')}-teacher{f'-{int(number) + 1}' if number.isdigit() else ''}", **inherited}


def _stages(stages: Any, where: str) -> list[StageConfig]:
    refuse_unless(
        isinstance(stages, list) and len(stages) > 0, f"{where}: expected a list of stages, got {shown(stages)}"
    )
    return [_stage(each, f"{where}.{i}") for i, each in enumerate(stages)]


def _stage(content: Any, where: str) -> StageConfig:
    if isinstance(content, Mapping):
        _check_training_values(content.get("training", {}), f"{where}.training")
        if "objectives" in content:
            content = {**content, "objectives": _objectives(content["objectives"], f"{where}.objectives")}
    return read(StageConfig, content, where)


def _objectives(objectives: Any, where: str) -> tuple[ObjectiveConfig, ...]:
    refuse_unless(isinstance(objectives, list), f"{where}: expected a list, got {shown(objectives)}")
    return tuple(
        read(ObjectiveConfig, _with_options(each, ("kind", "weight"), f"{where}.{i}"), f"{where}.{i}")
        for i, each in enumerate(objectives)
    )


def _with_options(value: Any, own: Sequence[str], where: str) -> Any:
    """Keys that are not the mapping's own, gathered under ``options``."""
    if not isinstance(value, Mapping):
        if value is None:
            raise RecipeError(f"{where}: required, but missing")
        raise RecipeError(f"{where}: expected a mapping, got {shown(value)}")
    if set(value) == {*own, "options"} and isinstance(value["options"], Mapping):
        return dict(value)
    return {**{k: v for k, v in value.items() if k in own}, "options": {k: v for k, v in value.items() if k not in own}}


def _check_training_values(training: Any, where: str) -> None:
    if not isinstance(training, Mapping):
        return
    for key, value in training.items():
        if key in RESERVED_TRAINING:
            raise RecipeError(f"{where}.{key}: cannot be set here: {RESERVED_TRAINING[key]}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key in NUMERIC_TRAINING and value is not None and not (is_number and 0 <= value < float("inf")):
            raise RecipeError(f"{where}.{key}: expected a finite number of at least 0, got {shown(value)}")


def parsed_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values of overrides, see :func:`load_recipe`.

    Raises:
        RecipeError: For what is no ``key=value``, or no YAML.
    """
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {text!r}: expected key=value, such as training.learning_rate=3e-5")
        pairs.append((key.strip().removeprefix("recipe."), read_yaml_value(value, f"override {key}")))
    return pairs


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here: Any = content
    path = "recipe"
    for part in parents:
        here = _enter(here, part, path)
        path += f".{part}"
    if isinstance(here, list):
        here[_index(here, last, path)] = value
    else:
        here[last] = value


def _enter(here: Any, part: str, path: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, part, path)]
    if here.get(part) is None:
        here[part] = {}
    if path == "recipe" and part == "task" and isinstance(here[part], str):
        here[part] = {"name": here[part]}
    if not isinstance(here[part], (dict, list)):
        raise RecipeError(f"{path}.{part}: holds {shown(here[part])}, so it has no keys to override")
    return here[part]


def _index(here: list[Any], part: str, path: str) -> int:
    if not part.lstrip("-").isdigit() or not -len(here) <= int(part) < len(here):
        raise RecipeError(f"{path}.{part}: expected an index of a list of {len(here)} (0 to {len(here) - 1})")
    return int(part)


def _copied(value: Any) -> Any:
    """A deep copy of plain data: an override must not reach the caller's mapping."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value
