"""Let a served teacher write: many requests under way, each row's texts from a seed of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from hf_distill.artifacts import seed_of
from hf_distill.errors import WritingError
from hf_distill.generation.writer import Hypothesis, Writer, repeated_share
from hf_distill.recipe import LabelConfig
from hf_distill.tasks.rollout_batches import Prompts
from hf_distill.teachers.endpoint import Answer, Client, write
from hf_distill.teachers.endpoint.completions import sampling
from hf_distill.types import Tokenizer


class ServedWriter(Writer):
    """A teacher behind an endpoint that writes; after chats by their turns, after plain prompts by their tokens."""

    description: str = ""
    at_once: int | None = None  # How many rows are under way, the client decides.

    def __init__(self, client: Client, tokenizer: Tokenizer, config: LabelConfig, settings: Mapping[str, Any]) -> None:
        self.client, self.tokenizer, self.texts = client, tokenizer, config.hypotheses
        self._asked = sampling(settings)
        self.description = f"drawn, {config.hypotheses} a row" if config.draws else "the likeliest token each time"
        self._special = frozenset(tokenizer.all_special_ids)
        chooses = config.hypotheses > 1 and config.choose == "likeliest"
        self._judges = chooses or config.filters.mean_log_probability is not None

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"served": True, "n": self.texts, **self._asked}

    @override
    def write(self, prompts: Prompts, places: Sequence[int], seed: int) -> list[list[Hypothesis]]:
        def ask(place: int) -> list[Hypothesis]:
            number = seed_of(seed, prompts.row_ids[place])
            answers = write(self.client, prompts.sent(place), self._asked, self.texts, number)
            return [self._hypothesis(each) for each in answers]

        return self.client.map(ask, places)

    @override
    def content(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token not in self._special]

    def _hypothesis(self, answer: Answer) -> Hypothesis:
        mean = answer.mean_log_probability
        if mean is None and self._judges:
            raise WritingError(
                "the server gives no log-probabilities of what it writes, by which texts are chosen or dropped; set "
                "label.hypotheses to 1 or label.choose to best, and remove label.filters.mean_log_probability"
            )
        ids = self.content(self.tokenizer(answer.text, add_special_tokens=False, verbose=False)["input_ids"])
        return Hypothesis(
            text=answer.text,
            tokens=len(ids),
            mean_log_probability=None if mean is None else round(mean, 5),
            repetition=round(repeated_share(ids), 5),
            ended=answer.ended,
        )
