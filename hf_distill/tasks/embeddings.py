"""Embeddings: texts become vectors that are near each other where the texts mean the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from typing_extensions import override

from hf_distill.data.classes import LabelSet
from hf_distill.data.labels import is_missing
from hf_distill.errors import DataError, ModelError
from hf_distill.models.loading import vector_folder
from hf_distill.models.pooling import POOLINGS, Pooling, VectorHead, attach_head, head_of, read_head, save_head
from hf_distill.models.projections import give_head, principal_components, teacher_vectors
from hf_distill.recipe.parse import check_choice, check_option, checked_length
from hf_distill.tasks.encoding import asked_segments, columns_of, padded_inputs, were_cut
from hf_distill.tasks.task import TEACHER_PREFIX, Task
from hf_distill.types import Batch, Collate, LogitSource, Masks, Rows, Tokenizer, View

Evaluation = Literal["similarity", "retrieval"]
"""By what models are judged: how they order scored pairs, or how they find the text that belongs to another."""

TEXTS = ("text", "text_pair", "candidates")
"""Columns that hold texts, in the order in which they stand in a row."""


class Embeddings(Task):
    """Rows of ``text``, which a teacher's vectors are enough to learn from.

    A row may hold more: ``text_pair``, which means the same (a translation, an answer to a question), and
    ``candidates``, a list of texts that a ``text`` is compared with. Rows that are evaluated are pairs of ``text`` and
    ``text_pair`` with a ``score`` (similarity), or pairs that belong together (retrieval), where every ``text_pair`` of
    the split is searched.

    Args:
        max_length: Tokens of one text, special ones included; longer ones are cut.
        pooling: How the last hidden states of a text become one, see :data:`hf_distill.models.pooling.Pooling`; that
            which lies beside the model in the files of sentence-transformers, else ``mean``, unless given.
        normalize: Whether vectors get the length 1; as the model's files say, else true, unless given.
        dimensions: How many numbers a student's vector has; as many as its teacher's unless given. The teacher's are
            reduced to so many by their principal components, and the student gets a projection that is saved with it.
        evaluation: By what models are judged.
    """

    name = "embeddings"
    pipeline_tag = "sentence-similarity"
    auto_model = AutoModel
    required = ("text",)
    optional = ("text_pair", "candidates", "score")
    text_columns = TEXTS
    counted = "queries"
    library = "sentence-transformers"
    usage = "sentence-transformers"
    scored_as = "vectors"
    distribution = "vector"
    encoded_by = ("max_length", "pooling", "normalize", "dimensions", "pairs")

    def __init__(
        self,
        *,
        max_length: int = 128,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        evaluation: Evaluation = "similarity",
    ) -> None:
        self.max_length = checked_length(max_length)
        check_choice("pooling", pooling, (*POOLINGS, None))
        fits = dimensions is None or (isinstance(dimensions, int) and dimensions >= 1)
        check_option("dimensions", dimensions, fits, "a whole number of at least 1")
        check_choice("evaluation", evaluation, get_args(Evaluation))
        self.pooling, self.normalize = pooling, normalize
        self.dimensions, self.evaluation = dimensions, evaluation
        self.pairs = False
        self.components: Tensor | None = None

    @property
    @override
    def problem_type(self) -> str:
        return self.evaluation

    @override
    def check_evaluated(self, rows: Dataset) -> None:
        wanted = ("text_pair", "score") if self.evaluation == "similarity" else ("text_pair",)
        for name in wanted:
            missing = [i for i, row in enumerate(rows) if is_missing(row.get(name))]
            if not missing:
                continue
            raise DataError(
                f"{len(missing)} of {len(rows)} evaluated rows have no {name} (first: row {missing[0]}), without which "
                f"{self.evaluation} cannot be measured; fill the column, name it in data.columns, or set "
                f"task.evaluation to {'retrieval' if name == 'score' else 'what the rows hold'}"
            )
        for number, value in enumerate(rows["score"] if self.evaluation == "similarity" else ()):
            try:
                LabelSet(problem_type="regression", names=("score",)).encode(value)
            except DataError as error:
                raise DataError(f"evaluated row {number}: {error}") from error

    @override
    def with_pairs(self) -> Embeddings:
        """The same, where a text that stands alone is read twice: with dropout, two views of one meaning."""
        doubled = copy.copy(self)
        doubled.pairs = True
        return doubled

    @override
    def check_model(self, model: PreTrainedModel) -> None:
        if model.config.is_encoder_decoder:
            raise ModelError(
                f"{type(model).__name__} has a decoder, which makes no vectors; save its encoder alone and name that"
            )
        if head_of(model) is None:
            name, revision = str(model.config._name_or_path), getattr(model.config, "_commit_hash", None)
            attach_head(model, self.head_near(name, revision))

    def head_near(self, name: str | None, revision: str | None = None) -> VectorHead:
        """How the model of that name makes its vectors, where the options do not say otherwise."""
        folder = vector_folder(name, revision) if name else None
        head = (read_head(folder) if folder is not None else None) or VectorHead()
        head.pooling = self.pooling or head.pooling
        head.normalize = head.normalize if self.normalize is None else self.normalize
        return head

    @override
    def prepare_student(
        self,
        student: PreTrainedModel,
        tokenizer: Tokenizer,
        teacher: PreTrainedModel | None,
        teacher_tokenizer: Tokenizer | None,
        texts: Callable[[], Iterable[str]],
    ) -> None:
        """Give it a head like the teacher's, and a projection where sizes differ."""
        if teacher is None or teacher_tokenizer is None:
            like, size, targets = self.head_near(str(student.config._name_or_path)), None, None
        else:
            like, size, targets = teacher_vectors(teacher, teacher_tokenizer, texts, self.max_length)
        if self.dimensions is not None and targets is not None and self.dimensions != size:
            self.components = principal_components(targets, self.dimensions)
            targets = self.reduced(targets)
        size = self.dimensions or size or like.dimensions(int(student.config.get_text_config().hidden_size))
        give_head(student, tokenizer, like, size, targets, texts, self.max_length)

    @override
    def save_beside(self, model: PreTrainedModel, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        path = folder / "tokenizer_config.json"
        limit = json.loads(path.read_text()).get("model_max_length") if path.is_file() else None
        save_head(model, folder, min(self.max_length, limit or self.max_length), state)

    @override
    def load_beside(self, model: PreTrainedModel, folder: Path) -> None:
        own, kept = head_of(model), read_head(folder)
        assert own is not None
        assert kept is not None
        own.load_state_dict(kept.state_dict())

    @override
    def reduced(self, vectors: Tensor) -> Tensor:
        return vectors if self.components is None else vectors @ self.components.to(vectors.device, vectors.dtype).T

    @override
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            texts = list(_texts_of_rows(batch))
            encoded = self._tokens(texts, tokenizer)
            encoded["cut"] = [any(each) for each in encoded["cut"]]
            encoded["length"] = [max(map(len, ids)) for ids in encoded["input_ids"]]
            if teacher_tokenizer is not None:
                own = self._tokens(texts, teacher_tokenizer)
                encoded |= {TEACHER_PREFIX + name: values for name, values in own.items() if name != "cut"}
            return encoded

        return rows.map(encode_batch, batched=True, remove_columns=columns_of(rows))

    @override
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        readers = [(tokenizer, ""), *([(teacher_tokenizer, TEACHER_PREFIX)] if teacher_tokenizer is not None else [])]

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            batch: Batch = {}
            rows = [row if isinstance(row["input_ids"][0], list) else _alone(row) for row in rows]
            counts = [len(row["input_ids"]) for row in rows]
            texts = max(*counts, 2 if self.pairs else 1)
            there = torch.tensor([[(self.pairs and count == 1) or i < count for i in range(texts)] for count in counts])
            for reader, prefix in readers:
                flat = [_text(row, i) for row in rows for i in range(texts)]
                for name, value in padded_inputs(flat, reader, prefix).items():
                    batch[name] = value.view(len(rows), texts, -1)
                batch[prefix + "attention_mask"] = batch[prefix + "attention_mask"] * there[..., None]
            return batch

        return collate

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        """Further: a dimension of texts, where every row is a single one."""
        found = super().completed(batch, tokenizer)
        shape = found["attention_mask"].shape
        if len(shape) == 3:
            return found
        return {name: value[:, None] if value.shape == shape else value for name, value in found.items()}

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens = batch["attention_mask"].flatten(0, 1).bool()
        positions = tokens.any(-1)
        return {"labels": torch.zeros_like(positions), "positions": positions, "tokens": tokens}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        return self._view(logits, hidden_states, batch, None, texts_of_row=batch["attention_mask"].shape[1])

    @override
    def texts(self, rows: Rows) -> Iterator[str]:
        for row in rows:
            yield from next(_texts_of_rows({name: [value] for name, value in row.items()}))

    @override
    def timed(self, rows: Dataset) -> Dataset:
        return rows.select_columns(["text"])

    @override
    def student_inputs(self, batch: Batch) -> dict[str, Tensor]:
        return _flat(super().student_inputs(batch))

    @override
    def teacher_inputs(self, batch: Batch) -> dict[str, Tensor]:
        return _flat(super().teacher_inputs(batch))

    def _tokens(self, texts: Sequence[Sequence[str]], tokenizer: Tokenizer) -> dict[str, list[Any]]:
        limit = min(self.max_length, tokenizer.model_max_length)
        flat = [text for row in texts for text in row]
        encoded = tokenizer(flat, truncation=True, max_length=limit, **asked_segments(tokenizer))
        columns = {name: values for name, values in encoded.items() if name != "attention_mask"}
        columns["cut"] = were_cut(encoded, limit)
        starts = [0, *accumulate(map(len, texts))]
        return {name: [values[a:b] for a, b in pairwise(starts)] for name, values in columns.items()}


def _texts_of_rows(batch: Mapping[str, Sequence[Any]]) -> Iterator[list[str]]:
    there = [name for name in TEXTS if name in batch]
    for values in zip(*(batch[name] for name in there), strict=True):
        given = (value if isinstance(value, list) else [value] for value in values if value is not None)
        yield list(chain.from_iterable(given))


def _alone(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that was tokenised as one text, as a row of one text."""
    return {name: [value] if isinstance(value, list) else value for name, value in row.items()}


def _text(row: Mapping[str, Any], i: int) -> dict[str, list[int]]:
    """The tokens of one text of a row; of its first where there is none, which then counts as a view or not at all."""
    return {
        name: values[i] if i < len(values) else values[0]
        for name, values in row.items()
        if isinstance(values, list) and values and isinstance(values[0], list)
    }


def _flat(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.flatten(0, 1) if value.dim() == 3 else value for name, value in inputs.items()}
