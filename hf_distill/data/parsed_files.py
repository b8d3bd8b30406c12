"""Files that are read here: JSON with its rows in a field, words with their tags in lines, texts of any encoding."""

from __future__ import annotations

import codecs
import json
import logging
import lzma
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from hf_distill.errors import DataError
from hf_distill.secrets import speakable

if TYPE_CHECKING:
    from hf_distill.recipe import DataConfig

logger = logging.getLogger(__name__)

READ_AT_ONCE = 1 << 24

HEADER = {"word", "words", "token", "tokens", "text", "form", "tag", "tags", "label", "labels", "ner", "ner_tag",
          "ner_tags", "pos", "pos_tag", "chunk", "chunk_tag"}  # fmt: skip
"""What the columns of words and tags are called where a file's first line names them."""


@contextmanager
def bytes_of(path: Path) -> Iterator[Any]:
    """The bytes of a file, unpacked."""
    try:
        with fsspec.open(str(path), "rb", compression="infer") as file:
            yield file
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read ({error}); it is cut, or not packed as its ending says") from speakable(
            error
        )


def encoding_of(path: Path, config: DataConfig) -> str:
    """What a file's text is written in: named, told by its first bytes, UTF-8, or what Excel writes in the West."""
    if config.encoding is not None:
        try:
            "a".encode(config.encoding)
        except LookupError:
            known = "utf-8, utf-16, cp1252 or another of Python's text encodings"
            raise DataError(f"data.encoding: expected {known}, got {config.encoding!r}") from None
        return config.encoding
    with bytes_of(path) as file:
        first = file.read(4)
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            logger.info(f"data: {path.name} is read as UTF-16")
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")()
        part, left = first, 1 << 30
        try:
            while part and left > 0:
                decoder.decode(part)
                part = file.read(READ_AT_ONCE)
                left -= len(part)
            decoder.decode(b"", final=not part)
        except UnicodeDecodeError:
            logger.info(f"data: {path.name} is no UTF-8: read as cp1252 (Western); name another in data.encoding")
            return "cp1252"
    return "utf-8"


def _text(path: Path, config: DataConfig) -> str:
    encoding = encoding_of(path, config)
    try:
        with bytes_of(path) as file:
            text: str = file.read().decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"data.encoding: {path} cannot be read as {encoding}: {error}") from speakable(error)
    return text.removeprefix("\ufeff")


