"""What a task is: what the rows mean, and how a model's outputs become a View."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.data.load import Data
from hf_distill.errors import RecipeError
from hf_distill.tasks.labels import LabelSet
from hf_distill.tasks.rollout_batches import Writing
from hf_distill.types import TAUGHT_BY, Batch, Distribution, LogitSource, Masks, View

TEACHER_PREFIX = "teacher_"
"""Inputs that only the teacher reads (where its tokenizer differs from the student's) carry this prefix."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What models are asked to write after, one a row that counts.

    Attributes:
        input_ids: Tokens of each, unpadded.
        references: What should be written.
        row_ids: Which row each belongs to.
        options: Further arguments of ``generate`` that the rows ask for.
        chats: Of rows that are chats: the turns that ``input_ids`` are made of, which a server is sent in their place;
            else None.
    """

    input_ids: list[list[int]]
    references: list[str]
    row_ids: list[int]
    options: Mapping[str, Any] = field(default_factory=dict)
    chats: list[list[dict[str, Any]]] | None = None

    def sent(self, place: int) -> list[int] | list[dict[str, Any]]:
        """What a server is sent of one of them: the turns of a chat, or tokens."""
        return self.input_ids[place] if self.chats is None else self.chats[place]


class Task(ABC):
    """What the rows of a data set mean. One instance serves one data set: :meth:`read_labels` binds it.

    Attributes:
        name: As recipes name it.
        pipeline_tag: As the Hub names it.
        auto_model: The Transformers class that loads a model with this task's head.
        required: Columns that every row has.
        optional: Columns that rows may have.
        text_columns: Those of them that hold text.
        has_vocabulary: Whether the outputs are logits over a vocabulary, too large to be held at once.
        generates: Whether models are judged by what they write, too.
        scorers: What judges it unless the recipe says otherwise, see ``SCORERS``.
        by_token: Whether a row has a position for each token, so that student and teacher must cut it alike.
        crosses_tokenizers: Whether a teacher may have other tokens all the same, for objectives that know how to
            compare them.
        same_classes: Whether all positions choose among the same classes, as a cache of a teacher needs it.
        reads_served: Whether a server can be asked what it finds likely in a row.
        counted: What one decision is about, in words: rows, or something within them.
        max_length: Tokens of one row at most; longer ones are cut.
        out_of_scope: The label of rows that are of no class; None where there are none, see :meth:`set_aside`.
        distribution: What the model's outputs mean; known after :meth:`read_labels` or :meth:`follow`.
    """

    name: ClassVar[str]
    pipeline_tag: ClassVar[str]
    auto_model: ClassVar[Any]
    required: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    text_columns: ClassVar[tuple[str, ...]]
    has_vocabulary: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    scorers: ClassVar[tuple[str, ...]] = ()
    by_token: ClassVar[bool] = False
    crosses_tokenizers: ClassVar[bool] = False
    same_classes: ClassVar[bool] = True
    reads_served: ClassVar[bool] = False
    counted: ClassVar[str] = "rows"
    max_length: int
    out_of_scope: str | None = None

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides how rows are encoded."""

    @property
    def distribution(self) -> Distribution:
        """What the logits of one position mean: one class of many, unless the labels say otherwise."""
        return "categorical"

    @property
    def is_bound(self) -> bool:
        """Whether the labels are known."""
        return True

    @property
    def label_set(self) -> LabelSet | None:
        """The labels, known after :meth:`read_labels` or :meth:`follow`; None where tokens are the labels."""
        return None

    @property
    def problem_type(self) -> str:
        """What kind of answer is scored: of :attr:`label_set`, or the task's own name."""
        return self.label_set.problem_type if self.label_set is not None else self.name

    def set_aside(self, data: Data) -> Data:
        """The data without the rows that are of no class, which it keeps apart; comes before :meth:`read_labels`."""
        return data

    @abstractmethod
    def read_labels(self, train: Dataset | IterableDataset) -> None:
        """Take the kind of labels and their names from the training split."""

    def follow(self, config: PretrainedConfig) -> None:  # noqa: B027  # Where tokens are the labels, there is none.
        """Take the kind of labels and their names from a model's config, where there is no recipe."""

    def model_options(self) -> dict[str, Any]:
        """Config attributes that a student of this task is built with."""
        return {}

    def check_model(self, model: PreTrainedModel) -> None:  # noqa: B027  # Most tasks take nothing for granted.
        """Refuse a model that does not do what this task takes for granted, and give it what lies beside its weights.

        Raises:
            ModelError: With the reason.
        """

    def check_evaluated(self, rows: Dataset) -> None:  # noqa: B027  # Labels are looked at where data are loaded.
        """Refuse rows that models cannot be scored on.

        Raises:
            DataError: With the reason.
        """

    def prepare_student(  # noqa: B027  # Most students are whole as they are built.
        self,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        teacher: PreTrainedModel | None,
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        texts: Callable[[], Iterable[str]],
    ) -> None:
        """Give a student that was just built what lies beside its weights.

        Args:
            student: The student.
            tokenizer: Its tokenizer.
            teacher: The teacher, or None.
            teacher_tokenizer: The teacher's tokenizer.
            texts: Gives the training texts, again at each call.
        """

    def save_beside(  # noqa: B027
        self, model: PreTrainedModel, folder: Path, state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write what lies beside a model's weights.

        Args:
            model: That carries it.
            folder: Where its checkpoint is.
            state: The model's weights, where they are not in the model (sharded training).
        """

    def load_beside(self, model: PreTrainedModel, folder: Path) -> None:  # noqa: B027
        """Read back what :meth:`save_beside` wrote, into a model that carries the like."""

    def with_pairs(self) -> Task:
        """The same, where every row holds two texts that mean the same, or two views of one text."""
        return self

    def reduced(self, vectors: Tensor) -> Tensor:
        """What students are to learn of a teacher's logits or vectors."""
        return vectors

    def timed(self, rows: Dataset) -> Dataset:
        """The part of rows that speed is measured on."""
        return rows

    def align(self, teacher: PretrainedConfig, names: list[str] | None = None) -> list[int] | None:
        """Which of the teacher's outputs belongs to each label of the data, or None where the order is the same."""
        return None

    @abstractmethod
    def encode(
        self,
        rows: Dataset | IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Dataset | IterableDataset:
        """Tokenise rows; rows without labels are marked as such, rows that were too long by a column ``cut``."""

    @abstractmethod
    def collator(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Callable[[list[Mapping[str, Any]]], Batch]:
        """What pads encoded rows to a batch."""

    def training_collator(
        self,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        epoch: Callable[[], Sequence[int]],
    ) -> Callable[[list[Mapping[str, Any]]], Batch]:
        """What pads rows to learn from, where a task makes them anew in each epoch; else :meth:`collator`.

        Args:
            tokenizer: The student's.
            teacher_tokenizer: The teacher's, where it is another one.
            epoch: Tells the seed, and how many epochs are over.
        """
        return self.collator(tokenizer, teacher_tokenizer)

    @abstractmethod
    def masks(self, batch: Batch) -> Masks:
        """Which labels, positions and tokens of a batch count; needs no forward pass."""

    @abstractmethod
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        """A model's logits (or what they are made of), its hidden states and the batch, as positions to compare."""

    def teacher_logits(
        self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch
    ) -> Tensor | LogitSource:
        """A teacher's logits, or what they are made of, at the positions of the student's :meth:`view`."""
        return self.view(logits, hidden_states, batch).logits

    def check_crossing(self) -> None:  # noqa: B027  # Where rows are read one by one, there is nothing to refuse.
        """Refuse settings under which a teacher with other tokens cannot read the same bytes as the student.

        Raises:
            RecipeError: With the way out.
        """

    @property
    def longest_text(self) -> int:
        """How many tokens are written at most, unless the recipe says otherwise."""
        return self.max_length

    def prompts(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Prompts:
        """What models are asked to write after, and what they should write, for every row that is encoded.

        Raises:
            RecipeError: Where rows hold nothing to write after.
        """
        raise RecipeError(f"recipe.evaluate.scorers: nothing is written in {self.name}; remove them")

    def writing(self, tokenizer: PreTrainedTokenizerBase | None, prompt_tokens: int | None = None) -> Writing:
        """How a student writes batches itself; of rows that the task has encoded or whose columns it has seen.

        Args:
            tokenizer: The student's.
            prompt_tokens: How much of a plain text is the prompt.

        Raises:
            RecipeError: Where rows hold nothing to write after.
        """
        raise RecipeError(
            f"recipe.rollout: nothing is written in {self.name}; remove it, or take causal-lm, translation or "
            "summarization"
        )

    def with_answers(self, rows: Dataset, texts: Sequence[str] | None) -> Dataset:
        """The rows with other texts in place of what should be written, as a teacher's own in place of the data's.

        Args:
            rows: With the task's columns; what should be written may be missing.
            texts: One a row; None where they are not known yet and the rows are only to be written after.

        Raises:
            RecipeError: Where rows hold nothing to write after.
        """
        raise RecipeError(f"recipe.label: nothing is written in {self.name}; remove it")

    @abstractmethod
    def texts(self, rows: Dataset | IterableDataset) -> Iterator[str]:
        """Every text of the rows, to train a tokenizer on or to show in an analysis."""

    def training_rows(self, rows: Dataset | IterableDataset) -> dict[str, int]:
        """How many rows each class has, where rows have one class and can be counted; else nothing."""
        return {}

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Columns of encoded rows that are no argument of a model's forward, but are needed."""
        return (
            "labels",
            "row_id",
            TAUGHT_BY,
            *(TEACHER_PREFIX + name for name in ("input_ids", "token_type_ids", "attention_mask")),
        )

    def student_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The part of a batch that the student reads."""
        return {
            name: value for name, value in batch.items() if name != "labels" and not name.startswith(TEACHER_PREFIX)
        }

    def teacher_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The part of a batch that the teacher reads: its own tokens where there are some, else the student's."""
        own = {name.removeprefix(TEACHER_PREFIX): v for name, v in batch.items() if name.startswith(TEACHER_PREFIX)}
        if own and TAUGHT_BY in batch:
            own[TAUGHT_BY] = batch[TAUGHT_BY]
        return own or self.student_inputs(batch)
