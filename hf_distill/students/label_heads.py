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
    return [str(name) for _, name in sorted((id2label or {}).items(), key=lambda each: int(each[0]))]


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
    keeps = "a student of the teacher's parts keeps its head"
    way_out = "use student.config or student.pretrained, or a teacher of the same labels"
    if len(own) != len(wanted):
        raise LabelError(f"{keeps}, which has {len(own)} outputs; the data has {len(wanted)} labels; {way_out}")
    if options.get("problem_type") == "regression" or are_generic(own):
        return None
    if (order := label_order(own, wanted)) is None:
        raise LabelError(
            f"{keeps}, whose labels are {shortened(own)}; the data's are {shortened(wanted)}; {way_out}, or name its "
            "outputs in teacher.labels"
        )
    return order


def output_layer(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that gives the logits: the last one outside the base model with one output a label."""
    base, labels = model.base_model_prefix + ".", model.config.num_labels
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == labels]
    if not (found := [module for name, module in linear if not name.startswith(base)]):
        raise StudentError(
            f"{type(model).__name__} has no linear layer of {labels} outputs as its head, so its labels cannot be put "
            "in the data's order; use student.config"
        )
    return found[-1]


@torch.no_grad()
def reorder_outputs(model: PreTrainedModel, order: Sequence[int] | None) -> None:
    """Let output i be what output ``order[i]`` was; None changes nothing."""
    if order is not None and list(order) != list(range(len(order))):
        for module in {output_layer(model), *_beside(model)}:
            for each in module.parameters():
                each.copy_(each[list(order)])


def _beside(model: PreTrainedModel) -> list[nn.Linear]:
    """Heads whose logits a model gives the mean of: DeiT has one for its class token and one for a teacher's."""
    twins = [getattr(model, name, None) for name in ("cls_classifier", "distillation_classifier")]
    return [each for each in twins if isinstance(each, nn.Linear)]
