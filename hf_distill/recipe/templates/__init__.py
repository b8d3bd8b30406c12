"""Recipes to start from: the commented template of each task, and a list of the recipes in a folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from hf_distill.errors import OutputError, RecipeError


def write_template(task: str, output: Path) -> None:
    """Write the commented recipe of a task."""
    templates = {path.name[:-5]: path for path in files(__name__).iterdir() if path.name.endswith(".yaml")}
    if task not in templates:
        raise RecipeError(f"there is no template for task {task!r}; choose one of {', '.join(sorted(templates))}")
    if output.exists():
        raise OutputError(f"{output} is there already; name another file with --output")
    try:
        output.write_text(templates[task].read_text())
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({error.strerror}); name another file with --output") from error


def list_recipes(folder: Path) -> list[tuple[Path, str]]:
    """The recipes below a folder, with the first line of their head comment."""
    if not folder.is_dir():
        told = "name one that holds recipes, or write one with: hf-distill init TASK"
        raise RecipeError(f"there is no folder {folder}; {told}")
    heads = {path: path.read_text().partition("\n")[0] for path in sorted(folder.rglob("*.yaml"))}
    return [(path, head.lstrip("# ").strip() if head.startswith("#") else "") for path, head in heads.items()]
