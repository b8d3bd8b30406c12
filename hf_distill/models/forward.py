"""Runs a model, and catches what enters an output head over a vocabulary.

Logits over a vocabulary are the largest tensor of a step. The fused loss never holds all of them, so it needs what
they come from: the last hidden states and the head. :func:`without_head` runs a model's own forward and catches that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_distill.errors import ModelError
from hf_distill.models.pooling import head_of
from hf_distill.models.sizes import is_staged, sizes_of
from hf_distill.types import Head, HeadLogits, Need

SEGMENTS = "token_type_ids"
"""What Transformers calls the segments of tokens: which text of a pair each is of."""

ENCODED = "encoder_outputs"
"""What Transformers calls an encoder's output; in a batch where student and teacher share it."""


ROUTER_LOGITS = "output_router_logits"
"""What Transformers calls the switch, in configs and calls, of what balances the experts of a model."""


class Caught:
    """What entered the head in the last forward pass: ``[B, T, H]``."""

    hidden: Tensor


def output_head(model: PreTrainedModel) -> Head:
    """A model's head: the matrix, bias, scale and soft-cap of its logits."""
    module = model.get_output_embeddings()
    kind = type(model).__name__
    if type(module) is not nn.Linear:
        what = "no output head" if module is None else f"a {type(module).__name__} as its output head"
        raise ModelError(
            f"{kind} has {what}; the fused loss needs a plain linear layer: leave the head out of the adapter's "
            "target modules, or merge the adapter first"
        )
    config = sizes_of(model.config)
    bias = module.bias if module.bias is not None else getattr(model, "final_logits_bias", None)
    # Cohere, Falcon-H1 and Granite, in this order.
    names = ("logit_scale", "lm_head_multiplier", "logits_scaling")
    times, more, less = (float(getattr(config, name, None) or 1.0) for name in names)
    return Head(
        weight=module.weight,
        bias=bias.view(-1) if bias is not None else None,
        scale=times * more / less,
        soft_cap=getattr(config, "final_logit_softcapping", None),
    )


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Keep a model in eval mode, without gradients; afterwards each of its modules is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def without_head(model: PreTrainedModel) -> Iterator[Caught]:
    """Let a model's forward catch what enters its head, in the dtype of the product, and not multiply it.

    The logits that the forward returns meanwhile are zeros for one position, and mean nothing.
    """
    module: Any = model.get_output_embeddings()
    caught = Caught()

    def catch(hidden: Tensor) -> Tensor:
        # Autocast takes a product to half precision, but not one of float64.
        halved = torch.is_autocast_enabled(hidden.device.type) and hidden.dtype != torch.float64
        caught.hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type)) if halved else hidden
        return hidden.new_zeros(len(hidden), 1, module.out_features)

    original, module.forward = module.forward, catch
    try:
        yield caught
    finally:
        module.forward = original


