"""A model that is here writes after prompts, and each text comes with how likely, long and repetitive it is."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import GenerationConfig, PreTrainedModel
from typing_extensions import override

from hf_distill.errors import WritingError
from hf_distill.generation.ends import end_tokens, with_ends
from hf_distill.generation.generate import generate, with_length, writer_inputs
from hf_distill.generation.logprobs import Likelihood
from hf_distill.generation.room import parts_with_room, report_room
from hf_distill.generation.writer import Hypothesis, Writer, repeated_share
from hf_distill.models.hardware import place
from hf_distill.recipe import LabelConfig
from hf_distill.tasks import Task
from hf_distill.tasks.rollout_batches import Prompts
from hf_distill.tokenizers.processors import vocabulary_of

_OF_THE_FILE = ("transformers_version", "_from_model_config")


def own_generation(folder: Path, model: PreTrainedModel) -> GenerationConfig:
    """How a model writes by itself: what ``evaluate.generation`` says is about students."""
    try:
        return GenerationConfig.from_pretrained(str(folder))
    except OSError:
        return GenerationConfig.from_model_config(model.config)


def writing_settings(config: LabelConfig, longest: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate`` for texts of ``longest`` tokens unless the config says otherwise."""
    given: dict[str, Any] = {"num_beams": config.beams, "num_return_sequences": config.hypotheses, "use_cache": True}
    # A text that is cut must be known as one: BART and Marian would end it with their last token, as if it were likely.
    given["forced_eos_token_id"] = None
    return {**given, **with_length({**options, **config.generation}, longest)}


class ModelWriter(Writer):
    """A teacher whose model is here.

    Args:
        model: Of any kind that writes; it is moved to this process's device when it writes.
        tokenizer: Its own, or the processor that has it.
        config: ``label`` of a recipe.
        own: How the model writes unless the config says otherwise.
        task: Says how long a text is at most unless the config does, and what ends it.
        options: What the rows ask for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        config: LabelConfig,
        *,
        own: GenerationConfig,
        task: Task,
        options: Mapping[str, Any],
    ) -> None:
        words = vocabulary_of(tokenizer)
        assert words is not None
        self.model, self.tokenizer, self._config = model, words, config
        settings = writing_settings(config, task.longest_text, options)
        self._settings = with_ends(settings, model, words, task, own)
        self._generation: Any = copy.deepcopy(own)
        self._generation.update(**self._settings)
        self._ends = end_tokens(self._generation)
        self._special, self._is_told = frozenset(words.all_special_ids), False

    @property
    @override
    def settings(self) -> dict[str, Any]:
        # All that are not Transformers' own defaults.
        settings: dict[str, Any] = self._generation.to_diff_dict()
        return {name: value for name, value in sorted(settings.items()) if name not in _OF_THE_FILE}

    @property
    @override
    def description(self) -> str:
        return f"drawn, {self._config.hypotheses} a row" if self._config.draws else f"{self._config.beams} beams"

    @property
    @override
    def at_once(self) -> int:
        return self._config.batch_size

    @override
    def write(self, prompts: Prompts, places: Sequence[int], seed: int) -> list[list[Hypothesis]]:
        place(self.model, PartialState().device)
        rows, found = [prompts.input_ids[i] for i in places], dict[int, list[Hypothesis]]()
        begins = prompts.sources is not None
        if not self._is_told:
            self._is_told = True
            report_room(self.model, prompts.input_ids, self._settings, begins)
        for numbers, part, settings in parts_with_room(self.model, rows, self._settings, begins):
            # The first row decides, so that the texts do not depend on what was written before.
            own_seed = (seed << 32) + prompts.row_ids[places[numbers[0]]]
            inputs = writer_inputs(self.model, self.tokenizer, part, prompts.read([places[n] for n in numbers]))
            found |= zip(numbers, self._write(inputs, settings, own_seed), strict=True)
        return [found[number] for number in range(len(rows))]

    def _write(self, inputs: dict[str, Any], settings: Mapping[str, Any], seed: int) -> list[list[Hypothesis]]:
        seen = Likelihood(self._config.beams, self._ends)
        with torch.inference_mode():
            found = generate(
                self.model,
                inputs,
                settings,
                own=self._generation,
                seed=seed,
                processors=[seen],
            )
            written = found.tokens[:, 1 if self.model.config.is_encoder_decoder else 0 :]
            means, counts = seen.means(written, found.beams)
        if not all(map(math.isfinite, means)):
            raise WritingError(
                "the teacher's probabilities of what it wrote are NaN or infinite, so nothing it writes can be "
                "trusted; try teacher.dtype: float32, or another label.generation"
            )
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        ids = [row[:count] for row, count in zip(written.tolist(), counts, strict=True)]
        hypotheses = list(map(self._hypothesis, texts, ids, means))
        each = self._config.hypotheses
        return [hypotheses[i : i + each] for i in range(0, len(hypotheses), each)]

    @override
    def content(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token not in self._special]

    def _hypothesis(self, text: str, ids: list[int], mean: float) -> Hypothesis:
        content = self.content(ids)
        return Hypothesis(
            text=text,
            tokens=len(content),
            mean_log_probability=round(mean, 5),
            repetition=round(repeated_share(content), 5),
            ended=bool(ids) and ids[-1] in self._ends,
        )
