"""A teacher that writes down at once what it hears: the likeliest letter of each frame, or none (CTC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedModel
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.generation.writer import Hypothesis, Writer, repeated_share
from hf_distill.models.forward import accepted_inputs, evaluated
from hf_distill.models.hardware import place
from hf_distill.recipe import LabelConfig
from hf_distill.tasks.rollout_batches import Prompts
from hf_distill.tokenizers.processors import vocabulary_of


class FrameWriter(Writer):
    """Writes one text for each clip.

    Args:
        model: It is moved to this process's device when it writes.
        processor: Its own.
        config: ``label`` of a recipe; nothing is drawn or searched for.
        task: Says which frames are of a clip, and what text its letters are.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, config: LabelConfig, task: Any) -> None:
        for name, given in (("generation", config.generation), ("hypotheses", config.hypotheses > 1)):
            if given:
                raise RecipeError(
                    f"recipe.label.{name}: a {type(model).__name__} writes one text for each clip, the likeliest "
                    "letter of each frame; remove it"
                )
        self.model, self.processor, self.task, self._config = model, processor, task, config

    @property
    @override
    def settings(self) -> Mapping[str, Any]:
        return {"decoding": "the likeliest class of each frame"}

    @property
    @override
    def description(self) -> str:
        return "the likeliest letter of each frame"

    @property
    @override
    def at_once(self) -> int:
        return self._config.batch_size

    @override
    def write(self, prompts: Prompts, places: Sequence[int], seed: int) -> list[list[Hypothesis]]:
        place(self.model, PartialState().device)
        heard = prompts.read(places)
        assert heard is not None
        batch = {name: value.to(self.model.device) for name, value in heard.items()}
        with evaluated(self.model), torch.inference_mode():
            logits = self.model(**accepted_inputs(self.model, batch)).logits.float()
        frames = self.task.masks(batch)["positions"].view(len(logits), -1)
        sure = logits.log_softmax(-1).amax(-1).masked_fill(~frames, 0.0).sum(-1) / frames.sum(-1).clamp(min=1)
        texts = self.task.written(logits, batch, self.model, self.processor)
        return [[self._hypothesis(*each)] for each in zip(texts, sure.tolist(), strict=True)]

    @override
    def content(self, ids: Sequence[int]) -> list[int]:
        return list(ids)

    def _hypothesis(self, text: str, mean: float) -> Hypothesis:
        tokenizer = vocabulary_of(self.processor)
        assert tokenizer is not None
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return Hypothesis(
            text=text,
            tokens=len(ids),
            mean_log_probability=round(mean, 5),
            repetition=round(repeated_share(ids), 5),
            ended=True,
        )
