"""Train a tiny student and write losses and weights: one process or, under torchrun, two."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import TrainingArguments

from hf_distill import DistillationTrainer, Hidden, Labels, Logits
from tests import tiny


def main(folder: Path, batch: int, resume: bool) -> None:
    rows = tiny.rows(64)
    labels = [None if i % 5 == 0 else label for i, label in enumerate(rows["label"])]
    rows = rows.remove_columns("label").add_column("label", labels)
    trainer = DistillationTrainer(
        model=tiny.bert(2, 32, seed=1),
        teacher=tiny.bert(4, 48, seed=2),
        objectives=[Labels(), Logits(), Hidden()],
        args=TrainingArguments(
            output_dir=str(folder),
            use_cpu=True,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=5,
            max_steps=12,
            optim="sgd",
            learning_rate=0.05,
            logging_steps=1,
            save_strategy="steps",
            save_steps=5,
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="group_by_length",
        ),
        train_dataset=rows,
        eval_dataset=tiny.rows(30, 1),
        processing_class=tiny.tokenizer(),
    )
    trainer.train(resume_from_checkpoint=resume)
    evaluation = trainer.evaluate()
    if trainer.is_world_process_zero():
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        facts = {
            "world_size": trainer.args.world_size,
            "losses": [entry["loss"] for entry in entries],
            "terms": [entry["loss_hidden"] for entry in entries],
            "eval_loss": evaluation["eval_loss"],
        }
        (folder / "facts.json").write_text(json.dumps(facts))
        save_file(trainer.model.state_dict(), folder / "weights.safetensors")


def leave() -> None:
    """End the process group and its threads: one that drops a tensor while Python ends aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        # The trainer still holds the group, in cycles; its threads end when nothing does.
        gc.collect()


if __name__ == "__main__":
    assert os.environ["OMP_NUM_THREADS"] == "1"
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["resume"])
    leave()
