"""Rows and splits that tests share; a recipe names those of splits: ``path: tests.helpers.data:translations``."""

from __future__ import annotations

import random
from urllib.parse import quote

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from tests.helpers import tiny
from tests.helpers.byte_tokenizers import sentences
from tests.helpers.stand_ins import asked, tagged


def given() -> DatasetDict:
    """What a test has put there: ``given.value = ...``, and a recipe that names ``tests.helpers.data:given``."""
    return given.value


def listed() -> list[str]:
    """No DatasetDict."""
    return ["text"]


def guarded(token: str, rows: str = "answers", address: str = "", fails: str = "") -> DatasetDict:
    """Splits of this module for those who know a token; a failure repeats what it was given, as libraries do."""
    if fails:
        raise {"ValueError": ValueError, "OSError": OSError, "KeyError": KeyError}[fails](
            f"403 for {address} with Authorization: Bearer {token}, {token!r}, {quote(token, safe='')}"
        )
    assert token.startswith("planted")
    return tiny.splits() if rows == "classes" else globals()[rows]()


# --- texts ------------------------------------------------------------------------------------------------------------


def texts(count: int = 24, seed: int = 0) -> Dataset:
    return Dataset.from_dict({"text": tiny.rows(count, seed)["text"]})


def text_splits(train: int = 96, validation: int = 16, test: int = 24) -> DatasetDict:
    return DatasetDict(train=texts(train), validation=texts(validation, 1), test=texts(test, 2))


def byte_text_splits(train: int = 48, validation: int = 12, test: int = 16) -> DatasetDict:
    """Sentences for tokenizers of bytes."""
    sizes = {"train": train, "validation": validation, "test": test}
    return DatasetDict(
        {name: Dataset.from_dict({"text": sentences(count, seed)}) for seed, (name, count) in enumerate(sizes.items())}
    )


def completions(count: int = 24) -> Dataset:
    """Sentences whose last two words complete the others."""
    halves = [sentence.rsplit(" ", 2) for sentence in tiny.rows(count)["text"]]
    return Dataset.from_dict(
        {"prompt": [first + " " for first, *_ in halves], "completion": [" ".join(last) for _, *last in halves]}
    )


def completion_splits() -> DatasetDict:
    return parts_of(completions(40), 24, 32)


def parts_of(rows: Dataset, validation: int, test: int) -> DatasetDict:
    """Train, validation and test, which begin at these rows."""
    places = {"train": range(validation), "validation": range(validation, test), "test": range(test, len(rows))}
    return DatasetDict({name: rows.select(place) for name, place in places.items()})


# --- one text written for another -------------------------------------------------------------------------------------


def reversed_pairs(count: int = 24, seed: int = 0, source: str = "source", target: str = "target") -> Dataset:
    """Sentences, and the same words the other way round."""
    texts = tiny.rows(count, seed)["text"]
    return Dataset.from_dict({source: texts, target: [" ".join(reversed(text.split())) for text in texts]})


def translations(train: int = 24, test: int = 6, more: bool = False) -> DatasetDict:
    """Reversed pairs, and some without a target where there shall be more."""
    parts = {"train": reversed_pairs(train, 0), "validation": reversed_pairs(test, 1), "test": reversed_pairs(test, 2)}
    if more:
        parts["more"] = reversed_pairs(5, 3).remove_columns("target")
    return DatasetDict(parts)


def copies() -> DatasetDict:
    """Sentences that are translated to themselves."""
    texts = tiny.splits(16, 4)
    return texts.map(lambda row: dict.fromkeys(("source", "target"), row["text"]), remove_columns=["text", "label"])


def answers(train: int = 24) -> DatasetDict:
    """Prompts, and their words the other way round."""
    names = {"source": "prompt", "target": "completion"}
    return DatasetDict({name: rows.rename_columns(names) for name, rows in translations(train).items()})


def answer_texts(train: int = 24) -> DatasetDict:
    """The prompts as texts of their own, beside columns that texts do not need."""
    return DatasetDict({name: rows.rename_column("prompt", "text") for name, rows in answers(train).items()})


def chats(train: int = 8) -> DatasetDict:
    """Each prompt with its answer, twice."""

    def turns(row: dict) -> dict:
        said = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        return {"messages": [*said, *said]}

    return DatasetDict({name: rows.map(turns).select_columns(["messages"]) for name, rows in answers(train).items()})


# --- classes ----------------------------------------------------------------------------------------------------------


def three_classes(count: int = 96) -> DatasetDict:
    """A quarter of the rows is neither bad nor good."""
    neither = {"text": "the river and the garden", "label": 2}

    def part(seed: int) -> Dataset:
        rows = tiny.rows(count, seed).cast_column("label", ClassLabel(names=["bad", "good", "neither"]))
        return rows.map(lambda row, i: neither if i % 4 == 0 else row, with_indices=True)

    return DatasetDict(train=part(0), validation=part(1), test=part(2))


