"""Trainers of tiny models, and what comes of them, to compare."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainingArguments

from hf_distill import DistillationTrainer
from tests.helpers import tiny

TOKENIZER = tiny.tokenizer()


def arguments(folder, **options) -> TrainingArguments:
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "train_sampling_strategy": "group_by_length",
        **options,
    }
    return TrainingArguments(**settings)


def trainer(folder, objectives, rows=None, student=None, teacher=None, **options) -> DistillationTrainer:
    keys = (
        "callbacks",
        "compute_metrics",
        "eval_dataset",
        "model_init",
        "teacher_processing_class",
        "task",
        "training_guard",
    )
    more = {key: options.pop(key) for key in keys if key in options}
    if "model_init" not in more:
        more["model"] = student if student is not None else tiny.bert(2, 32, seed=1)
    return DistillationTrainer(
        teacher=teacher if teacher is not None else tiny.bert(4, 48, seed=2),
        objectives=objectives,
        args=arguments(folder, **options),
        train_dataset=rows if rows is not None else tiny.rows(64),
        processing_class=TOKENIZER,
        **more,
    )


def trained(folder, objectives, **options):
    one = trainer(folder, objectives, **options)
    one.train()
    weights = {name: value.clone() for name, value in one.model.state_dict().items()}
    losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    return losses, weights


def assert_same(first, second, tolerance=1e-6):
    assert first[0] == pytest.approx(second[0], abs=tolerance)
    assert first[1].keys() == second[1].keys()
    for name, value in first[1].items():
        assert torch.allclose(value, second[1][name], atol=tolerance, rtol=0), name
