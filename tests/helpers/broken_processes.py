"""Train a tiny student under torchrun whose loss is broken on the second process alone; write down how it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hf_distill.errors import TrainingError
from tests.helpers.broken import Scripted
from tests.helpers.trainers import trainer
from tests.helpers.two_processes import leave


def main(folder: Path, what: str) -> None:
    growth, second = what == "growth", os.environ["RANK"] == "1"
    scripts = {"loss": {2: float("nan")}, "infinite": {2: float("inf")}, "growth": dict.fromkeys(range(4, 40), 1e6)}
    term = Scripted(scripts.get(what) if second else None, infinite_slope=(2,) if what == "gradient" and second else ())
    saves = {"save_strategy": "steps", "save_steps": 10 if growth else 2, "logging_steps": 500}
    one = trainer(folder, [term], max_steps=40, learning_rate=0.0, **saves)
    try:
        one.train()
    except TrainingError as error:
        (folder / f"{one.args.process_index}.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    leave()
