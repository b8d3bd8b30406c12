"""How rows become batches: encoded once, put in order, collated; in training perhaps made anew in each epoch."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from datasets import Dataset, IterableDataset, List
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, TrainingArguments
from typing_extensions import override

from hf_distill.data.forms.chat_rows import read_chats
from hf_distill.data.forms.known_forms import recognised
from hf_distill.data.forms.text_rows import LISTS_OF_TEXTS
from hf_distill.errors import DataError
from hf_distill.tasks import Task
from hf_distill.tasks.encoding import READ, columns_of, with_row_ids
from hf_distill.tasks.task import TEACHER_PREFIX
from hf_distill.tokenizers.readers import bounds_of, check_batch
from hf_distill.training.sampler import LengthGroupedSampler
from hf_distill.training.setup import readers_of
from hf_distill.training.step import Step
from hf_distill.types import Collate, Rows, Tokenizer

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ("label", "labels", "label_ids", "answers")
"""Columns without which a row can be predicted."""

BESIDE = ("special_tokens_mask", "word_labels")
"""Columns that tokenizers and tasks add, and that change no loss."""

_SAYS_WHAT_COUNTS = re.compile(r"(^|_)(mask|masks|label|labels)($|_)")


class DataLoading(Trainer):
    """The part of a ``Trainer`` that makes batches: its task encodes and collates rows."""

    task: Task
    step: Step
    _reads_prompts: bool = False  # Whether the student writes whatever it learns from.

    def _prepare_data(
        self,
        collate: Collate | None,
        tokenizers: tuple[Tokenizer | None, Tokenizer | None],
        student: PreTrainedModel,
        args: TrainingArguments,
    ) -> Collate | None:
        """Know how rows are read that are not tokenised, and what collates them where nobody says so."""
        # In shared memory: workers of a loader that persist hold a collator of their own.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._train_collator: Collate | None = None
        self._sampler: LengthGroupedSampler | None = None
        base: Any = getattr(student, "get_base_model", lambda: student)()
        read = (*inspect.signature(base.forward).parameters, *self.task.extra_columns, *LABEL_COLUMNS, *BESIDE)
        self._read_columns = {*read, *(args.label_names or ())}
        self._tokenizers, self._collates_raw = tokenizers, collate is not None and not args.remove_unused_columns
        tokenizer, teacher_tokenizer = tokenizers
        if collate is None and tokenizer is not None:
            collate = with_row_ids(self.task.collator(tokenizer, teacher_tokenizer))
            draw = lambda: (args.seed, int(self._epoch))  # noqa: E731  # Of the masks of an epoch.
            self._train_collator = with_row_ids(self.task.training_collator(tokenizer, teacher_tokenizer, draw))
        return collate

    def encoded(self, rows: Any, role: str) -> Any:
        """Rows as batches are made of them: those with the task's columns tokenised, all others as they are."""
        if isinstance(rows, dict) and role != "train_dataset":
            return {name: self.encoded(part, f"{role} {name}") for name, part in rows.items()}
        rows = rows if self._collates_raw else self._rows_of(rows, role)
        if not isinstance(rows, (Dataset, IterableDataset)) or self._collates_raw:
            return rows
        columns, (tokenizer, teacher_tokenizer) = columns_of(rows), self._tokenizers
        if {*READ} & set(columns):
            check_read(rows, columns, self._read_columns, role)
            return rows
        if tokenizer is None:
            if {*self.task.required[:1], *self.task.text_columns} & {*columns}:
                raise DataError(
                    f"{role}: expected tokenised rows (input_ids), got columns {', '.join(columns)}; pass the "
                    "tokenizer or processor as processing_class, or tokenise them"
                )
            return rows
        rows = self._read(rows, role)
        columns = columns_of(rows)
        if missing := [name for name in self.task.required if name not in columns and name not in LABEL_COLUMNS]:
            raise DataError(
                f"{role}: no column {' or '.join(missing)} among {', '.join(columns)}: {self.task.name} reads "
                f"{', '.join((*self.task.required, *self.task.optional))}; rename the columns, or tokenise the rows"
            )
        try:
            return self.task.encode(rows, tokenizer, teacher_tokenizer)
        except (TypeError, ValueError) as error:
            texts = [name for name in self.task.text_columns if name in columns]
            empty = next(((i, n) for i, row in enumerate(rows) for n in texts if row[n] is None), None)
            if empty is None:
                raise
            told = f"{role}: row {empty[0]} has no text in column {empty[1]!r}; fill or remove such rows"
            raise DataError(f"{told}: an empty text teaches nothing") from error

    def _rows_of(self, rows: Any, role: str) -> Any:
        """What a person gave as a data set; a list of rows becomes one, and what can be none is refused."""
        if isinstance(rows, Dataset) and not len(rows):
            raise DataError(f"{role}: has no rows; pass a data set that holds some")
        is_name = isinstance(rows, str) and role != "train_dataset"
        if rows is None or is_name or isinstance(rows, (Dataset, IterableDataset, torch.utils.data.IterableDataset)):
            return rows
        if isinstance(rows, dict):
            raise DataError(f"{role}: expected one data set, got several ({', '.join(map(str, rows))}); pass one")
        is_indexed = hasattr(rows, "__getitem__") and hasattr(rows, "__len__") and not hasattr(rows, "columns")
        if isinstance(rows, (str, bytes)) or not is_indexed or not len(rows):
            raise DataError(
                f"{role}: expected a data set with rows, got {type(rows).__name__}; make a datasets.Dataset of it "
                "(from_list, from_pandas, from_generator)"
            )
        first = rows[0]
        is_raw = isinstance(first, Mapping) and not {*READ} & {*first}
        if not is_raw or not {*self.task.text_columns} & {*first}:
            return rows
        return Dataset.from_list(list(rows) if isinstance(rows, (list, tuple)) else [rows[i] for i in range(len(rows))])

    def _read(self, rows: Rows, role: str) -> Rows:
        """Chats of every form as the task reads them; refused where nothing can be read or learned of them."""
        if "messages" in self.task.optional:
            rows = self._read_chats(rows, role)
        features = rows.features or {}
        lists = [name for name in self.task.text_columns if isinstance(features.get(name), List)]
        if lists := [name for name in lists if name not in LISTS_OF_TEXTS]:
            raise DataError(
                f"{role}: column {', '.join(lists)} holds lists where one text is meant; choose one of each row, or "
                "join them"
            )
        return rows

    def _read_chats(self, rows: Rows, role: str) -> Rows:
        answered = not (role == "train_dataset" and self._reads_prompts)
        rows, notes = recognised(rows)
        columns = columns_of(rows)
        if "messages" in columns:
            rows, told = read_chats(rows, role, "refuse", answered=answered)
            notes += told
        elif answered and "prompt" in columns and not {"completion", "text"} & set(columns):
            raise DataError(
                f"{role}: its rows are prompts alone, without what should follow, so nothing counts; add a column "
                "completion, or pass a rollout of share 1.0"
            )
        for line in notes:
            logger.info(line)
        return rows

    @override
    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = (*self._signature_columns, *self.task.extra_columns, self.args.length_column_name)
        self._signature_columns: Any = list(dict.fromkeys(columns))

    @override
    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader[Any]:
        self.eval_dataset = self.encoded(self.eval_dataset, "eval_dataset")
        with self._reading(self.data_collator):
            return super().get_eval_dataloader(self.encoded(eval_dataset, "eval_dataset"))

    @override
    def get_test_dataloader(self, test_dataset: Any) -> torch.utils.data.DataLoader[Any]:
        with self._reading(self.data_collator):
            return super().get_test_dataloader(self.encoded(test_dataset, "test_dataset"))

    @override
    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        self.train_dataset = self.encoded(self.train_dataset, "train_dataset")
        # A task may make rows anew in each epoch, but never those that are evaluated.
        with self._reading(self._train_collator or self.data_collator):
            return super().get_train_dataloader()

    @contextmanager
    def _reading(self, collate: Any) -> Iterator[None]:
        """Let batches come from a collator as all models can read them; refused where one cannot (DataError)."""
        tokenizer, other = self._tokenizers
        student, teacher = cast(PreTrainedModel, self.model), self.step.teacher
        readers, others = readers_of(student, teacher, tokenizer)
        bounds = [*bounds_of(readers), *bounds_of(others, TEACHER_PREFIX if other is not None else "")]

        def read(rows: Any) -> Any:
            batch: Any = collate(rows)
            if isinstance(batch, Mapping):
                batch = self.task.turned({**batch}, tokenizer)
                check_batch(batch, bounds)
            return batch

        kept, self.data_collator = self.data_collator, read
        try:
            yield
        finally:
            self.data_collator = kept

    @override
    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> torch.utils.data.Sampler[int] | None:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        column = self.args.length_column_name
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if not grouped or not isinstance(rows, Dataset) or column not in rows.column_names:
            return super()._get_train_sampler(train_dataset)
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        self._sampler = LengthGroupedSampler(list(rows[column]), step, seed)
        return self._sampler


