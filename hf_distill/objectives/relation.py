"""How tokens relate to each other inside one layer's attention, pulled towards a teacher's layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from typing_extensions import override

from hf_distill.errors import ObjectiveError
from hf_distill.losses.divergences import kl
from hf_distill.models.attention import projection_widths
from hf_distill.objectives.layer_maps import chosen_layers, readable
from hf_distill.objectives.objective import Objective
from hf_distill.objectives.schedules import Scheduled
from hf_distill.types import Projections, Targets, View

RELATIONS = ("qq", "kk", "vv", "qk")  # Queries with queries, keys with keys, values with values, queries with keys.


class Relation(Objective):
    """KL divergence between the self-attention relations of one teacher layer and one student layer.

    A relation is softmax(a b^T / sqrt(width of a head)) over the tokens of a row that count (Wang et al. 2021,
    section 3), where a and b are the layer's queries, keys or values, cut into as many relation heads in both models.
    The relations are added, their heads averaged. ``relations: [qk, vv]`` are those of the first MiniLM (Wang et al.
    2020, arXiv:2002.10957). Rotary positions are left out; of decoders all tokens that count are related, later ones
    too: nothing is predicted from them.

    Args:
        relations: Which: qq, kk, vv, qk.
        relation_heads: Into how many heads the vectors are cut, as many as the teacher has by default; 48 in the paper.
        student_layer: Counted from 0; negative from the end.
        teacher_layer: The same. Of large teachers an upper middle layer teaches best (the paper takes the 21st of 24).
    """

    unit = "tokens"
    needs = frozenset({"projections"})
    compares_tokens = True
    paper = "Wang et al. 2021, MiniLMv2: Multi-Head Self-Attention Relation Distillation, arXiv:2012.15828"

    def __init__(
        self,
        *,
        relations: Sequence[str] = ("qq", "kk", "vv"),
        relation_heads: int | None = None,
        student_layer: int = -1,
        teacher_layer: int = -1,
        weight: Scheduled = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        if isinstance(relations, str) or not relations or not set(relations) <= set(RELATIONS):
            raise ObjectiveError(f"relation: relations must be a list out of {', '.join(RELATIONS)}, got {relations!r}")
        if len(set(relations)) < len(relations):
            raise ObjectiveError(f"relation: relations names one twice ({list(relations)}); use weight to count more")
        if relation_heads is not None and (type(relation_heads) is not int or relation_heads < 1):
            raise ObjectiveError(f"relation: relation_heads must be a whole number above 0, got {relation_heads!r}")
        for name, layer in (("student_layer", student_layer), ("teacher_layer", teacher_layer)):
            if type(layer) is not int:
                raise ObjectiveError(f"relation: {name} must be a whole number, got {layer!r}")
        self.relations, self.relation_heads = tuple(relations), relation_heads
        self.layers, self.heads = {student_layer: teacher_layer}, 1

    @override
    def connect(self, student: PretrainedConfig, teacher: PretrainedConfig | None) -> list[str]:
        assert teacher is not None
        self.layer_map = chosen_layers("relation", self.layers, student, teacher)
        self.heads = self.relation_heads or teacher.get_text_config(decoder=True).num_attention_heads
        layers = f"relation: student layer <- teacher layer: {readable(self.layer_map)}"
        return [layers, f"relation: {', '.join(self.relations)} of {self.heads} heads"]

    @override
    def check_models(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        ((own, other),) = self.layer_map.items()
        found = {"student": projection_widths(student, own), "teacher": projection_widths(teacher, other)}
        compared = [name for name in "qkv" if name in "".join(self.relations)]
        widths = {whose: {name: width[name] for name in compared} for whose, width in found.items()}
        for whose, width in widths.items():
            if "qk" in self.relations and width["q"] != width["k"]:
                raise ObjectiveError(
                    f"relation: qk compares queries with keys, but the {whose}'s heads share keys, so that they are "
                    f"{width['k']} wide and its queries {width['q']}; use qq, kk and vv"
                )
        every = [w for width in widths.values() for w in width.values()]
        if any(w % self.heads for w in every):
            largest = math.gcd(*every)
            divisors = ", ".join(str(n) for n in range(1, largest + 1) if largest % n == 0)
            raise ObjectiveError(
                f"relation: {self.heads} relation heads do not divide the widths of what is compared ({widths}); set "
                f"relation_heads to one of {divisors}"
            )

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        assert view.projections is not None
        assert targets.projections is not None
        ((own, other),) = self.layer_map.items()
        student, teacher = view.projections[own], targets.projections[other]
        mask = view.masks["tokens"]
        values = []
        for name in self.relations:
            own_log, other_log = (self._log_relation(name, each, mask) for each in (student, teacher))
            values.append(kl(other_log, own_log).mean(1))
        return torch.stack(values).sum(0)[mask].sum()

    def _log_relation(self, name: str, projections: Projections, mask: Tensor) -> Tensor:
        """``[B, heads, T, T]``: how much each token, among those that count, relates to each other."""
        first, second = (self._cut(projections[part], mask) for part in name)
        scores = first @ second.transpose(-1, -2) / math.sqrt(first.shape[-1])
        # A row without a token that counts keeps all of them: a softmax over nothing is not a number.
        others = mask | ~mask.any(-1, keepdim=True)
        return scores.masked_fill(~others[:, None, None], -torch.inf).log_softmax(-1)

    def _cut(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """``[B, heads, T, width of a head]`` in float32, 0 where there is no token that counts."""
        clean = vectors.float().masked_fill(~mask[..., None], 0.0)
        return clean.unflatten(-1, (self.heads, -1)).transpose(1, 2)
