"""Checkpoints that are believed only whole: sealed when they are written, and checked before training goes on.

checkpoint-10/
  checksums.json    written last: its own step, and size and SHA-256 of every other file
"""

from __future__ import annotations

import logging
import re
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME

from hf_distill.artifacts import checksums, damage, load_json, read_json, write_json
from hf_distill.errors import OutputError

logger = logging.getLogger(__name__)

SEAL = "checksums.json"
EXTRA_WEIGHTS_FILE = "distillation.safetensors"

READ_IF_THERE = frozenset({".safetensors", ".bin", ".pt", ".pth", ".json"})
"""Endings of files that a trainer reads from a checkpoint that holds them; any other may be added by anybody."""


def seal(checkpoint: Path) -> None:
    """Write down what a checkpoint consists of, as the last of its files."""
    write_json(checkpoint / SEAL, {"name": checkpoint.name, "files": checksums(checkpoint)})


def last_whole_checkpoint(folder: Path, *, with_best: bool = False) -> Path | None:
    """The newest checkpoint that is as it was written, or None; one line names it and what is damaged before it.

    Args:
        folder: Where checkpoints lie.
        with_best: Whether the best checkpoint that it knows, which is loaded in the end, must be whole, too.
    """
    skipped: list[str] = []
    for path in _numbered(folder):
        found = _damage_of(path) or (_damage_of_best(path) if with_best else None)
        if found is None:
            if skipped:
                logger.warning(f"{'; '.join(skipped)}; training goes on from {path.name}, which is whole")
            else:
                logger.info(f"training goes on from {path.name}")
            return path
        skipped.append(f"{path} is not whole: {found}")
    if skipped:
        logger.warning(f"{'; '.join(skipped)}; no checkpoint is whole, so that training starts anew")
    return None


def check_given(checkpoint: Path, *, has_extra_weights: bool) -> None:
    """Refuse a checkpoint that a person names and that is damaged; report one of which that cannot be known."""
    if (checkpoint / SEAL).exists():
        found = _damage_of(checkpoint, renamed=True)
    elif has_extra_weights and not (checkpoint / EXTRA_WEIGHTS_FILE).is_file():
        found = f"{EXTRA_WEIGHTS_FILE} is missing, which holds what the objectives have learned beside the student"
    elif (found := _unreadable(checkpoint)) is None:
        logger.warning(f"{checkpoint} has no {SEAL}: whether it is whole cannot be known, and it is used as it is")
    if found is not None:
        raise OutputError(
            f"{checkpoint} is not whole: {found}; going on from it would train another student, so name another "
            "checkpoint, or take the last whole one with resume_from_checkpoint=True"
        )


def check_best(checkpoint: Path) -> None:
    """Refuse to end with a best model that is damaged."""
    if (checkpoint / SEAL).exists() and (found := _damage_of(checkpoint)) is not None:
        raise OutputError(
            f"{checkpoint} holds the best model, but is not whole: {found}; train again with "
            "resume_from_checkpoint=True, which goes on from the last checkpoint before it"
        )


def sibling(checkpoint: Path, recorded: str) -> Path:
    """A checkpoint that another one names, which may have been moved together with it since."""
    return checkpoint.parent / Path(recorded).name


def drop_older(newest: Path, limit: int | None, best: str | None) -> None:
    """Delete older checkpoints than the newest, of which with the best and itself at most ``limit`` stay."""
    if limit is None or limit <= 0:
        return
    kept = {newest.name} | ({Path(best).name} if best is not None else set())
    older = [path for path in _numbered(newest.parent) if path.name not in kept and _number(path) < _number(newest)]
    for path in older[max(limit - len(kept), 0) :]:
        shutil.rmtree(path, ignore_errors=True)


def save_extra_weights(folder: Path, modules: nn.Module) -> None:
    """Write the objectives' own weights into a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in modules.state_dict().items()}
    save_file(tensors, folder / EXTRA_WEIGHTS_FILE)


def load_extra_weights(folder: Path, modules: nn.Module) -> None:
    """Read them back."""
    modules.load_state_dict(load_file(folder / EXTRA_WEIGHTS_FILE))


def _numbered(folder: Path) -> list[Path]:
    """The newest first, by their steps: times may lie."""
    return sorted((path for path in folder.glob("checkpoint-*") if _number(path) >= 0), key=_number, reverse=True)


def _number(path: Path) -> int:
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match[1]) if match else -1


def _damage_of(checkpoint: Path, *, renamed: bool = False) -> str | None:
    if not (checkpoint / SEAL).exists():
        return f"{SEAL} is missing, which is written last"
    try:
        content = load_json(checkpoint / SEAL, ("name", "files"))
    except ValueError as reason:
        return str(reason)
    if not renamed and content["name"] != checkpoint.name:
        return f"it was written as {content['name']}"
    if (found := damage(checkpoint, content["files"])) is not None:
        return found
    there = {path.name for path in checkpoint.iterdir() if path.suffix in READ_IF_THERE} - {SEAL}
    added = sorted(there - content["files"].keys())
    return f"{added[0]} was added to it" if added else None


def _damage_of_best(checkpoint: Path) -> str | None:
    """What is wrong with the best checkpoint that a whole one knows: without it the training would end otherwise."""
    recorded = load_json(checkpoint / TRAINER_STATE_NAME).get("best_model_checkpoint")
    if recorded is None or (best := sibling(checkpoint, recorded)) == checkpoint:
        return None
    found = _damage_of(best)
    return f"its best model is in {best.name}, where {found}" if found is not None else None


def _unreadable(checkpoint: Path) -> str | None:
    """The first file of a checkpoint of another trainer that cannot be read to its end."""
    read_json(
        checkpoint / TRAINER_STATE_NAME,
        OutputError,
        "the state of a trainer",
        ("global_step", "max_steps"),
        "name another checkpoint",
    )
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix == ".safetensors" and not _opens(path):
            return f"{path.relative_to(checkpoint)} is cut or no safetensors"
        if path.suffix in (".pt", ".pth") and not _is_whole_archive(path):
            return f"{path.relative_to(checkpoint)} is cut or damaged"
    return None


def _opens(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _is_whole_archive(path: Path) -> bool:
    """torch.save writes a zip archive, which holds a checksum of each of its parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        return False
