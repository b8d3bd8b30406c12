"""What the trainer makes of one step: a loss and gradients, to compare."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainingArguments

from hf_distill import DistillationTrainer, Hidden, Labels, Logits


def terms(task, batches, student, teacher, objectives=None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one step, as the trainer computes them on a batch, or on several micro-batches."""
    batches = [batches] if isinstance(batches, dict) else batches
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        task=task,
        objectives=objectives or [Labels(), Logits(temperature=2.0), Hidden()],
        args=TrainingArguments("unused", use_cpu=True, report_to="none"),
    )
    student.train()
    counts = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    loss = sum(trainer.compute_loss(student, batch, num_items_in_batch=counts) for batch in batches)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


def assert_same(first, second, tolerance: float = 1e-5) -> None:
    assert torch.isfinite(first[0])
    assert first[0] == pytest.approx(second[0].item(), abs=tolerance)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        assert torch.allclose(gradient, second[1][name], atol=tolerance), name
