"""What a student writes, decided by the prompt alone, whoever asks and however prompts are batched."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from tests.helpers import tiny

END = tiny.CHAT_WORDS.index("[SEP]")


class Known:
    """A writer that no weights change; keeps the prompts that it was given."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    def follow(self, student: PreTrainedModel) -> None:
        """Nothing is taken from it."""

    def write(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, settings: dict, seed: int) -> torch.Tensor:
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        self.prompts += prompts
        answers = [self.answer(prompt)[: settings["max_new_tokens"]] for prompt in prompts]
        longest = max(map(len, answers))
        return torch.tensor([answer + [settings["pad_token_id"]] * (longest - len(answer)) for answer in answers])

    def answer(self, prompt: list[int]) -> list[int]:
        return [5 + (token + i) % 20 for i, token in enumerate(prompt[: 1 + sum(prompt) % 4])] + [END]
