"""Where a config keeps the sizes of what reads rows, and how many positions and tokens a model can read.

Models that read images or sounds beside texts nest a config for each (Gemma 3: ``text_config``), and some
encoder-decoders one for each side (T5Gemma).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as IMAGE_CLASSIFIERS

Side = Literal["encoder", "decoder"]

POSITIONS = ("position_embeddings", "positions_embed", "wpe", "embed_positions")
"""What modules are called that hold one vector for each position."""

MEDIA = ("pixel_values", "input_values", "input_features")
"""What Transformers calls images, waves and spectrograms among the inputs of a model."""


def reads_media(model: PreTrainedModel) -> bool:
    """Whether a model reads images or sounds, and no tokens but those that it writes."""
    return model.main_input_name in MEDIA


def tell_sides(model: PreTrainedModel) -> None:
    """Let the config of an encoder alone say that it is one; Whisper's classifier has that of an encoder-decoder."""
    if model.config.is_encoder_decoder and reads_media(model) and not model.can_generate():
        model.config.is_encoder_decoder = False


def sizes_of(config: PretrainedConfig, side: str | None = None) -> PretrainedConfig:
    """The config itself, or the nested one that holds the sizes of the layers that read rows.

    That is text, but images where a family's only classifier is of them (CLIP, SigLIP).

    Args:
        config: Of a whole model.
        side: ``encoder`` or ``decoder`` of an encoder-decoder; None where there is one stack of layers.
    """
    nested = getattr(config, side, None) if side else None
    if config.model_type in IMAGE_CLASSIFIERS:
        nested = getattr(config, "vision_config", None)
    found = (nested if isinstance(nested, PretrainedConfig) else config).get_text_config()
    encoder = getattr(found, "encoder_config", None)
    if isinstance(encoder, PretrainedConfig) and not hasattr(found, "num_hidden_layers"):
        return encoder  # Of Parakeet and its like, whose own config says nothing of layers.
    return found


def is_staged(config: PretrainedConfig) -> bool:
    """Whether layers stand in stages of different widths (Swin, ConvNeXt, ResNet), or in none that can be counted."""
    sizes = sizes_of(config)
    return any(isinstance(getattr(sizes, name, None), (list, tuple)) for name in ("depths", "hidden_sizes")) or not (
        hasattr(sizes, "num_hidden_layers") or hasattr(sizes, "num_decoder_layers")
    )


def text_part(model: PreTrainedModel) -> nn.Module:
    """A model without its towers for images and sounds; the model itself where there are none, or it reads these."""
    if model.config.is_encoder_decoder or sizes_of(model.config) is model.config or reads_media(model):
        return model
    part: nn.Module = model.get_decoder()
    return part


def position_limit(model: PreTrainedModel, side: Side | None = None) -> int | None:
    """How many tokens a model can read at most; None where it reads none, knows distances alone, or does not say.

    Args:
        model: Its weights may be on the meta device.
        side: Which stack of an encoder-decoder; does nothing for other models, nor for the encoder of sounds of one.
    """
    if reads_media(model):
        if side == "encoder" or not model.config.is_encoder_decoder:
            return None
        side = "decoder"
    table = position_table(model, side)
    stack = sizes_of(model.config, side)
    if table is not None or getattr(stack, "relative_attention", False) or getattr(stack, "alibi", False):
        return table
    return _told(stack, side)


def position_table(model: PreTrainedModel, side: Side | None = None) -> int | None:
    """How many positions a model has vectors for; None where it computes them, or knows distances alone.

    RoBERTa and its like count positions from the padding id on, so that two of their 514 serve nothing; others begin
    at an offset.
    """
    told = _told(sizes_of(model.config, side), side)
    stacks = {"encoder", "decoder"} if side is not None and model.config.is_encoder_decoder else set()
    for name, module in text_part(model).named_modules():
        weight = getattr(module, "weight", None)
        if name.endswith(POSITIONS) and isinstance(weight, Tensor) and weight.ndim == 2:
            if next((part for part in name.split(".") if part in stacks), side) != side:
                continue
            first = getattr(module, "padding_idx", None)
            limit = len(weight) - (getattr(module, "offset", 0) if first is None else first + 1)
            return limit if told is None else min(limit, told)
    return None


def is_bound_to_positions(model: PreTrainedModel, side: Side | None = None) -> bool:
    """Whether a model fails beyond :func:`position_limit`; rotary positions can be computed for longer rows."""
    is_rotary = bool(getattr(sizes_of(model.config, side), "rope_parameters", None))
    return position_limit(model, side) is not None and not is_rotary


def token_rows(model: PreTrainedModel) -> tuple[int, int]:
    """How many tokens a model can read, and how many it can write: the second differs where the tables do.

    What reads sounds and writes letters by CTC reads none of them: both are what it can write. A classifier of images
    or sounds has neither, which is 0.
    """
    if reads_media(model) and not model.config.is_encoder_decoder:
        rows = _rows(model.lm_head) if hasattr(model, "lm_head") else 0
        return rows, rows
    read, written = model.get_input_embeddings(), model.get_output_embeddings()
    rows = _rows(read)
    return rows, (_rows(written) if written is not None and model.config.is_encoder_decoder else rows)


def _rows(table: Any) -> int:
    # The number that a table was made with: its weight may lie in parts on several devices.
    known = getattr(table, "num_embeddings", None) or getattr(table, "out_features", None)
    return int(known if known is not None else len(table.weight))


def _told(stack: PretrainedConfig, side: Side | None) -> int | None:
    # The last one is MPT's, which counts distances up to it; "target" is what models of speech write.
    names = [f"max_{side}_position_embeddings"] * (side is not None) + ["max_position_embeddings", "max_seq_len"]
    names += ["max_target_positions"] * (side == "decoder")
    found = (getattr(stack, name, None) for name in names)
    # XLNet says -1: any number.
    return next((number for number in found if isinstance(number, int) and number > 0), None)
