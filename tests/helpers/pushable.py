"""A finished run, as far as a push looks at it."""

from __future__ import annotations

from pathlib import Path

from hf_distill.artifacts import checksums, write_json
from hf_distill.pipeline.run_folder import RunFolder, recipe_hash
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from tests.helpers import tiny

RESULTS = {
    "card": {"quoted_rows": 0, "labels": 0, "words": False},
    "data": {"source": "rows", "evaluated_split": "test"},
}


def pushable(folder: Path) -> Path:
    """Make the folder, with a student of no use."""
    student, recipe = folder / "student", load_recipe(tiny.recipe())
    student.mkdir(parents=True)
    dump_recipe(recipe, folder / "recipe.yaml")
    (student / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    (student / "config.json").write_text("{}")
    (student / "model.safetensors").write_bytes(b"\x00" * 1000)
    write_json(folder / "results.json", RESULTS | {"recipe_sha256": recipe_hash(recipe)})
    RunFolder(folder).complete.parent.mkdir()
    write_json(RunFolder(folder).complete, {"files": checksums(folder, ["results.json"])})
    return folder
