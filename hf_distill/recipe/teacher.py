"""``teacher`` of a recipe: where targets come from, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hf_distill.recipe.ensemble import MemberConfig, check_ensemble
from hf_distill.recipe.parse import refuse_unless
from hf_distill.recipe.server import ServerConfig


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What is kept of a teacher that is cached."""

    scheme: Literal["auto", "sampled", "top_k", "naive_top_k", "dense"] = "auto"
    """``auto``: dense for classes, sampled for a vocabulary."""
    draws: int | None = None
    """Of ``sampled``: tokens drawn a position; 50 unless given."""
    k: int | None = None
    """Of ``top_k`` and ``naive_top_k``: how many tokens are kept; 64 unless given."""
    path: str | None = None
    """A folder to use, refused where it holds a cache of something else; found by itself unless given."""
    verify: int = 0
    """How many rows are compared with the live teacher before it is used."""

    def __post_init__(self) -> None:
        where = "recipe.teacher.cache"
        refuse_unless(
            self.draws is None or self.scheme in ("auto", "sampled"),
            f"{where}.draws: does nothing for {self.scheme}; remove it",
        )
        refuse_unless(
            self.k is None or self.scheme in ("top_k", "naive_top_k"),
            f"{where}.k: does nothing for {self.scheme}; remove it, or set scheme: top_k",
        )
        refuse_unless(self.verify >= 0, f"{where}.verify: expected at least 0 rows, got {self.verify}")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Where targets come from."""

    model: str | None = None
    """A Hub id or folder."""
    revision: str | None = None
    """A branch, tag or commit."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 where the device computes it in hardware, else float32."""
    labels: list[str] | None = None
    """The names of its outputs in its own order, where its config does not tell them."""
    kind: Literal["live", "cached"] = "live"
    """``cached``: it looks at every row once, and what it says is read from disk in every epoch."""
    cache: CacheConfig | None = None
    """What a cached teacher keeps."""
    device_map: str | None = None
    """How to spread it over devices, as ``from_pretrained`` takes it."""
    recipe: Any = None
    """How to make it: another recipe's path, or a mapping that inherits version, seed, task and data."""
    ensemble: tuple[MemberConfig, ...] | None = None
    """Several teachers in place of one: the student learns from the weighted mean of their probabilities."""
    route: str | None = None
    """A column of the data that names, in each row, the member of ``ensemble`` that alone teaches it."""
    server: ServerConfig | None = None
    """The endpoint behind which it runs."""

    def __post_init__(self) -> None:
        refuse_unless(
            [self.model, self.recipe, self.ensemble, self.server].count(None) == 3,
            "recipe.teacher: expected exactly one of model, recipe, ensemble and server",
        )
        if self.ensemble is not None:
            self._check_ensemble(self.ensemble)
        refuse_unless(
            self.route is None or self.ensemble is not None,
            "recipe.teacher.route: does nothing for a single teacher; remove it, or name several in ensemble",
        )
        if self.server is not None:
            self._check_server()
        for name in ("revision", "labels"):
            refuse_unless(
                self.model is not None or getattr(self, name) is None,
                f"recipe.teacher.{name}: does nothing for a teacher made by a recipe; remove it",
            )
        refuse_unless(
            getattr(self.recipe, "teacher", None) is None,
            "recipe.teacher.recipe.teacher: a teacher's recipe trains on labels alone; remove it",
        )
        refuse_unless(
            self.kind == "cached" or self.cache is None,
            "recipe.teacher.cache: does nothing for a live teacher; set kind: cached, or remove it",
        )

    @property
    def names(self) -> list[str]:
        """What its several teachers are called."""
        return [member.called(number) for number, member in enumerate(self.ensemble or ())]

    @property
    def traits(self) -> frozenset[str]:
        """What can be said of it: ``served``, ``several``, ``cached``."""
        said = {
            "served": self.server is not None,
            "several": self.ensemble is not None,
            "cached": self.kind == "cached",
        }
        return frozenset(name for name, is_so in said.items() if is_so)

    @property
    def top_k(self) -> int | None:
        """How many tokens a server is asked for, where the recipe tells."""
        return self.server.top_k if self.server is not None else None

    def _check_ensemble(self, members: tuple[MemberConfig, ...]) -> None:
        for name, default in (("revision", None), ("labels", None), ("device_map", None), ("dtype", "auto")):
            refuse_unless(
                getattr(self, name) == default,
                f"recipe.teacher.{name}: does nothing beside ensemble; say it of each member",
            )
        check_ensemble(members, self.route)

    def _check_server(self) -> None:
        for name, default in (("revision", None), ("dtype", "auto"), ("labels", None), ("device_map", None)):
            refuse_unless(
                getattr(self, name) == default,
                f"recipe.teacher.{name}: does nothing for a served teacher, which the server loads; remove it",
            )
        cache = self.cache or CacheConfig()
        refuse_unless(
            cache.scheme in ("auto", "top_k"),
            f"recipe.teacher.cache.scheme: a server gives the likeliest tokens, of which {cache.scheme} cannot be "
            "made; set it to top_k, or remove it",
        )
        for name, value in (("draws", cache.draws), ("k", cache.k)):
            refuse_unless(
                value is None,
                f"recipe.teacher.cache.{name}: does nothing for a served teacher; teacher.server.top_k tells how many "
                "tokens are kept: remove it",
            )
