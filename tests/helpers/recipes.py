"""Recipes that more than one room's tests run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers import tiny

ENOUGH = {"train": 2100, "validation": 64, "test": 64}
"""Rows for three shards of a cache."""


def language_recipe(folder: Path, **cache_keys) -> dict[str, Any]:
    """A cached decoder teacher with random weights: what it says is as good as anything to keep."""
    if not (folder / "decoder").is_dir():
        tiny.decoder(3, seed=5, initializer_range=0.05).save_pretrained(folder / "decoder")
        tiny.chat_tokenizer().save_pretrained(folder / "decoder")
    return {
        "version": 1,
        "name": "language",
        "task": {"name": "causal-lm", "max_length": 16, "packing": False},
        "data": {"path": "tests.helpers.data:text_splits", "arguments": ENOUGH},
        "teacher": {"model": str(folder / "decoder"), "kind": "cached", "cache": cache_keys},
        "student": {"layers": 2},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}, {"kind": "hidden"}],
        "training": {"max_steps": 4, "per_device_train_batch_size": 8, "use_cpu": True, "eval_strategy": "no"},
        "evaluate": {"resamples": 100, "control": False},
    }


def longer(text: str, reference: str) -> float:
    """Judge a text: 1 where it is longer than its reference."""
    return float(len(text) > len(reference))
