"""The student's output layer, and the order in which it gives the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hf_distill.errors import LabelError, StudentError
from hf_distill.names import are_generic, folded, shortened


def names_of(id2label: Mapping[Any, str] | None) -> list[str]:
    """Label names in the order of a model's outputs."""
    names = id2label or {}
    return [str(names[i]) for i in sorted(names, key=int)]


def label_order(own: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """The index among ``own`` of each wanted label; None where the labels, compared by ``names.folded``, differ."""
    index = {folded(name): i for i, name in enumerate(own)}
    names = [folded(name) for name in wanted]
    same = len(index) == len(own) == len(names) and set(index) == set(names)
    return [index[name] for name in names] if same else None


def kept_label_order(teacher: PretrainedConfig, options: dict[str, Any]) -> list[int] | None:
    """The order in which a copy of the teacher's head must give its outputs; None where it can stay as it is.

    Outputs called LABEL_0, LABEL_1, ... are taken to be in the data's order.
    """
    if "id2label" not in options:
        return None
    own, wanted = names_of(teacher.id2label), names_of(options["id2label"])
    way_out = "use student.config or student.pretrained, or a teacher of the same labels"
    if len(own) != len(wanted):
        raise LabelError(
            f"a student of the teacher's parts keeps its head, which has {len(own)} outputs; the data has "
            f"{len(wanted)} labels; {way_out}"
        )
    if options.get("problem_type") == "regression" or are_generic(own):
        return None
    order = label_order(own, wanted)
    if order is None:
        raise LabelError(
            f"a student of the teacher's parts keeps its head, whose labels are {shortened(own)}; the data's are "
            f"{shortened(wanted)}; {way_out}, or name its outputs in teacher.labels"
        )
    return order


def output_layer(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that gives the logits: the last one outside the base model with one output a label.

    Heads list their modules as they run: ``classifier.out_proj`` comes after a ``classifier.dense`` of the same size.
    """
    base = model.base_model_prefix + "."
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not name.startswith(base)
    ]
    if not found:
        raise StudentError(
            f"{type(model).__name__} has no linear layer of {model.config.num_labels} outputs as its head, so its "
            "labels cannot be put in the data's order; use student.config"
        )
    return found[-1]


@torch.no_grad()
def reorder_outputs(model: PreTrainedModel, order: Sequence[int] | None) -> None:
    """Let output i be what output ``order[i]`` was; None changes nothing."""
    if order is None or list(order) == list(range(len(order))):
        return
    layer = output_layer(model)
    layer.weight.copy_(layer.weight[list(order)])
    if layer.bias is not None:
        layer.bias.copy_(layer.bias[list(order)])
