"""The labels of models: what their configs call them, and in which order they give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from hf_distill.data.classes import LabelSet
from hf_distill.errors import LabelError
from hf_distill.names import are_generic, folded, shortened


def label_set_of(config: PretrainedConfig) -> LabelSet:
    """The labels that a model's config declares."""
    names = tuple(_output_names(config))
    declared = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
    return LabelSet(problem_type=declared, names=("score",) if declared == "regression" else names)


def align_labels(labels: LabelSet, teacher: PretrainedConfig, names: Sequence[str] | None = None) -> list[int] | None:
    """For each label of the data, the index of the teacher's output of that name."""
    count = teacher.num_labels
    if count != len(labels.names) or (names is not None and len(names) != count):
        raise LabelError(
            f"the teacher gives {count} outputs and the data has {len(labels.names)} labels ({shortened(labels.names)})"
            + (f" and teacher.labels names {len(names)}" if names is not None else "")
            + "; use a teacher of the same labels, or make one with teacher.recipe"
        )
    own = list(names) if names is not None else _output_names(teacher)
    if labels.problem_type == "regression" or (names is None and are_generic(own)):
        return None
    # As they are written where all are there: "it" and "IT" may be two classes.
    key = str if set(own) == set(labels.names) else folded
    index = {key(name): i for i, name in enumerate(own)}
    missing = [name for name in labels.names if key(name) not in index]
    if missing or len(index) != count:
        raise LabelError(
            f"the teacher does not know the labels {shortened(missing or labels.names)}; its outputs are called "
            f"{shortened(own)}; if they mean the same, name them in teacher.labels in the teacher's order"
        )
    order = [index[key(name)] for name in labels.names]
    return None if order == list(range(count)) else order


def _output_names(config: PretrainedConfig) -> list[str]:
    """What a model's config calls its outputs, in their order."""
    names: Any = config.id2label
    return [str(names[i]) for i in range(len(names))]