def several_labels() -> DatasetDict:
    """Rows of several classes each: what they speak of, and how."""
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["bad", "card", "good"]))})

    def part(rows: Dataset) -> Dataset:
        labels = [
            [2 * value] + [1] * ("card" in text.split())
            for text, value in zip(rows["text"], rows["label"], strict=True)
        ]
        return Dataset.from_dict({"text": rows["text"], "label": labels}, features=features)

    return DatasetDict({name: part(rows) for name, rows in tiny.splits(96, 32).items()})


def of_no_class(rows: Dataset, every: int = 5) -> Dataset:
    """The same, some rows of which are of no class; the class between the others, as alphabets have it."""
    names = ("bad", "good")
    labels = ["none" if i % every == every - 1 else names[label] for i, label in enumerate(rows["label"])]
    texts = [
        " ".join(word for word in text.split() if word not in (*tiny.GOOD, *tiny.BAD)) if label == "none" else text
        for text, label in zip(rows["text"], labels, strict=True)
    ]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "none", "good"])})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def out_of_scope(train: int = 240, test: int = 80, scopeless: str = "") -> DatasetDict:
    parts = {"train": tiny.rows(train, 0), "validation": tiny.rows(test, 1), "test": tiny.rows(test, 2)}
    return DatasetDict({name: rows if name == scopeless else of_no_class(rows) for name, rows in parts.items()})


def out_of_scope_in_words(train: int = 60, test: int = 40) -> DatasetDict:
    """Labels as words, without features that name them."""

    def part(rows: Dataset) -> Dataset:
        labels = [rows.features["label"].int2str(i) for i in rows["label"]]
        return Dataset.from_dict({"text": rows["text"], "label": labels})

    return DatasetDict({name: part(rows) for name, rows in out_of_scope(train, test).items()})


# --- rows that name who teaches them ----------------------------------------------------------------------------------


def by_language(train: int = 192, test: int = 48) -> DatasetDict:
    """Rows that name who teaches them, under another name than the recipe's."""
    splits = tiny.splits(train, test)
    return DatasetDict(
        {name: rows.add_column("tongue", ["de", "en", "en"] * (len(rows) // 3)) for name, rows in splits.items()}
    )


def texts_by_language() -> DatasetDict:
    sizes = {"train": 48, "validation": 12, "test": 12}
    return DatasetDict(
        {
            name: texts(count, seed).add_column("tongue", ["de", "en"] * (count // 2))
            for seed, (name, count) in enumerate(sizes.items())
        }
    )


# --- words and questions ----------------------------------------------------------------------------------------------

TAGS = ("O", "B-thing", "I-thing", "B-word")
ENDINGS = ("", "s", "ness")


def tagged_words(count: int = 16, seed: int = 0) -> Dataset:
    """Things, of one word or two, and words that judge; some words are of two tokens."""
    generator = random.Random(seed)
    words, tags = [], []
    for text in tiny.rows(count, seed)["text"]:
        words.append([word + generator.choice(ENDINGS) for word in text.split()])
        tags.append([])
        for word in text.split():
            after_thing = bool(tags[-1]) and tags[-1][-1] == 1
            thing = 2 if after_thing else 1
            tags[-1].append(thing if word in tiny.SUBJECTS else 0 if word in tiny.OTHER else 3)
    features = Features({"tokens": List(Value("string")), "labels": List(ClassLabel(names=list(TAGS)))})
    return Dataset.from_dict({"tokens": words, "labels": tags}, features=features)


def tagged_splits(train: int = 192, test: int = 48) -> DatasetDict:
    return DatasetDict(train=tagged_words(train, 0), validation=tagged_words(test, 1), test=tagged_words(test, 2))


def few_tags() -> DatasetDict:
    splits = tagged("train", "validation", "test")
    return DatasetDict({name: rows.select(range(48)) for name, rows in splits.items()})


def questions(train: int = 96, test: int = 16) -> DatasetDict:
    made = asked("train", "validation", "test")
    return DatasetDict({name: part.select(range(train if name == "train" else test)) for name, part in made.items()})


# --- vectors ----------------------------------------------------------------------------------------------------------


def similar_pairs(count: int, seed: int) -> Dataset:
    """Sentences, others that keep some of their words, and how many they keep."""
    pairs = []
    for i, (one, other) in enumerate(zip(texts(count, seed)["text"], texts(count, seed + 50)["text"], strict=True)):
        words, kept = one.split(), (i % 5) / 4
        many = round(kept * len(words))
        pairs.append(
            {"text": one, "text_pair": " ".join(words[:many] + other.split()[many:] or ["card"]), "score": kept}
        )
    return Dataset.from_list(pairs)


def vector_splits() -> DatasetDict:
    """Texts alone to train on, scored pairs to test."""
    return DatasetDict(train=texts(64), validation=texts(8, 1), test=similar_pairs(40, 2))


def pairs_without_scores() -> DatasetDict:
    splits = vector_splits()
    return DatasetDict({**splits, "test": splits["test"].remove_columns("score")})


def scored_pairs() -> DatasetDict:
    """Pairs of texts with scores that say nothing."""
    texts = tiny.rows(48)["text"]
    scores = [float(i % 5) for i in range(48)]
    return parts_of(Dataset.from_dict({"text": texts, "text_pair": texts[1:] + texts[:1], "score": scores}), 24, 36)
