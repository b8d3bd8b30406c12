"""Families that do not compute in half precision run in float32, or are refused by the key's name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_distill.models import precision
from hf_distill.models.precision import runnable_dtype, trouble
from hf_distill.models.sizes import position_table
from hf_distill.tasks import TextClassification
from hf_distill.tokenizers.readers import Reader
from tests.helpers import tiny

SMALL = {"vocab_size": 40, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
MORE: dict[str, dict[str, Any]] = {
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pooler_hidden_size": 32},
    "xlnet": {"intermediate_size": None, "num_attention_heads": None, "n_head": 4, "d_head": 8, "d_inner": 48},
    "distilbert": {"hidden_size": None, "intermediate_size": None, "dim": 32, "hidden_dim": 48, "n_heads": 4},
}
BUILD = AutoModelForSequenceClassification.from_config


def config(kind: str, **options) -> Any:
    settings = {**SMALL, **MORE.get(kind, {}), **options}
    known = {key: value for key, value in settings.items() if value is not None}
    return AutoConfig.for_model(kind, **known)


@pytest.mark.parametrize("kind", ["deberta", "xlnet", "fnet"])
def test_a_family_that_fails_in_bfloat16_runs_in_float32(kind, monkeypatch):
    monkeypatch.setattr(precision, "chosen_dtype", lambda name, device: torch.bfloat16)
    assert trouble(BUILD, config(kind), torch.bfloat16)
    assert runnable_dtype("auto", torch.device("cpu"), BUILD, config(kind)) == torch.float32
    assert runnable_dtype("bfloat16", torch.device("cpu"), BUILD, config(kind)) == torch.bfloat16


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "deberta-v2", "electra"])
def test_other_families_are_not_held_back(kind):
    assert trouble(BUILD, config(kind), torch.bfloat16) is None
    assert trouble(BUILD, config(kind), torch.bfloat16, autocast=True) is None


def test_mixed_precision_that_a_student_cannot_learn_in_is_seen():
    assert trouble(BUILD, config("deberta"), torch.bfloat16, autocast=True)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("bert", {}, 64),
        ("roberta", {"pad_token_id": 1}, 62),
        ("mpnet", {"pad_token_id": 1}, 62),
        ("longformer", {"pad_token_id": 1}, 62),
        ("ibert", {"pad_token_id": 1}, 62),
        ("nystromformer", {}, 64),
        ("opt", {"word_embed_proj_dim": 32, "ffn_dim": 48, "intermediate_size": None}, 64),
    ],
)
def test_the_last_position_of_a_model_is_known(kind, options, expected):
    with torch.device("meta"):
        model = BUILD(config(kind, max_position_embeddings=64, num_hidden_layers=1, **options))
    assert position_table(model) == expected


def test_rows_are_cut_at_the_last_position_of_all_models_and_that_is_told():
    task = TextClassification(max_length=128)
    models = [tiny.bert(), tiny.bert(max_position_embeddings=48), tiny.bert(max_position_embeddings=512)]
    readers = [Reader(name="the student", model=model) for model in models]
    (line,) = task.fit_lengths(readers)
    assert task.max_length == 48
    assert line.startswith("task.max_length: rows are cut at 48 tokens and not at 128")
    assert list(task.fit_lengths(readers)) == []
