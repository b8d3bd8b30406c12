"""``teacher`` of a recipe: where targets come from, and what is kept of them. A kind of teacher is a class here."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.recipe.parse import SECTIONS, Section, at_least, bound, check_known, gathered, names_code, without_unset

if TYPE_CHECKING:
    from hf_distill.recipe import Recipe
    from hf_distill.recipe.members import MemberConfig
    from hf_distill.recipe.server import ServerConfig

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CacheConfig(Section, where="recipe.teacher.cache"):
    """What is kept of a teacher that is cached."""

    scheme: Literal["auto", "sampled", "top_k", "naive_top_k", "dense"] = "auto"
    """``auto``: dense for classes, sampled for a vocabulary."""
    draws: int | None = None
    """Of ``sampled``: tokens drawn a position; 50 unless given."""
    k: int | None = None
    """Of ``top_k`` and ``naive_top_k``: how many tokens are kept; 64 unless given."""
    path: str | None = None
    """A folder to use, refused where it holds a cache of something else; found by itself unless given."""
    verify: int = field(default=0, metadata=at_least(0, "rows"))
    """How many rows are compared with the live teacher before it is used."""

    @override
    def check(self) -> None:
        draws, keeps = self.scheme in ("auto", "sampled"), self.scheme in ("top_k", "naive_top_k")
        self.require(self.draws is None or draws, f".draws: does nothing for {self.scheme}; remove it")
        self.require(self.k is None or keeps, f".k: does nothing for {self.scheme}; remove it, or set scheme: top_k")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Section, where="recipe.teacher"):
    """Where targets come from; its keys decide which of the classes below reads it."""

    KEY: ClassVar[str]  # Which only teachers of this kind have.
    FOREIGN: ClassVar[str] = "does nothing for it; remove it"  # Said of keys that only other kinds have.

    kind: str = field(default="live", metadata=bound("live or cached", ("live", "cached").__contains__))
    """``cached``: it looks at every row once, and what it says is read from disk in every epoch."""
    cache: CacheConfig | None = None
    """What a cached teacher keeps."""

    @override
    def check(self) -> None:
        told = ".cache: does nothing for a live teacher; set kind: cached, or remove it"
        self.require(self.is_cached or self.cache is None, told)

    @property
    def kind_name(self) -> str:
        """Its name in the registry of teachers, or ``package.module:Class``."""
        return self.kind if ":" in self.kind else self.KEY

    @property
    def is_cached(self) -> bool:
        """Whether it looks at every row once, and is read from disk afterwards."""
        return self.kind == "cached"

    @property
    def cache_settings(self) -> CacheConfig:
        """What its cache keeps."""
        return self.cache or CacheConfig()

    @property
    def endpoint(self) -> ServerConfig | None:
        """The server that runs it; None where it is loaded here."""
        return None

    @property
    def members(self) -> tuple[MemberConfig, ...]:
        """The teachers that it is several of; none of a single one."""
        return ()

    @property
    def models(self) -> tuple[SingleTeacher, ...]:
        """The models that are loaded here: itself, those of its members, or none."""
        return ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it asks of the data, beside the task's."""
        return ()

    @property
    def traits(self) -> frozenset[str]:
        """What can be said of it: ``served``, ``several``, ``cached``."""
        said = {"served": self.endpoint is not None, "several": bool(self.members), "cached": self.is_cached}
        return frozenset(name for name, is_so in said.items() if is_so)

    def as_cached(self) -> Self:
        """The same teacher, cached."""
        return dataclasses.replace(self, kind="cached")

    def as_trained(self) -> Self:
        """The same without what changes nothing that it teaches."""
        return self

    def with_recipes(self, change: Callable[[Recipe], Recipe]) -> Self:
        """The same with every recipe that makes a teacher changed."""
        return self

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        if cls not in (TeacherConfig, SingleTeacher) or not isinstance(value, Mapping):
            return cls, value
        if cls is TeacherConfig and ":" in str(value.get("kind")):
            return PluginTeacher, gathered(value, ("kind",), where)
        kinds = [kind for kind in SECTIONS.values() if issubclass(kind, cls) and "KEY" in vars(kind)]
        *first, last = sorted(kind.KEY for kind in kinds)
        given = [kind for kind in kinds if value.get(kind.KEY) is not None]
        if len(given) != 1:
            check_known(value, _UNSET, where)
            raise RecipeError(f"{where}: expected exactly one of {', '.join(first)} and {last}")
        return given[0], without_unset(given[0], value, _UNSET, given[0].FOREIGN, where)

    @override
    def to_dict(self) -> dict[str, Any]:
        # Keys of other kinds stood here before kinds were classes: the hash of a recipe stays as it was.
        always = {key: value for key, value in _UNSET.items() if key in ALWAYS}
        return {**always, **{key: v for key, v in super().to_dict().items() if key in ALWAYS or v is not None}}


@dataclass(frozen=True, kw_only=True)
class SingleTeacher(TeacherConfig, ABC):
    """One model that is loaded here."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 where the device computes it in hardware, else float32."""
    device_map: str | None = None
    """How to spread it over devices, as ``from_pretrained`` takes it."""

    @property
    @override
    def models(self) -> tuple[SingleTeacher, ...]:
        return (self,)

    @abstractmethod
    def match(self, local: Callable[[LocalTeacher], T], trained: Callable[[TrainedTeacher], T]) -> T:
        """What one of two functions gives, by whether it is there or is made by a recipe."""


@dataclass(frozen=True, kw_only=True)
class LocalTeacher(SingleTeacher):
    """A model of the Hub or a folder."""

    KEY = "model"
    FOREIGN = "does nothing for a single teacher; remove it, or name several in ensemble"

    model: str
    """A Hub id or folder."""
    revision: str | None = None
    """A branch, tag or commit."""
    labels: list[str] | None = None
    """The names of its outputs in its own order, where its config does not tell them."""

    @override
    def match(self, local: Callable[[LocalTeacher], T], trained: Callable[[TrainedTeacher], T]) -> T:
        return local(self)


@dataclass(frozen=True, kw_only=True)
class TrainedTeacher(SingleTeacher):
    """A model that a recipe of its own makes."""

    KEY = "recipe"
    FOREIGN = "does nothing for a teacher made by a recipe; remove it"

    recipe: Recipe
    """How to make it: another recipe's path, or a mapping that inherits version, seed, task and data."""

    @override
    def check(self) -> None:
        super().check()
        told = ".recipe.teacher: a teacher's recipe trains on labels alone; remove it"
        self.require(self.recipe.teacher is None, told)

    @override
    def match(self, local: Callable[[LocalTeacher], T], trained: Callable[[TrainedTeacher], T]) -> T:
        return trained(self)

    @override
    def with_recipes(self, change: Callable[[Recipe], Recipe]) -> Self:
        return dataclasses.replace(self, recipe=change(self.recipe))


@dataclass(frozen=True, kw_only=True)
class PluginTeacher(TeacherConfig):
    """A teacher of one's own."""

    kind: str = field(metadata=names_code("package.module:Class"))
    """Its class."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options}


ALWAYS = ("model", "revision", "dtype", "labels", "kind", "cache", "device_map", "recipe")
_UNSET = {**dict.fromkeys((*ALWAYS, "ensemble", "route", "server")), "dtype": "auto", "kind": "live"}
"""What the keys of all kinds hold where nobody asks for anything; ``to_dict`` gives those of ``ALWAYS``."""
