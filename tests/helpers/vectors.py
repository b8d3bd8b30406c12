"""Encoders that make a vector of a text, as the task of sentence vectors takes and saves them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertModel

from hf_distill.models.pooling import Dense, VectorHead, attach_head, save_head
from tests.helpers import tiny


def bert(seed: int = 0, layers: int = 2, hidden: int = 32, **options):
    made = tiny.bert(layers, hidden, seed=seed, kind=BertModel, **options)
    # So that a text may begin anywhere.
    made.embeddings.position_embeddings.weight.requires_grad_(False).zero_()
    return made


def with_head(pooling: str = "mean", normalize: bool = False, layers: tuple[Dense, ...] = (), seed: int = 0):
    torch.manual_seed(seed)
    model = bert(seed)
    attach_head(model, VectorHead(pooling, normalize, layers))
    return model


def saved(model, folder: Path) -> Path:
    """As a run saves it."""
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    save_head(model, folder, 64)
    return folder


def vector_recipe(teacher: Path, **changes) -> dict:
    narrow = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    return {
        "version": 1,
        "name": "vectors",
        "task": {"name": "embeddings", "max_length": 32, "dimensions": 8},
        "data": {"path": "tests.helpers.data:vector_splits"},
        "teacher": {"model": str(teacher), "kind": "cached"},
        "student": {"config": narrow},
        "objectives": [{"kind": "similarity"}, {"kind": "contrastive", "weight": 0.1}],
        "training": {"max_steps": 8, "learning_rate": 5e-3, "per_device_train_batch_size": 16, "use_cpu": True},
        "evaluate": {"resamples": 100},
        **changes,
    }
