"""Where texts that a teacher wrote are from: what they depend on, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hf_distill.data.load import Data
from hf_distill.evaluation.predict import Candidate
from hf_distill.evaluation.served import Served
from hf_distill.evaluation.text_metrics import JUDGES
from hf_distill.generation.generate import with_length
from hf_distill.generation.hypotheses import ModelWriter, own_generation
from hf_distill.generation.served import ServedWriter
from hf_distill.generation.writer import Writer
from hf_distill.models.fingerprints import tokenizer_mark, weights_mark
from hf_distill.models.hardware import versions
from hf_distill.recipe import LabelConfig, Recipe
from hf_distill.tasks import Task

FORMAT = 1
"""Of the files; raised when what they hold changes."""


def writer_of(teacher: Candidate | Served, config: LabelConfig, longest: int, options: Mapping[str, Any]) -> Writer:
    """What lets this teacher write texts of ``longest`` tokens at most, with the options that the rows ask for."""
    if isinstance(teacher, Served):
        settings = with_length({**options, **config.generation}, longest)
        return ServedWriter(teacher.client, teacher.tokenizer, config, settings)
    own = own_generation(teacher.folder, teacher.model)
    return ModelWriter(teacher.model, teacher.tokenizer, config, own=own, longest=longest, options=options)


def identity_of(
    recipe: Recipe,
    config: LabelConfig,
    task: Task,
    data: Data,
    teacher: Candidate | Served,
    writer: Writer,
) -> dict[str, Any]:
    """What the texts depend on."""
    return {
        "format": FORMAT,
        # The weights decide, whatever a teacher is called; those of a served one are the server's concern.
        "teacher": None if isinstance(teacher, Candidate) else teacher.facts["model"],
        "weights": weights_mark(teacher.folder) if isinstance(teacher, Candidate) else None,
        "dtype": str(teacher.model.dtype).removeprefix("torch.") if isinstance(teacher, Candidate) else None,
        "tokenizer": tokenizer_mark([teacher.tokenizer]),
        "task": {"name": task.name, **task.settings},
        "data": data.fingerprint,
        "generation": dict(writer.settings),
        "batch_size": config.batch_size,
        "seed": recipe.seed,
    }


def facts_of(
    identity: Mapping[str, Any], config: LabelConfig, data: Data, teacher: Candidate | Served, command: str
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
