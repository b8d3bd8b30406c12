"""Tiny models and data under the names that recipes and README use, for a Hub on loopback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from transformers import (
    AutoModelForCausalLM,
    BertForPreTraining,
    BertModel,
    GPT2Config,
    GPTNeoConfig,
    MPNetConfig,
    MPNetModel,
)

from hf_distill.models.pooling import VectorHead, attach_head, save_head
from tests.helpers import tiny
from tests.helpers.byte_tokenizers import byte_level


def named(names: list[str], count: int, seed: int, **columns: str) -> Dataset:
    """Rows of the tiny task under other names of columns and labels."""
    rows = tiny.rows(count, seed)
    label = columns.pop("label", "label")
    features = Features({**{name: Value("string") for name in columns}, label: ClassLabel(names=names)})
    texts = dict.fromkeys(columns, rows["text"])
    return Dataset.from_dict({**texts, label: [value % len(names) for value in rows["label"]]}, features=features)


def folder_of(model, path: Path) -> Path:
    model.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def parquet(splits: DatasetDict, path: Path) -> Path:
    """A data set as the Hub holds it."""
    (path / "data").mkdir(parents=True)
    for name, rows in splits.items():
        rows.to_parquet(path / "data" / f"{name}-00000-of-00001.parquet")
    return path


def configured(splits: DatasetDict, path: Path, name: str) -> Path:
    """A data set whose rows lie in a configuration."""
    parquet(splits, path)
    (path / "data").rename(path / name)
    files = "".join(f"  - {{split: {split}, path: {name}/{split}-*}}\n" for split in splits)
    (path / "README.md").write_text(f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n")
    return path


def fill(hub, folder: Path) -> None:
    """Tiny stand-ins under the names that recipes and README use."""
    plain = folder_of(tiny.bert(12, 32, initializer_range=0.08, kind=BertForPreTraining), folder / "bert")
    for name in (
        "google-bert/bert-base-uncased",
        "google-bert/bert-base-cased",
        "distilbert/distilbert-base-uncased",
        "distilbert/distilroberta-base",
    ):
        hub.add(name, plain)
    fill_encoders(hub, folder)
    nli = tiny.bert(4, 32, labels=("CONTRADICTION", "NEUTRAL", "ENTAILMENT"))
    hub.add("FacebookAI/roberta-large-mnli", folder_of(nli, folder / "mnli"))
    hub.add("MoritzLaurer/DeBERTa-v3-base-mnli", folder / "mnli")
    other = tiny.bert(2, 32, labels=("contradiction", "entailment", "neutral"))
    hub.add("cross-encoder/nli-roberta-base", folder_of(other, folder / "nli"))
    modern = folder_of(tiny.bert(2, 32, vocab_size=len(tiny.PIECES)), folder / "modern")
    tiny.wordpiece().save_pretrained(modern)
    hub.add("answerdotai/ModernBERT-base", modern)
    hub.add("my-name/bert-base-sst2", folder_of(tiny.bert(2, 32, labels=("negative", "positive")), folder / "sst2"))
    sets = {
        "stanfordnlp/sst2": DatasetDict(
            train=named(["negative", "positive"], 3000, 0, sentence=""),
            validation=named(["negative", "positive"], 96, 1, sentence=""),
        ),
        "nyu-mll/multi_nli": DatasetDict(
            train=named(["entailment", "neutral", "contradiction"], 2400, 0, premise="", hypothesis=""),
            validation_matched=named(["entailment", "neutral", "contradiction"], 32, 1, premise="", hypothesis=""),
        ),
        "mteb/banking77": DatasetDict(train=tiny.rows(600, 0), test=tiny.rows(96, 1)).map(
            lambda row: {"label_text": ["bad", "good"][row["label"]]}
        ),
    }
    scores = DatasetDict(
        {
            name: Dataset.from_dict(
                {"sentence1": rows["text"], "sentence2": rows["text"], "label": [2.5 * v for v in rows["label"]]}
            )
            for name, rows in (("train", tiny.rows(640, 0)), ("validation", tiny.rows(64, 1)))
        }
    )
    for name, splits in sets.items():
        hub.add(name, parquet(splits, folder / name.replace("/", "-")), kind="dataset")
    fill_language_models(hub, folder)
    fill_encoder_decoders(hub, folder)
    hub.add("rajpurkar/squad", parquet(asked("train", "validation"), folder / "squad"), kind="dataset")
    intents = DatasetDict(
        {
            name: named(["bad", "good", "oos"], count, seed, text="", label="intent")
            for seed, (name, count) in enumerate((("train", 600), ("validation", 48), ("test", 96)))
        }
    )
    hub.add("clinc/clinc_oos", configured(_some_out_of_scope(intents), folder / "clinc", "plus"), kind="dataset")
    words = parquet(tagged("train", "validation", "test"), folder / "wnut")
    for name in ("leondz/wnut_17", "tomaarsen/conll2003"):
        hub.add(name, words, kind="dataset")
    hub.add("nyu-mll/glue", configured(scores, folder / "glue", "stsb"), kind="dataset")


def _some_out_of_scope(splits: DatasetDict) -> DatasetDict:
    """Every eighth row is of no class."""
    return splits.map(lambda row, i: {"intent": 2 if i % 8 == 0 else row["intent"]}, with_indices=True)


def fill_encoders(hub, folder: Path) -> None:
    """Models of sentence vectors, one of which cuts words otherwise, and texts for them."""
    shape = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 64}
    mpnet = MPNetModel(MPNetConfig(vocab_size=len(tiny.WORDS), max_position_embeddings=66, **shape))
    minilm = tiny.bert(6, 32, initializer_range=0.08)
    multilingual = tiny.bert(2, 32, kind=BertModel, vocab_size=len(tiny.PIECES))
    for name, model, made in (
        ("sentence-transformers/all-MiniLM-L6-v2", minilm, tiny.tokenizer()),
        ("sentence-transformers/all-mpnet-base-v2", mpnet, tiny.tokenizer()),
        ("sentence-transformers/multi-qa-mpnet-base-cos-v1", mpnet, tiny.tokenizer()),
        ("intfloat/multilingual-e5-small", multilingual, tiny.wordpiece()),
    ):
        path = folder / name.replace("/", "-")
        attach_head(model, VectorHead("mean", normalize=True))
        model.save_pretrained(path)
        made.save_pretrained(path)
        save_head(model, path, 64)
        hub.add(name, path)
    sentences = _splits(lambda text: {"sentence": text}, "train")
    hub.add("sentence-transformers/wikipedia-en-sentences", parquet(sentences, folder / "sentences"), kind="dataset")
    scores = _splits(_scored_pair, "train", "validation", "test")
    hub.add("sentence-transformers/stsb", parquet(scores, folder / "stsb"), kind="dataset")
    hub.add("mteb/sts17-crosslingual-sts", configured(scores, folder / "sts17", "en-de"), kind="dataset")
    talks = configured(
        _splits(lambda text: {"english": text, "non_english": text[::-1]}, "train", "dev"), folder / "talks", "en-de"
    )
    hub.add("sentence-transformers/parallel-sentences-talks", talks, kind="dataset")
    triplets = _splits(lambda text: {"query": text, "positive": f"the {text}", "negative": text[::-1]}, "train")
    hub.add("sentence-transformers/msmarco-bm25", configured(triplets, folder / "triplets", "triplet"), kind="dataset")


def _scored_pair(text: str) -> dict:
    words = text.split()
    return {"sentence1": text, "sentence2": " ".join([*words[: len(words) // 2], "card"]), "score": len(words) / 20}


def fill_language_models(hub, folder: Path) -> None:
    """Decoders whose vocabularies differ by padding rows, and texts, chats, questions and instructions."""
    made = tiny.chat_tokenizer(tiny.CHAT_TEMPLATE)

    def add(name: str, model: Any) -> None:
        path = folder / name.replace("/", "-")
        model.save_pretrained(path)
        made.save_pretrained(path)
        hub.add(name, path)

    # Their tokens differ, and cover all bytes.
    neo = {"hidden_size": 32, "num_layers": 2, "attention_types": [[["global"], 2]], "num_heads": 4, "window_size": 16}
    for name, model, own in (
        ("HuggingFaceTB/SmolLM2-360M", _decoder_of(byte_level(), 32), byte_level()),
        ("meta-llama/Llama-3.1-8B", _decoder_of(byte_level(420), 4), byte_level(420)),
        (
            "roneneldan/TinyStories-33M",
            AutoModelForCausalLM.from_config(
                GPTNeoConfig(vocab_size=len(byte_level(420)), max_position_embeddings=256, eos_token_id=2, **neo)
            ),
            byte_level(420),
        ),
    ):
        path = folder / name.replace("/", "-")
        model.save_pretrained(path)
        own.save_pretrained(path)
        hub.add(name, path)
    for name, layers, padding in (
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 4, 0),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 2, 0),
        ("Qwen/Qwen2.5-7B-Instruct", 4, 8),
        ("Qwen/Qwen2.5-0.5B-Instruct", 2, 0),
        ("Qwen/Qwen2.5-1.5B", 4, 8),
        ("Qwen/Qwen2.5-1.5B-Instruct", 28, 0),
        ("Qwen/Qwen2.5-0.5B", 2, 0),
        ("meta-llama/Llama-3.1-8B-Instruct", 4, 0),
        ("meta-llama/Llama-3.2-1B-Instruct", 2, 0),
        ("meta-llama/Llama-3.3-70B-Instruct", 4, 0),
    ):
        add(name, tiny.decoder(layers, vocab_size=len(tiny.CHAT_WORDS) + padding))
    for name, layers in (("openai-community/gpt2-xl", 4), ("openai-community/gpt2", 2)):
        shape = {"n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": len(tiny.CHAT_WORDS)}
        add(name, AutoModelForCausalLM.from_config(GPT2Config(n_layer=layers, **shape)))
    stories = _splits(lambda text: {"text": text}, "train", "validation")
    articles = _splits(lambda text: {"id": "1", "title": text.split()[0], "text": text}, "train")
    hub.add("wikimedia/wikipedia", configured(articles, folder / "wikipedia", "20231101.en"), kind="dataset")
    pages = _splits(lambda text: {"text": text, "url": "x"}, "train")
    hub.add("HuggingFaceFW/fineweb-edu", configured(pages, folder / "fineweb", "sample-10BT"), kind="dataset")
    hub.add("roneneldan/TinyStories", parquet(stories, folder / "stories"), kind="dataset")
    hub.add(
        "HuggingFaceH4/ultrachat_200k",
        parquet(_splits(_chat, "train_sft", "test_sft"), folder / "chat"),
        kind="dataset",
    )
    hub.add("allenai/tulu-3-sft-mixture", parquet(_splits(_chat, "train"), folder / "tulu"), kind="dataset")
    hub.add("HuggingFaceTB/smoltalk", configured(_splits(_chat), folder / "smoltalk", "all"), kind="dataset")
    hub.add("openai/gsm8k", configured(_splits(_question), folder / "gsm8k", "main"), kind="dataset")
    hub.add(
        "databricks/databricks-dolly-15k", parquet(_splits(_instruction, "train"), folder / "dolly"), kind="dataset"
    )


def _decoder_of(made: Any, layers: int) -> Any:
    ids = {"vocab_size": len(made), "eos_token_id": made.eos_token_id}
    return tiny.decoder(layers, max_position_embeddings=1024, **ids)


def fill_encoder_decoders(hub, folder: Path) -> None:
    """A translator and a summariser, and rows for them."""
    for name, kind, layers in (
        ("Helsinki-NLP/opus-mt-de-en", "marian", 6),
        ("facebook/bart-large-xsum", "bart", 12),
    ):
        path = folder / name.replace("/", "-")
        tiny.encoder_decoder(kind, layers, layers).save_pretrained(path)
        tiny.chat_tokenizer().save_pretrained(path)
        hub.add(name, path)
    pairs = _splits(lambda text: {"translation": {"de": text, "en": text}}, "train", "validation", "test")
    hub.add("wmt/wmt16", configured(pairs, folder / "wmt16", "de-en"), kind="dataset")
    captions = _splits(lambda text: {"de": text, "en": text}, "train", "validation", "test")
    hub.add("bentrevett/multi30k", parquet(captions, folder / "multi30k"), kind="dataset")
    news = _splits(lambda text: {"document": text, "summary": text}, "train", "validation", "test")
    hub.add("EdinburghNLP/xsum", parquet(news, folder / "xsum"), kind="dataset")


def asked(*names: str) -> DatasetDict:
    """What is said of a thing, to be found in the sentence."""

    def rows(count: int, seed: int) -> Dataset:
        texts = tiny.rows(count, seed)["text"]
        found = [next(word for word in text.split() if word in (*tiny.GOOD, *tiny.BAD)) for text in texts]
        places = [f" {text} ".index(f" {word} ") for text, word in zip(texts, found, strict=True)]
        answers = [{"text": [word], "answer_start": [place]} for word, place in zip(found, places, strict=True)]
        return Dataset.from_dict({"question": ["is the card"] * count, "context": texts, "answers": answers})

    return DatasetDict({name: rows(1200 if name == "train" else 48, seed) for seed, name in enumerate(names)})


def tagged(*names: str) -> DatasetDict:
    """Words with what they are: a thing, or the start of a judgement."""
    kinds = ["O", "B-thing", "B-judgement"]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=kinds))})

    def rows(count: int, seed: int) -> Dataset:
        words = [text.split() for text in tiny.rows(count, seed)["text"]]
        tags = [[1 if w in tiny.SUBJECTS else 0 if w in tiny.OTHER else 2 for w in row] for row in words]
        return Dataset.from_dict({"tokens": words, "ner_tags": tags}, features=features)

    return DatasetDict({name: rows(900 if name == "train" else 48, seed) for seed, name in enumerate(names)})


def _splits(make: Callable[[str], dict], *names: str) -> DatasetDict:
    """Rows made of sentences: 2,400 to train on where there is no other split, else 900, and 48 in each other."""
    first, *others = names or ("train", "test")
    sizes = {first: 900 if others else 2400, **dict.fromkeys(others, 48)}
    return DatasetDict(
        {
            name: Dataset.from_list(list(map(make, tiny.rows(count, seed)["text"])))
            for seed, (name, count) in enumerate(sizes.items())
        }
    )


def _chat(text: str) -> dict:
    first, last = text.rsplit(" ", 1)
    turns = [{"role": "user", "content": first}, {"role": "assistant", "content": last}]
    return {"prompt": first, "messages": turns}


def _question(text: str) -> dict:
    return dict(zip(("question", "answer"), text.rsplit(" ", 1), strict=True))


def _instruction(text: str) -> dict:
    first, last = text.rsplit(" ", 1)
    return {"instruction": first, "context": "the card" if len(first) % 2 else "", "response": last}
