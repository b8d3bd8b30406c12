"""Loads rows, chooses and splits them, and names their columns as the task does. No tokenising."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from datasets import Dataset, IterableDataset, Value

from hf_distill.data.columns import LABELS, Columns, columns_of
from hf_distill.data.forms.text_rows import read_texts
from hf_distill.data.labels import STREAMED_ROWS, settle, told
from hf_distill.data.media.check_media import ANY_LENGTH, Seconds, check_media
from hf_distill.data.media.digests import contents, fingerprint
from hf_distill.data.media.manifests import rows_of_files
from hf_distill.data.sources import Splits, source_of, splits_of
from hf_distill.errors import DataError
from hf_distill.names import nearest

if TYPE_CHECKING:
    from hf_distill.recipe import DataConfig, TestDataConfig


@dataclass(frozen=True, kw_only=True)
class Data:
    """Rows with the task's column names.

    Attributes:
        train: Rows to learn from; a stream where the recipe says so.
        unlabelled: Extra rows that the teacher alone labels.
        fingerprint: SHA-256 of the content of all rows; of source and revision for a stream.
        source: A Hub id with its revision, or names of files.
        notes: How the splits were made, where the recipe does not say.
        labelled_rows: How many rows of each split have a label, and how many have none; nothing of a stream.
        taken_from_train: Splits whose rows were taken out of the training rows.
        warnings: What makes scores on these rows doubtful.
        outside: Rows that a task set aside because they are of none of its classes, by split.
        loaded: The data before a task set rows aside.
    """

    train: Dataset | IterableDataset
    validation: Dataset
    test: Dataset
    unlabelled: Dataset | None
    fingerprint: str
    source: str
    dataset_id: str | None
    notes: tuple[str, ...] = ()
    labelled_rows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    taken_from_train: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    outside: Mapping[str, Dataset] = field(default_factory=dict)
    loaded: Data | None = None

    def evaluated(self, split: str) -> Dataset:
        """The rows that all models are scored on: of ``test`` or ``validation``."""
        return self.test if split == "test" else self.validation

    @property
    def whole(self) -> Data:
        """What was read, with the rows that a task set aside."""
        return self.loaded or self

    @property
    def splits(self) -> dict[str, Any]:
        """The rows by split, those without labels last and only where there are some."""
        more = {} if self.unlabelled is None else {"unlabelled": self.unlabelled}
        return {"train": self.train, "validation": self.validation, "test": self.test, **more}

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each split has; a stream is left out."""
        return {name: len(rows) for name, rows in self.splits.items() if isinstance(rows, Dataset)}

    def labelled(self) -> Data:
        """The same without the unlabelled rows: what :func:`load_data` gives for a recipe that names none."""
        if self.loaded is not None:
            return self.loaded.labelled()
        if self.unlabelled is None:
            return self
        data = dataclasses.replace(self, unlabelled=None)
        return dataclasses.replace(data, fingerprint=data.digest())

    def digest(self) -> str:
        """The :attr:`fingerprint` of these rows."""
        parts = [
            rows for rows in (self.validation, self.test, self.train, self.unlabelled) if isinstance(rows, Dataset)
        ]
        return fingerprint(parts, self.source if isinstance(self.train, IterableDataset) else "")


