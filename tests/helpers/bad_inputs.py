"""Bad inputs to the command line as plain data: what was tried, how, and what stands around it.

Every command runs in a folder of its own that holds models, data and recipes (see :func:`make_place`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_distill.artifacts import locked
from tests.helpers import tiny
from tests.helpers.raw_server import with_body

Changes = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command that is refused.

    Attributes:
        tried: What it is, in words.
        command: What follows ``hf-distill``.
        files: Files that are written before, by name; None deletes what is there.
        before: What else happens before.
        environment: Variables that are set.
        answer: What a server at ``SERVER`` answers to everything, or how it fails.
        around: A context in which the command runs.
        code: Its exit code.
    """

    tried: str
    command: str
    files: dict[str, str | bytes | None] = field(default_factory=dict)
    before: Callable[[Path], object] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    answer: Any = None
    around: Callable[[Path], Any] | None = None
    code: int = 2


def case(tried: str, command: str, **more: Any) -> Case:
    return Case(tried=tried, command=command, **more)


def check(tried: str, overrides: str, recipe: str = "classes.yaml", **more: Any) -> Case:
    """A check of a recipe with overrides."""
    return Case(tried=tried, command=f"check {recipe} {overrides}".strip(), **more)


def written(tried: str, recipe: str | bytes, command: str = "check bad.yaml") -> Case:
    """A check of a recipe that holds this text."""
    return Case(tried=tried, command=command, files={"bad.yaml": recipe})


def data(
    tried: str, rows: str | bytes | None, name: str = "train.csv", recipe: str = "classes.yaml", overrides: str = ""
) -> Case:
    """A check of a recipe whose training rows, or those in another file, are these."""
    return Case(tried=tried, command=f"check {recipe} {overrides}".strip(), files={name: rows})


def served(tried: str, answer: Any, overrides: str = "", **more: Any) -> Case:
    """A check of a recipe whose teacher is behind a server that answers so."""
    return Case(tried=tried, command=f"check served.yaml {overrides}".strip(), answer=answer, **more)


# --- where commands run -----------------------------------------------------------------------------------------------

TRAINING = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "use_cpu": True}
QUIET = {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
RECIPES: dict[str, Changes] = {
    "classes": {
        "task": "text-classification",
        "data": {"files": {"train": "train.csv", "test": "test.csv"}},
        "teacher": {"model": "teacher"},
        "student": {"layers": 1},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 2.0}],
        "evaluate": {"resamples": 100, "control": False},
    },
    "texts": {
        "task": {"name": "causal-lm", "max_length": 16, "packing": False},
        "data": {"files": {"train": "train.txt", "test": "test.txt"}},
        "teacher": {"model": "decoder"},
        "student": {"layers": 1},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
        "evaluate": {"resamples": 100, "control": False},
    },
    "known": {
        "task": {"name": "causal-lm", "max_length": 16, "packing": False},
        "data": {"files": {"train": "train.txt", "test": "test.txt"}},
        "teacher": {"model": "decoder"},
        "student": {"pretrained": "small-decoder"},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
    },
    "cached": {
        "task": {"name": "causal-lm", "max_length": 16, "packing": False},
        "data": {"files": {"train": "train.txt", "test": "test.txt"}},
        "teacher": {"model": "decoder", "kind": "cached", "cache": {"path": "cache"}},
        "student": {"layers": 1},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
        "evaluate": {"resamples": 100, "control": False},
    },
    "served": {
        "task": {"name": "causal-lm", "max_length": 16, "packing": False},
        "data": {"files": {"train": "train.txt", "test": "test.txt"}},
        "teacher": {"server": {"url": "SERVER", "model": "tiny", "tokenizer": "decoder", "retries": 0, "timeout": 10}},
        "student": {"pretrained": "small-decoder"},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
        "evaluate": {"resamples": 100, "control": False},
    },
    "staged": {
        "task": "text-classification",
        "data": {"files": {"train": "train.csv", "test": "test.csv"}},
        "teacher": {"model": "teacher"},
        "student": {"pretrained": "teacher"},
        "stages": [
            {"name": "first", "objectives": [{"kind": "logits"}]},
            {"name": "second", "objectives": [{"kind": "labels"}]},
        ],
        "evaluate": {"resamples": 100, "control": False},
    },
    "alone": {
        "task": "text-classification",
        "data": {"files": {"train": "train.csv", "test": "test.csv"}},
        "student": {
            "config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "intermediate_size": 16},
            "tokenizer": "teacher",
        },
        "evaluate": {"resamples": 100},
    },
}  # fmt: skip