def check_read(rows: Rows, columns: Collection[str], read: Collection[str], role: str) -> None:
    """Refuse columns that look like a mask or like labels and that nothing reads (DataError)."""
    features = rows.features or {}
    unread = [name for name in columns if _SAYS_WHAT_COUNTS.search(name) and name not in read]
    # A name in words beside the number of a class says nothing more.
    unread = [name for name in unread if getattr(features.get(name), "dtype", None) not in ("string", "large_string")]
    if unread:
        raise DataError(
            f"{role}: column {', '.join(unread)}: looks like a mask or labels, but nothing reads it, so that what it "
            "leaves out would count; name it as the task does (labels, attention_mask, completion_mask), or remove it"
        )


class SamplerEpoch(TrainerCallback):
    """Tells sampler and collator the epoch: accelerate does not reach them through a skipped and sharded loader."""

    def __init__(self, trainer: DataLoading) -> None:
        self.trainer, self.begun = trainer, 0

    @override
    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        epoch = int(state.epoch or 0)
        if self.trainer._sampler is not None:
            self.trainer._sampler.set_epoch(epoch)
        # A stream that begins again is not told by Trainer, which does not know its length.
        self.begun += 1
        self.trainer._epoch.fill_(max(epoch, self.begun - 1))

    @override
    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.begun = 0
