"""In which precision a family of models computes; some have parts that only run in float32."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from hf_distill.models.hardware import best_dtype, chosen_dtype

logger = logging.getLogger(__name__)

Build = Callable[..., PreTrainedModel]
"""Makes a model of a config, in a ``dtype``: ``AutoModel.from_config``."""

_SMALL = {"num_hidden_layers": 1, "vocab_size": 32, "pad_token_id": 0}
_OF_DTYPE = re.compile(r"dtype|scalar type|BFloat16|Half", re.IGNORECASE)


def trouble(build: Build | None, config: PretrainedConfig, dtype: torch.dtype, *, autocast: bool = False) -> str | None:
    """Why models of a kind cannot compute in a precision: one row is tried on a small one; None where it runs.

    Args:
        build: Makes a model of their kind; None where none is tried.
        config: Of a model that need not be there.
        dtype: Of the weights, or what products are taken to by autocast.
        autocast: Whether weights stay in float32, as in mixed precision training.
    """
    if dtype == torch.float32 or build is None:
        return None
    small = copy.deepcopy(config)
    row = torch.tensor([[1, 2, 3, 4]])
    try:
        for name, value in _SMALL.items():
            setattr(small, name, value)
        with torch.device("meta"):
            # As it is loaded: some families leave weights in float32.
            model: Any = build(small, dtype=torch.float32 if autocast else dtype)
        # Zeros do as weights, and drawing others would take longer than all else.
        model = model.to_empty(device="cpu").eval()
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.zero_()
    except Exception:
        return None  # What cannot be made small is not tried.
    computing = torch.autocast("cpu", dtype) if autocast else nullcontext()
    try:
        with torch.inference_mode(), computing:
            model(input_ids=row, attention_mask=torch.ones_like(row))
    except Exception as error:
        text = " ".join(str(error).split())
        return text[:200] if _OF_DTYPE.search(text) else None
    return None


def runnable_dtype(name: str, device: torch.device, build: Build | None, config: PretrainedConfig) -> torch.dtype:
    """The dtype that a recipe names; ``auto`` is the device's best one in which models of this kind compute."""
    dtype = chosen_dtype(name, device)
    if name == "auto" and (reason := trouble(build, config, dtype)):
        shown = str(dtype).removeprefix("torch.")
        logger.info(f"{config.model_type} does not compute in {shown} ({reason}): it runs in float32")
        return torch.float32
    return dtype


def common_dtype(device: torch.device, models: list[Any]) -> torch.dtype:
    """The device's best dtype in which all models compute."""
    dtype = best_dtype(device)

    def fails(model: Any) -> bool:
        def build(config: PretrainedConfig, dtype: torch.dtype) -> Any:
            return type(model)._from_config(config).to(dtype)

        return trouble(build, model.config, dtype) is not None

    return torch.float32 if any(map(fails, models)) else dtype
