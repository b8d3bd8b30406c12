"""What models write on a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hf_distill.errors import RecipeError
from hf_distill.evaluation.text_metrics import Written, judged
from hf_distill.generation.generate import generate, with_length, writer_inputs
from hf_distill.models.hardware import place, share_rows
from hf_distill.names import nearest
from hf_distill.tasks import Task
from hf_distill.tasks.rollout_batches import Prompts

RESHAPING = ("num_return_sequences", "return_dict_in_generate")
"""Settings that make ``generate`` return something else than one text a row."""


def check_generation(
    settings: Mapping[str, Any],
    where: str = "recipe.evaluate.generation",
    reshaping: str = "one text is judged for each row; remove it",
) -> None:
    """Refuse what Transformers' GenerationConfig does not know, or what gives other than texts of a known number."""
    known = GenerationConfig().to_dict()
    for name in settings:
        if name in RESHAPING:
            raise RecipeError(f"{where}.{name}: {reshaping}")
        if name not in known and not hasattr(GenerationConfig(), name):
            raise RecipeError(f"{where}.{name}: GenerationConfig has no such setting{nearest(name, known)}")
    try:
        GenerationConfig(**settings).validate(strict=True)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{where}: {str(error).splitlines()[0]}") from error


def set_generation(model: PreTrainedModel, settings: Mapping[str, Any]) -> None:
    """Let a model keep how it is to write, for whoever loads it."""
    if settings:
        assert model.generation_config is not None
        model.generation_config.update(**settings)


def write_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    settings: Mapping[str, Any],
    batch_size: int,
    seed: int = 0,
) -> list[str]:
    """What a model writes, in the order of the prompts, which several processes share.

    Prompts of about the same length form a batch; ``seed`` decides what is drawn, where the settings draw.
    """
    place(model, PartialState().device)
    set_seed(seed)

    def work(numbers: list[int]) -> list[str]:
        inputs = writer_inputs(model, tokenizer, [prompts.input_ids[number] for number in numbers])
        found = generate(model, inputs, {**prompts.options, **settings})
        texts: list[str] = tokenizer.batch_decode(found.tokens, skip_special_tokens=True)
        return texts

    with torch.inference_mode():
        return share_rows([len(ids) for ids in prompts.input_ids], batch_size, work)


def write_and_score(
    model: PreTrainedModel,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    names: Sequence[str],
    settings: Mapping[str, Any],
    batch_size: int,
) -> Written:
    """Let a model write after every row's prompt, and judge it by scorers of these names."""
    prompts = task.prompts(rows, tokenizer)
    texts = write_texts(model, tokenizer, prompts, with_length(settings, task.longest_text), batch_size)
    return judged(texts, prompts, names)
