"""A run on disk: whose folder it is, and where things lie in it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_distill.artifacts import check_owner, digest, write_whole, writing_to
from hf_distill.errors import OutputError
from hf_distill.recipe import EvaluateConfig, HubConfig, Recipe
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe


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

    def model(self, name: str) -> Path:
        """The saved ``student`` or ``control``."""
        return self.path / name

    def history(self, name: str) -> Path:
        """What the training of ``student`` or ``control`` logged."""
        return self.path / "checkpoints" / f"{name}.json"

    def checkpoints(self, name: str) -> Path:
        """Where the training of ``student`` or ``control`` goes on from after any kill."""
        return self.path / "checkpoints" / name

    def claim(self, recipe: Recipe, data_fingerprint: str) -> None:
        """Take the folder for a recipe, or go on in it where the recipe and the data are the same.

        ``evaluate``, ``hub`` and ``training_guard`` may change between two calls: they change nothing that was trained.
        """
        if PartialState().is_main_process:
            self._claim(recipe, data_fingerprint)
        PartialState().wait_for_everyone()

    def finished(self, recipe_sha256: str) -> dict[str, Any] | None:
        """The results of this recipe on this data, where the run is complete."""
        if not self.results.is_file():
            return None
        results: dict[str, Any] = json.loads(self.results.read_text())
        return results if results["recipe_sha256"] == recipe_sha256 else None

    def _claim(self, recipe: Recipe, data_fingerprint: str) -> None:
        stamp = self.path / "checkpoints" / "data_fingerprint"
        with writing_to(self.path):
            check_owner(self.path, self.recipe.name)
            if self.recipe.is_file():
                if training_part(load_recipe(self.recipe, allow_code=True)) != training_part(recipe):
                    raise OutputError(
                        f"{self.path} holds a run of another recipe (see its recipe.yaml); give this one another name, "
                        "or delete the folder"
                    )
                if stamp.is_file() and stamp.read_text() != data_fingerprint:
                    raise OutputError(
                        f"{self.path} was made from other data than data.path or data.files hold now; give this run "
                        "another name, or delete the folder"
                    )
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(data_fingerprint)
            write_whole(self.recipe, lambda path: dump_recipe(recipe, path))


def training_part(recipe: Recipe) -> Recipe:
    """A recipe without the keys that change nothing that is trained."""
    teacher = recipe.teacher.as_trained() if recipe.teacher is not None else None
    idle: dict[str, Any] = {"evaluate": EvaluateConfig(), "hub": HubConfig(), "training_guard": True}
    return dataclasses.replace(recipe, teacher=teacher, **idle)


def recipe_hash(recipe: Recipe, *more: str) -> str:
    """SHA-256 of a recipe and what else decides, as hexadecimal."""
    return digest([recipe.to_dict(), *more])
