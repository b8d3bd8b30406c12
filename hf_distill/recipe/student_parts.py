"""``lora``, ``width`` and ``vocabulary`` of a recipe's student: what learns of it, and what is kept of its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from typing_extensions import override

from hf_distill.recipe.parse import Section, at_least, bound, share_below_one, size_or_share

_SIZE = size_or_share("at least 1, or a share between 0.0 and 1.0")
_TARGET = bound("a share between 0.0 and 1.0", lambda share: 0.0 < share < 1.0)


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Section, where="recipe.student.lora"):
    """Adapters that learn in place of the student's own weights, through peft."""

    r: int = field(default=16, metadata=at_least(1))
    """The rank of each adapter."""
    alpha: int = field(default=32, metadata=at_least(1))
    """Adapters are scaled by alpha / r."""
    dropout: float = field(default=0.0, metadata=share_below_one())
    """Of what enters an adapter."""
    target_modules: str | list[str] = field(default="all-linear", metadata=bound("at least one name", bool))
    """Which modules get an adapter: all linear ones but the head, names, or a regular expression."""
    quantize: Literal["4bit"] | None = None
    """``4bit``: while it trains, the weights beside the adapters are held in 4 bits (QLoRA); the student is measured
    beside them as they are. Needs bitsandbytes and a CUDA device."""
    merge: bool = False
    """Whether the adapters are added to the weights when training is done: an ordinary checkpoint is saved then."""

    @override
    def check(self) -> None:
        told = ".merge: weights of 4 bits would round the adapters away; set it to false, or remove quantize"
        self.require(self.quantize is None or not self.merge, told)


@dataclass(frozen=True, kw_only=True)
class WidthConfig(Section, where="recipe.student.width"):
    """How narrow a student becomes: sizes, or a share of the parameters; what matters least goes first."""

    hidden_size: int | float | None = field(default=None, metadata=_SIZE)
    """Channels that are kept: how many, or a share below 1.0 of the source's."""
    heads: int | float | None = field(default=None, metadata=_SIZE)
    """Attention heads that are kept in each layer; they keep their size, and with them whole groups where several
    queries share keys and values."""
    intermediate_size: int | float | None = field(default=None, metadata=_SIZE)
    """Units of the feed-forward block that are kept in each layer."""
    target: float | None = field(default=None, metadata=_TARGET)
    """The share of the source's parameters, embeddings included, that is reached at most, by scaling all three; before
    ``student.vocabulary`` is cut."""
    importance: Literal["activation", "random"] = "activation"
    """What is kept: what says most on a sample of training texts (Minitron), or anything, for comparison."""
    rows: int | None = field(default=None, metadata=at_least(1, "text"))
    """Of ``activation``: texts of the sample; 256 unless given."""

    @override
    def check(self) -> None:
        keys = ("hidden_size", "heads", "intermediate_size", "target")
        given = [name for name in keys if getattr(self, name) is not None]
        told = ": expected either target or sizes (hidden_size, heads, intermediate_size), got "
        fits = given == ["target"] or (bool(given) and self.target is None)
        self.require(fits, told + (" and ".join(given) or "none"))
        told = f".rows: does nothing for importance: {self.importance}; remove it"
        self.require(self.rows is None or self.importance == "activation", told)

    @property
    def calibration_rows(self) -> int:
        """How many texts the sample has."""
        return 256 if self.rows is None else self.rows


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig(Section, where="recipe.student.vocabulary"):
    """Which tokens a student keeps, beside special ones and single characters."""

    keep: Literal["used"] | None = None
    """``used``: those that stand in the training texts."""
    minimum: int | None = field(default=None, metadata=at_least(1))
    """Of ``keep: used``: how often; once unless given."""
    size: int | None = field(default=None, metadata=at_least(1, "token"))
    """So many, the most frequent ones in the training texts."""

    @override
    def check(self) -> None:
        self.require((self.keep is None) != (self.size is None), ": expected exactly one of keep and size")
        told = ".minimum: does nothing beside size; remove it, or set keep: used in its place"
        self.require(self.minimum is None or self.keep is not None, told)

    @property
    def least(self) -> int:
        """How often a token must be used to be kept."""
        return self.minimum or 1
