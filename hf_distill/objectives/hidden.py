"""The student's hidden states pulled towards the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig
from typing_extensions import override

from hf_distill.errors import ObjectiveError
from hf_distill.models.sizes import sizes_of
from hf_distill.objectives.layer_maps import Layers, check_layers, chosen_layers, readable
from hf_distill.objectives.objective import Objective
from hf_distill.objectives.schedules import Scheduled
from hf_distill.types import Need, Targets, Unit, View


class Hidden(Objective):
    """The outputs of chosen student layers pulled towards those of chosen teacher layers, token by token.

    Layers are counted from 0 as in ``student.layers``, negative from the end; the embedding output is no layer. Where
    widths differ, each mapped student layer gets a learned linear projection (Romero et al. 2015), which is not saved.

    Args:
        loss: ``mse`` (mean over the width) or ``cosine`` (1 - cosine similarity).
        layers: ``auto`` (see :func:`spaced_layer_map`), or a mapping of student layer to teacher layer.
        side: Of an encoder-decoder: ``decoder``, token by token of the target, or ``encoder``, of the source.
    """

    unit: Unit = "tokens"
    needs: frozenset[Need] = frozenset({"hidden_states"})
    compares_tokens = True
    paper = "Sun et al. 2019, Patient Knowledge Distillation for BERT Model Compression, arXiv:1908.09355"

    def __init__(
        self, *, loss: str = "mse", layers: Layers = "auto", side: str = "decoder", weight: Scheduled = 1.0
    ) -> None:
        super().__init__(weight=weight)
        check_layers("hidden", layers)
        self.loss, self.layers = self.one_of("loss", loss, ("mse", "cosine")), layers
        self.of_encoder = self.one_of("side", side, ("decoder", "encoder")) == "encoder"
        if self.of_encoder:
            self.unit, self.needs = "sources", frozenset({"encoder_states"})

    @override
    def connect(self, student: PretrainedConfig, teacher: PretrainedConfig | None) -> list[str]:
        assert teacher is not None
        self.layer_map = self._chosen(student, teacher)
        whose = "encoder layer" if self.of_encoder else "layer"
        lines = [f"hidden: student {whose} <- teacher {whose}: {readable(self.layer_map)}"]
        for config in (student, teacher):
            if hasattr(sizes_of(config), "altup_num_inputs"):
                raise ObjectiveError(
                    f"hidden: {config.model_type} computes several versions of its hidden states at once, which cannot "
                    "be compared; use logits"
                )
        side = "encoder" if self.of_encoder else "decoder"
        own, other = (int(sizes_of(config, side).hidden_size) for config in (student, teacher))
        if own != other:
            self.module = nn.ModuleDict({str(i): nn.Linear(own, other) for i in self.layer_map})
            lines.append(f"hidden: learned projections {own} -> {other}")
        return lines

    @override
    def teacher_layers(self, student: PretrainedConfig, teacher: PretrainedConfig) -> tuple[int, ...]:
        return tuple(j + 1 for j in self._chosen(student, teacher).values())

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        own, other = (each.encoder_states if self.of_encoder else each.hidden_states for each in (view, targets))
        assert own is not None
        assert other is not None
        mask = view.masks[self.unit]
        values = []
        for i, j in self.layer_map.items():
            student, teacher = self._project(i, own[i + 1][mask]), other[j + 1][mask].float()
            if self.loss == "mse":
                values.append((student - teacher).square().mean(-1).sum())
            else:
                values.append((1.0 - functional.cosine_similarity(student, teacher, dim=-1)).sum())
        return torch.stack(values).mean()

    def _chosen(self, student: PretrainedConfig, teacher: PretrainedConfig) -> dict[int, int]:
        return chosen_layers("hidden", self.layers, student, teacher, of_encoder=self.of_encoder)

    def _project(self, layer: int, states: Tensor) -> Tensor:
        if self.module is None:
            return states.float()
        projection: Any = self.module.get_submodule(str(layer))
        projected: Tensor = projection(states.to(projection.weight.dtype))
        return projected.float()
