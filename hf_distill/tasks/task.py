"""What a task is: what the rows mean, and how a model's outputs become a View. Most methods do nothing here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel

from hf_distill.data.classes import LabelSet
from hf_distill.data.lost_rows import cut_rows
from hf_distill.data.rows import Data
from hf_distill.errors import RecipeError, TeacherError
from hf_distill.models.forward import SEGMENTS
from hf_distill.names import check_values
from hf_distill.tasks.batches import Completing
from hf_distill.tasks.rollout_batches import Prompted
from hf_distill.types import TAUGHT_BY, Batch, Collate, Distribution, LogitSource, Masks, Rows, Tokenizer, View

TEACHER_PREFIX = "teacher_"
"""Inputs that only the teacher reads (where its tokenizer differs from the student's) carry this prefix."""

Usage = Literal["pipeline", "question-answering", "sentence-transformers", "generate"]
ScoredAs = Literal["decisions", "tags", "answers", "vectors", "tokens", "transcripts"]
TimedAs = Literal["forward", "generate"]
CacheScheme = Literal["dense", "sampled", "top_k", "naive_top_k"]

_NEEDED = ("name", "pipeline_tag", "auto_model", "required", "text_columns")
_TUPLES = ("required", "optional", "text_columns", "scorers", "cache_schemes", "encoded_by")
_VALUES: dict[str, Any] = {"distribution": Distribution, "usage": Usage, "scored_as": ScoredAs, "timed_as": TimedAs}
_VALUES |= {"cache_schemes": CacheScheme}


class Task(Prompted, Completing, ABC):
    """What the rows of a data set mean. One instance serves one data set: :meth:`read_labels` binds it.

    A class that lacks what every task says, or says what does not exist, is refused where it is defined; one that only
    others derive from is defined with ``abstract=True``.

    Attributes:
        name: As recipes name it.
        pipeline_tag: As the Hub names it.
        auto_model: The Transformers class that loads a model with this task's head.
        auto_processor: The Transformers class that loads what makes rows readable for a model: its tokenizer, image
            processor, feature extractor or processor. All of these are called ``tokenizer`` in what follows.
        required: Columns that every row has.
        optional: Columns that rows may have.
        text_columns: Those of them that hold text.
        library: The library that loads its models, as the Hub names it.
        example: What a user of its models gives them, as code of the card's example.
        material: What its rows hold, in words.
        usage: Which of the card's examples shows how a model of this task is used.
        scored_as: Which of evaluation's functions scores its models.
        scorers: What judges the texts that its models write unless the recipe says otherwise, see ``SCORERS``.
        timed_as: Whether speed is that of one forward pass, or of a text that is generated.
        keeps_logits: Whether all logits of a batch may be held at once; else they are made of hidden states in chunks.
        cache_schemes: How a cache may keep a teacher's logits, the usual way first; none where it cannot.
        metric_across_tokenizers: The metric for models with different tokenizers; None where these cannot be compared.
        reads_served: Whether a server can be asked what it finds likely in a row.
        counted: What one decision is about, in words: rows, or something within them.
        length_unit: What the lengths of rows are told in, in words; empty where all are equally long.
        encoded_by: Attributes that decide how rows are encoded, see :attr:`settings`.
        max_length: Tokens of one row at most; longer ones are cut.
        out_of_scope: The label of rows that are of no class; None where there are none, see :meth:`set_aside`.
    """

    name: ClassVar[str]
    pipeline_tag: ClassVar[str]
    auto_model: ClassVar[Any]
    auto_processor: ClassVar[Any] = AutoTokenizer
    required: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    text_columns: ClassVar[tuple[str, ...]]
    library: ClassVar[str] = "transformers"
    example: ClassVar[str] = '"your text"'
    material: ClassVar[str] = "text"
    usage: ClassVar[Usage] = "pipeline"
    scored_as: ClassVar[ScoredAs] = "decisions"
    scorers: ClassVar[tuple[str, ...]] = ()
    timed_as: ClassVar[TimedAs] = "forward"
    keeps_logits: ClassVar[bool] = True
    cache_schemes: ClassVar[tuple[CacheScheme, ...]] = ("dense",)
    metric_across_tokenizers: ClassVar[str | None] = None
    reads_served: ClassVar[bool] = False
    counted: ClassVar[str] = "rows"
    length_unit: ClassVar[str] = "tokens"
    encoded_by: ClassVar[tuple[str, ...]] = ("max_length",)
    max_length: int
    out_of_scope: str | None = None

    def __init_subclass__(cls, *, abstract: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        missing = [name for name in _NEEDED if not hasattr(cls, name)]
        if missing and not abstract:
            raise RecipeError(f"task {cls.__name__} lacks {', '.join(missing)}; every task has {', '.join(_NEEDED)}")
        for name in _TUPLES:
            if not isinstance(getattr(cls, name, ()), tuple):
                raise RecipeError(f"task {cls.__name__}: {name} should be a tuple, got {getattr(cls, name)!r}")
        for name, values in _VALUES.items():
            if not isinstance(getattr(cls, name), property):
                check_values(cls, name, get_args(values), RecipeError, several=name in _TUPLES)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides how rows are encoded; a cache made with other settings is another."""
        return {name: getattr(self, name) for name in self.encoded_by}

    @property
    def distribution(self) -> Distribution:
        """What the logits of one position mean, once the labels are known."""
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
    def row_labels(self) -> LabelSet | None:
        """The labels where a model makes one decision a row, which its logits alone can be scored by; else None."""
        return self.label_set if self.scored_as == "decisions" else None

    @property
    def problem_type(self) -> str:
        """What kind of answer is scored: of :attr:`label_set`, or the task's own name."""
        return self.label_set.problem_type if self.label_set is not None else self.name

    @property
    def length_limit(self) -> str:
        """How long rows may be, in words."""
        return f"task.max_length ({self.max_length} tokens)"

    def set_aside(self, data: Data) -> Data:
        """The data without the rows that are of no class, which it keeps apart; comes before :meth:`read_labels`."""
        return data

    def read_labels(self, train: Rows) -> None:
        """Take the kind of labels and their names from the training split; there are none where tokens are labels."""

    def label_notes(self, train: Rows) -> Iterator[str]:
        """Lines that tell what was assumed of the labels of the training split, or looks wrong in them."""
        yield from ()

    def check_labels(self, rows: Dataset, split: str) -> None:
        """Refuse a row whose label is none of the training split's, or cannot be read (DataError)."""

    def follow(self, config: PretrainedConfig) -> None:
        """Take the kind of labels and their names from a model's config, where there is no recipe."""

    @property
    def tried(self) -> Callable[..., PreTrainedModel] | None:
        """What makes a small model on which a precision is tried; models with a vocabulary are too large for it."""
        build: Callable[..., PreTrainedModel] = self.auto_model.from_config
        return build if self.keeps_logits else None

    def align(self, teacher: PretrainedConfig, names: list[str] | None = None) -> list[int] | None:
        """Which of the teacher's outputs belongs to each label of the data, or None where the order is the same."""
        return None

    def with_pairs(self) -> Task:
        """The same, where every row holds two texts that mean the same, or two views of one text."""
        return self

    def check_model(self, model: PreTrainedModel) -> None:
        """Refuse a model that lacks what this task relies on (ModelError); give it what lies beside its weights."""

    def check_rows(self, rows: Dataset, tokenizer: Tokenizer) -> Iterator[str]:
        """Lines that tell what becomes of rows with a tokenizer; refused where one cannot be read (DataError)."""
        yield from cut_rows(self, rows, tokenizer)

    def check_evaluated(self, rows: Dataset) -> None:
        """Refuse rows that models cannot be scored on (DataError)."""

    def check_unlabelled(self) -> None:
        """Refuse rows without labels where a teacher's targets alone teach nothing (DataError)."""

    def check_mixture(self) -> None:
        """Refuse several teachers where the mean of their answers is no answer, or cannot be taken (TeacherError)."""
        if self.distribution == "vector":
            raise TeacherError(
                "several teachers: each has a space of vectors of its own, and the mean of vectors of several spaces "
                "means nothing; take one teacher"
            )

    def check_tokenizers(self, by_bytes: bool) -> None:
        """Refuse a teacher with other tokens than the student's where the two cannot be compared (ObjectiveError).

        ``by_bytes``: whether all objectives that ask the teacher compare where both have read the same bytes.
        """

    def compare_tokenizers(
        self, sample: Dataset | None, evaluated: Dataset, student: Tokenizer, teacher: Tokenizer
    ) -> Iterator[str]:
        """Lines that tell how often a student and a teacher with other tokens read the same, where they are compared.

        ``sample``: some training rows; None where they are a stream. ``evaluated``: all rows that models are scored on,
        refused where the two would be scored on different texts.
        """
        yield from ()

    def model_options(self) -> dict[str, Any]:
        """Config attributes that a student of this task is built with."""
        return {}

    def prepare_student(
        self,
        student: PreTrainedModel,
        tokenizer: Tokenizer,
        teacher: PreTrainedModel | None,
        teacher_tokenizer: Tokenizer | None,
        texts: Callable[[], Iterable[str]],
    ) -> None:
        """Give a student that was just built what lies beside its weights; ``texts`` gives the training texts."""

    def save_beside(self, model: PreTrainedModel, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write it into a checkpoint's folder; from ``state`` where the weights are sharded, not in the model."""

    def load_beside(self, model: PreTrainedModel, folder: Path) -> None:
        """Read back what :meth:`save_beside` wrote, into a model that carries the like."""

    @abstractmethod
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        """Tokenise rows; rows without labels are marked as such, rows that were too long by a column ``cut``."""

    @abstractmethod
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        """What pads encoded rows to a batch."""

    def training_collator(
        self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None, epoch: Callable[[], Sequence[int]]
    ) -> Collate:
        """:meth:`collator`, unless rows are made anew in each epoch; ``epoch`` tells the seed and how many are over."""
        return self.collator(tokenizer, teacher_tokenizer)

    @abstractmethod
    def masks(self, batch: Batch) -> Masks:
        """Which labels, positions and tokens of a batch count; needs no forward pass."""

    @abstractmethod
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        """A model's logits (or what they are made of), its hidden states and the batch, as positions to compare."""

    def _view(
        self, logits: Tensor | LogitSource, hidden_states: Any, batch: Batch, labels: Tensor | None, **more: Any
    ) -> View:
        found = {"distribution": self.distribution, "masks": self.masks(batch), "hidden_states": hidden_states}
        return View(logits=logits, labels=labels, **found, **more)

    def teacher_logits(
        self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch
    ) -> Tensor | LogitSource:
        """A teacher's logits, or what they are made of, at the positions of the student's :meth:`view`."""
        return self.view(logits, hidden_states, batch).logits

    def reduced(self, vectors: Tensor) -> Tensor:
        """What students are to learn of a teacher's logits or vectors."""
        return vectors

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Columns of encoded rows that are no argument of a model's forward, but are needed."""
        own = (TEACHER_PREFIX + name for name in ("input_ids", "token_type_ids", "attention_mask"))
        return ("labels", "row_id", TAUGHT_BY, SEGMENTS, *own)

    def student_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The part of a batch that the student reads."""
        return {name: v for name, v in batch.items() if name != "labels" and not name.startswith(TEACHER_PREFIX)}

    def teacher_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The part of a batch that the teacher reads: its own tokens where there are some, else the student's."""
        own = {name.removeprefix(TEACHER_PREFIX): v for name, v in batch.items() if name.startswith(TEACHER_PREFIX)}
        if own and TAUGHT_BY in batch:
            own[TAUGHT_BY] = batch[TAUGHT_BY]
        return own or self.student_inputs(batch)

    def texts(self, rows: Rows) -> Iterator[str]:
        """Every text of the rows, to train a tokenizer on or to show in an analysis."""
        for row in rows:
            yield " | ".join(row[name] for name in self.text_columns if row.get(name) is not None)

    def scored_texts(self, rows: Dataset, tokenizer: Tokenizer) -> list[str]:
        """One text for each row that a model with this tokenizer is scored on, for people to read."""
        return list(self.texts(rows))

    def training_rows(self, rows: Rows) -> dict[str, int]:
        """How many rows each class has, where rows have one class and can be counted; else nothing."""
        return {}

    def timed(self, rows: Dataset) -> Dataset:
        """The part of rows that speed is measured on."""
        return rows
