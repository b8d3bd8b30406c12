"""``student`` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hf_distill.recipe.parse import refuse_unless


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters that learn in place of the student's own weights, through peft."""

    r: int = 16
    """The rank of each adapter."""
    alpha: int = 32
    """Adapters are scaled by alpha / r."""
    dropout: float = 0.0
    """Of what enters an adapter."""
    target_modules: str | list[str] = "all-linear"
    """Which modules get an adapter: all linear ones but the head, names, or a regular expression."""
    quantize: Literal["4bit"] | None = None
    """``4bit``: while it trains, the weights beside the adapters are held in 4 bits (QLoRA); the student is measured
    beside them as they are. Needs bitsandbytes and a CUDA device."""
    merge: bool = False
    """Whether the adapters are added to the weights when training is done: an ordinary checkpoint is saved then."""

    def __post_init__(self) -> None:
        where = "recipe.student.lora"
        refuse_unless(self.r >= 1, f"{where}.r: expected at least 1, got {self.r}")
        refuse_unless(self.alpha >= 1, f"{where}.alpha: expected at least 1, got {self.alpha}")
        refuse_unless(0.0 <= self.dropout < 1.0, f"{where}.dropout: expected 0 to below 1, got {self.dropout}")
        refuse_unless(len(self.target_modules) > 0, f"{where}.target_modules: expected at least one name, got none")
        refuse_unless(
            self.quantize is None or not self.merge,
            f"{where}.merge: weights of 4 bits would round the adapters away; set it to false, or remove quantize",
        )


