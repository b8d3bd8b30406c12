"""The machine that this runs on: what it is, where models go on it and in which precision, and its processes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel

import hf_distill

Value = TypeVar("Value")


def machine() -> dict[str, Any]:
    """Processor, accelerator and system, as plain data."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "instructions": cpu_instructions(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def cpu_instructions() -> list[str] | None:
    """Instruction sets that decide how fast matrix products are; None for other CPUs than Intel's and AMD's."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    asked = ("avx2", "avx512", "avx512_bf16", "amx_tile")
    return [name for name in asked if getattr(torch.cpu, f"_is_{name}_supported")()]


def multiplies_bfloat16() -> bool | None:
    """Whether this machine's CPU multiplies bfloat16 in hardware; None where that is not known."""
    known = cpu_instructions()
    return None if known is None else not {"avx512_bf16", "amx_tile"}.isdisjoint(known)


def place(model: PreTrainedModel, device: torch.device) -> None:
    """Move a model to a device, unless ``device_map`` has placed it already."""
    if getattr(model, "hf_device_map", None) is None:
        mover: Any = model
        mover.to(device)


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and multiplies_bfloat16() else torch.float32


def chosen_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that a recipe names; ``auto`` is :func:`best_dtype`."""
    dtype: torch.dtype = best_dtype(device) if name == "auto" else getattr(torch, name)
    return dtype


def share_rows(lengths: Sequence[int], batch_size: int, work: Callable[[list[int]], Iterable[Value]]) -> list[Value]:
    """Share rows among all processes, in batches of similar lengths, and collect their values in every process."""
    order = np.argsort(lengths, kind="stable").tolist()
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    found: list[tuple[int, Value]] = []
    with PartialState().split_between_processes(batches) as own:
        for numbers in own:
            found += zip(numbers, work(numbers), strict=True)
    everything = gather_object(found) if PartialState().num_processes > 1 else found
    return [value for _, value in sorted(everything, key=lambda each: each[0])]


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Versions of what is installed, and of other packages that are named."""
    packages = ("torch", "transformers", "datasets", "accelerate", "evaluate", "huggingface-hub", "scikit-learn")
    found = {name: importlib.metadata.version(name) for name in (*packages, *more)}
    return {"hf_distill": hf_distill.__version__, **found, "python": platform.python_version()}
