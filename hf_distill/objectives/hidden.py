"""The student's hidden states pulled towards the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

from hf_distill.errors import ObjectiveError
from hf_distill.objectives.base import Objective
from hf_distill.objectives.layer_maps import Layers, check_layers, chosen_layers, readable
from hf_distill.objectives.schedules import Scheduled
from hf_distill.views import Targets, View


class Hidden(Objective):
    """The outputs of chosen student layers pulled towards those of chosen teacher layers, token by token.

    Layers are counted from 0 as in ``student.layers``; negative numbers count from the end; the embedding output is no
    layer. Where the widths differ, each mapped student layer gets a learned linear projection (Romero et al. 2015),
    which trains with the student and is not part of what is saved.

    Args:
        loss: ``mse`` (mean over the width) or ``cosine`` (1 - cosine similarity).
        layers: ``auto`` (see :func:`spaced_layer_map`), or a mapping of student layer to teacher layer.
        weight: See :class:`Objective`.

    Raises:
        ObjectiveError: For an unknown loss, a map that is not one of integers, or a layer out of range.
    """

    unit = "tokens"
    needs = frozenset({"hidden_states"})
    compares_tokens = True
    paper = "Sun et al. 2019, Patient Knowledge Distillation for BERT Model Compression, arXiv:1908.09355"

    def __init__(self, *, loss: str = "mse", layers: Layers = "auto", weight: Scheduled = 1.0) -> None:
        super().__init__(weight=weight)
        if loss not in ("mse", "cosine"):
            raise ObjectiveError(f"hidden: loss must be mse or cosine, got {loss!r}")
        check_layers("hidden", layers)
        self.loss = loss
        self.layers = layers

    def connect(self, student: PretrainedConfig, teacher: PretrainedConfig | None) -> list[str]:
        """Settle the layer map and, where the widths differ, make the projections."""
        assert teacher is not None
        self.layer_map = chosen_layers("hidden", self.layers, student, teacher)
        lines = [f"hidden: student layer <- teacher layer: {readable(self.layer_map)}"]
        if student.hidden_size != teacher.hidden_size:
            self.module = nn.ModuleDict(
                {str(i): nn.Linear(student.hidden_size, teacher.hidden_size) for i in self.layer_map}
            )
            lines.append(f"hidden: learned projections {student.hidden_size} -> {teacher.hidden_size}")
        return lines

    def teacher_layers(self, student: PretrainedConfig, teacher: PretrainedConfig) -> tuple[int, ...]:
        """See :meth:`Objective.teacher_layers`: the output of layer j is hidden state j + 1."""
        return tuple(j + 1 for j in chosen_layers("hidden", self.layers, student, teacher).values())

    def total(self, view: View, targets: Targets) -> Tensor:
        """See :meth:`Objective.total`."""
        assert view.hidden_states is not None
        assert targets.hidden_states is not None
        mask = view.masks["tokens"]
        values = [
            self._distance(
                self._project(i, view.hidden_states[i + 1][mask]), targets.hidden_states[j + 1][mask].float()
            )
            for i, j in self.layer_map.items()
        ]
        return torch.stack(values).mean()

    def _project(self, layer: int, states: Tensor) -> Tensor:
        if self.module is None:
            return states.float()
        assert isinstance(self.module, nn.ModuleDict)
        projection = self.module[str(layer)]
        assert isinstance(projection, nn.Linear)
        projected: Tensor = projection(states.to(projection.weight.dtype))
        return projected.float()

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.loss == "mse":
            return (student - teacher).square().mean(-1).sum()
        return (1.0 - functional.cosine_similarity(student, teacher, dim=-1)).sum()
