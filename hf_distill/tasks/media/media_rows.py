"""Rows of pictures or sounds: kept as they lie on disk while rows are encoded, decoded and prepared by the collator."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, IterableDataset, concatenate_datasets
from torch import Tensor
from typing_extensions import override

from hf_distill.data.media.cells import Kind
from hf_distill.data.media.columns_of_media import as_cells
from hf_distill.data.media.origins import Origin
from hf_distill.data.media.read_audio import total_seconds
from hf_distill.errors import ModelError, ObjectiveError
from hf_distill.models.sanity_checks import positions_of
from hf_distill.names import one_line
from hf_distill.recipe.parse import check_option, is_number
from hf_distill.tasks.encoding import MEDIA, PREPARED
from hf_distill.tasks.media.features import kept_features, unpacked
from hf_distill.tasks.task import TEACHER_PREFIX, Task
from hf_distill.tokenizers.processors import processor_mark
from hf_distill.tokenizers.readers import Reader
from hf_distill.types import TAUGHT_BY, Batch, Masks, Rows

AT_ONCE = 100
"""Rows whose pictures or sounds are held in memory together while they are encoded."""

Encode = Callable[[Mapping[str, list[Any]]], dict[str, list[Any]]]
"""Makes columns of a batch of all columns of rows but the picture or sound."""


class MediaTask(Task, abstract=True):
    """Rows have a column with a picture or a sound.

    Attributes:
        column: What that column is called; the first of ``required``.
        keep_features: Whether what models read is made once and kept on disk.
    """

    column: ClassVar[Kind]
    text_columns: ClassVar[tuple[str, ...]] = ()
    max_length = 1
    keep_features: bool = False
    _positions: int | None = None  # Of each layer of the student, where all rows have as many.
    _differ: int | None = None  # Those of a teacher that has others; else the same.

    @abstractmethod
    def decoded(self, cell: Any, processor: Any) -> Any:
        """A picture or a sound in memory, as a model's processor takes it (DataError where it cannot be read)."""

    def decoding(self, processor: Any) -> Any:
        """What :meth:`decoded` depends on of a processor: processors that agree in it share what is decoded."""
        return None

    @abstractmethod
    def prepared(self, media: Sequence[Any], processor: Any) -> Batch:
        """What a model reads of pictures or sounds, made by its processor."""

    @abstractmethod
    def blank(self, processor: Any) -> Any:
        """A picture or a sound of the greatest length, in memory."""

    @property
    @override
    def tried(self) -> None:
        return None  # A small model of each family would need pictures and sounds of another size.

    @property
    @override
    def extra_columns(self) -> tuple[str, ...]:
        own = (TEACHER_PREFIX + name for name in (*PREPARED, "attention_mask"))
        return (MEDIA, "labels", "row_id", TAUGHT_BY, *own)

    @override
    def fit_lengths(self, readers: Sequence[Reader]) -> Iterator[str]:
        found = [self._positions_of(reader) for reader in readers]
        self._positions, self._differ = found[0], next((each for each in found if each != found[0]), found[0])
        yield from ()

    def _positions_of(self, reader: Reader) -> int | None:
        """How many positions each layer of a model has; refused where it cannot read what its processor gives."""
        if reader.tokenizer is None:
            return None
        inputs = self.prepared([self.blank(reader.tokenizer)], reader.tokenizer)
        try:
            return positions_of(reader.model, inputs)
        except (ValueError, RuntimeError, IndexError) as error:
            shapes = ", ".join(f"{name} of {list(value.shape[1:])}" for name, value in inputs.items())
            raise ModelError(
                f"{reader} cannot read what its processor gives ({shapes}): {one_line(str(error))}; save the processor "
                "that belongs to the model beside it"
            ) from error

    @override
    def check_layers(self, names: Sequence[str]) -> None:
        if names and self._positions is None:
            raise ObjectiveError(
                f"objective {names[0]} compares the layers of two models position by position, but those of the "
                f"student have several sizes (Swin, ConvNeXt, ResNet and their like), or it has no processor here; use "
                "logits"
            )
        if names and self._differ != self._positions:
            raise ObjectiveError(
                f"objective {names[0]} compares the layers of two models position by position, but those of the "
                f"student have {self._positions} and a teacher's {self._differ or 'several sizes'}; use logits, or a "
                "student with as many patches as its teacher"
            )

    def with_media(self, rows: Rows, encode: Encode, processors: tuple[Any, Any], *, looks: bool = False) -> Rows:
        """Encoded rows: what ``encode`` makes of all other columns, beside the picture or sound as it is.

        Where :attr:`keep_features` is set, beside what the ``processors`` of student and teacher make of it. ``looks``:
        whether ``encode`` is given the picture or sound, too, as :data:`MEDIA`.
        """
        if isinstance(rows, IterableDataset):
            check_option("keep_features", True, not self.keep_features, "false for a stream, which is read once")
        encoded = beside_media(rows, self.column, encode, looks=looks)
        if not self.keep_features or not isinstance(encoded, Dataset) or not len(encoded):
            return encoded
        features = self._features(encoded.select_columns([MEDIA]), processors)
        return concatenate_datasets([features, encoded.remove_columns(MEDIA)], axis=1)

    def _features(self, media: Dataset, processors: tuple[Any, Any]) -> Dataset:
        def prepare(cells: Sequence[Any]) -> Batch:
            return self.inputs([{MEDIA: cell} for cell in cells], processors)

        marks = [processor_mark([each]) if each is not None else None for each in processors]
        return kept_features(media, prepare, list(prepare([media[0][MEDIA]])), [self.name, self.settings, marks])

    def inputs(
        self,
        rows: Sequence[Mapping[str, Any]],
        processors: tuple[Any, Any],
        change: Callable[[Any, int], Any] | None = None,
    ) -> Batch:
        """What student and teacher read of encoded rows; those that are prepared already are stacked.

        Args:
            rows: Encoded.
            processors: The student's, and the teacher's where that is another.
            change: Makes another view of a decoded picture or sound, the same for both; it is given a number that the
                content of the file decides.
        """
        if MEDIA not in rows[0]:
            names = [name for name in rows[0] if name.removeprefix(TEACHER_PREFIX) in (*PREPARED, "attention_mask")]
            return {name: torch.stack([unpacked(row[name]) for row in rows]) for name in names}
        batch: Batch = {}
        decoded: dict[Any, list[Any]] = {}
        for processor, prefix in zip(processors, ("", TEACHER_PREFIX), strict=True):
            if processor is None:
                continue
            way = self.decoding(processor)
            if way not in decoded:
                media = [self.decoded(row[MEDIA], processor) for row in rows]
                numbers = [content_number(row[MEDIA]) for row in rows] if change is not None else []
                decoded[way] = list(map(change, media, numbers)) if change is not None else media
            batch |= {prefix + name: value for name, value in self.prepared(decoded[way], processor).items()}
        return batch

    @override
    def texts(self, rows: Rows) -> Iterator[str]:
        for number, row in enumerate(rows):
            cell = row.get(self.column, row.get(MEDIA))
            path = cell.get("path") if isinstance(cell, Mapping) else cell if isinstance(cell, str) else None
            yield Path(path).name if path else f"row {number}"

    @override
    def seconds_of(self, rows: Dataset) -> float:
        return total_seconds(rows["audio"]) if self.column == "audio" else 0.0

    @override
    def check_rows(self, rows: Dataset, tokenizer: Any) -> Iterator[str]:
        yield from ()

    def _masks_of(self, read: Tensor) -> Masks:
        """Masks of rows each of which counts, and of as many positions of layers each, where these are known."""
        rows = torch.ones(len(read), dtype=torch.bool, device=read.device)
        more: Masks = {} if self._positions is None else {"tokens": rows[:, None].expand(-1, self._positions)}
        return {"positions": rows, **more}


