"""Let a teacher write after a batch of prompts, and tell how likely, how long and how repetitive each text is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import WritingError
from hf_distill.evaluation.written import beam_cache, with_length, writer_inputs
from hf_distill.generation.logprobs import Likelihood
from hf_distill.recipe import LabelConfig
from hf_distill.tasks.rollout_batches import Prompts

RUN = 4
"""Tokens of a run that counts as repeated where it stood in a text before (seq-rep-4 of Welleck et al. 2020)."""

_OF_THE_FILE = ("transformers_version", "_from_model_config")


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One text that a teacher wrote.

    Attributes:
        text: Without special tokens.
        tokens: How many, without special ones.
        mean_log_probability: Of its tokens, the end among them; None where a server does not tell.
        repetition: The share of its runs of :data:`RUN` tokens that stood in it before.
        ended: Whether it came to its end within the bound.
    """

    text: str
    tokens: int
    mean_log_probability: float | None
    repetition: float
    ended: bool

    def to_dict(self) -> dict[str, Any]:
        """As it is written to disk."""
        return asdict(self)


def writing_settings(config: LabelConfig, longest: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate``.

    Args:
        config: ``label`` of a recipe.
        longest: Tokens of a text at most, unless the config says otherwise.
        options: What the rows ask for.
    """
    given: dict[str, Any] = {"num_beams": config.beams, "num_return_sequences": config.hypotheses, "use_cache": True}
    # A text that is cut must be known as one: BART and Marian would end it with their last token, as if it were likely.
    given["forced_eos_token_id"] = None
    return {**given, **with_length({**options, **config.generation}, longest)}


class Writer:
    """A teacher that writes.

    Args:
        model: Of any kind that writes.
        tokenizer: Its own.
        own: How it writes unless the settings say otherwise.
        settings: Of :func:`writing_settings`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        own: GenerationConfig,
        settings: Mapping[str, Any],
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, dict(settings)
        self._generation: Any = copy.deepcopy(own)
        self._generation.update(**settings)
        end = self._generation.eos_token_id
        self._ends: list[int] = [] if end is None else [end] if isinstance(end, int) else list(end)
        self._special = frozenset(tokenizer.all_special_ids)

    @property
    def told(self) -> dict[str, Any]:
        """How it writes, all settings that are not Transformers' own defaults."""
        settings: dict[str, Any] = self._generation.to_diff_dict()
        return {name: value for name, value in sorted(settings.items()) if name not in _OF_THE_FILE}

    def write_at(self, prompts: Prompts, places: Sequence[int], seed: int) -> list[list[Hypothesis]]:
        """As :meth:`write`, after the prompts in these places, from numbers that depend on the first's row alone."""
        return self.write([prompts.input_ids[place] for place in places], (seed << 32) + prompts.row_ids[places[0]])

    def write(self, prompts: list[list[int]], seed: int) -> list[list[Hypothesis]]:
        """What it writes after each prompt, the likeliest first where it searches.

        Args:
            prompts: Tokens of each.
            seed: Decides what is drawn.

        Raises:
            WritingError: Where the teacher's probabilities are no numbers.
        """
        torch.manual_seed(seed)
        seen = Likelihood(self.settings["num_beams"], self._ends)
        inputs = writer_inputs(self.model, self.tokenizer, prompts) | beam_cache(self.model, self._generation)
        writer: Any = self.model
        with torch.inference_mode(), self._by_itself():
            found = writer.generate(
                **inputs, **self.settings, logits_processor=LogitsProcessorList([seen]), return_dict_in_generate=True
            )
            start = 1 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
            written = found.sequences[:, start:]
            means, counts = seen.means(written, getattr(found, "beam_indices", None))
        if not all(map(_is_number, means)):
            raise WritingError(
                "the teacher's probabilities of what it wrote are NaN or infinite, so nothing it writes can be "
                "trusted; try teacher.dtype: float32, or another label.generation"
            )
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        hypotheses = [
            self._hypothesis(text, ids[:count], mean)
            for text, ids, count, mean in zip(texts, written.tolist(), counts, means, strict=True)
        ]
        each = self.settings["num_return_sequences"]
        return [hypotheses[i : i + each] for i in range(0, len(hypotheses), each)]

    def content(self, ids: Sequence[int]) -> list[int]:
        """Tokens without special ones."""
        return [token for token in ids if token not in self._special]

    @contextmanager
    def _by_itself(self) -> Iterator[None]:
        """``generate`` fills what it is not told with what the model holds, which may be for its students."""
        held, self.model.generation_config = self.model.generation_config, self._generation
        try:
            yield
        finally:
            self.model.generation_config = held

    def _hypothesis(self, text: str, ids: list[int], mean: float) -> Hypothesis:
        content = self.content(ids)
        return Hypothesis(
            text=text,
            tokens=len(content),
            mean_log_probability=round(mean, 5),
            repetition=round(repeated_share(content), 5),
            ended=bool(ids) and ids[-1] in self._ends,
        )


def repeated_share(ids: Sequence[int]) -> float:
    """The share of runs of :data:`RUN` tokens that stood there before; 0 for texts that hold one run at most."""
    runs = [tuple(ids[i : i + RUN]) for i in range(len(ids) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _is_number(value: float) -> bool:
    return value - value == 0
