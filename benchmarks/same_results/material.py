"""Tiny data sets, teachers and tokenizers that ``same_results.py`` writes, made without the package itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

Row = dict[str, Any]

# --- data -------------------------------------------------------------------------------------------------------------

THINGS = ["card", "bank", "money", "letter", "phone", "house", "garden", "river"]
JUDGEMENTS = {"good": ["good", "kind", "quick", "bright", "warm"], "bad": ["bad", "slow", "cold", "broken", "dull"]}
OTHERS = ["the", "a", "is", "was", "very", "my", "and", "not", "of", "how", "user", "assistant"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *THINGS, *JUDGEMENTS["good"], *JUDGEMENTS["bad"], *OTHERS]
TAGS = ["O", "B-judgement", "B-thing"]
SPLITS = {"train": 128, "validation": 16, "test": 24}


def row(generator: random.Random, index: int) -> dict[str, Row]:
    """One sentence as each kind of data holds it."""
    label = ["bad", "good"][index % 2]
    words = generator.choices([*THINGS, *OTHERS[:9]], k=generator.randint(3, 11))
    place = generator.randrange(len(words))
    words[place:place] = [generator.choice(THINGS), "is", answer := generator.choice(JUDGEMENTS[label])]
    text = " ".join(words)
    turned = " ".join(reversed(words))
    tags = ["B-thing" if word in THINGS else "B-judgement" if word == answer else "O" for word in words]
    kept = index % 4 / 3
    pair = " ".join([*words[: round(kept * len(words))], *generator.choices(THINGS, k=4)])
    chat = [{"role": "user", "content": text}, {"role": "assistant", "content": turned}]
    start = len(" ".join(words[: place + 2])) + 1
    return {
        "classes": {"text": text, "label": label, "language": ["de", "en", "en"][index % 3]},
        "several": {"text": text, "label": [label, *(["long"] if len(words) > 9 else [])]},
        "scores": {"text": text, "label": len(words) / 8 + (label == "good")},
        "tags": {"tokens": words, "labels": tags},
        "questions": {
            "question": f"how is {words[place]}",
            "context": text,
            "answers": {
                "text": [answer if index % 3 else f"is {answer}"],
                "answer_start": [start - 3 * (index % 3 == 0)],
            },
        },
        "texts": {"text": text, "language": ["de", "en"][index % 2]},
        "pairs": {"text": text, "text_pair": pair, "score": kept},
        "completions": {"prompt": text, "completion": f" {turned}"},
        "chats": {"messages": chat},
        "translations": {"source": text, "target": turned},
    }


def write_data(folder: Path) -> dict[str, dict[str, list[Row]]]:
    """Write ``KIND-SPLIT.jsonl`` for every kind of rows."""
    kinds: dict[str, dict[str, list[Row]]] = {}
    for seed, (split, count) in enumerate(SPLITS.items()):
        generator = random.Random(seed)
        for rows in (row(generator, index) for index in range(count)):
            for kind, each in rows.items():
                kinds.setdefault(kind, {}).setdefault(split, []).append(each)
    for kind, splits in kinds.items():
        for split, found in splits.items():
            (folder / f"{kind}-{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in found))
    return kinds


# --- teachers ---------------------------------------------------------------------------------------------------------


def whole_words() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, WORDS.index(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "eos": "[SEP]"}
    tokens = {f"{name}_token": token for name, token in names.items()}
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} [SEP] {% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, chat_template=template, **tokens)


def bytes_of(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "</s>"]
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def model_of(head: str, kind: str, layers: int, seed: int, vocabulary: int, **options: Any) -> Any:
    """A tiny model with random weights; dropout stays as its family has it."""
    shape: Row = {"vocab_size": vocabulary, "max_position_embeddings": 64}
    if kind == "marian":
        sizes = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64)
        sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
        shape |= {**sizes, "d_model": 32, "encoder_layers": 2, "decoder_layers": layers, "decoder_start_token_id": 2}
    else:
        shape |= {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
    ends = {"pad_token_id": 0, "eos_token_id": 3 if vocabulary == len(WORDS) else 1, "bos_token_id": None}
    torch.manual_seed(seed)
    return getattr(transformers, head).from_config(
        transformers.AutoConfig.for_model(kind, **shape, **ends, **options), attn_implementation="eager"
    )


def learned(model: Any, batch: dict[str, torch.Tensor], steps: int) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def write_teachers(folder: Path, kinds: dict[str, dict[str, list[Row]]]) -> None:
    """Train a teacher for every task, and some bare models, and save each with its tokenizer."""
    rows = {kind: splits["train"] for kind, splits in kinds.items()}
    made, size = whole_words(), len(WORDS)
    texts = [each["text"] for each in rows["texts"]]

    def read(*columns: list[str], by: Any = made) -> dict[str, torch.Tensor]:
        return dict(by(*columns, padding=True, return_tensors="pt"))

    def save(name: str, model: Any, tokenizer: Any = made) -> None:
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)

    def language(name: str, lines: list[str], tokenizer: Any = made, layers: int = 3, steps: int = 60) -> None:
        model = model_of("AutoModelForCausalLM", "llama", layers, 5, len(tokenizer), num_key_value_heads=2)
        batch = {key: read(lines, by=tokenizer)[key] for key in ("input_ids", "attention_mask")}
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        save(name, learned(model, {**batch, "labels": labels}, steps), tokenizer)

    classes = torch.tensor([each["label"] == "good" for each in rows["classes"]]).long()
    for name, layers, names in (("classifier", 4, ["bad", "good"]), ("second", 2, ["good", "bad"])):
        ids = {"id2label": dict(enumerate(names)), "label2id": {each: i for i, each in enumerate(names)}}
        model = model_of("AutoModelForSequenceClassification", "bert", layers, layers, size, **ids)
        save(name, learned(model, {**read(texts), "labels": classes if names[1] == "good" else 1 - classes}, 40))
    encoded = read(texts)
    labels = torch.full_like(encoded["input_ids"], -100)
    starts = []
    for index, (tags, asked) in enumerate(zip(rows["tags"], rows["questions"], strict=True)):
        labels[index, 1 : 1 + len(tags["labels"])] = torch.tensor([TAGS.index(tag) for tag in tags["labels"]])
        starts.append(tags["labels"].index("B-judgement") + len(asked["question"].split()) + 2)
    ids = {"id2label": dict(enumerate(TAGS)), "label2id": {name: i for i, name in enumerate(TAGS)}}
    model = model_of("AutoModelForTokenClassification", "bert", 4, 2, size, **ids)
    save("tagger", learned(model, {**encoded, "labels": labels}, 40))
    asked = read(*([each[name] for each in rows["questions"]] for name in ("question", "context")))
    places = dict.fromkeys(("start_positions", "end_positions"), torch.tensor(starts))
    save("reader", learned(model_of("AutoModelForQuestionAnswering", "bert", 4, 3, size), {**asked, **places}, 100))
    hidden = (torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.3) & (labels >= 0)
    masked = {**encoded, "input_ids": encoded["input_ids"].masked_fill(hidden, WORDS.index("[MASK]"))}
    masked["labels"] = encoded["input_ids"].masked_fill(~hidden, -100)
    save("masked", learned(model_of("AutoModelForMaskedLM", "bert", 4, 4, size), masked, 30))
    save("encoder", model_of("AutoModel", "bert", 3, 6, size, initializer_range=0.2).eval())
    for name, kind in (("plain", "texts"), ("completer", "completions")):
        language(name, ["".join(map(str, list(each.values())[: 1 + (kind != "texts")])) for each in rows[kind]])
    language("chatter", [made.apply_chat_template(each["messages"], tokenize=False) for each in rows["chats"]])
    language("bytes", texts, bytes_of(texts, 340))
    language("other-bytes", texts, bytes_of(texts, 300), 2, 0)
    target = read([each["target"] for each in rows["translations"]])["input_ids"][:, 1:]
    batch = {**encoded, "labels": target.masked_fill(target == 0, -100)}
    batch.pop("token_type_ids", None)
    save("translator", learned(model_of("AutoModelForSeq2SeqLM", "marian", 2, 7, size), batch, 80))