def accepted_inputs(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs that a model reads; another model's tokenizer may give more (segments to a DistilBERT).

    Features and pixels are prepared in float32, whatever a model computes in: they come in its dtype.
    """
    names = set(arguments_of(model))
    if SEGMENTS in inputs and not reads_segments(model):
        names.discard(SEGMENTS)
    if not reads_padding_mask(model):
        names.discard("attention_mask")
    return {name: in_dtype(value, model.dtype) for name, value in inputs.items() if name in names}


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Floats in a dtype; tokens and masks as they are."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def reads_segments(model: PreTrainedModel) -> bool:
    """Whether a model tells the second text of a pair from the first by its ``token_type_ids``.

    RoBERTa knows one segment only, for which id 1 is out of range. GPT-2 and its like take the ids for tokens. BigBird
    never saw any: its own tokenizer gives none.
    """
    if SEGMENTS not in arguments_of(model) or model.config.model_type == "big_bird":
        return False
    return getattr(model.config, "type_vocab_size", 0) > 1 or model.config.model_type in ("xlnet", "funnel")


def reads_padding_mask(model: PreTrainedModel) -> bool:
    """Whether a model is told where rows are padded.

    Models of speech whose first convolution is normalized over the whole clip (``feat_extract_norm: group``, wav2vec2
    and HuBERT of the base size) have learned from clips padded with silence, without a mask.
    """
    return getattr(model.config, "feat_extract_norm", None) != "group"


def arguments_of(model: PreTrainedModel) -> Collection[str]:
    """The names of what a model's forward takes."""
    # The model under an adapter names the arguments of its forward.
    base: Any = getattr(model, "get_base_model", lambda: model)()
    return inspect.signature(base.forward).parameters.keys()


def output_logits(outputs: Any) -> Tensor:
    """A model's logits. For question answering, start and end logits stacked to ``[B, 2, T]``."""
    logits: Tensor | None = getattr(outputs, "logits", None)
    return torch.stack((outputs.start_logits, outputs.end_logits), dim=1) if logits is None else logits


def compared_states(outputs: Any) -> tuple[Tensor, ...]:
    """The hidden states ``[B, T, H]`` that objectives compare; an encoder-decoder's are its decoder's."""
    states: tuple[Tensor, ...] | None = getattr(outputs, "decoder_hidden_states", None)
    return outputs.hidden_states if states is None else states


STATES: dict[Need, Callable[[Any], tuple[Tensor, ...]]] = {
    "hidden_states": compared_states,
    "encoder_states": lambda outputs: outputs.encoder_hidden_states,
}
"""Reads from a model's outputs what objectives need layer by layer; ``[B, S, H]`` of an encoder beside a decoder."""


def compared_attentions(outputs: Any, model: PreTrainedModel) -> tuple[Tensor, ...]:
    """The attention maps ``[B, heads, T, T]`` of the layers of :func:`compared_states`."""
    maps: tuple[Tensor, ...] | None = getattr(outputs, "decoder_attentions", None)
    maps = getattr(outputs, "attentions", None) if maps is None else maps
    if not maps or maps[0] is None:
        raise ModelError(f"{type(model).__name__} gives no attention maps to compare; use relation or hidden")
    return maps


def compared_layers(config: PretrainedConfig) -> int:
    """How many layers the stack of :func:`compared_states` has; refused (ModelError) where they stand in stages."""
    if is_staged(config):
        raise ModelError(
            f"{config.model_type}: its layers stand in stages of different shapes, so their states and attention maps "
            "cannot be compared layer by layer; use logits"
        )
    if (sizes := sizes_of(config)) is getattr(config, "vision_config", None):
        return int(sizes.num_hidden_layers)
    stack = config.get_text_config(decoder=True)
    layers = getattr(stack, "num_decoder_layers", None) or getattr(stack, "num_hidden_layers", None)
    return int(layers or sizes_of(config).num_hidden_layers)


def encoder_layers(config: PretrainedConfig) -> int | None:
    """How many layers an encoder beside a decoder has; None where there is none."""
    return int(sizes_of(config, "encoder").num_hidden_layers) if config.is_encoder_decoder else None


def run_model(
    forward: Callable[..., Any],
    model: PreTrainedModel,
    inputs: dict[str, Any],
    has_vocabulary: bool,
    hidden: bool,
    attention: bool = False,
    routers: bool = False,
) -> tuple[Any, Tensor | HeadLogits]:
    """A forward pass: a model's outputs, and its logits; those of a model that gives vectors are these, ``[B, D]``.

    Logits over a vocabulary are not made: what enters the head (``[B, T, H]``) is given with the head instead.
    ``routers``: whether the outputs tell how evenly a model uses its experts, whatever its config says.
    """
    more: dict[str, Any] = {"output_hidden_states": hidden, **({"output_attentions": True} if attention else {})}
    if not has_vocabulary:
        outputs = forward(**inputs, **more)
        if (vectors := head_of(model)) is not None:
            # Of a class that has logits: what wraps a model in several processes makes outputs anew, by their class.
            outputs = SequenceClassifierOutput(
                logits=vectors(outputs.last_hidden_state, inputs["attention_mask"]),
                hidden_states=getattr(outputs, "hidden_states", None),
                attentions=getattr(outputs, "attentions", None),
            )
        return outputs, output_logits(outputs)
    # A key-value cache would let packed texts see each other, and only costs memory here.
    more |= accepted_inputs(model, {"use_cache": False, ROUTER_LOGITS: routers})
    if routers and model.config.is_encoder_decoder:
        # NLLB-MoE tells it beside a loss only; that of these labels is of the stand-in for logits, and nobody reads it.
        more["labels"] = torch.zeros_like(inputs["decoder_input_ids"][:, :1])
    with without_head(model) as caught:
        outputs = forward(**inputs, **more)
    outputs.logits = None  # The stand-in must not be taken for the real ones.
    return outputs, HeadLogits(hidden=caught.hidden, head=output_head(model))
