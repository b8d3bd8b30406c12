"""How rows become batches: encoded once, put in order, collated; in training perhaps made anew in each epoch."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerState
from typing_extensions import override

from hf_distill.tasks import Task
from hf_distill.tasks.encoding import with_row_ids
from hf_distill.training.sampler import LengthGroupedSampler
from hf_distill.types import Collate, Tokenizer


class DataLoading(Trainer):
    """The part of a ``Trainer`` that makes batches: its task encodes and collates rows."""

    task: Task

    def _prepare_data(
        self,
        datasets: list[Any],
        collate: Collate | None,
        tokenizer: Tokenizer | None,
        teacher_tokenizer: Tokenizer | None,
        seed: int,
    ) -> tuple[list[Any], Collate | None]:
        """Encode data sets that are not, and choose what collates them where nobody did."""
        # In shared memory: workers of a loader that persist hold a collator of their own.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._train_collator: Collate | None = None
        self._sampler: LengthGroupedSampler | None = None
        if tokenizer is None:
            return datasets, collate

        def encoded(rows: Any) -> Any:
            if isinstance(rows, dict):
                return {name: encoded(part) for name, part in rows.items()}
            if not isinstance(rows, (Dataset, IterableDataset)):
                return rows
            columns = rows.column_names or list(next(iter(rows)))
            return rows if "input_ids" in columns else self.task.encode(rows, tokenizer, teacher_tokenizer)

        if collate is None:
            collate = with_row_ids(self.task.collator(tokenizer, teacher_tokenizer))
            learned = self.task.training_collator(tokenizer, teacher_tokenizer, lambda: (seed, int(self._epoch)))
            self._train_collator = with_row_ids(learned)
        return [encoded(rows) for rows in datasets], collate

    @override
    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = (*self._signature_columns, *self.task.extra_columns, self.args.length_column_name)
        self._signature_columns: Any = list(dict.fromkeys(columns))

    @override
    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        # A task may make rows anew in each epoch, but never those that are evaluated.
        kept, self.data_collator = self.data_collator, self._train_collator or self.data_collator
        try:
            return super().get_train_dataloader()
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
