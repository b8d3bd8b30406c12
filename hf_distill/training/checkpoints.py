"""Which checkpoint to go on from, and the weights that a checkpoint holds beside the student's."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

EXTRA_WEIGHTS_FILE = "distillation.safetensors"


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    Trainer writes ``trainer_state.json`` last; ``get_last_checkpoint`` takes the highest number, complete or not, and a
    run that was killed while it wrote one could never go on.
    """
    found = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*"))
    numbered = sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
    return next((path for _, path in numbered if _is_complete(path)), None)


def save_extra_weights(folder: Path, modules: nn.Module) -> None:
    """Write the objectives' own weights into a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in modules.state_dict().items()}
    save_file(tensors, folder / EXTRA_WEIGHTS_FILE)


def load_extra_weights(folder: Path, modules: nn.Module) -> None:
    """Read them back; a checkpoint without them (another trainer's) leaves them as they are."""
    path = folder / EXTRA_WEIGHTS_FILE
    if path.is_file():
        modules.load_state_dict(load_file(path))


def _is_complete(folder: Path) -> bool:
    if (folder / "checkpoint-is-incomplete.txt").exists():
        return False
    try:
        json.loads((folder / "trainer_state.json").read_text())
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt"):
                pass
    except (SafetensorError, OSError, ValueError):
        return False
    return True
