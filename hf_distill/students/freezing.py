"""Freezes parts of a student, and finds a frozen encoder that its teacher has, too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_distill.errors import StudentError
from hf_distill.models.sizes import reads_media
from hf_distill.students.layers import difference

_FIRST = ("embeddings", "embedder", "conv_stem", "feature_extractor", "conv1", "conv2", "embed_positions")
"""What the first layers over images, waves and spectrograms are called; the last three are of Whisper's encoder."""


def freeze(model: PreTrainedModel, parts: Sequence[str]) -> None:
    """Freeze ``embeddings`` (all tables: tokens, positions, segments), or the ``encoder`` of an encoder-decoder.

    What shares its weights is frozen, too: a tied head, and the embeddings of a decoder with those of its encoder. The
    embeddings of a classifier of images or sounds, or of a model for CTC, are the layers that make its first states:
    of patches and their positions, or the convolutions over a sound (what wav2vec 2.0 calls its feature encoder).
    """
    kind = type(model).__name__
    if "encoder" in parts:
        if not model.config.is_encoder_decoder:
            raise StudentError(
                f"student.freeze: {kind} has no encoder beside a decoder; remove encoder, or use student.lora to train "
                "little of it"
            )
        model.get_encoder().requires_grad_(False)
    if "embeddings" in parts:
        is_first = _makes_first_states if reads_media(model) and not model.config.is_encoder_decoder else _is_table
        for name, module in model.named_modules():
            if is_first(name, module):
                module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        frozen = " and ".join(parts)
        raise StudentError(f"student.freeze: with {frozen} frozen, nothing of {kind} would learn; freeze less")


def _is_table(name: str, module: nn.Module) -> bool:
    # T5 keeps a table of relative positions in a layer: it belongs to the attention there.
    is_table = isinstance(module, nn.Embedding) or type(module).__name__ == "QuantEmbedding"  # Of I-BERT.
    return is_table and not name.endswith("relative_attention_bias")


def _makes_first_states(name: str, module: nn.Module) -> bool:
    return name.rpartition(".")[2] in _FIRST


def frozen_encoder(model: PreTrainedModel) -> nn.Module | None:
    """The encoder of an encoder-decoder, where nothing of it learns."""
    if not model.config.is_encoder_decoder:
        return None
    encoder: nn.Module = model.get_encoder()
    return None if any(parameter.requires_grad for parameter in encoder.parameters()) else encoder


def share_an_encoder(student: PreTrainedModel, teacher: PreTrainedModel) -> bool:
    """Whether the student's encoder is frozen and the teacher's own: built alike, equal bit for bit.

    A teacher in half precision is compared as it is: with the student's weights rounded to it.
    """
    if (own := frozen_encoder(student)) is None or not teacher.config.is_encoder_decoder:
        return False
    other: nn.Module = teacher.get_encoder()
    if difference(own, other, (0, 0)) is not None:
        return False
    ours, theirs = own.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(tensor.to(theirs[name].device, theirs[name].dtype), theirs[name]) for name, tensor in ours.items()
    )
