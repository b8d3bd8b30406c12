"""A run on disk: whose folder it is, where things lie in it, and whether they are still as they were written."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_distill.artifacts import (
    by_main,
    check_owner,
    checksums,
    damage,
    digest,
    load_json,
    locked,
    remove,
    size_of,
    write_json,
    write_whole,
    writing_to,
)
from hf_distill.errors import OutputError, RecipeError
from hf_distill.recipe import EvaluateConfig, HubConfig, Recipe
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe

logger = logging.getLogger(__name__)

MODELS = ("student", "control")

REPORT = ("analysis.json", "results.json", "figures", "student/figures")
"""What an evaluation writes; the card is not among it, since people change their cards."""


@dataclass(frozen=True)
class RunFolder:
    """The layout of a run.

    Attributes:
        path: ``runs/<name>``.
        runs: The folder of all runs, which share the teacher's caches; the parent unless given.
    """

    path: Path
    runs: Path | None = None

    @property
    def caches(self) -> Path:
        """Where caches of teachers lie."""
        return (self.runs or self.path.parent) / "caches"

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def results(self) -> Path:
        """Metrics, sizes, speeds and the comparison."""
        return self.path / "results.json"

    @property
    def complete(self) -> Path:
        """Checksums of all that a complete run consists of; written last."""
        return self.path / "checkpoints" / "complete.json"

    @property
    def stages(self) -> tuple[RunFolder, ...]:
        """What each stage left, this folder last."""
        return (*map(RunFolder, sorted(self.path.glob("stages/*"))), self)

    def model(self, name: str) -> Path:
        """The saved ``student`` or ``control``."""
        return self.path / name

    def history(self, name: str) -> Path:
        """What the training of ``student`` or ``control`` logged, and the checksums of what it left."""
        return self.path / "checkpoints" / f"{name}.json"

    def checkpoints(self, name: str) -> Path:
        """Where the training of ``student`` or ``control`` goes on from after any kill."""
        return self.path / "checkpoints" / name

    @contextmanager
    def working(self, *, wait: bool = False) -> Iterator[None]:
        """Keep other processes out while this one works here; ``wait`` for one that works here already."""
        by_main(lambda: check_owner(self.path, self.recipe.name))
        with locked(self.path, wait=wait):
            yield

    def claim(self, recipe: Recipe, data_fingerprint: str) -> None:
        """Take the folder for a recipe, or go on in it where the recipe and the data are the same.

        ``evaluate``, ``hub`` and ``training_guard`` may change between two calls: they change nothing that was trained.
        """
        made_of = {"recipe": digest(training_part(recipe).to_dict()), "data": data_fingerprint}
        if PartialState().is_main_process:
            with writing_to(self.path):
                if self.recipe.is_file():
                    self._check_same(recipe, made_of)
                self.path.mkdir(parents=True, exist_ok=True)
                # First the file that says whose folder this is: what comes after may be cut off.
                write_whole(self.recipe, lambda path: dump_recipe(recipe, path))
                stamp = self.path / "checkpoints" / "made_of.json"
                stamp.parent.mkdir(parents=True, exist_ok=True)
                write_json(stamp, made_of)
        PartialState().wait_for_everyone()

    def _check_same(self, recipe: Recipe, asked: Mapping[str, str]) -> None:
        stamp = self.path / "checkpoints" / "made_of.json"
        try:
            made_of, reason = load_json(stamp, asked), ""
        except ValueError as error:
            made_of, reason = {}, str(error)
        try:
            there, found = load_recipe(self.recipe, allow_code=True), "holds another recipe"
            is_same = training_part(there) == training_part(recipe)
        except (RecipeError, ValueError) as error:
            is_same, found = False, str(error)
        if not is_same and made_of.get("recipe") != asked["recipe"]:
            raise OutputError(
                f"{self.path} holds a run of another recipe (see its recipe.yaml); give this one another name, or "
                "delete the folder"
            )
        if not is_same:
            logger.warning(f"{self.recipe} was changed ({found}); it is written again as the recipe that made the run")
        if reason and stamp.is_file():
            raise OutputError(
                f"{stamp}: {reason}, so that nothing says of which data the run was made; delete that file if the data "
                "are what they were, or delete the whole folder"
            )
        if reason:
            logger.warning(f"{self.path}: {reason}; the data are taken to be those that the run was made of")
        elif made_of["data"] != asked["data"]:
            raise OutputError(
                f"{self.path} was made from other data than data.path or data.files hold now; give this run another "
                "name, or delete the folder"
            )

    def keep(self, name: str, partial: Path, facts: Mapping[str, Any]) -> None:
        """Take a model that was saved to its end, with what its training logged: it is whole or not there."""
        write_json(self.history(name), {"files": checksums(partial), **facts})
        os.replace(partial, self.model(name))

    def trained(self, name: str) -> dict[str, Any] | None:
        """What the training of a model logged, where the model is there and whole; a damaged one is put aside."""
        return by_main(lambda: self._trained(name))

    def _trained(self, name: str) -> dict[str, Any] | None:
        model = self.model(name)
        if not os.path.lexists(model):  # What is there and no folder is damaged, too.
            return None
        if (found := self.damage_of(name)) is not None:
            aside = model.with_name(f"{name}.damaged")
            remove(aside)
            os.replace(model, aside)
            logger.warning(f"{name}: {found}; it is trained anew, and what was there is now in {aside}")
            return None
        return {key: value for key, value in load_json(self.history(name)).items() if key != "files"}

    def damage_of(self, name: str) -> str | None:
        """What of a trained model, or of what its training logged, is not as it was written."""
        try:
            files = load_json(self.history(name), ("files", "steps", "log_history"))["files"]
        except ValueError as reason:
            return f"{self.history(name)}: {reason}"
        found = damage(self.model(name), files)
        return f"{self.model(name)}: {found}" if found is not None else None

    def check_models(self) -> None:
        """Refuse to go on with models that are damaged or gone."""
        for folder in self.stages:
            for name in MODELS:
                there = folder.model(name).is_dir() or folder.history(name).is_file()
                if there and (found := folder.damage_of(name)) is not None:
                    raise OutputError(f"{found}; make it whole again with: hf-distill run {self.recipe}")

    def finish(self) -> None:
        """Take the run as complete: write down what it consists of."""
        files: dict[str, Any] = {}
        for folder in self.stages:
            for name in (name for name in MODELS if folder.model(name).is_dir()):
                place, history = (path.relative_to(self.path) for path in (folder.model(name), folder.history(name)))
                kept = load_json(folder.history(name))["files"]
                files |= {f"{place}/{path}": each for path, each in kept.items()} | checksums(self.path, [str(history)])
        write_json(self.complete, {"files": files | checksums(self.path, REPORT)})

    def whole_results(self) -> dict[str, Any]:
        """The results of a run that is complete.

        Raises:
            ValueError: Why it is not: what was never written, or is not as it was written.
        """
        files = load_json(self.complete, ("files",))["files"]
        found = damage(self.path, files)
        card = self.model("student") / "README.md"
        if found is None and not (card.is_file() and card.stat().st_size):
            found = f"{card.relative_to(self.path)} is missing or empty"
        if found is not None:
            raise ValueError(found)
        return load_json(self.results, ("recipe_sha256",))

    def finished(self, recipe_sha256: str) -> dict[str, Any] | None:
        """The results of this recipe on this data, where the run is complete and whole; damage is told."""
        return by_main(lambda: self._finished(recipe_sha256))

    def _finished(self, recipe_sha256: str) -> dict[str, Any] | None:
        if not self.complete.is_file():
            return None
        try:
            results = self.whole_results()
        except ValueError as reason:
            logger.warning(f"{self.path} was complete, but {reason}; what is damaged is made anew")
            return None
        return results if results["recipe_sha256"] == recipe_sha256 else None

    def discard_checkpoints(self) -> int:
        """Delete what only an unfinished training needs; gives its bytes."""
        there = [path for path in map(self.checkpoints, MODELS) if path.is_dir()]
        size = sum(map(size_of, there))
        for path in there:
            remove(path)
        return size


def training_part(recipe: Recipe) -> Recipe:
    """A recipe without the keys that change nothing that is trained."""
    teacher = recipe.teacher.as_trained() if recipe.teacher is not None else None
    idle: dict[str, Any] = {"evaluate": EvaluateConfig(), "hub": HubConfig(), "training_guard": True}
    return dataclasses.replace(recipe, teacher=teacher, **idle)


def recipe_hash(recipe: Recipe, *more: str) -> str:
    """SHA-256 of a recipe and what else decides, as hexadecimal."""
    return digest([recipe.to_dict(), *more])
