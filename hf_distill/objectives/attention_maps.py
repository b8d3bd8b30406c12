"""Where the student looks, pulled towards where the teacher looks."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from typing_extensions import override

from hf_distill.errors import ObjectiveError
from hf_distill.losses.divergences import kl
from hf_distill.models.attention import attention_window, self_attentions
from hf_distill.objectives.layer_maps import Layers, check_layers, chosen_layers, readable
from hf_distill.objectives.objective import Objective
from hf_distill.objectives.schedules import Scheduled
from hf_distill.types import Targets, View


class Attention(Objective):
    """The attention maps of chosen student layers pulled towards those of chosen teacher layers, token by token.

    Head by head where both models have as many, else the means over the heads. Fused kernels make no maps: both models
    run eager attention, the student's without dropout, which would tear holes into its maps.

    Args:
        loss: ``kl`` of the teacher's and the student's probabilities (MobileBERT, Sun et al. 2020), or
            ``mse``: the squared distance of the two (TinyBERT takes it of the scores before the softmax).
        layers: ``auto`` (see :func:`spaced_layer_map`), or a mapping of student layer to teacher layer.
    """

    unit = "tokens"
    needs = frozenset({"attentions"})
    compares_tokens = True
    paper = "Jiao et al. 2020, TinyBERT: Distilling BERT for Natural Language Understanding, arXiv:1909.10351"

    def __init__(self, *, loss: str = "kl", layers: Layers = "auto", weight: Scheduled = 1.0) -> None:
        super().__init__(weight=weight)
        check_layers("attention", layers)
        self.loss, self.layers = self.one_of("loss", loss, ("kl", "mse")), layers

    @override
    def connect(self, student: PretrainedConfig, teacher: PretrainedConfig | None) -> list[str]:
        assert teacher is not None
        self.layer_map = chosen_layers("attention", self.layers, student, teacher)
        own, other = (config.get_text_config(decoder=True).num_attention_heads for config in (student, teacher))
        heads = f"each of {own} heads" if own == other else f"the means over {own} and {other} heads"
        layers = f"attention: student layer <- teacher layer: {readable(self.layer_map)}"
        return [layers, f"attention: {heads}, with eager attention, the student's without dropout"]

    @override
    def check_models(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        windows = {str(attention_window(model)) for model in (student, teacher)}
        if len(windows) > 1:
            raise ObjectiveError(
                f"attention: student and teacher look at windows of different sizes ({', '.join(sorted(windows))}), so "
                "their maps have other places; use hidden, or models of one window"
            )
        own, other = (getattr(self_attentions(model)[0], "is_causal", False) for model in (student, teacher))
        if own and not other:
            raise ObjectiveError(
                f"attention: the teacher's tokens look at later ones, which those of {type(student).__name__} may not, "
                "so it could never learn to; use relation or hidden, or a student of the teacher's kind"
            )

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        assert view.attentions is not None
        assert targets.attentions is not None
        mask = view.masks["tokens"]
        pairs = [(view.attentions[i], targets.attentions[j]) for i, j in self.layer_map.items()]
        return torch.stack([self._distance(*pair, mask) for pair in pairs]).mean()

    def _distance(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Of the tokens that count, ``[tokens, heads, T]``; where nobody may look, padding included, both are 0."""
        own, other = (maps.transpose(1, 2)[mask].float() for maps in (student, teacher))
        if own.shape[1] != other.shape[1]:
            own, other = own.mean(1, keepdim=True), other.mean(1, keepdim=True)
        if self.loss == "mse":
            return (own - other).square().sum(-1).mean(1).sum()
        return kl(other.log(), own.clamp(min=torch.finfo(torch.float32).tiny).log()).mean(1).sum()