def check_seconds(name: str, value: Any) -> None:
    """Refuse a length of sounds that no option can mean."""
    check_option(name, value, is_number(value) and 0 < value < 3600, "a number of seconds above 0 and below 3600")


def beside_media(rows: Rows, column: Kind, encode: Encode, *, looks: bool = False) -> Rows:
    """What ``encode`` makes of all columns but one of pictures or sounds, beside that as it is, as :data:`MEDIA`.

    ``looks``: whether ``encode`` is given the pictures or sounds, too.
    """
    rows = as_cells(rows, {column: column}, Origin(), "rows")  # A person's may be decoded when they are read.
    named = rows.rename_column(column, MEDIA)
    if isinstance(named, IterableDataset):
        others = [name for name in named.column_names or () if name not in (MEDIA, TAUGHT_BY)]
        return named.map(encode, batched=True, batch_size=AT_ONCE, remove_columns=others)
    # Apart, since map would write the bytes of all files anew.
    names = [name for name in named.column_names if name != MEDIA or looks]
    numbered = named.select_columns(names) if names else Dataset.from_dict({"number": list(range(len(named)))})
    removed = [name for name in numbered.column_names if name != TAUGHT_BY]
    size = AT_ONCE if looks else 1000
    encoded = numbered.map(encode, batched=True, batch_size=size, remove_columns=removed)
    return concatenate_datasets([named.select_columns([MEDIA]), encoded], axis=1)


def content_number(cell: Any) -> int:
    """A number that depends on what a cell holds, and not on the machine: on its bytes, or else on its file's name."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    return zlib.crc32(cell if isinstance(cell, bytes) else Path(str(cell)).name.encode())