@dataclass(frozen=True, kw_only=True)
class WidthConfig:
    """How narrow a student becomes: sizes, or a share of the parameters; what matters least goes first."""

    hidden_size: int | float | None = None
    """Channels that are kept: how many, or a share below 1.0 of the source's."""
    heads: int | float | None = None
    """Attention heads that are kept in each layer; they keep their size, and with them whole groups where several
    queries share keys and values."""
    intermediate_size: int | float | None = None
    """Units of the feed-forward block that are kept in each layer."""
    target: float | None = None
    """The share of the source's parameters, embeddings included, that is reached at most, by scaling all three; before
    ``student.vocabulary`` is cut."""
    importance: Literal["activation", "random"] = "activation"
    """What is kept: what says most on a sample of training texts (Minitron), or anything, for comparison."""
    rows: int | None = None
    """Of ``activation``: texts of the sample; 256 unless given."""

    def __post_init__(self) -> None:
        where = "recipe.student.width"
        sizes = [name for name in ("hidden_size", "heads", "intermediate_size") if getattr(self, name) is not None]
        refuse_unless(
            (self.target is None) != (not sizes),
            f"{where}: expected either target or sizes (hidden_size, heads, intermediate_size), got "
            f"{' and '.join([*sizes, *['target'] * (self.target is not None)]) or 'none'}",
        )
        for name in (*sizes, *["target"] * (self.target is not None)):
            value = getattr(self, name)
            refuse_unless(
                value >= 1 if isinstance(value, int) else 0.0 < value < 1.0,
                f"{where}.{name}: expected {'' if name == 'target' else 'at least 1, or '}a share between 0.0 and 1.0, "
                f"got {value}",
            )
        refuse_unless(self.rows is None or self.rows >= 1, f"{where}.rows: expected at least 1 text, got {self.rows}")
        refuse_unless(
            self.rows is None or self.importance == "activation",
            f"{where}.rows: does nothing for importance: {self.importance}; remove it",
        )

    @property
    def calibration_rows(self) -> int:
        """How many texts the sample has."""
        return 256 if self.rows is None else self.rows


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Which tokens a student keeps, beside special ones and single characters."""

    keep: Literal["used"] | None = None
    """``used``: those that stand in the training texts."""
    minimum: int | None = None
    """Of ``keep: used``: how often; once unless given."""
    size: int | None = None
    """So many, the most frequent ones in the training texts."""

    def __post_init__(self) -> None:
        where = "recipe.student.vocabulary"
        refuse_unless((self.keep is None) != (self.size is None), f"{where}: expected exactly one of keep and size")
        refuse_unless(self.size is None or self.size >= 1, f"{where}.size: expected at least 1 token, got {self.size}")
        refuse_unless(
            self.minimum is None or self.minimum >= 1, f"{where}.minimum: expected at least 1, got {self.minimum}"
        )
        refuse_unless(
            self.minimum is None or self.keep is not None,
            f"{where}.minimum: does nothing beside size; remove it, or set keep: used in its place",
        )

    @property
    def least(self) -> int:
        """How often a token must be used to be kept."""
        return self.minimum or 1


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """How the small model is born: of parts (layers, width, vocabulary) of the teacher or of something pretrained, of
    something pretrained as it is, or of a config."""

    layers: int | list[int] | dict[str, int | list[int]] | None = None
    """So many of the teacher's layers (or of ``pretrained``'s), evenly spaced, or which ones; negative from the end.

    Of an encoder-decoder a mapping: ``{encoder: 6, decoder: [0, -1]}``; a side that is left out keeps all its layers.
    """
    width: WidthConfig | None = None
    """How many channels, heads and units are kept, of the layers that are."""
    vocabulary: VocabularyConfig | None = None
    """Which tokens are kept."""
    config: dict[str, Any] | None = None
    """Changes to the teacher's config, or with ``model_type`` a new one; fresh weights."""
    pretrained: str | None = None
    """A Hub id or folder."""
    revision: str | None = None
    """A branch, tag or commit of ``pretrained``."""
    tokenizer: str | dict[str, Any] | None = None
    """A Hub id or folder, or {kind, vocab_size, lowercase} to train one on the data's texts."""
    lora: LoraConfig | None = None
    """Of a student that is pretrained or made of layers: adapters learn, its own weights do not."""
    freeze: list[Literal["embeddings", "encoder"]] | None = None
    """Parts that do not learn: its tables of embeddings, or the encoder of an encoder-decoder."""
    disable_dropout: bool = False
    """Whether nothing of it is dropped at random while it learns; its saved config has the rates as before. For the
    control, too, unless it learns to tell two views of a text apart from others, which dropout makes."""

    def __post_init__(self) -> None:
        parts = self.parts
        whole = [name for name in ("config", "pretrained") if getattr(self, name) is not None]
        refuse_unless(
            len(whole) <= 1 and bool(parts or whole) and not (parts and self.config is not None),
            "recipe.student: expected parts of the teacher or of a pretrained model (layers, width, vocabulary), or "
            f"exactly one of config and pretrained, got {' and '.join([*parts, *whole]) or 'none'}"
            + "; fresh weights have the vocabulary of student.tokenizer, as {vocab_size: 8000}"
            * (self.config is not None and "vocabulary" in parts),
        )
        if isinstance(self.layers, dict):
            unknown = [side for side in self.layers if side not in ("encoder", "decoder")]
            refuse_unless(
                not unknown and len(self.layers) > 0,
                "recipe.student.layers: expected encoder, decoder or both as the keys of the mapping, got "
                f"{', '.join(unknown) or 'none'}",
            )
        refuse_unless(
            self.revision is None or self.pretrained is not None,
            "recipe.student.revision: only a pretrained student has one; remove it",
        )
        self._check_what_learns()

    @property
    def needs_teacher(self) -> bool:
        """Whether it is made of parts of its teacher."""
        return self.pretrained is None and self.config is None

    @property
    def parts(self) -> list[str]:
        """The keys that take parts of a model."""
        return [name for name in ("layers", "width", "vocabulary") if getattr(self, name) is not None]

    def _check_what_learns(self) -> None:
        where = "recipe.student"
        refuse_unless(
            not self.disable_dropout or self.lora is None or not self.lora.dropout,
            f"{where}.disable_dropout: lora.dropout asks for the opposite; remove one of them",
        )
        refuse_unless(
            self.freeze is None or 0 < len(self.freeze) == len(set(self.freeze)),
            f"{where}.freeze: expected parts of the student, each once, got {self.freeze}",
        )
        if self.lora is None:
            return
        parts = self.parts
        refuse_unless(
            self.config is None,
            f"{where}.lora: fresh weights would stay random beside adapters; use pretrained or layers, or remove it",
        )
        refuse_unless(
            self.freeze is None,
            f"{where}.freeze: does nothing with lora, beside which all weights are frozen; remove it, or choose "
            "lora.target_modules",
        )
        refuse_unless(
            not parts or (self.lora.merge and self.lora.quantize is None),
            f"{where}.lora.merge: adapters alone are of use beside a model that others have, and {' and '.join(parts)} "
            "make a new one; set merge to true, without quantize",
        )
