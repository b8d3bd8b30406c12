"""``label`` and ``rollout`` of a recipe: what teacher and student write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import override

from hf_distill.recipe.parse import Section, above_zero, at_least, bound, names_code, share_below_one

_LOW_AND_HIGH = bound("[low, high] with 0 <= low < high", lambda low: len(low) == 2 and 0.0 <= low[0] < low[1])
_LOGARITHM = bound("less than 0", lambda value: value < 0.0, "no token is likelier than 1, whose logarithm is 0")

HARMLESS = (
    "block_size", "cpu_offload_gb", "disable_log_stats", "dtype", "enable_chunked_prefill", "enable_prefix_caching",
    "enforce_eager", "gpu_memory_utilization", "kv_cache_dtype", "max_model_len", "max_num_batched_tokens",
    "max_num_seqs", "model_impl", "pipeline_parallel_size", "quantization", "seed", "skip_tokenizer_init", "swap_space",
    "tensor_parallel_size",
)  # fmt: skip
"""Keyword arguments of ``vllm.LLM`` that are sizes, numbers and switches. Others name classes that vLLM imports, or let
it run what lies beside a model."""


def _code_of_engine(options: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    return [(f"{where}.{name}", str(value)) for name, value in options.items() if name not in HARMLESS]


@dataclass(frozen=True, kw_only=True)
class LabelFilters(Section, where="recipe.label.filters"):
    """What drops a text that the teacher wrote, and its row with it."""

    length_ratio: list[float] | None = field(default=None, metadata=_LOW_AND_HIGH)
    """The least and the most tokens of the text for a token of what it was written after, where that is a text."""
    repetition: float | None = field(default=None, metadata=share_below_one())
    """The share of its runs of four tokens that stood in it before, at most."""
    compression_ratio: float | None = field(default=None, metadata=above_zero())
    """How many times shorter zlib makes it, at most: texts that go in circles pack well."""
    mean_log_probability: float | None = field(default=None, metadata=_LOGARITHM)
    """Of a token, as the teacher says, at least."""
    reference_score: float | None = None
    """By ``label.scorer`` against what the data say, at least; at most where lower is better, as of ``wer``."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Section, where="recipe.label"):
    """The teacher's own text in place of what the data say: sequence-level distillation (Kim and Rush 2016)."""

    hypotheses: int = field(default=1, metadata=at_least(1))
    """How many texts the teacher writes for each row, of which one is chosen."""
    generation: dict[str, Any] = field(default_factory=dict)
    """How it writes: settings of ``transformers.GenerationConfig``; 5 beams unless they draw (``do_sample``)."""
    choose: Literal["likeliest", "best"] = "likeliest"
    """Of several: what the teacher finds likeliest, or what ``scorer`` finds best against what the data say."""
    scorer: str | None = field(default=None, metadata=names_code("a scorer, package.module:function or evaluate:..."))
    """As of ``evaluate.scorers``; the task's own (of causal-lm ``rouge``) where one is needed, else none is asked."""
    filters: LabelFilters = LabelFilters()
    """What drops a text, and its row with it."""
    keep_original: bool = False
    """Whether the rows as they are in the data stand beside those that the teacher wrote for."""
    batch_size: int = field(default=32, metadata=at_least(1))
    """Rows that are written for at once, which are of about the same length."""

    @override
    def check(self) -> None:
        several = self.hypotheses > 1
        beams = self.generation.get("num_beams", 1)
        self.require(type(beams) is int and beams >= 1, f".generation.num_beams: expected at least 1, got {beams!r}")
        told = ".generation: expected texts that are drawn (do_sample) or searched for (num_beams), got both; "
        self.require(not self.draws or beams == 1, told + "remove one of them")
        told = f".hypotheses: {self.beams} beams give {self.beams} texts at most, got {self.hypotheses}; raise "
        enough = self.draws or self.beams >= self.hypotheses
        self.require(enough, told + "generation.num_beams, or set generation.do_sample: true")
        told = ".choose: of one text there is nothing to choose; set hypotheses to 2 or more, or remove it"
        self.require(several or self.choose == "likeliest", told)
        told = f".hypotheses: the likeliest of {self.hypotheses} is the one that beams give anyway; set choose: best, "
        chooses = not several or self.draws or self.choose == "best"
        self.require(chooses, told + "or generation.do_sample: true, or remove it")

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
class RolloutConfig(Section, where="recipe.rollout"):
    """On-policy distillation: the student writes batches itself, and the teacher judges each token of them."""

    share: float = field(default=0.5, metadata=bound("0.0 to 1.0", lambda share: 0.0 <= share <= 1.0))
    """Of the optimizer steps: those whose batches the student writes; all others learn from the data."""
    max_new_tokens: int = field(default=128, metadata=at_least(1))
    """Tokens that it writes after a prompt at most."""
    prompt_tokens: int | None = field(default=None, metadata=at_least(1))
    """Of plain text alone: how many tokens of a row are the prompt."""
    temperature: float = field(default=1.0, metadata=above_zero())
    """At which it draws its tokens, whatever the objectives' temperatures are."""
    top_k: int | None = field(default=None, metadata=at_least(1))
    """It draws among so many tokens, the likeliest; among all unless given."""
    top_p: float | None = field(default=None, metadata=bound("above 0.0 to 1.0", lambda share: 0.0 < share <= 1.0))
    """It draws among the likeliest tokens that have this share of the mass; among all unless given."""
    batch_size: int | None = field(default=None, metadata=at_least(1))
    """Rows that are written at once, of as many as a step and a process have; those of one batch unless given. Larger
    is faster, and takes memory for the keys and values of all."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the student while it writes; ``vllm`` for causal-lm on one GPU."""
    engine_options: dict[str, Any] = field(default_factory=dict, metadata={"code": _code_of_engine})
    """Of ``vllm``: keyword arguments of ``vllm.LLM``; all but those of ``HARMLESS`` could name code."""

    @override
    def check(self) -> None:
        told = f".engine_options: they do nothing for engine: {self.engine}; remove them, or set engine: vllm"
        self.require(not self.engine_options or self.engine == "vllm", told)
