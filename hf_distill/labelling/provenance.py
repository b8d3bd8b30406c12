"""Where texts that a teacher wrote are from: what they depend on, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hf_distill.data.rows import Data
from hf_distill.evaluation.metrics import JUDGES
from hf_distill.generation.writer import Writer
from hf_distill.models.hardware import versions
from hf_distill.recipe import LabelConfig, Recipe
from hf_distill.tasks import Task
from hf_distill.teachers import Teacher
from hf_distill.tokenizers.processors import processor_mark

FORMAT = 1
"""Of the files; raised when what they hold changes."""


def identity_of(
    recipe: Recipe, config: LabelConfig, task: Task, data: Data, teacher: Teacher, writer: Writer
) -> dict[str, Any]:
    """What the texts depend on."""
    made, is_here = teacher.identity(), bool(teacher.folders)
    assert teacher.tokenizer is not None
    return {
        "format": FORMAT,
        # The weights decide, whatever a teacher is called; those of a served one are the server's concern.
        "teacher": None if is_here else teacher.name,
        "weights": made["weights"] if is_here else None,
        "dtype": made["dtype"] if is_here else None,
        "tokenizer": processor_mark([teacher.tokenizer]),
        "task": {"name": task.name, **task.settings},
        "data": data.fingerprint,
        "generation": dict(writer.settings),
        "batch_size": config.batch_size,
        "seed": recipe.seed,
    }


def facts_of(
    identity: Mapping[str, Any], config: LabelConfig, data: Data, teacher: Teacher, command: str
) -> dict[str, Any]:
    """What ``provenance.json`` tells beside counts."""
    return {
        "teacher": {**teacher.facts, "weights": identity["weights"], "dtype": identity["dtype"]},
        "tokenizer": {"class": type(teacher.tokenizer).__name__, "sha256": identity["tokenizer"]},
        "task": identity["task"],
        "generation": identity["generation"],
        "label": asdict(config),
        "seed": identity["seed"],
        "data": {"source": data.source, "dataset_id": data.dataset_id, "fingerprint": data.fingerprint},
        "command": command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(JUDGES if config.scores else ()),
    }
