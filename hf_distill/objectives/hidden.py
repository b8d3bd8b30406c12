"""The student's hidden states pulled towards the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

from hf_distill.errors import ObjectiveError
from hf_distill.heads import compared_layers
from hf_distill.objectives.base import Objective
from hf_distill.views import Targets, View


def spaced_layer_map(student_layers: int, teacher_layers: int) -> dict[int, int]:
    """Student layer -> teacher layer, evenly spaced, the last learning from the last.

    The "skip" mapping of Sun et al. 2019 (Patient Knowledge Distillation), section 3.2: 3 of 6 gives
    ``{0: 1, 1: 3, 2: 5}``.
    """
    return {i: round((i + 1) * teacher_layers / student_layers) - 1 for i in range(student_layers)}


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

    def __init__(
        self, *, loss: str = "mse", layers: Literal["auto"] | Mapping[int, int] = "auto", weight: float = 1.0
    ) -> None:
        super().__init__(weight=weight)
        if loss not in ("mse", "cosine"):
            raise ObjectiveError(f"hidden: loss must be mse or cosine, got {loss!r}")
        if layers != "auto":
            whole = isinstance(layers, Mapping) and all(
                type(number) is int for pair in layers.items() for number in pair
            )
            if not whole or not layers:
                raise ObjectiveError(
                    f"hidden: layers must be auto or a mapping of student layer to teacher layer such as "
                    f"{{0: 1, 1: 3}}, got {layers!r}"
                )
        self.loss = loss
        self.layers = layers
        self.layer_map: dict[int, int] = {}

    def connect(self, student: PretrainedConfig, teacher: PretrainedConfig | None) -> list[str]:
        """Settle the layer map and, where the widths differ, make the projections."""
        assert teacher is not None
        self.layer_map = self._map(student, teacher)
        lines = [f"hidden: student layer <- teacher layer: {_readable(self.layer_map)}"]
        if student.hidden_size != teacher.hidden_size:
            self.module = nn.ModuleDict(
                {str(i): nn.Linear(student.hidden_size, teacher.hidden_size) for i in self.layer_map}
            )
            lines.append(f"hidden: learned projections {student.hidden_size} -> {teacher.hidden_size}")
        return lines

    def teacher_layers(self, student: PretrainedConfig, teacher: PretrainedConfig) -> tuple[int, ...]:
        """See :meth:`Objective.teacher_layers`: the output of layer j is hidden state j + 1."""
        return tuple(j + 1 for j in self._map(student, teacher).values())

    def _map(self, student: PretrainedConfig, teacher: PretrainedConfig) -> dict[int, int]:
        own, other = compared_layers(student), compared_layers(teacher)
        if isinstance(self.layers, Mapping):
            chosen = {_within(i, own, "student"): _within(j, other, "teacher") for i, j in self.layers.items()}
            if len(chosen) < len(self.layers):
                raise ObjectiveError(
                    f"hidden: layers names a student layer twice ({dict(self.layers)}, the student has {own} layers); "
                    "each learns from one teacher layer: remove one"
                )
            # In the order of the layers, not of the recipe: it decides how the projections' weights are drawn.
            return dict(sorted(chosen.items()))
        return spaced_layer_map(own, other)

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


def _within(layer: int, total: int, whose: str) -> int:
    if not -total <= layer < total:
        raise ObjectiveError(
            f"hidden: layer {layer} of the {whose} is out of range, it has {total} layers (0 to {total - 1}, or -1 to "
            f"-{total} from the end)"
        )
    return layer % total


def _readable(layer_map: Mapping[int, int]) -> str:
    return ", ".join(f"{i} <- {j}" for i, j in layer_map.items())
