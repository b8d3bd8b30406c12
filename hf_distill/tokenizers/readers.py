"""What the models of a run can read together: how long a row may be, and which tokens it may hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import DataError, HfDistillError, ModelError
from hf_distill.models.sizes import Side, is_bound_to_positions, position_limit, token_rows
from hf_distill.tokenizers.processors import vocabulary_of


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A model of a run.

    Attributes:
        name: What it is to the run: ``the student``, ``the teacher``.
        model: Its weights may be on the meta device.
        tokenizer: What makes the rows that it reads; None where others make them.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None

    def __str__(self) -> str:
        """``the student (GPT2LMHeadModel)``."""
        return f"{self.name} ({type(self.model).__name__})"


def shortest(readers: Iterable[Reader], side: Side | None = None) -> tuple[int, str] | None:
    """The most tokens that all of some models and their tokenizers read, and what reads no more; None: any number."""
    found: list[tuple[int, str]] = []
    for reader in readers:
        if (limit := position_limit(reader.model, side)) is not None:
            found.append((limit, f"{reader} has {limit:,} positions"))
        if (tokenizer := vocabulary_of(reader.tokenizer)) is not None:
            length = tokenizer.model_max_length
            found.append((length, f"the tokenizer of {reader} has a model_max_length of {length:,}"))
    return min(found, key=lambda each: each[0], default=None)


def check_tokens_fit(readers: Iterable[Reader], error: type[HfDistillError] = ModelError) -> None:
    """Refuse a model whose table of tokens lacks some of those that it is to read."""
    for reader in readers:
        writes_only = reader.model.main_input_name != "input_ids" and not reader.model.config.is_encoder_decoder
        if (tokenizer := vocabulary_of(reader.tokenizer)) is None or writes_only:
            continue
        rows, _ = token_rows(reader.model)
        beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
        if beyond:
            raise error(
                f"{reader}: its table of tokens has {rows:,} rows, but the tokenizer of its rows has tokens beyond it: "
                f"{named(beyond)}; call resize_token_embeddings({max(beyond.values()) + 1}) on a copy of the model and "
                "save that, use the tokenizer that belongs to the model, or remove the tokens (a pad token can be one "
                "that all models know, as the end token)"
            )


def named(tokens: Mapping[str, int], most: int = 5) -> str:
    """Tokens and their ids, the first few of them."""
    ordered = sorted(tokens.items(), key=lambda each: each[1])
    shown = ", ".join(f"{token!r} ({number})" for token, number in ordered[:most])
    return shown + (f" and {len(ordered) - most:,} more" if len(ordered) > most else "")


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a column of tokens may hold at most, so that no model fails at it in the middle of a training."""

    column: str
    rows: int  # Of the table that its ids are looked up in.
    positions: int | None  # None where a longer row fails nowhere.
    reader: str


def bounds_of(readers: Iterable[Reader], prefix: str = "") -> Iterator[Bound]:
    """Those of models that read the columns whose names begin with a prefix."""
    for reader in readers:
        if reader.model.main_input_name != "input_ids":
            continue  # It reads no tokens.
        model, (read, written) = reader.model, token_rows(reader.model)
        has_decoder, has_vocabulary = model.config.is_encoder_decoder, model.get_output_embeddings() is not None
        columns: list[tuple[str, int, Side]] = [("input_ids", read, "encoder")]
        columns += [("decoder_input_ids", written, "decoder")] * has_decoder
        columns += [("labels", written, "decoder")] * has_vocabulary
        for column, rows, side in columns:
            positions = position_limit(model, side) if is_bound_to_positions(model, side) else None
            yield Bound(column=prefix + column, rows=rows, positions=positions, reader=str(reader))


def check_batch(batch: Mapping[str, Any], bounds: Iterable[Bound]) -> None:
    """Refuse tokens that a model's table lacks, and rows longer than its positions (DataError)."""
    places = batch.get("position_ids")
    for bound in bounds:
        ids = batch.get(bound.column)
        if not isinstance(ids, Tensor) or not ids.numel() or ids.is_floating_point():
            continue
        if int(ids.max()) >= bound.rows:
            row = int((ids >= bound.rows).flatten(1).any(1).nonzero()[0])
            raise DataError(
                f"{bound.column}: row {row} of a batch has the token {int(ids[row].max())}, but the table of "
                f"{bound.reader} has {bound.rows:,} rows; tokenise the rows with a tokenizer that belongs to all "
                "models, or call resize_token_embeddings on a copy of that model"
            )
        length = int(places.max()) + 1 if isinstance(places, Tensor) and places.numel() else ids.shape[-1]
        if bound.positions is not None and length > bound.positions:
            raise DataError(
                f"{bound.column}: a batch has rows of {length:,} tokens, but {bound.reader} has {bound.positions:,} "
                f"positions; cut the rows at {bound.positions:,} tokens"
            )
