"""``label`` and ``rollout`` of a recipe: what teacher and student write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_distill.recipe.parse import refuse_unless


@dataclass(frozen=True, kw_only=True)
class LabelFilters:
    """What drops a text that the teacher wrote, and its row with it."""

    length_ratio: list[float] | None = None
    """The least and the most tokens of the text for a token of what it was written after."""
    repetition: float | None = None
    """The share of its runs of four tokens that stood in it before, at most."""
    compression_ratio: float | None = None
    """How many times shorter zlib makes it, at most: texts that go in circles pack well."""
    mean_log_probability: float | None = None
    """Of a token, as the teacher says, at least."""
    reference_score: float | None = None
    """By ``label.scorer`` against what the data say, at least."""

    def __post_init__(self) -> None:
        where = "recipe.label.filters"
        ratio = self.length_ratio
        refuse_unless(
            ratio is None or (len(ratio) == 2 and 0.0 <= ratio[0] < ratio[1]),
            f"{where}.length_ratio: expected [low, high] with 0 <= low < high, got {ratio}",
        )
        refuse_unless(
            self.repetition is None or 0.0 <= self.repetition < 1.0,
            f"{where}.repetition: expected a share from 0 to below 1, got {self.repetition}",
        )
        refuse_unless(
            self.compression_ratio is None or self.compression_ratio > 0.0,
            f"{where}.compression_ratio: expected more than 0, got {self.compression_ratio}",
        )
        refuse_unless(
            self.mean_log_probability is None or self.mean_log_probability < 0.0,
            f"{where}.mean_log_probability: expected less than 0, got {self.mean_log_probability}; no token is "
            "likelier than 1, whose logarithm is 0",
        )


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """The teacher's own text in place of what the data say: sequence-level distillation (Kim and Rush 2016)."""

    hypotheses: int = 1
    """How many texts the teacher writes for each row, of which one is chosen."""
    generation: dict[str, Any] = field(default_factory=dict)
    """How it writes: settings of ``transformers.GenerationConfig``; 5 beams unless they draw (``do_sample``)."""
    choose: Literal["likeliest", "best"] = "likeliest"
    """Of several: what the teacher finds likeliest, or what ``scorer`` finds best against what the data say."""
    scorer: str | None = None
    """As of ``evaluate.scorers``; the task's own (of causal-lm ``rouge``) where one is needed, else none is asked."""
    filters: LabelFilters = LabelFilters()
    """What drops a text, and its row with it."""
    keep_original: bool = False
    """Whether the rows as they are in the data stand beside those that the teacher wrote for."""
    batch_size: int = 32
    """Rows that are written for at once, which are of about the same length."""

    def __post_init__(self) -> None:
        where = "recipe.label"
        several = self.hypotheses > 1
        refuse_unless(self.hypotheses >= 1, f"{where}.hypotheses: expected at least 1, got {self.hypotheses}")
        refuse_unless(self.batch_size >= 1, f"{where}.batch_size: expected at least 1, got {self.batch_size}")
        beams = self.generation.get("num_beams", 1)
        refuse_unless(
            type(beams) is int and beams >= 1, f"{where}.generation.num_beams: expected at least 1, got {beams!r}"
        )
        refuse_unless(
            not self.draws or beams == 1,
            f"{where}.generation: expected texts that are drawn (do_sample) or searched for (num_beams), got both; "
            "remove one of them",
        )
        refuse_unless(
            self.draws or self.beams >= self.hypotheses,
            f"{where}.hypotheses: {self.beams} beams give {self.beams} texts at most, got {self.hypotheses}; raise "
            "generation.num_beams, or set generation.do_sample: true",
        )
        refuse_unless(
            several or self.choose == "likeliest",
            f"{where}.choose: of one text there is nothing to choose; set hypotheses to 2 or more, or remove it",
        )
        refuse_unless(
            not several or self.draws or self.choose == "best",
            f"{where}.hypotheses: the likeliest of {self.hypotheses} is the one that beams give anyway; set choose: "
            "best, or generation.do_sample: true, or remove it",
        )

    @property
    def draws(self) -> bool:
        """Whether texts are drawn, not searched for."""
        return self.generation.get("do_sample") is True

    @property
    def beams(self) -> int:
        """How many texts are searched for at once; 1 where they are drawn."""
        return 1 if self.draws else int(self.generation.get("num_beams", 5))

    @property
    def scores(self) -> bool:
        """Whether texts are judged against what the data say."""
        return self.scorer is not None or self.choose == "best" or self.filters.reference_score is not None


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """On-policy distillation: the student writes batches itself, and the teacher judges each token of them."""

    share: float = 0.5
    """Of the optimizer steps: those whose batches the student writes; all others learn from the data."""
    max_new_tokens: int = 128
    """Tokens that it writes after a prompt at most."""
    prompt_tokens: int | None = None
    """Of plain text alone: how many tokens of a row are the prompt."""
    temperature: float = 1.0
    """At which it draws its tokens, whatever the objectives' temperatures are."""
    top_k: int | None = None
    """It draws among so many tokens, the likeliest; among all unless given."""
    top_p: float | None = None
    """It draws among the likeliest tokens that have this share of the mass; among all unless given."""
    batch_size: int | None = None
    """Rows that are written at once, of as many as a step and a process have; those of one batch unless given. Larger
    is faster, and takes memory for the keys and values of all."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the student while it writes; ``vllm`` for causal-lm on one GPU."""
    engine_options: dict[str, Any] = field(default_factory=dict)
    """Of ``vllm``: keyword arguments of ``vllm.LLM``."""

    def __post_init__(self) -> None:
        where = "recipe.rollout"
        refuse_unless(0.0 <= self.share <= 1.0, f"{where}.share: expected 0.0 to 1.0, got {self.share}")
        refuse_unless(self.temperature > 0.0, f"{where}.temperature: expected above 0.0, got {self.temperature}")
        for name in ("max_new_tokens", "prompt_tokens", "top_k", "batch_size"):
            value = getattr(self, name)
            refuse_unless(value is None or value >= 1, f"{where}.{name}: expected at least 1, got {value}")
        refuse_unless(
            self.top_p is None or 0.0 < self.top_p <= 1.0, f"{where}.top_p: expected above 0.0 to 1.0, got {self.top_p}"
        )
        refuse_unless(
            not self.engine_options or self.engine == "vllm",
            f"{where}.engine_options: they do nothing for engine: {self.engine}; remove them, or set engine: vllm",
        )
