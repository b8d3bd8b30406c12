"""``teacher`` of a recipe: where targets come from, and what is kept of them. A kind of teacher is a class here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.recipe.parse import Section, above_zero, at_least, check_known, gathered, read, without_unset
from hf_distill.recipe.server import ServerConfig

if TYPE_CHECKING:
    from hf_distill.recipe import Recipe

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
        self.require(
            self.draws is None or self.scheme in ("auto", "sampled"),
            f".draws: does nothing for {self.scheme}; remove it",
        )
        self.require(
            self.k is None or self.scheme in ("top_k", "naive_top_k"),
            f".k: does nothing for {self.scheme}; remove it, or set scheme: top_k",
        )


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Section, where="recipe.teacher"):
    """Where targets come from; its keys decide which of the classes below reads it."""

    KEY: ClassVar[str]
    """The key that only teachers of this kind have."""
    FOREIGN: ClassVar[str] = "does nothing for it; remove it"
    """What is said of a key that only other kinds have."""

    @property
    def kind_name(self) -> str:
        """Its name in the registry of teachers, or ``package.module:Class``."""
        return self.KEY

    @property
    def is_cached(self) -> bool:
        """Whether it looks at every row once, and is read from disk afterwards."""
        return False

    @property
    def writes(self) -> bool:
        """Whether it can be asked for texts."""
        return not self.is_cached

    @property
    def endpoint(self) -> ServerConfig | None:
        """The server that runs it; None where it is loaded here."""
        return None

    @property
    def cache_settings(self) -> CacheConfig:
        """What its cache keeps."""
        return CacheConfig()

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
        return self

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
        kinds: list[type[TeacherConfig]] = [LocalTeacher, TrainedTeacher]
        if cls is TeacherConfig:
            kinds += [EnsembleTeacher, ServedTeacher]
            if isinstance(value.get("kind"), str) and ":" in value["kind"]:
                return PluginTeacher, gathered(value, ("kind",), where)
        *first, last = (kind.KEY for kind in kinds)
        given = [kind for kind in kinds if value.get(kind.KEY) is not None]
        if len(given) != 1:
            check_known(value, _UNSET, where)
            raise RecipeError(f"{where}: expected exactly one of {', '.join(first)} and {last}")
        return given[0], without_unset(given[0], value, _UNSET, given[0].FOREIGN, where)


@dataclass(frozen=True, kw_only=True)
class CacheableTeacher(TeacherConfig):
    """A teacher that may be cached."""

    kind: Literal["live", "cached"] = "live"
    """``cached``: it looks at every row once, and what it says is read from disk in every epoch."""
    cache: CacheConfig | None = None
    """What a cached teacher keeps."""

    @override
    def check(self) -> None:
        self.require(
            self.is_cached or self.cache is None,
            ".cache: does nothing for a live teacher; set kind: cached, or remove it",
        )

    @property
    @override
    def is_cached(self) -> bool:
        return self.kind == "cached"

    @property
    @override
    def cache_settings(self) -> CacheConfig:
        return self.cache or CacheConfig()

    @override
    def as_cached(self) -> Self:
        return dataclasses.replace(self, kind="cached")

    @override
    def to_dict(self) -> dict[str, Any]:
        # Keys of other kinds stood here before kinds were classes: the hash of a recipe stays as it was.
        always = {key: value for key, value in _UNSET.items() if key in _ALWAYS}
        return {**always, **{key: v for key, v in super().to_dict().items() if key in _ALWAYS or v is not None}}


@dataclass(frozen=True, kw_only=True)
class SingleTeacher(CacheableTeacher):
    """One model that is loaded here."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 where the device computes it in hardware, else float32."""
    device_map: str | None = None
    """How to spread it over devices, as ``from_pretrained`` takes it."""

    @property
    @override
    def models(self) -> tuple[SingleTeacher, ...]:
        return (self,)

    def match(self, local: Callable[[LocalTeacher], T], trained: Callable[[TrainedTeacher], T]) -> T:
        """What one of two functions gives, by whether it is there or is made by a recipe."""
        raise NotImplementedError


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
        self.require(
            self.recipe.teacher is None,
            ".recipe.teacher: a teacher's recipe trains on labels alone; remove it",
        )

    @override
    def match(self, local: Callable[[LocalTeacher], T], trained: Callable[[TrainedTeacher], T]) -> T:
        return trained(self)

    @override
    def with_recipes(self, change: Callable[[Recipe], Recipe]) -> Self:
        return dataclasses.replace(self, recipe=change(self.recipe))