def make_place(folder: Path) -> None:
    """Models, data and recipes, which commands are run on."""
    for name, model in {
        "teacher": taught(tiny.bert(2, initializer_range=0.05), tiny.tokenizer()),
        "three-labels": tiny.bert(2, labels=("bad", "good", "neither")),
        "other-labels": tiny.bert(2, labels=("cold", "warm")),
        "broken-weights": tiny.bert(2),
        "pickled": tiny.bert(1),
        "without-weights": tiny.bert(1),
        "more-layers": tiny.bert(2),
    }.items():
        model.save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    for name, layers in (("decoder", 2), ("small-decoder", 1)):
        taught(tiny.decoder(layers, initializer_range=0.05), tiny.chat_tokenizer()).save_pretrained(folder / name)
        tiny.chat_tokenizer().save_pretrained(folder / name)
    tiny.bert(1).save_pretrained(folder / "without-tokenizer")
    for name, special in (
        ("one-more-token", {"additional_special_tokens": ["<|im_start|>"]}),
        ("own-pad", {"pad_token": "<pad>"}),
    ):
        tokenizer = tiny.chat_tokenizer()
        tokenizer.add_special_tokens(special)
        tokenizer.save_pretrained(folder / name)
        tiny.decoder(1, vocab_size=len(tokenizer)).save_pretrained(folder / name)
    weights = folder / "broken-weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    (folder / "without-weights" / "model.safetensors").unlink()
    _set(folder / "more-layers" / "config.json", num_hidden_layers=3)
    (folder / "own-code").mkdir()
    own = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.StrangeConfig"}}
    (folder / "own-code" / "config.json").write_text(json.dumps(own))
    (folder / "not-a-model").mkdir()
    for name, count, seed in (("train", 48, 0), ("test", 24, 1)):
        rows = tiny.rows(count, seed)
        lines = [f"{text},{('bad', 'good')[label]}" for text, label in zip(rows["text"], rows["label"], strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
        (folder / f"{name}.txt").write_text("\n".join(rows["text"]) + "\n")
    for name, changes in RECIPES.items():
        recipe = {"version": 1, "name": name, **changes, "training": {**TRAINING, **QUIET}}
        (folder / f"{name}.yaml").write_text(json.dumps(recipe))  # JSON is YAML, too.


def taught(model: Any, tokenizer: Any) -> Any:
    """The same after a few steps on the rows, so that it knows something."""
    rows = tiny.rows(128, 3)
    batch = tokenizer(list(rows["text"]), padding=True, return_tensors="pt")
    labels = torch.tensor(list(rows["label"]))
    if "ForCausalLM" in type(model).__name__:
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def _set(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edited(name: str, **values: Any) -> Callable[[Path], None]:
    """Another value for keys of a file of JSON."""
    return lambda place: _set(place / name, **values)


def damaged(pattern: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes in the first file that fits."""

    def apply(place: Path) -> None:
        path = sorted(place.glob(pattern))[0]
        path.write_bytes(change(path.read_bytes()))

    return apply


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 64]) + content[middle + 64 :]


@contextmanager
def held(place: Path) -> Iterator[None]:
    with locked(place / "runs" / "alone"):
        yield


def entries(number: str) -> bytes:
    """An answer with this log-probability."""
    return with_body(b'{"choices": [{"prompt_logprobs": [null, {"9": {"logprob": %s}}]}]}' % number.encode())
