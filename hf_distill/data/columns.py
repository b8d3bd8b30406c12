"""Columns as the task names them: renamed, taken out of nested ones, several joined to one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hf_distill.data.forms.chat_rows import Invalid, read_chats
from hf_distill.data.forms.known_forms import recognised
from hf_distill.data.labels import STREAMED_ROWS
from hf_distill.data.media.cells import KINDS, Kind
from hf_distill.errors import DataError
from hf_distill.names import nearest

LABELS = frozenset({"label", "labels", "answers", "target", "completion"})
"""Columns without which a row can still be learned from, where there is a teacher to label it or write for it."""

LISTS = frozenset({"candidates"})
"""Columns that hold lists of texts: what is named for one of them stays apart where it is several columns."""

JOIN = " + "  # In the name of a column that is joined of several.


class Columns:
    """The data's columns under the task's names.

    ``mapping``, which stands in the recipe at ``where``, has the data's names by the task's: a name, ``outer.inner``,
    or several that are joined. ``invalid`` says what becomes of chats that cannot be read; ``notes`` tell of them, and
    of forms that were recognised.
    """

    def __init__(
        self,
        mapping: Mapping[str, str | list[str]],
        required: Sequence[str],
        optional: Sequence[str],
        where: str,
        invalid: Invalid = "refuse",
    ) -> None:
        known = (*required, *optional)
        for name in mapping:
            if name not in known:
                raise DataError(f"{where}.{name}: the task has no such column; it has {', '.join(known)}")
        self.where = where
        self.joined = {name: names for name, names in mapping.items() if not isinstance(names, str)}
        self.mapping = {name: each if isinstance(each, str) else JOIN.join(each) for name, each in mapping.items()}
        self.required, self.optional = required, optional
        self.invalid: Invalid = invalid
        self.notes: dict[str, None] = {}

    @property
    def used(self) -> set[str]:
        """The columns of the data that the task needs, or may need."""
        names = {self.mapping.get(name, name) for name in (*self.required, *self.optional)}
        names |= {name for joined in self.joined.values() for name in joined}
        return {part for name in names for part in (name, name.partition(".")[0])} | set(self.required)

    @property
    def media(self) -> dict[str, Kind]:
        """The columns of the data that hold sound or images, and which of these."""
        return {self.mapping.get(kind, kind): kind for kind in KINDS if kind in (*self.required, *self.optional)}

    def named(self, rows: Any, split: str, labelled: bool = True) -> Any:
        """Keep the task's columns only; a label column may be missing where rows need no labels."""
        if "messages" in self.optional:
            rows, told = recognised(rows, self.mapping)
            self.notes |= dict.fromkeys(told)
        rows = _unnested(rows, [*self.mapping.values(), *(name for names in self.joined.values() for name in names)])
        for name, names in self.joined.items():
            rows = _with_joined(rows, names, split, apart=name in LISTS)
        there = columns_of(rows)
        chosen = {}
        for name in (*self.required, *self.optional):
            source = self.mapping.get(name, name)
            if source in there:
                chosen[name] = source
            elif (name in self.required and (labelled or name not in LABELS)) or (name in self.mapping and labelled):
                raise DataError(
                    f"split {split!r} has no column {source!r}; it has {', '.join(map(repr, there)) or 'none'}"
                    f"{nearest(source, there)}; name the right one in {self.where}: {{{name}: ...}}{_no_header(there)}"
                )
        self._check_read(chosen, there, split)
        rows = rows.select_columns(list(dict.fromkeys(chosen.values())))
        # In two steps, since two columns may swap their names.
        swap = {source: f"__{name}" for name, source in chosen.items() if source != name}
        for source, name in [*swap.items(), *((name, name.removeprefix("__")) for name in swap.values())]:
            rows = rows.rename_column(source, name)
        if "messages" in chosen and "messages" in self.optional:
            rows, told = read_chats(rows, split, self.invalid, answered=labelled)
            self.notes |= dict.fromkeys(told)
        return rows

    def _check_read(self, chosen: Mapping[str, str], there: Sequence[str], split: str) -> None:
        """Refuse rows of which the task reads nothing; tell which columns a language model does not read."""
        names = ", ".join(map(repr, there))
        if there and not chosen:
            known = ", ".join((*self.required, *self.optional))
            raise DataError(
                f"split {split!r}: the task reads none of its columns {names}; it reads {known}: name the right ones "
                f"in {self.where}, or make them in a function (data.path: package.module:function)"
            )
        parts = {part for names in self.joined.values() for part in names}
        read = {*chosen.values(), *parts, *(name.partition(".")[0] for name in self.mapping.values())}
        if "messages" in self.optional and (unread := [name for name in there if name not in read]):
            self.notes[f"data: columns that are not read: {', '.join(unread)}"] = None


def columns_of(rows: Any) -> list[str]:
    """The columns of rows, for which a stream that does not know them is asked for its first row."""
    return list(rows.column_names or next(iter(rows), {}))


def _unnested(rows: Any, names: Iterable[str]) -> Any:
    """Give nested names, such as ``translation.de``, columns of their own."""
    there = columns_of(rows)
    for name in names:
        outer, dot, inner = name.partition(".")
        if dot and name not in there and outer in there and inner in _inner_names(rows, outer):
            rows = rows.map(lambda row, name=name, outer=outer, inner=inner: {name: (row[outer] or {}).get(inner)})
    return rows


def _no_header(names: Iterable[str]) -> str:
    """What to do where the names of columns are rather the first row of a table."""
    looks_so = any(name.replace(".", "", 1).isdigit() or name.count(" ") > 2 for name in names)
    return "; if these are a row, give the file a first line with the names of its columns" if looks_so else ""


def _inner_names(rows: Any, outer: str) -> Collection[str]:
    """The names within a nested column, also where its first row holds nothing."""
    feature = rows.features.get(outer) if rows.features else None
    if feature is None:
        return next((row[outer] for row in rows.take(STREAMED_ROWS) if row[outer]), {})
    return feature if isinstance(feature, Mapping) else ()


def _with_joined(rows: Any, names: Sequence[str], split: str, *, apart: bool) -> Any:
    """Join columns to one, as a list or with a blank line between; empty texts are left out."""
    there = columns_of(rows)
    for name in names:
        if name not in there:
            known = ", ".join(map(repr, there)) or "none"
            raise DataError(f"split {split!r} has no column {name!r}; it has {known}{nearest(name, there)}")

    def join(row: Mapping[str, Any]) -> dict[str, Any]:
        for name in names:
            if row[name] is not None and not isinstance(row[name], str):
                told = f"split {split!r}: column {name!r} holds {str(row[name])[:80]!r}, which is no text"
                raise DataError(f"{told}, so it cannot be joined; leave it out of what is joined, or make it a text")
        texts = [text for name in names if (text := (row[name] or "").strip())]
        return {JOIN.join(names): texts if apart else "\n\n".join(texts)}

    return rows.map(join)
