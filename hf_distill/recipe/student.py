"""``student`` of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.recipe.parse import Section, check_known, gathered, names_code, without_unset
from hf_distill.recipe.student_parts import LoraConfig, VocabularyConfig, WidthConfig


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Section, where="recipe.student"):
    """How the small model is born; its keys decide which of the classes below reads it."""

    KEY: ClassVar[str]  # Of its kind in the registry of students.
    FOREIGN: ClassVar[str] = "does nothing for this kind of student; remove it"  # Said of keys of other kinds.

    freeze: list[Literal["embeddings", "encoder"]] | None = None
    """Parts that do not learn: its tables of embeddings (of models of pictures and sounds the first layers, which make
    their first states), or the encoder of an encoder-decoder."""
    disable_dropout: bool = False
    """Whether nothing of it is dropped at random while it learns; its saved config has the rates as before. For the
    control, too, unless it learns to tell two views of a text apart from others, which dropout makes."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """In which its weights are saved when it is trained, and scored: ``auto`` is that of the files of its teacher, or
    of what it is made of; float32 where it is made of none. It learns in float32, and its checkpoints are that."""

    @override
    def check(self) -> None:
        adapters = self.adapters
        drops = adapters is not None and adapters.dropout > 0
        told = ".disable_dropout: lora.dropout asks for the opposite; remove one of them"
        self.require(not self.disable_dropout or not drops, told)
        if self.freeze is not None:
            told = f".freeze: expected parts of the student, each once, got {self.freeze}"
            self.require(0 < len(self.freeze) == len(set(self.freeze)), told)
            told = ".freeze: does nothing with lora, beside which all weights are frozen; remove it, or choose "
            self.require(adapters is None, told + "lora.target_modules")
        told = ".dtype: adapters are saved as they learn, in float32; remove it, or set lora.merge to true"
        self.require(self.dtype == "auto" or adapters is None or adapters.merge, told)

    @property
    def kind_name(self) -> str:
        """Its name in the registry of students, or ``package.module:function``."""
        return self.KEY

    @property
    def adapters(self) -> LoraConfig | None:
        """What learns in place of its own weights; None where these do."""
        return None

    @property
    def start(self) -> FromPretrained | None:
        """The whole pretrained model that it is, or is made of; None where it is made of a teacher or fresh."""
        return None

    @property
    def cut(self) -> FromParts | None:
        """The parts of a model that it takes; None where it is no part of one."""
        return None

    @property
    def takes_words_of_the_data(self) -> bool | None:
        """Whether its tokens are made or chosen of the texts of the data; None where they are its teacher's."""
        return None if self.start is None else False

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        if cls is not StudentConfig or not isinstance(value, Mapping):
            return cls, value
        if ":" in str(value.get("kind")):
            plain = {key: item for key, item in value.items() if key not in _UNSET or item != _UNSET[key]}
            return PluginStudent, gathered(plain, ("kind", "freeze", "disable_dropout", "dtype"), where)
        given = [key for key in (*PARTS, "config", "pretrained") if value.get(key) is not None]
        if not given or ("config" in given and len(given) > 1):
            check_known(value, _UNSET, where)
            fresh = "; fresh weights have the vocabulary of student.tokenizer, as {vocab_size: 8000}"
            raise RecipeError(
                f"{where}: expected parts of the teacher or of a pretrained model ({', '.join(PARTS)}), or exactly one "
                f"of config and pretrained, got {' and '.join(given) or 'none'}"
                + (fresh if {"config", "vocabulary"} <= set(given) else "")
            )
        kind = FromParts if given[0] in PARTS else FromConfig if "config" in given else FromPretrained
        return kind, without_unset(kind, value, _UNSET, kind.FOREIGN, where)

    @override
    def to_dict(self) -> dict[str, Any]:
        # Keys of other kinds stood here before kinds were classes: the hash of a recipe stays as it was.
        return {**_UNSET, **super().to_dict()}


@dataclass(frozen=True, kw_only=True)
class FromWeights(StudentConfig):
    """A student whose weights somebody has trained already."""

    revision: str | None = None
    """A branch, tag or commit of ``pretrained``."""
    tokenizer: str | dict[str, Any] | None = None
    """Of ``pretrained``: a Hub id or folder, where its own is not beside it."""
    lora: LoraConfig | None = None
    """Adapters learn, its own weights do not."""

    @property
    @override
    def adapters(self) -> LoraConfig | None:
        return self.lora


