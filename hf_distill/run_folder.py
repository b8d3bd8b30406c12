"""A run on disk: who owns the folder, where things lie in it, and how they get there whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_distill.errors import OutputError
from hf_distill.recipe import EvaluateConfig, HubConfig, Recipe
from hf_distill.recipe.load import dump_recipe, load_recipe


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
    def analysis(self) -> Path:
        """Where the student is weak."""
        return self.path / "analysis.json"

    @property
    def figures(self) -> Path:
        """PNG files that the card shows."""
        return self.path / "figures"

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

        ``evaluate`` and ``hub`` may change between two calls: they change nothing that was trained.

        Raises:
            OutputError: Where the folder belongs to another recipe or other data, or cannot be written.
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
        try:
            if self.recipe.is_file():
                if training_part(load_recipe(self.recipe)) != training_part(recipe):
                    raise OutputError(
                        f"{self.path} holds a run of another recipe (see its recipe.yaml); give this one another name, "
                        "or delete the folder"
                    )
                if stamp.is_file() and stamp.read_text() != data_fingerprint:
                    raise OutputError(
                        f"{self.path} was made from other data than data.path or data.files hold now; give this run "
                        "another name, or delete the folder"
                    )
            elif self.path.exists() and any(self.path.iterdir()):
                raise OutputError(
                    f"{self.path} holds files but no recipe.yaml; choose another name or empty the folder"
                )
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(data_fingerprint)
            write_whole(self.recipe, lambda path: dump_recipe(recipe, path))
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror}); choose another --runs folder"
            ) from error


def training_part(recipe: Recipe) -> Recipe:
    """A recipe without the keys that change nothing that is trained."""
    teacher = recipe.teacher
    if teacher is not None:
        teacher = teacher.as_trained()
    return dataclasses.replace(recipe, teacher=teacher, evaluate=EvaluateConfig(), hub=HubConfig())


def recipe_hash(recipe: Recipe, *more: str) -> str:
    """SHA-256 of a recipe and what else decides, as hexadecimal."""
    content = json.dumps([recipe.to_dict(), *more], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file or folder under another name and rename it, so that it is never there in part."""
    partial = path.with_name(path.name + ".partial")
    remove(partial)
    write(partial)
    if path.is_dir():
        remove(path)
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people: indented, sorted by nothing, floats as they are."""
    write_whole(path, lambda partial: partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n"))


def copy_files(paths: Sequence[Path], folder: Path) -> None:
    """Copy files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copyfile(path, folder / path.name)


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
