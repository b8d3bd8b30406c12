"""``data`` of a recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from hf_distill.recipe.parse import Section, at_least, names_code, size_or_share

UNLABELLED = ("unlabelled_split", "unlabelled_files")
"""Keys of ``data`` that only a teacher can use."""

LOADERS = {"hf_distill.data.docstrings:load", "hf_distill.data.media.digits:load"}
"""Functions of ours that ``path`` may name without leave: made to be called with what a stranger writes."""

_SOURCE = names_code("a Hub data set, a folder, or package.module:function", LOADERS)
_SIZE = size_or_share("a fraction between 0 and 1 or a number of rows")
_LIMIT = at_least(1, "row")


@dataclass(frozen=True, kw_only=True)
class TestDataConfig(Section, where="recipe.data.test"):
    """Where the rows come from that all models are scored on, where that is another source."""

    __test__ = False  # Its name is no call to pytest.

    path: str | None = dataclasses.field(default=None, metadata=_SOURCE)
    """This and the next three as of ``data``."""
    files: str | list[str] | None = None
    name: str | None = None
    revision: str | None = None
    split: str = "test"
    """The split that is taken."""
    columns: dict[str, str | list[str]] = dataclasses.field(default_factory=dict)
    """As of ``data``, whose own are not used here."""

    @override
    def check(self) -> None:
        self.require((self.path is None) != (self.files is None), ": expected exactly one of path and files")

    @override
    def to_dict(self) -> dict[str, Any]:
        return _without(super().to_dict(), {"files": None})

    def source(self) -> DataConfig:
        """The same as a source of splits."""
        files: Any = None if self.files is None else {self.split: self.files}
        return DataConfig(path=self.path, files=files, name=self.name, revision=self.revision)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section, where="recipe.data"):
    """Where the rows come from."""

    path: str | None = dataclasses.field(default=None, metadata=_SOURCE)
    """A Hub data set, a folder, or ``package.module:function`` that returns a DatasetDict."""
    name: str | None = None
    """The configuration, as ``datasets.load_dataset`` names it."""
    revision: str | None = None
    """A branch, tag or commit of the Hub's repository."""
    files: dict[str, str | list[str]] | str | list[str] | None = None
    """Local files by split, or those of the training split: csv, tsv, json, jsonl, parquet, txt, or conll (words and
    their tags), also packed (gz); a pattern (``part-*.jsonl``) names all that fit. Sound and images are named by paths
    relative to these files, or a folder of them stands for a file: its sub-folders are classes, or ``metadata.csv``
    has a row for each ``file_name``."""
    encoding: str | None = None
    """What the files are written in; found by their bytes unless given."""
    delimiter: str | None = None
    """What stands between the columns of csv and tsv; found in their header unless given."""
    field: str | None = None
    """Where in a JSON object the list of rows stands; ``data`` where there is one, as in SQuAD's own files."""
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the callable. ``$HF_DISTILL_NAME`` in a text stands for what the environment variable holds;
    a secret is given in this way alone, so that no file keeps it."""
    columns: dict[str, str | list[str]] = dataclasses.field(default_factory=dict)
    """The task's column -> the data's, where the names differ: a name, ``outer.inner``, or several that are joined
    (``candidates``: that are listed)."""
    train_split: str = "train"
    """The split to learn from."""
    validation_split: str | None = None
    """The split that is watched while training; ``validation`` where there is one that is not the test split."""
    test_split: str | None = None
    """The split that all models are scored on; ``test`` where there is one."""
    validation_size: int | float = dataclasses.field(default=0.1, metadata=_SIZE)
    """A share or number of training rows, drawn by the seed, where there is no validation split."""
    test_size: int | float | None = dataclasses.field(default=None, metadata=_SIZE)
    """A share or number of training rows, drawn by the seed, where there is no test split."""
    test: TestDataConfig | None = None
    """Another source of the test split."""
    train_limit: int | None = dataclasses.field(default=None, metadata=_LIMIT)
    """At most so many rows, drawn by the seed; the next two likewise."""
    validation_limit: int | None = dataclasses.field(default=None, metadata=_LIMIT)
    test_limit: int | None = dataclasses.field(default=None, metadata=_LIMIT)
    unlabelled_split: str | None = None
    """A split whose rows the teacher alone labels."""
    unlabelled_files: str | list[str] | None = None
    """Local files whose rows the teacher alone labels."""
    missing_labels: Literal["refuse", "drop", "unlabelled"] = "unlabelled"
    """What becomes of rows without a label (empty, null, NaN, -1 of a ClassLabel): the teacher alone teaches on them
    (``unlabelled``; where models are scored they are refused), they are dropped, or refused everywhere."""
    invalid_rows: Literal["refuse", "drop"] = "refuse"
    """What becomes of rows that nothing can be learned from: an empty text, a chat without turns or with unknown roles,
    sound or an image that is broken, empty or silent. They are counted either way."""
    streaming: bool = False
    """Read the training rows as they come, for data larger than memory."""

    @override
    def check(self) -> None:
        self.require((self.path is None) != (self.files is None), ": expected exactly one of path and files")
        told = ".arguments: only a callable (path: package.module:function) takes arguments; remove them"
        self.require(not self.arguments or (self.path is not None and ":" in self.path), told)
        for name in ("encoding", "delimiter", "field"):
            given = getattr(self, name) is not None and self.files is None and self.unlabelled_files is None
            self.require(not given, f".{name}: only files are read with it; remove it")
        for names in (("test", "test_split", "test_size"), UNLABELLED):
            several = sum(getattr(self, name) is not None for name in names) > 1
            self.require(not several, f": expected at most one of {', '.join(names[:-1])} and {names[-1]}")

    @override
    def to_dict(self) -> dict[str, Any]:
        return _without(super().to_dict(), _LATER)

    @property
    def files_by_split(self) -> dict[str, str | list[str]]:
        """The local files of each split."""
        return self.files if isinstance(self.files, dict) else {self.train_split: self.files or []}

    def labelled(self) -> DataConfig:
        """The same without the unlabelled rows."""
        return dataclasses.replace(self, unlabelled_split=None, unlabelled_files=None)


_LATER = {"encoding": None, "delimiter": None, "field": None, "missing_labels": "unlabelled"}


def _without(keys: dict[str, Any], unset: dict[str, Any]) -> dict[str, Any]:
    """Keys that say something: those that came later are left out unset, so that a recipe's hash stays as it was."""
    return {key: value for key, value in keys.items() if key not in unset or value != unset[key]}
