"""A run that is killed in the middle of writing a checkpoint, the second or another, as a machine without power is."""

from __future__ import annotations

import os
import signal
import sys

from transformers import Trainer

from hf_distill import load_recipe, run


def main(recipe: str, runs: str, number: str = "2") -> None:
    written: list[str] = []
    save = Trainer._save_optimizer_and_scheduler

    def save_or_die(self: Trainer, output_dir: str) -> None:
        if "checkpoints/student" in output_dir:
            written.append(output_dir)
        if len(written) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, output_dir)

    Trainer._save_optimizer_and_scheduler = save_or_die
    run(load_recipe(recipe, allow_code=True), runs=runs, allow_code=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
