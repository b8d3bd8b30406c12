"""Rows of chats of every form, read into one in a single pass; what cannot be read is refused or dropped by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from datasets import Dataset, Features, IterableDataset, List, Value

from hf_distill.data.forms.turns import Unreadable, read_tools, read_turns, without_nulls
from hf_distill.errors import DataError

Invalid = Literal["refuse", "drop"]


def numbers_of(rows: Any) -> Callable[[int], int]:
    """Where rows stood before they were split and shuffled: what people find in their files."""
    table = getattr(rows, "_indices", None)
    return (lambda number: number) if table is None else lambda number: int(table.column(0)[number].as_py())


def without_invalid(
    rows: Any, split: str, faults: Mapping[int, str], invalid: Invalid, what: str = "cannot be learned from"
) -> tuple[Any, list[str]]:
    """The rows without those that have a fault, and a line that tells how many these are; or a refusal."""
    if not faults:
        return rows, []
    first = min(faults)
    told = f"{what} (first: row {numbers_of(rows)(first)}, {faults[first]})"
    if invalid == "refuse":
        of = f" of {len(rows):,}" if isinstance(rows, Dataset) else ""
        raise DataError(
            f"split {split!r}: {len(faults):,}{of} rows {told}; correct or remove them, or set data.invalid_rows: drop"
        )
    if len(faults) == len(rows):
        raise DataError(f"split {split!r}: none of {len(rows):,} rows is left: they {told}; correct them")
    kept = rows.select([number for number in range(len(rows)) if number not in faults])
    return kept, [f"data: split {split!r}: {len(faults):,} of {len(rows):,} rows are dropped: they {told}"]


def of_stream(split: str, invalid: Invalid) -> list[str]:
    """A line for rows of a stream that are dropped: nobody has counted them when training begins."""
    told = f"data: split {split!r}: invalid rows of the stream are dropped as they come, and are not counted"
    return [told] if invalid == "drop" else []


def read_chats(
    rows: Dataset | IterableDataset, split: str, invalid: Invalid, *, answered: bool = True
) -> tuple[Any, list[str]]:
    """Rows of ``messages`` (and ``tools``) in the one form, and lines that tell what was dropped.

    Rows that cannot be read are refused or dropped, as ``invalid`` says; those of a stream as they come.
    ``answered``: whether a row without an assistant's turn is one of these.
    """
    has_tools = "tools" in (rows.column_names or next(iter(rows), {}))

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"messages": read_turns(row["messages"], answered=answered)}
        return found | ({"tools": read_tools(row["tools"])} if has_tools else {})

    if isinstance(rows, IterableDataset):
        return rows.map(_Streamed(read, split, invalid), batched=True, with_indices=True), of_stream(split, invalid)
    faults: dict[int, str] = {}
    keys: dict[str, None] = dict.fromkeys(("role", "content"))
    changed = False
    for number, row in enumerate(_each(rows, ["messages", *["tools"] * has_tools])):
        try:
            made = read(row)
        except Unreadable as fault:
            faults[number] = str(fault)
            continue
        keys |= dict.fromkeys(name for turn in made["messages"] for name in turn)
        changed = changed or made != {**row, "messages": without_nulls(row["messages"])}
    rows, notes = without_invalid(rows, split, faults, invalid)
    if not changed:
        return rows, notes
    kinds = {name: Value("bool" if name == "train" else "string") for name in keys}
    features = {**rows.features, "messages": List(kinds), **({"tools": Value("string")} if has_tools else {})}

    def converted(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        made = [read(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
        turns = [[{name: turn.get(name) for name in keys} for turn in each["messages"]] for each in made]
        return {"messages": turns} | ({"tools": [each["tools"] for each in made]} if has_tools else {})

    return rows.map(converted, batched=True, features=Features(features)), notes


class _Streamed:
    """Reads the rows of a stream as they come."""

    def __init__(self, read: Any, split: str, invalid: Invalid) -> None:
        self.read, self.split, self.invalid = read, split, invalid

    def __call__(self, batch: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        kept: dict[str, list[Any]] = {name: [] for name in batch}
        for number, values in zip(numbers, zip(*batch.values(), strict=True), strict=True):
            row = dict(zip(batch, values, strict=True))
            try:
                row |= self.read(row)
            except Unreadable as fault:
                if self.invalid == "refuse":
                    without_invalid((), self.split, {number: str(fault)}, self.invalid)
                continue
            for name, column in kept.items():
                column.append(row[name])
        return kept


def _each(rows: Dataset, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in rows.select_columns(columns).iter(1000):
        yield from (dict(zip(columns, values, strict=True)) for values in zip(*map(batch.get, columns), strict=True))
