"""The machine that this runs on, as results tell it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """What this was run on, as plain data."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "instructions": cpu_instructions(),
        "accelerator": accelerator,
        "system": platform.system(),
    }


def cpu_instructions() -> list[str] | None:
    """The sets that decide how fast matrix products are; CPUs of one name may differ in them.

    Returns:
        Of ``avx2``, ``avx512``, ``avx512_bf16`` and ``amx_tile`` those that this CPU has; None for other CPUs than
        Intel's and AMD's, of which nothing is known.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    has = {
        "avx2": torch.cpu._is_avx2_supported,
        "avx512": torch.cpu._is_avx512_supported,
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported,
        "amx_tile": torch.cpu._is_amx_tile_supported,
    }
    return [name for name, asked in has.items() if asked()]


def multiplies_bfloat16() -> bool | None:
    """Whether this machine's CPU has instructions for it; None where nothing is known of it."""
    known = cpu_instructions()
    return None if known is None else not {"avx512_bf16", "amx_tile"}.isdisjoint(known)


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
        if path.is_file()
        else []
    )
    return names[0] if names else platform.processor()