def _lines_of(text: str) -> list[str]:
    """The lines of a text; other than ``splitlines`` it leaves alone what only looks like an end of a line (U+2028)."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parsed_json(path: Path, ending: str, config: DataConfig) -> list[dict[str, Any]] | None:
    """The rows of a JSON file that `datasets` does not read: one object with the rows in a field, or no UTF-8."""
    if config.field is None and ending != ".json" and encoding_of(path, config) == "utf-8":
        return None
    text = _text(path, config)
    try:
        whole, end = json.JSONDecoder().raw_decode(text.lstrip())
    except (json.JSONDecodeError, RecursionError):
        return None  # The reader tells what is wrong.
    is_one = not text.lstrip()[end:].strip()
    if is_one and config.field is None:
        _check_named(path, whole)
    if not isinstance(whole, dict) or not is_one:
        return _listed(path, config, text, whole)
    field = config.field or ("data" if _are_rows(whole.get("data")) else None)
    if field is None:
        return None
    if not _are_rows(whole.get(field)):
        fields = ", ".join(name for name, value in whole.items() if _are_rows(value)) or "none"
        raise DataError(
            f"data.field: {path} has no list of rows, which are objects with named columns, in its field {field!r}; "
            f"there are some in: {fields}"
        )
    rows = whole[field]
    if "paragraphs" in rows[0]:
        rows = [row for number, article in enumerate(rows) for row in _questions(path, number, article)]
    logger.info(f"data: {path.name}: {len(rows):,} rows in its field {field!r}")
    return rows


def _listed(path: Path, config: DataConfig, text: str, whole: Any) -> list[dict[str, Any]] | None:
    """The rows of a list, or of lines."""
    if config.field is not None:
        raise DataError(f"data.field: {path} is no JSON object with fields, but a list of rows; remove it")
    if encoding_of(path, config) == "utf-8":
        return None
    rows = whole if isinstance(whole, list) else list(_lines(path, text))
    if not _are_rows(rows):
        raise DataError(f"{path}: expected rows, which are JSON objects, got {str(rows)[:80]}")
    return rows


def _check_named(path: Path, whole: Any) -> None:
    """Refuse rows that are lists, which `datasets` reads as one row or not at all."""
    parts = whole if isinstance(whole, dict) else {"": whole}
    for name, rows in parts.items():
        if isinstance(rows, list) and rows and isinstance(rows[0], list):
            there = f" in its field {name!r}" if name else ""
            raise DataError(
                f"{path}: expected rows that are objects with named columns, got lists{there}: {str(rows[0])[:80]}; "
                'write them as {"column": value, ...}'
            )


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(_lines_of(text), 1):
        try:
            if line.strip():
                yield json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: no JSON ({error.msg}); correct or remove it") from None


def _questions(path: Path, number: int, article: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        yield from _rows_of(article)
    except (KeyError, TypeError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else "holds what is no list of objects"
        raise DataError(
            f"{path}: article {number} {what}; expected SQuAD's form: paragraphs with a context and qas, each of these "
            "with a question and answers (text, answer_start)"
        ) from None


def _rows_of(article: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of an article of SQuAD, each with its context."""
    for paragraph in article["paragraphs"]:
        for each in paragraph["qas"]:
            given = each.get("answers") or []
            answers = {"text": [a["text"] for a in given], "answer_start": [a["answer_start"] for a in given]}
            yield {
                "id": str(each.get("id")),
                "title": article.get("title"),
                "context": paragraph["context"],
                "question": each["question"],
                "answers": answers,
            }


def has_lines_of_words(path: Path, ending: str, config: DataConfig, used: Collection[str]) -> bool:
    """Whether a file of texts or a table holds a word and its tags in each line, where a task needs words."""
    if ending == ".txt":
        return True
    if ending != ".tsv":
        return False
    header = _lines_of(_text(path, config))[0].split("\t")
    return not set(header) & set(used)


def sentences(path: Path, ending: str, config: DataConfig) -> Iterator[dict[str, list[str]]]:
    """The sentences of a file in the forms of CoNLL: the first column are words, the last one tags."""
    sentence: list[list[str]] = []
    count = found = 0
    for number, line in enumerate([*_lines_of(_text(path, config)), ""], 1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else [*filter(None, line.split(" "))]
        is_comment = line.startswith("#") and len(cells) != count if ending != ".conllu" else line.startswith("#")
        if is_comment or (cells and (cells[0] == "-DOCSTART-" or (ending == ".conllu" and not cells[0].isdigit()))):
            continue
        if any(cells):
            if not (count or sentence) and {cell.casefold() for cell in cells} <= HEADER:
                logger.info(f"data: {path.name}: its first line ({line.strip()!r}) names the columns")
                continue
            count = count or len(cells)
            if len(cells) != count or count < 2:
                raise DataError(
                    f"{path}, line {number}: expected a word and its tags in {max(count, 2)} columns, got {line!r}; a "
                    "blank line ends a sentence"
                )
            sentence.append(cells)
        elif sentence:
            yield _columns_of(sentence, ending)
            sentence, found = [], found + 1
    words, tags = (2, 4) if ending == ".conllu" else (1, count)
    logger.info(f"data: {path.name}: {found:,} sentences; column {words} of {count} are the words, {tags} the tags")


def _columns_of(sentence: Sequence[Sequence[str]], ending: str) -> dict[str, list[str]]:
    columns = [list(column) for column in zip(*sentence, strict=True)]
    words, tags = (1, 3) if ending == ".conllu" else (0, len(columns) - 1)
    others = {f"column_{i + 1}": column for i, column in enumerate(columns) if i not in (words, tags)}
    return {"tokens": columns[words], "labels": columns[tags], **others}