def load_data(
    config: DataConfig,
    required: Sequence[str],
    optional: Sequence[str],
    texts: Sequence[str],
    seed: int,
    *,
    prompts: bool = False,
    seconds: Seconds = ANY_LENGTH,
) -> Data:
    """Load a recipe's data.

    Training rows may be ``prompts`` alone where models write what follows; sound lasts so many ``seconds``, at least
    and at most.
    """
    columns = Columns(config.columns, required, optional, "data.columns", config.invalid_rows)
    splits = splits_of(config, columns.used, columns.media)
    names, notes = _split_names(config, splits)
    taken: list[str] = []
    train = columns.named(splits[names["train"]], names["train"], labelled=not prompts)
    if config.test is not None:
        test, more = _from_elsewhere(config.test, columns)
        notes += more
    elif "test" in names:
        test = columns.named(_in_memory(splits[names["test"]]), names["test"])
    else:
        assert config.test_size is not None
        train, test, note = _split_off(train, "test", config.test_size, seed)
        notes.append(note)
        taken.append("test")
    if "validation" in names:
        validation = columns.named(_in_memory(splits[names["validation"]]), names["validation"])
    else:
        train, validation, note = _split_off(train, "validation", config.validation_size, seed)
        notes.append(note)
        taken.append("validation")
    unlabelled = _unlabelled(config, splits, columns, names, train)
    if unlabelled is not None and not LABELS & {*required, *optional}:
        raise DataError("data: no row of this task has a label that could be missing; add the rows to the train split")
    notes += columns.notes
    source, dataset_id = source_of(config)
    limits = (config.train_limit, config.validation_limit, config.test_limit)
    given = zip(("train", "validation", "test"), (train, validation, test), limits, strict=True)
    parts = {name: _limited(rows, limit, seed) for name, rows, limit in given}
    parts, labelled_rows = settle(parts, config.missing_labels)
    if labelled_rows:
        notes.append(f"labels: {told(labelled_rows)}")
    data = Data(
        **parts,
        unlabelled=unlabelled,
        fingerprint="",
        source=source,
        dataset_id=dataset_id,
        notes=tuple(notes),
        labelled_rows=labelled_rows,
        taken_from_train=tuple(taken),
    )
    look = partial(check_media, kinds=tuple(columns.media.values()), seconds=seconds)
    data = _read(data, config, texts, look, answered="completion" in optional, prompts=prompts)
    data = _compared(data, texts)
    return dataclasses.replace(data, fingerprint=data.digest())


def _from_elsewhere(config: TestDataConfig, columns: Columns) -> tuple[Dataset, Iterable[str]]:
    """The test split of another source, under column names of its own, and notes."""
    named = Columns(config.columns, columns.required, columns.optional, "data.test.columns", columns.invalid)
    splits = splits_of(config.source(), named.used, named.media)
    name = _checked_split(config.split, "data.test.split", splits)
    return named.named(_in_memory(splits[name]), name), named.notes


def _read(
    data: Data, config: DataConfig, texts: Sequence[str], look: Callable[..., Any], *, answered: bool, prompts: bool
) -> Data:
    """The data without rows of which nothing can be learned, or refused because of them."""
    for name, rows in data.splits.items():
        checked = [each for each in texts if not (prompts and name == "train" and each in LABELS)]
        read, lines = read_texts(rows, name, checked, config.invalid_rows, STREAMED_ROWS)
        read = _check_answered(read, name, prompts) if answered else read
        read, more = look(read, name, config.invalid_rows)
        data = dataclasses.replace(data, **{name: read}, notes=(*data.notes, *lines, *more))
    return data


def _compared(data: Data, texts: Sequence[str]) -> Data:
    """The data with a warning where rows that models are scored on stand among the training rows, too."""
    if not isinstance(data.train, Dataset):
        return data
    seen = set(contents(data.train, texts))
    for split, rows in (("validation", data.validation), ("test", data.test)):
        shared = sum(content in seen for content in contents(rows, texts))
        if shared and shared >= len(rows) / 100:
            warning = (
                f"{shared:,} of {len(rows):,} {split} rows stand among the training rows, too, so that scores on them "
                "are too good; remove them from one of the two"
            )
            notes = (*data.notes, f"warning: data: {warning}")
            data = dataclasses.replace(data, notes=notes, warnings=(*data.warnings, warning))
    return data


def _split_names(config: DataConfig, splits: Splits) -> tuple[dict[str, str], list[str]]:
    """The split of each role, and notes; a split that is not named is taken by its usual name, never for two roles."""
    names: dict[str, str] = {}
    for role in ("train", "test", "validation"):
        wanted: str | None = getattr(config, f"{role}_split")
        if wanted is not None:
            names[role] = _checked_split(wanted, f"data.{role}_split", splits)
        elif role in splits and names.get("test") != role:
            names[role] = role
    notes = []
    if config.test is not None:
        names.pop("test", None)
    elif "test" in names and config.test_size is not None:
        raise DataError("data.test_size: does nothing where there is a test split; remove it")
    elif "test" not in names and config.test_size is None:
        if "validation" not in names:
            raise DataError(
                f"there is no test split among {', '.join(splits)}; "
                "name one in data.test_split, add one to data.files, or take rows of train with data.test_size"
            )
        names["test"] = test = names.pop("validation")
        notes.append(f"data: no test split; {test} serves as the test split, and validation rows come from train")
    if len(set(names.values())) < len(names):
        raise DataError(f"data: one split cannot serve twice, got {names}; rows would be scored that were trained on")
    return names, notes


