"""The teacher of a recipe, or its several teachers, loaded; made before where a recipe of their own makes them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_distill.data.load import Data, load_data
from hf_distill.evaluation.predict import Candidate
from hf_distill.evaluation.served import Served
from hf_distill.evaluation.written import set_generation
from hf_distill.logs import prefixed
from hf_distill.models.load import license_of, load_config, load_model, load_tokenizer, model_folder
from hf_distill.pipeline.experiment import Experiment
from hf_distill.pipeline.plans import check_one_tokenizer
from hf_distill.pipeline.run_folder import recipe_hash, training_part
from hf_distill.pipeline.verify_server import check_server, served_teacher
from hf_distill.recipe import LocalTeacher, Recipe, SingleTeacher, TrainedTeacher
from hf_distill.teachers import Ensemble, ModelTeacher, ServerTeacher, chosen_dtype, teacher_of

logger = logging.getLogger(__name__)


Make = Callable[[Recipe, Path, Data], Path]
"""Runs the recipe of a teacher on data that were read, below a folder; gives the folder of what it trained."""


def load_teacher(experiment: Experiment, make: Make, *, writes_only: bool = False) -> Candidate | Served:
    """The teacher of a recipe; several are one candidate that answers as one; a served one has been seen to fit.

    Args:
        experiment: With a teacher.
        make: Runs the recipe of a teacher.
        writes_only: Whether it is asked for texts, and not what it says of the data's tokens.

    Raises:
        HfDistillError: Where one cannot be made or loaded, or several do not go together.
    """
    recipe, task = experiment.recipe, experiment.task
    config = recipe.teacher
    assert config is not None
    if config.endpoint is not None:
        served = served_teacher(config.endpoint)
        check_server(served, recipe, task, writes_only=writes_only)
        return served
    members = tuple(_loaded(each, experiment, make) for each in config.models)
    if not config.members:
        return members[0]
    names = [each.called(number) for number, each in enumerate(config.members)]
    check_one_tokenizer({name: each.tokenizer for name, each in zip(names, members, strict=True)})
    weights = [each.weight or 1.0 for each in config.members]
    model = Ensemble([each.model for each in members], weights, names, routed=bool(config.columns))
    model.follow(task)
    return Candidate(
        model=model,
        tokenizer=members[0].tokenizer,
        folder=members[0].folder,
        facts=_facts(model, members, *config.columns),
        members=members,
    )


def _facts(model: Ensemble, members: tuple[Candidate, ...], route: str | None = None) -> dict[str, Any]:
    """What the card tells of several teachers."""
    several = [
        {"name": name, **each.facts, **({} if route else {"weight": round(weight, 4)})}
        for name, each, weight in zip(model.names, members, model.weights, strict=True)
    ]
    shown = [f"{each['name']} ({each['weight']:g})" if "weight" in each else str(each["name"]) for each in several]
    licenses = {each.facts["license"] for each in members}
    return {
        "model": " + ".join(shown),
        "hub_id": None,
        "revision": None,
        "license": licenses.pop() if len(licenses) == 1 else None,
        "origin": f"{len(members)} teachers, "
        + (f"one a row, by column {route}" if route else "mixed by their weights"),
        "members": several,
    }


def _loaded(config: SingleTeacher, experiment: Experiment, make: Make) -> Candidate:
    task = experiment.task

    def trained(config: TrainedTeacher) -> LocalTeacher:
        made = _made(config.recipe, experiment, make)
        return LocalTeacher(model=str(made), dtype=config.dtype, device_map=config.device_map)

    local = config.match(lambda local: local, trained)
    source, labels = local.model, local.labels
    order = task.align(load_config(source, local.revision), labels)
    tokenizer = load_tokenizer(source, local.revision)
    device = PartialState().device
    more: dict[str, Any] = {"device_map": config.device_map} if config.device_map else {}
    model = load_model(
        task.auto_model, source, revision=local.revision, dtype=chosen_dtype(config.dtype, device), **more
    )
    if labels is not None:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {name: i for i, name in enumerate(labels)}
    task.check_model(model)
    # As its students are set, also where speed is measured.
    set_generation(model, experiment.recipe.evaluate.generation)
    where = model_folder(source, local.revision)
    is_folder = Path(source).is_dir()
    facts = {
        "model": config.match(lambda _: Path(source).name if is_folder else source, lambda made: made.recipe.name),
        "hub_id": None if is_folder else source,
        "revision": None if is_folder else where.name,
        "license": license_of(where),
        "origin": config.match(lambda _: "pretrained", lambda _: "made by its own recipe"),
    }
    return Candidate(model=model, tokenizer=tokenizer, folder=where, facts=facts, label_order=order)


def _made(own: Recipe, experiment: Experiment, make: Make) -> Path:
    """What a teacher's own recipe trains, unless it did before."""
    folder = experiment.runs / "teachers"
    unnamed = dataclasses.replace(training_part(own), name="teacher")
    given = _data_of_teacher(own, experiment)
    name = recipe_hash(unnamed, given.fingerprint)[:12]
    logger.info(f"teacher: {own.name}, from {folder / name}")
    with prefixed("  "):
        return make(dataclasses.replace(own, name=name), folder, given)


def _data_of_teacher(teacher: Recipe, experiment: Experiment) -> Data:
    """What a teacher's own recipe reads: mostly what was read already.

    The recipe's seed splits it, whatever seed the teacher trains by: rows that the student is scored on must not be
    among those that its teacher learned from.
    """
    recipe, task = experiment.recipe, experiment.task
    if teacher.data == recipe.data.labelled():
        return experiment.data.labelled()
    return load_data(teacher.data, task.required, task.optional, task.text_columns, recipe.seed)


def live_teacher(teacher: Candidate | Served) -> ModelTeacher | ServerTeacher:
    """What gives the teacher's targets of a batch."""
    if isinstance(teacher, Served):
        return teacher.teacher
    return teacher_of(teacher.model, teacher.tokenizer, teacher.label_order)
