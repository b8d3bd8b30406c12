"""Small forward passes that show whether a model does what a loss relies on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from hf_distill.errors import ModelError
from hf_distill.models.forward import accepted_inputs, evaluated, output_head, without_head
from hf_distill.models.sizes import is_staged, sizes_of

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""By how much two ways to the same logits may differ, in units of their spread; 0.1 in half precision."""


def positions_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> int | None:
    """How many positions each layer of a model has for a row; None where layers differ, or are no rows of vectors.

    Args:
        model: One like it, of one layer and zeros, is asked; its own weights may be on the meta device.
        inputs: Of one row, on the CPU.
    """
    if is_staged(model.config):
        return None
    base: Any = getattr(model, "get_base_model", lambda: model)()
    config = copy.deepcopy(base.config)
    sizes_of(config).num_hidden_layers = 1
    with torch.device("meta"):
        alike: Any = type(base)(config)
    # Nothing is run on the meta device: BEiT keeps what it once made there for all models of its size.
    alike = alike.float().to_empty(device="cpu")
    for tensor in (*alike.parameters(), *alike.buffers()):
        tensor.data.zero_()
    with evaluated(alike):
        states = alike(**accepted_inputs(alike, inputs), output_hidden_states=True).hidden_states
    shapes = {state.shape[1:-1] for state in states or ()}
    return next(iter(shapes))[0] if len(shapes) == 1 and states[0].dim() == 3 else None


def check_cache(model: PreTrainedModel) -> None:
    """Refuse a model whose layers are all recurrent where the cache that it reads with needs one of attention.

    Its weights may be on the meta device.
    """
    layers = DynamicCache(config=model.config).layers if model.can_generate() else []
    if not layers or any(isinstance(each, CacheLayerMixin) for each in layers):
        return
    try:
        with evaluated(model):
            model(input_ids=torch.zeros(1, 4, dtype=torch.long, device=model.device), use_cache=True)
    except Exception as error:  # Kinds of recurrent layers alone (Mamba) pass, and what meta does not compute.
        if "get_seq_length" in str(error):
            raise ModelError(
                f"{type(model).__name__}: it has no layer of attention among its layers ({len(layers)}), and "
                "Transformers' cache, with which models of its kind read and write, needs one; keep one "
                "(student.layers), or take more layers (student.config: num_hidden_layers, layer_types)"
            ) from error


def check_head(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """Refuse a model whose logits are not what its head makes of its last hidden states."""
    with evaluated(model):
        expected = model(**inputs).logits
        with without_head(model) as caught:
            model(**inputs)
        found = output_head(model).logits(caught.hidden)
    if error := _difference(found, expected, model.dtype):
        raise ModelError(
            f"{type(model).__name__} does more to its logits than a linear head with a scale and a soft-cap (they "
            f"differ by {error:.2g} standard deviations), so the fused loss cannot serve it; choose another model"
        )


def check_decoder_inputs(model: PreTrainedModel, inputs: dict[str, Tensor], labels: Tensor) -> None:
    """Refuse a model whose decoder starts otherwise than the task's ``decoder_input_ids``, made of the ``labels``."""
    with evaluated(model):
        own = model(**{name: x for name, x in inputs.items() if name != "decoder_input_ids"}, labels=labels).logits
        ours = model(**inputs).logits
    if _difference(ours, own, model.dtype):
        raise ModelError(
            f"the decoder of this {type(model).__name__} starts with another token than that of the model it is paired "
            "with, so they read different texts; take two models with the same decoder_start_token_id"
        )


def check_packing(model: PreTrainedModel) -> None:
    """Refuse a model that lets one packed text see another."""
    if len(accepted_inputs(model, {"position_ids": torch.empty(0)})) == 0:
        kind = type(model).__name__
        raise ModelError(f"{kind} takes no position_ids, so packed texts see one another; set task.packing to false")
    ids = torch.arange(2, 12, device=model.device)[None] % model.config.get_text_config().vocab_size
    positions = torch.arange(5, device=model.device).repeat(2)[None]
    with evaluated(model):
        alone = model(input_ids=ids[:, 5:], position_ids=positions[:, 5:], use_cache=False).logits
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 5:]
    if error := _difference(packed, alone, model.dtype):
        raise ModelError(
            f"{type(model).__name__} lets packed texts see one another (their logits differ by {error:.2g} standard "
            "deviations from those of each text alone); set task.packing to false"
        )


def _difference(found: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """How far logits lie apart, in units of their spread; 0 within what rounding explains."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.float(), expected.float()
    error = float((found - expected).abs().max() / expected.std().clamp(min=1e-6))
    return 0.0 if error <= TOLERANCES.get(dtype, 0.1) else error
