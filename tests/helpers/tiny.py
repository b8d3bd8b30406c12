"""Tiny models, tokenizers and data, made in memory."""

from __future__ import annotations

import random
from typing import Any

import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

SUBJECTS = ["card", "bank", "money", "letter", "phone", "house", "garden", "river"]
GOOD = ["good", "kind", "quick", "bright", "warm", "fine"]
BAD = ["bad", "slow", "cold", "broken", "late", "dull"]
OTHER = ["the", "a", "is", "was", "very", "my", "your", "and", "not", "of"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SUBJECTS, *GOOD, *BAD, *OTHER]


def tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerBase:
    """Whole words, [CLS] and [SEP] around them."""
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


PIECES = [*WORDS, *(f"##{piece}" for piece in ("s", "er", "ly", "ness"))]


def wordpiece(side: str = "right") -> PreTrainedTokenizerBase:
    """The same words, some of which may have an end that is a token of its own: cards, slowness."""
    made: Any = tokenizer(PIECES)
    made.backend_tokenizer.model = models.WordPiece({word: i for i, word in enumerate(PIECES)}, unk_token="[UNK]")
    made.padding_side = side
    return made


def bert(
    layers: int = 2,
    hidden: int = 32,
    labels: tuple[str, ...] = ("bad", "good"),
    seed: int = 0,
    kind: type[PreTrainedModel] = BertForSequenceClassification,
    **options: Any,
) -> PreTrainedModel:
    """A BERT with random weights and no dropout, a classifier unless another kind is asked for."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
        **options,
    }
    return kind(BertConfig(**settings))


CHAT_WORDS = [*WORDS, "user", "assistant"]
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} [SEP] {% endfor %}"


def chat_tokenizer(template: str | None = None, side: str = "right") -> PreTrainedTokenizerBase:
    """Whole words, an end token, and a chat template where one is given."""
    made = tokenizer(CHAT_WORDS)
    made.eos_token, made.padding_side, made.chat_template = "[SEP]", side, template
    return made


def decoder(layers: int = 2, hidden: int = 32, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A Llama with random weights."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(CHAT_WORDS),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "eos_token_id": CHAT_WORDS.index("[SEP]"),
        **options,
    }
    return AutoModelForCausalLM.from_config(LlamaConfig(**settings))


_BART = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
_T5 = {"vocab_size": 120, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_heads": 2}
_SHAPES: dict[str, dict[str, Any]] = {
    "marian": {**_BART, "decoder_vocab_size": 120, "bos_token_id": 2},
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "longt5": {**_T5, "local_radius": 4},
    "led": {
        **_BART,
        "attention_window": [4, 8, 4, 8],
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64,
    },
}


def encoder_decoder(kind: str = "marian", encoder: int = 4, decoder: int = 3, seed: int = 0, **options: Any) -> Any:
    """An encoder-decoder of any kind with random weights and no dropout, that generates 8 tokens."""
    counts = (
        {"num_layers": encoder, "num_decoder_layers": decoder}
        if "t5" in kind
        else {"encoder_layers": encoder, "decoder_layers": decoder}
    )
    ids = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2}
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "dropout_rate"), 0.0)
    config = AutoConfig.for_model(kind, **{**_SHAPES.get(kind, _BART), **ids, **rates, **counts, **options})
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in filter(lambda each: each.requires_grad, model.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.generation_config.max_new_tokens = 8
    return model.eval()


def sentence(generator: random.Random, words: list[str]) -> str:
    """A sentence of 3 to 14 words, one of which tells the class."""
    length = generator.randint(2, 13)
    parts = [generator.choice(SUBJECTS + OTHER) for _ in range(length)]
    parts.insert(generator.randrange(length), generator.choice(words))
    return " ".join(parts)


def rows(count: int = 64, seed: int = 0) -> Dataset:
    """Sentences with the class that one of their words tells."""
    generator = random.Random(seed)
    labels = [i % 2 for i in range(count)]
    texts = [sentence(generator, GOOD if label else BAD) for label in labels]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def splits(train: int = 64, test: int = 32) -> DatasetDict:
    """Train, validation and test, as a recipe's ``path: tests.helpers.tiny:splits`` takes them."""
    return DatasetDict(train=rows(train, 0), validation=rows(test, 1), test=rows(test, 2))


def learn(model: Any, made: Any, texts: list[str], steps: int, rate: float) -> None:
    """Let a decoder learn texts, so that it knows something."""
    batch = made(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(steps):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def recipe(**changes: Any) -> dict[str, Any]:
    """A recipe that runs in seconds: a teacher from a config, a narrower student, all three objectives."""
    shape = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    training = {"learning_rate": 2e-3, "per_device_train_batch_size": 16, "logging_steps": 2, "use_cpu": True}
    return {
        "version": 1,
        "name": "tiny",
        "seed": 7,
        "task": {"name": "text-classification", "max_length": 32},
        "data": {"path": "tests.helpers.tiny:splits", "arguments": {"train": 192, "test": 64}},
        "teacher": {
            "recipe": {
                "student": {"config": {"model_type": "bert", **shape}, "tokenizer": {"vocab_size": 100}},
                "training": {**training, "num_train_epochs": 5, "eval_strategy": "no", "save_strategy": "no"},
            }
        },
        "student": {
            "config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        },
        "objectives": [
            {"kind": "labels"},
            {"kind": "logits", "temperature": 2.0},
            {"kind": "hidden", "layers": {0: 1, -1: -1}},
        ],
        "training": {
            **training,
            "num_train_epochs": 2,
            "save_strategy": "steps",
            "save_steps": 5,
            "save_total_limit": 2,  # Else none is left when the run is complete.
            "eval_strategy": "steps",
            "eval_steps": 12,
        },
        "evaluate": {"resamples": 100, "floor": True},
        **changes,
    }
