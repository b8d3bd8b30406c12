"""Ways in which files of a run come to harm."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Harm = Callable[[Path, random.Random], None]


def flip(path: Path, draw: random.Random) -> None:
    """Change 64 bytes somewhere behind the head of a file."""
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content) // 4, len(content) - 64)
    content[start : start + 64] = bytes(255 - byte for byte in content[start : start + 64])
    path.write_bytes(content)


def cut(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(1, path.stat().st_size)])


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def garbage(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(path.stat().st_size))


def braces(path: Path, draw: random.Random) -> None:
    path.write_text("{}")


def gone(path: Path, draw: random.Random) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def added(path: Path, draw: random.Random) -> None:
    path.write_text('{"weight_map": {}}')


def later(path: Path, draw: random.Random) -> None:
    """Times in the future, on a file that is whole."""
    ahead = time.time() + draw.randrange(1000, 10**6)
    for each in (path, *path.parent.rglob("*"), *path.parent.parent.glob("*")):
        os.utime(each, (ahead, ahead))


@dataclass(frozen=True)
class Damage:
    """A harm to one file of a run.

    Attributes:
        file: Which file, as a pattern below the run's folder; of several the one with the highest number.
        harm: What happens to it.
        named: What a line must name; the name of the file unless given.
        refused: Whether the call must refuse to go on.

    What lies beside the run is looked at by a run that needs it, so the evaluation is then taken back, too.
    """

    file: str
    harm: Harm
    named: str | None = None
    refused: bool = False

    def apply(self, run: Path, draw: random.Random) -> str:
        """Do it; what a line of the next call must name."""
        folder, _, name = self.file.rpartition("/")
        places = sorted(run.glob(folder) if folder else [run], key=_number)
        self.harm(places[-1] / name, draw)
        if folder.startswith("../"):
            (run / "checkpoints" / "complete.json").unlink()
        return name if self.named is None else self.named


def _number(path: Path) -> int:
    return int((re.findall(r"\d+", path.name) or ["0"])[-1])


def renamed(path: Path, draw: random.Random) -> None:
    """The oldest checkpoint as the newest."""
    oldest = min(path.parent.glob("checkpoint-*"), key=_number)
    oldest.rename(path.parent / f"checkpoint-{draw.randrange(100, 1000)}")


def all_of_them(path: Path, draw: random.Random) -> None:
    for each in path.parent.parent.glob("checkpoint-*"):
        flip(each / path.name, draw)


def best(path: Path, draw: random.Random) -> None:
    """The best one, where it is not the newest."""
    flip(min(path.parent.parent.glob("checkpoint-*"), key=_number) / path.name, draw)


NEWEST = "checkpoints/student/checkpoint-*"
_STATE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "distillation.safetensors")
_EVERY: dict[str, Harm] = {"flipped": flip, "cut": cut, "emptied": empty, "garbage": garbage, "missing": gone}

CHECKPOINT: dict[str, Damage] = {
    **{f"{name} {what}": Damage(f"{NEWEST}/{name}", harm) for name in _STATE for what, harm in _EVERY.items()},
    **{
        f"{name} {what}": Damage(f"{NEWEST}/{name}", harm)
        for name in ("trainer_state.json", "checksums.json")
        for what, harm in {"braces": braces, "cut": cut, "emptied": empty, "missing": gone}.items()
    },
    "a file added": Damage(f"{NEWEST}/model.safetensors.index.json", added),
    "renamed": Damage("checkpoints/student/checkpoint", renamed, "it was written as"),
    "times in the future": Damage(f"{NEWEST}/model.safetensors", later, ""),
    "every checkpoint": Damage(f"{NEWEST}/model.safetensors", all_of_them, "starts anew"),
    "the oldest checkpoint": Damage(f"{NEWEST}/model.safetensors", best, ""),
}
"""Of the newest checkpoint of a run that was killed in training."""

FINISHED: dict[str, Damage] = {
    **{
        f"{model}/{name} {what}": Damage(f"{model}/{name}", harm)
        for model in ("student", "control", "stages/first/student", "../teachers/*/student")
        for name, harms in {"model.safetensors": (flip, cut, gone), "config.json": (braces, empty)}.items()
        for what, harm in ((harm.__name__, harm) for harm in harms)
    },
    **{f"{name} gone": Damage(name, gone, f"{name}/") for name in ("student", "control")},
    **{
        f"{name} {what}": Damage(name, harm)
        for name in ("results.json", "analysis.json", "checkpoints/student.json")
        for what, harm in {"braces": braces, "cut": cut, "emptied": empty, "missing": gone}.items()
    },
    "../teachers/*/results.json cut": Damage("../teachers/*/results.json", cut),
    "../teachers/*/checkpoints/student.json emptied": Damage("../teachers/*/checkpoints/student.json", empty),
    "figures/training.png flipped": Damage("figures/training.png", flip),
    "student/README.md emptied": Damage("student/README.md", empty),
    "checkpoints/complete.json emptied": Damage("checkpoints/complete.json", empty),
    "recipe.yaml cut": Damage("recipe.yaml", cut),
    "recipe.yaml emptied": Damage("recipe.yaml", empty),
    "made_of.json emptied": Damage("checkpoints/made_of.json", empty, refused=True),
    "made_of.json missing": Damage("checkpoints/made_of.json", gone),
}
"""Of a run that is complete."""
