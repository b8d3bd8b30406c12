"""In which precision a family of models computes, and in which a model is saved; some parts only run in float32."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
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


HALVES = (torch.bfloat16, torch.float16)


def dtype_to_save(named: str, source: torch.dtype | None) -> torch.dtype:
    """The dtype that a recipe names; ``auto`` is that of a source's files where it is a half precision."""
    if named != "auto":
        found: torch.dtype = getattr(torch, named)
        return found
    return source if source in HALVES else torch.float32


def cast_saved(folder: Path, dtype: torch.dtype) -> torch.dtype:
    """Give the weights in a folder that a model was saved to, in float32, another dtype; gives the one they have.

    A number that is finite and would not be any more leaves all as it is, which is reported.
    """
    if dtype == torch.float32:
        return dtype
    files = sorted(folder.rglob("*.safetensors"))
    for path in files:
        for name, tensor in load_file(path).items():
            if tensor.is_floating_point() and not tensor.to(dtype).isfinite().equal(tensor.isfinite()):
                logger.warning(f"{name} is too large for {_shown(dtype)}: the model is saved in float32")
                return torch.float32
    for path in files:
        tensors = {name: x.to(dtype) if x.is_floating_point() else x for name, x in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    if (index := folder / "model.safetensors.index.json").is_file():
        content = json.loads(index.read_text())
        content["metadata"]["total_size"] = sum(x.nbytes for path in files for x in load_file(path).values())
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    config = json.loads((folder / "config.json").read_text())
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = _shown(dtype)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return dtype


def _shown(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