def _checked_split(name: str, key: str, splits: Splits) -> str:
    if name not in splits:
        raise DataError(f"{key}: there is no split {name!r}; there are {', '.join(splits)}{nearest(name, splits)}")
    return name


def _split_off(train: Any, name: str, size: int | float, seed: int) -> tuple[Any, Dataset, str]:
    if isinstance(train, IterableDataset):
        if not isinstance(size, int):
            raise DataError(f"data.{name}_size: a stream has no known length; expected a number of rows, got {size}")
        first = Dataset.from_list(list(train.take(size)), features=train.features)
        return train.skip(size), first, f"data: {size} rows at the head of the stream are the {name} split"
    count = size if isinstance(size, int) else max(1, round(size * len(train)))
    if count >= len(train):
        raise DataError(f"data.{name}_size: {count} rows cannot be taken out of {len(train)} training rows; lower it")
    parts = train.train_test_split(test_size=count, seed=seed)
    note = f"data: no {name} split; {count} rows of train, drawn by the seed, serve as one"
    return parts["train"], parts["test"], note


def _limited(rows: Any, limit: int | None, seed: int) -> Any:
    if limit is None or (isinstance(rows, Dataset) and len(rows) <= limit):
        return rows
    return rows.take(limit) if isinstance(rows, IterableDataset) else rows.shuffle(seed=seed).select(range(limit))


def _in_memory(rows: Dataset | IterableDataset) -> Dataset:
    # Evaluation needs all rows, many times, in the same order.
    return Dataset.from_list(list(rows), features=rows.features) if isinstance(rows, IterableDataset) else rows


def _unlabelled(
    config: DataConfig, splits: Splits, columns: Columns, names: Mapping[str, str], train: Any
) -> Dataset | None:
    """Texts that the teacher alone labels; of the training split those that no other split was made of."""
    if config.unlabelled_files is not None:
        rows = rows_of_files(config.unlabelled_files, "unlabelled", config, columns.used, columns.media)
    elif config.unlabelled_split is not None:
        name = _checked_split(config.unlabelled_split, "data.unlabelled_split", splits)
        if role := next((role for role in ("validation", "test") if names.get(role) == name), None):
            raise DataError(
                f"data.unlabelled_split: {name} is the {role} split, whose rows would be learned from and then scored; "
                f"name another, or another data.{role}_split"
            )
        rows = splits[name]
        if name == names["train"]:
            rows, columns = train, Columns({}, columns.required, columns.optional, columns.where)
    else:
        return None
    named = columns.named(_in_memory(rows), "unlabelled", labelled=False)
    texts: Dataset = named.remove_columns([name for name in named.column_names if name in LABELS])
    return texts


def _check_answered(rows: Any, split: str, prompts: bool) -> Any:
    """Refuse rows without what should be written, where it is learned or models are scored on it."""
    names = columns_of(rows)
    is_open = "prompt" in names and not {"completion", "messages", "text"} & set(names)
    if is_open and prompts and split == "train":
        if isinstance(rows, IterableDataset):
            return rows.map(lambda _: {"completion": None})
        return rows.add_column("completion", [None] * len(rows), feature=Value("string")) if len(rows) else rows
    if is_open and split != "unlabelled":
        way = "name rows with answers in data.test and data.validation_split"
        if split == "train":
            way = "name their column in data.columns: {completion: ...}, set rollout.share: 1.0, or add label: {}"
        raise DataError(f"split {split!r}: its rows are prompts alone, without what should follow; {way}")
    if split in ("validation", "test") and "messages" in names:
        for number, chat in enumerate(rows["messages"]):
            if not any(turn["role"] == "assistant" for turn in chat):
                raise DataError(
                    f"split {split!r}: row {number} has no assistant's turn, and models are scored on it; name rows "
                    "with answers in data.test and data.validation_split"
                )
    return rows
