"""What a sweep has on disk: its combinations and what they reached, at any time, and the best of them at its end."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState

from hf_distill.artifacts import check_owner, read_json, set_aside, write_json, writing_to
from hf_distill.errors import ModelError, OutputError
from hf_distill.evaluation.metrics import LOWER_IS_BETTER
from hf_distill.pipeline.experiment import Experiment
from hf_distill.recipe import Recipe
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from hf_distill.report.figures import sweep_scores
from hf_distill.search.sweep_grid import Grid

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep gives.

    Attributes:
        folder: ``runs/<name>-sweep``.
        recipe: ``best.yaml``: the recipe with the best combination, ready to be run.
        best: The values of that combination, by key of the recipe.
        results: The content of ``sweep.json``.
    """

    folder: Path
    recipe: Path
    best: Mapping[str, Any]
    results: Mapping[str, Any]


class SweepState:
    """What is known so far; ``sweep.json`` holds it at any time."""

    def __init__(self, folder: Path, grid: Grid, command: str, first: Experiment) -> None:
        self.folder, self.metric = folder, first.metric
        self.path = folder / "sweep.json"
        self.content: dict[str, Any] = {
            "name": folder.name.removesuffix("-sweep"),
            "task": first.recipe.task.name,
            "command": command,
            "metric": self.metric,
            "lower_is_better": self.metric in LOWER_IS_BETTER,
            "split": "validation",
            "rows": len(first.rows),
            "axes": {key: list(values) for key, values in grid.axes.items()},
            "teacher": None,
            "combinations": [],
            "best": None,
        }

    def claim(self) -> None:
        """Take the folder, or go on in it."""
        check_owner(self.folder, self.path.name)
        PartialState().wait_for_everyone()
        self.content["teacher"] = self._teacher_before() if self.path.is_file() else None
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            with writing_to(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._write()

    def _teacher_before(self) -> dict[str, Any] | None:
        """What an earlier call noted of the teacher; None where it is damaged: all else is found again."""
        try:
            teacher = read_json(self.path, OutputError, "the results of a sweep", ["teacher"])["teacher"]
            if teacher is None or (isinstance(teacher.get("cache"), str) and type(teacher.get("rows_read")) is int):
                return cast("dict[str, Any] | None", teacher)
        except (OutputError, AttributeError):
            pass
        logger.info(f"warning: {self.path} is damaged; it is written anew, from what each student reached")
        if PartialState().is_main_process:
            set_aside(self.path)
        return None

    def teacher(self, facts: dict[str, Any]) -> None:
        """Note what the teacher reached, and how many rows it has read over all calls."""
        before = self.content["teacher"]
        if before is not None and before["cache"] == facts["cache"]:
            facts["rows_read"] += before["rows_read"]
        self.content["teacher"] = facts
        self._write()

    def add(self, values: Mapping[str, Any], folder: str, facts: Mapping[str, Any]) -> None:
        """Note what the student of a combination reached, and in which folder it lies."""
        self.content["combinations"].append({"values": dict(values), "folder": folder, **facts})
        self._write()

    def finish(self, recipe: Recipe) -> Sweep:
        """Choose, draw, and write the best recipe."""
        scored = [entry for entry in self.content["combinations"] if "value" in entry]
        if not scored:
            raise ModelError(
                f"none of {len(self.content['combinations'])} students could be scored: "
                f"{self.content['combinations'][0]['error']}"
            )
        sign = -1 if self.content["lower_is_better"] else 1
        best = max(scored, key=lambda entry: sign * entry["value"])
        self.content["best"] = best
        chosen = load_recipe(recipe, {"name": f"{recipe.name}-best", **best["values"]}, allow_code=True)
        path = self.folder / "best.yaml"
        if PartialState().is_main_process:
            dump_recipe(chosen, path)
            sweep_scores(self.content, self.folder / "scores.png")
        self._write()
        PartialState().wait_for_everyone()
        logger.info(f"best: {told(best['values'])}: {self.metric} {best['value']:.4f}")
        return Sweep(folder=self.folder, recipe=path, best=best["values"], results=self.content)

    def _write(self) -> None:
        if PartialState().is_main_process:
            write_json(self.path, self.content)


def command_of(recipe: str | Path | Mapping[str, Any] | Recipe, grid: Grid, allow_code: bool) -> str:
    """What is told to do it again."""
    if not isinstance(recipe, (str, Path)):
        return f"hf_distill.sweep(recipe, grid{', allow_code=True' if allow_code else ''})"
    axes = [f"{key}={','.join(map(plain, values))}" for key, values in grid.axes.items()]
    fixed = [f"{key}={plain(value)}" for key, value in grid.overrides.items()]
    return shlex.join(["hf-distill", "sweep", str(recipe), *axes, *fixed, *(["--allow-code"] if allow_code else [])])


def told(values: Mapping[str, Any]) -> str:
    """A combination in a line."""
    return ", ".join(f"{key}={plain(value)}" for key, value in values.items())


def plain(value: Any) -> str:
    """A value as it can be written in a command."""
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