@dataclass(frozen=True, kw_only=True)
class FromPretrained(FromWeights):
    """A pretrained student as it is."""

    KEY = "pretrained"

    pretrained: str
    """A Hub id or folder."""

    @property
    @override
    def start(self) -> FromPretrained:
        return self


@dataclass(frozen=True, kw_only=True)
class FromParts(FromWeights):
    """A student made of parts of the teacher, or of something pretrained."""

    KEY = "parts"

    layers: int | list[int] | dict[str, int | list[int]] | None = None
    """So many of the teacher's layers (or of ``pretrained``'s), evenly spaced, or which ones; negative from the end.

    Of an encoder-decoder a mapping: ``{encoder: 6, decoder: [0, -1]}``; a side that is left out keeps all its layers.
    """
    width: WidthConfig | None = None
    """How many channels, heads and units are kept, of the layers that are."""
    vocabulary: VocabularyConfig | None = None
    """Which tokens are kept."""
    pretrained: str | None = None
    """A Hub id or folder of the model whose parts are taken; the teacher's unless given."""

    @override
    def check(self) -> None:
        super().check()
        self.require(bool(self.parts), f": expected {', '.join(PARTS)} or several of them, got none")
        if isinstance(self.layers, dict):
            unknown = [side for side in self.layers if side not in ("encoder", "decoder")]
            told = ".layers: expected encoder, decoder or both as the keys of the mapping, got "
            self.require(not unknown and len(self.layers) > 0, told + (", ".join(unknown) or "none"))
        has_one = self.revision is None or self.pretrained is not None
        self.require(has_one, ".revision: only a pretrained student has one; remove it")
        self.require(
            self.lora is None or (self.lora.merge and self.lora.quantize is None),
            f".lora.merge: adapters alone are of use beside a model that others have, and {' and '.join(self.parts)} "
            "make a new one; set merge to true, without quantize",
        )

    @property
    def parts(self) -> list[str]:
        """The keys that take parts of a model."""
        return [name for name in PARTS if getattr(self, name) is not None]

    @property
    @override
    def start(self) -> FromPretrained | None:
        own = {name: getattr(self, name) for name in ("pretrained", "revision", "tokenizer", "lora")}
        return None if self.pretrained is None else FromPretrained(**own)

    @property
    @override
    def cut(self) -> FromParts:
        return self

    @property
    @override
    def takes_words_of_the_data(self) -> bool | None:
        return super().takes_words_of_the_data if self.vocabulary is None else True


def _kernels(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Kernels of the Hub, which a config may name as what computes its attention: code, too."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _kernels(item, f"{where}.{key}")
    elif "_implementation" in where and isinstance(value, str) and "/" in value:
        yield where, value


@dataclass(frozen=True, kw_only=True)
class FromConfig(StudentConfig):
    """A student with fresh weights."""

    KEY = "config"
    FOREIGN = (
        "fresh weights would stay random beside adapters, and have no revision; use pretrained or layers, or remove it"
    )

    config: dict[str, Any] = field(metadata={"code": _kernels})
    """Changes to the teacher's config, or with ``model_type`` a new one."""
    tokenizer: str | dict[str, Any] | None = None
    """A Hub id or folder, or {kind, vocab_size, lowercase} to train one on the data's texts."""
    processor: dict[str, Any] | None = None
    """Settings of its image processor or feature extractor, such as {size: {height: 32, width: 32}}; all others are
    its teacher's, or those of its kind, and follow ``config``."""

    @property
    @override
    def takes_words_of_the_data(self) -> bool | None:
        return None if self.tokenizer is None else not isinstance(self.tokenizer, str)


@dataclass(frozen=True, kw_only=True)
class PluginStudent(StudentConfig):
    """A student that a function of one's own builds."""

    kind: str = field(metadata=names_code("package.module:function"))
    """``package.module:function``, which gets a ``StudentRequest`` and gives a ``Student``."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the function finds in ``request.config.options``."""

    @property
    @override
    def kind_name(self) -> str:
        return self.kind

    @override
    def to_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("kind", "freeze", "disable_dropout", "dtype")}
        return {**own, **self.options}


PARTS = ("layers", "width", "vocabulary")
"""Keys that take parts of a model, in the order in which they do."""

_UNSET = {
    **dict.fromkeys((*PARTS, "config", "pretrained", "revision", "tokenizer", "lora", "freeze")),
    "disable_dropout": False,
    "dtype": "auto",
}
"""What the keys of all kinds hold where nobody asks for anything."""
