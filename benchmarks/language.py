"""Language models, rows and caches that the benchmarks share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hf_distill.objectives import Logits, Objective
from hf_distill.pipeline.teacher_cache import Source, cached
from hf_distill.recipe import CacheConfig
from hf_distill.tasks import CausalLanguageModeling, Task
from hf_distill.teachers import CachedTeacher, ModelTeacher

SPREAD = 6.0
"""Standard deviation of a peaked model's logits. Normal logits of this spread over 32,000 tokens make distributions of
about 2 nats with a heavy tail: of 50 tokens drawn some 12 are distinct, as of pretrained models."""


def llama(layers: int, width: int, vocabulary: int, *, peaked: bool = False) -> LlamaForCausalLM:
    """A Llama with random weights, in float32.

    Args:
        layers: How many.
        width: Of its hidden states; heads are 64 wide, the layers in between three times the width.
        vocabulary: Tokens.
        peaked: Whether its distributions are as peaked as a pretrained model's, see ``SPREAD``; else nearly flat.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    if peaked:
        # What enters the head has a norm of sqrt(width).
        model.lm_head.weight.data.normal_(0.0, SPREAD / width**0.5)
    return model


def stand_in_tokenizer() -> PreTrainedTokenizerBase:
    """For rows that are tokens already: it only knows what pads and what ends."""
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[END]": 1}, unk_token="[PAD]"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", eos_token="[END]")


def random_rows(count: int, tokens: int, vocabulary: int) -> Dataset:
    """Rows of random tokens, all of the same length, every token of which counts."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, vocabulary, (count, tokens), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids, "length": [tokens] * count})


def text_rows(path: Path, separator: str, task: CausalLanguageModeling, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The texts of a file, as encoded rows."""
    texts = [text.strip() for text in path.read_text().split(separator)]
    rows = task.encode(Dataset.from_dict({"text": [text for text in texts if text]}), tokenizer)
    assert isinstance(rows, Dataset)
    return rows


def keep(
    teacher: ModelTeacher,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    config: CacheConfig,
    folder: Path,
    *,
    objectives: Mapping[str, Objective] | None = None,
    student: PretrainedConfig | None = None,
    seed: int = 0,
    batch_size: int = 8,
) -> tuple[CachedTeacher, Dataset]:
    """What a cache keeps of a teacher, made anew in an empty folder; and the rows, two at least, with their ids.

    Args:
        teacher: Live.
        task: Whose rows these are.
        tokenizer: The student's.
        rows: Encoded.
        config: What is kept.
        folder: For it.
        objectives: That will ask it; ``logits`` at temperature 1 unless given.
        student: The student's config; one like the teacher unless given.
        seed: Of the draws.
        batch_size: Rows of a forward pass.
    """
    source = Source(
        teacher=teacher,
        task=task,
        tokenizer=tokenizer,
        student=student or teacher.config,
        data_fingerprint=rows._fingerprint,
        seed=seed,
    )
    train, validation = rows.select(range(len(rows) - 1)), rows.select([len(rows) - 1])
    asking = objectives or {"logits": Logits(temperature=1.0)}
    made, *numbered = cached(source, train, validation, asking, config, folder, batch_size)
    return made, concatenate_datasets(numbered)


def bytes_of(folder: Path) -> int:
    """All that lies in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())