@dataclass(frozen=True, kw_only=True)
class MemberConfig(Section, where="recipe.teacher.ensemble"):
    """One of several teachers: the keys of a single one, its name and its weight."""

    teacher: SingleTeacher
    """The model."""
    name: str | None = None
    """What it is called, and what rows call it that it alone teaches; the end of ``model`` unless given."""
    weight: float | None = field(default=None, metadata=above_zero("remove a teacher that is to count for nothing"))
    """How much its probabilities count beside the others'; 1 unless given."""

    @override
    def check(self) -> None:
        self.require(
            not self.teacher.is_cached,
            ": a member cannot be cached: one cache keeps what all say together; set teacher.kind: cached",
        )

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        if not isinstance(value, Mapping):
            return cls, value
        check_known(value, [*(key for key in _ALWAYS if key != "cache"), "name", "weight"], where)
        own = {key: item for key, item in value.items() if key in ("name", "weight")}
        single = {key: item for key, item in value.items() if key not in own}
        return cls, {**own, "teacher": read(SingleTeacher, single, where)}

    @override
    def to_dict(self) -> dict[str, Any]:
        single = self.teacher.to_dict()
        del single["cache"]
        made, kind = {key: single.pop(key) for key in ("model", "recipe")}, single.pop("kind")
        return {**made, "name": self.name, "weight": self.weight, **single, "kind": kind}

    def called(self, number: int) -> str:
        """Its name, or what it is called without one: the end of ``model``, or a number."""
        return self.name or self.teacher.match(lambda local: Path(local.model).name, lambda _: f"teacher-{number + 1}")


@dataclass(frozen=True, kw_only=True)
class EnsembleTeacher(CacheableTeacher):
    """Several teachers in place of one: the student learns from the weighted mean of their probabilities."""

    KEY = "ensemble"
    FOREIGN = "does nothing beside ensemble; say it of each member"

    ensemble: tuple[MemberConfig, ...]
    """The members."""
    route: str | None = None
    """A column of the data that names, in each row, the member of ``ensemble`` that alone teaches it."""

    @override
    def check(self) -> None:
        super().check()
        self.require(len(self.ensemble) > 0, ".ensemble: expected at least one teacher, got an empty list")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        self.require(
            not twice,
            f".ensemble: two teachers are called {', '.join(twice)}; give each a name of its own (name: ...)",
        )
        self.require(
            len({member.teacher.device_map is None for member in self.ensemble}) == 1,
            ".ensemble: some teachers have a device_map and some have none; give one to all, or to none",
        )
        if self.route is not None:
            self.require(
                all(member.name is not None for member in self.ensemble),
                f".route: rows name their teacher in column {self.route!r}, so each needs a name; give every member of "
                "teacher.ensemble one (name: ...)",
            )
            self.require(
                all(member.weight is None for member in self.ensemble),
                ".ensemble: weight does nothing where teacher.route gives each row one teacher; remove it, or remove "
                "route",
            )

    @property
    @override
    def writes(self) -> bool:
        return False

    @property
    @override
    def members(self) -> tuple[MemberConfig, ...]:
        return self.ensemble

    @property
    @override
    def models(self) -> tuple[SingleTeacher, ...]:
        return tuple(member.teacher for member in self.ensemble)

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return () if self.route is None else (self.route,)

    @property
    def names(self) -> list[str]:
        """What its members are called."""
        return [member.called(number) for number, member in enumerate(self.ensemble)]

    @override
    def with_recipes(self, change: Callable[[Recipe], Recipe]) -> Self:
        changed = [dataclasses.replace(each, teacher=each.teacher.with_recipes(change)) for each in self.ensemble]
        return dataclasses.replace(self, ensemble=tuple(changed))


@dataclass(frozen=True, kw_only=True)
class ServedTeacher(CacheableTeacher):
    """A model behind an endpoint."""

    KEY = "server"
    FOREIGN = "does nothing for a served teacher, which the server loads; remove it"

    server: ServerConfig
    """The endpoint behind which it runs."""

    @override
    def check(self) -> None:
        super().check()
        cache = self.cache_settings
        self.require(
            cache.scheme in ("auto", "top_k"),
            f".cache.scheme: a server gives the likeliest tokens, of which {cache.scheme} cannot be made; set it to "
            "top_k, or remove it",
        )
        for name in ("draws", "k"):
            self.require(
                getattr(cache, name) is None,
                f".cache.{name}: does nothing for a served teacher; teacher.server.top_k tells how many tokens are "
                "kept: remove it",
            )

    @property
    @override
    def endpoint(self) -> ServerConfig:
        return self.server

    @override
    def as_trained(self) -> Self:
        # The same model teaches the same, whichever address it has and however fast it is asked.
        kept = {name: getattr(self.server, name) for name in ("model", "tokenizer", "top_k")}
        return dataclasses.replace(self, server=ServerConfig(url="http://anywhere/v1", **kept))


@dataclass(frozen=True, kw_only=True)
class PluginTeacher(TeacherConfig):
    """A teacher of one's own."""

    kind: str
    """``package.module:Class``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""

    @property
    @override
    def kind_name(self) -> str:
        return self.kind

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options}


_ALWAYS = ("model", "revision", "dtype", "labels", "kind", "cache", "device_map", "recipe")
_UNSET = {**dict.fromkeys((*_ALWAYS, "ensemble", "route", "server")), "dtype": "auto", "kind": "live"}
"""What the keys of all kinds hold where nobody asks for anything; ``to_dict`` gives those of ``_ALWAYS``."""
