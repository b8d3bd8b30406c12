"""Inputs that people bring, of kinds that fail elsewhere: each is run, or refused, and a page shows what comes of it.

``HF_DISTILL_WRITE_PAGES=1 pytest -n 0 -m slow tests/test_inputs_page.py`` writes ``docs/inputs.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

import hf_distill
from hf_distill import DistillationTrainer
from hf_distill.errors import HfDistillError
from tests.helpers import tiny
from tests.helpers.error_pages import check_page
from tests.helpers.seams import accept_any_teacher
from tests.helpers.trainers import arguments

OPENING = """
# What becomes of the inputs that people bring

Every row is a kind of input that is known to fail, or to teach something wrong in silence, in tools that train and
distil. A test (`tests/test_inputs_page.py`) gives it to a tiny model: what works has trained and been scored; what is
refused is refused before anything is trained, with the line of the last column. Where something works, the last column
has the line that tells what was made of the input, if there is one. [Bad inputs](errors.md) have a page of their own.
"""

HEAD = ("what people bring", "what happens", "line")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
DROPS_EARLIER = CHATML.replace(
    "{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else m.content.split('</think>')[-1] }}"
)
CUTS = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
OPENS = CHATML.replace("assistant {% endif %}", "assistant <think> {% endif %}")
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
SAID = "the card is good"


def turn(role: str, content: Any = SAID, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(turns or (turn("user"), turn("assistant"))), **more}


UNPACKED = {"name": "causal-lm", "max_length": 16, "packing": False}
TOOLS = "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}"
EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 4}
THOUGHT = "<think>the bank</think>is good"
CALL = {"type": "function", "function": {"name": "look", "arguments": '{"card": "good"}'}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def tokenizer(*tokens: str) -> Any:
    made = tiny.chat_tokenizer(CHATML)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *tokens]})
    return made


def saved(folder: Path, model: Any, made: Any = None) -> str:
    model.save_pretrained(folder)
    (made or tokenizer()).save_pretrained(folder)
    return str(folder)


def writer(folder: Path, *tokens: str, **shape: Any) -> str:
    made = tokenizer(*tokens)
    return saved(folder, tiny.decoder(2, vocab_size=len(made), **shape), made)


Rows = list[dict[str, Any]]


def recipe(
    place: Path, rows: Rows, others: Rows | None = None, /, columns: Any = None, **changes: Any
) -> dict[str, Any]:
    """Of a student that learns a few steps from rows of one file; the last eight of another are scored."""
    for name, part in (("train", rows), ("others", others or rows)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = {
        name: str(place / f"{'train' if name == 'train' else 'others'}.jsonl")
        for name in ("train", "validation", "test")
    }
    return {
        "version": 1,
        "name": "input",
        "task": {"name": "causal-lm", "max_length": 64},
        "data": {"files": files, **({"columns": columns} if columns else {})},
        "objectives": [{"kind": "labels"}],
        "training": {"use_cpu": True, "max_steps": 2, "eval_strategy": "no", "save_strategy": "no"},
        "evaluate": {"resamples": 100, "control": False},
        **(
            {}
            if "student" in changes or "teacher" in changes
            else {"student": {"pretrained": writer(place / "writer")}}
        ),
        **changes,
    }


def templated(template: str, **more: Any) -> dict[str, Any]:
    return {"task": {"name": "causal-lm", "max_length": 64, "chat_template": template, **more}}


def taught(
    place: Path, rows: Rows, teacher: Any, student: Any, objectives: Any = None, **changes: Any
) -> dict[str, Any]:
    """Of a student that a teacher teaches."""
    objectives = objectives or [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}]
    return recipe(place, rows, teacher={"model": teacher}, student=student, objectives=objectives, **changes)


def family(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    made = {**shape, "vocab_size": len(tokenizer()), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, **options}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **made))


def wrapper(place: Path) -> str:
    """A model of text and images, whose config nests that of the text."""
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    text |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(tokenizer())}
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower |= {"image_size": 16, "patch_size": 8}
    parts = {"mm_tokens_per_image": 4, "image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=tower, **parts)
    torch.manual_seed(0)
    return saved(place / "wrapper", AutoModelForCausalLM.from_config(config))


def trained(folder: Path, model: Any, rows: dict[str, Any], **options: Any) -> list[str]:
    """What a trainer of a person's own tells of rows."""
    trainer = DistillationTrainer(
        model=model,
        args=arguments(folder, max_steps=2),
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer(),
        **options,
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return trainer.connection_notes


def decoder(**options: Any) -> Any:
    return tiny.decoder(1, vocab_size=len(tokenizer()), **options)


def tokenised(count: int = 16) -> dict[str, Any]:
    ids = tokenizer()([SAID] * count)["input_ids"]
    return {"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids]}


def unwritable(place: Path) -> Any:
    model = decoder()
    model.generation_config.temperature = 0.6
    return model


def shared_start(place: Path) -> dict[str, Any]:
    """A fresh BART beside a pretrained one, whose decoder starts with the end token."""
    made = tokenizer()
    teacher = tiny.encoder_decoder("bart", 1, 1, vocab_size=len(made), decoder_start_token_id=made.eos_token_id)
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    shape |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    student = {"config": {"model_type": "bart", **shape}}
    rows = [{"source": SAID, "target": "the bank"}] * 16
    translation = {"task": {"name": "translation", "max_length": 16, "max_target_length": 8}}
    return taught(place, rows, saved(place / "bart", teacher, made), student, **translation)


def dropping(place: Path) -> dict[str, Any]:
    source = saved(place / "opt", family("opt", ffn_dim=48, word_embed_proj_dim=32, layerdrop=0.5))
    return taught(place, TEXTS, source, {"pretrained": source}, [{"kind": "hidden"}], task=UNPACKED)


def half(place: Path) -> dict[str, Any]:
    source = saved(place / "half", tiny.decoder(2, vocab_size=len(tokenizer())).to(torch.bfloat16))
    return taught(place, [{"text": SAID}] * 16, source, {"layers": 1})


def one_more_token(place: Path) -> dict[str, Any]:
    """A student with a mark that its teacher lacks."""
    student = {"pretrained": writer(place / "more", "<|tool|>")}
    return taught(place, [{"text": SAID}] * 16, writer(place / "writer"), student)


SYSTEM = chat(turn("system"), turn("user"), turn("assistant"))
HALF_LEARNED = chat(turn("user"), turn("assistant", weight=0), turn("user"), turn("assistant"))
PARTS = turn("user", [{"type": "text", "text": SAID}])
OF_PARTS = chat(PARTS, turn("assistant", None, tool_calls=[CALL]), turn("tool"), turn("assistant"))
TEXTS = [{"text": SAID}] * 16
SHAREGPT = {"conversations": [{"from": "human", "value": SAID}, {"from": "gpt", "value": SAID}]}
ALPACA = {"instruction": SAID, "input": "", "output": SAID}
CHOSEN = {"chosen": chat()["messages"], "rejected": chat(turn("user"), turn("assistant", "bad"))["messages"]}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Something that people bring.

    Attributes:
        tried: What it is, in words.
        make: A recipe that holds it; or what trains, and gives the lines that it tells.
        line: Part of the line that tells what is made of it; None where there is none, or where it is refused.
        refused: Whether it is.
    """

    tried: str
    make: Callable[[Path], Any]
    line: str | None = None
    refused: bool = False


KINDS = [
    Kind(
        tried="chats for a base model, whose texts end otherwise than the template's turns",
        make=lambda place: recipe(place, [chat()] * 16),
        line="im_end",
    ),
    Kind(
        tried="chats of several turns in a template that drops the thoughts of earlier ones (Qwen3)",
        make=lambda place: recipe(
            place, [chat(*[turn("user"), turn("assistant", THOUGHT)] * 2)] * 16, **templated(DROPS_EARLIER)
        ),
        line="renders earlier turns otherwise",
    ),
    Kind(
        tried="a template that opens a thought before the answer (DeepSeek-R1)",
        make=lambda place: recipe(place, [chat()] * 16, **templated(OPENS)),
    ),
    Kind(
        tried="ShareGPT (conversations of from and value), no columns named",
        make=lambda place: recipe(place, [SHAREGPT] * 16),
        line="conversations",
    ),
    Kind(
        tried="Alpaca (instruction, input, output), no columns named",
        make=lambda place: recipe(place, [ALPACA] * 16),
        line="instruction",
    ),
    Kind(
        tried="pairs of preferences (chosen and rejected chats), no columns named",
        make=lambda place: recipe(place, [CHOSEN] * 16),
        line="chosen",
    ),
    Kind(
        tried="ShareGPT with data.columns: {messages: conversations}",
        make=lambda place: recipe(place, [SHAREGPT] * 16, columns={"messages": "conversations"}),
    ),
    Kind(
        tried="contents that are lists of parts, or null beside a call of a tool",
        make=lambda place: recipe(
            place,
            [OF_PARTS] * 16,
        ),
        line="tool_calls",
    ),
    Kind(
        tried="messages as JSON texts (csv)",
        make=lambda place: recipe(place, [{"messages": json.dumps(chat()["messages"])}] * 16),
    ),
    Kind(
        tried="a system turn in a template that refuses it (Gemma)",
        make=lambda place: recipe(place, [SYSTEM] * 16, **templated(NO_SYSTEM + CHATML)),
        refused=True,
    ),
    Kind(
        tried="in Python: rows that are tokenised already, without labels",
        make=lambda place: trained(place, decoder(), tokenised(), task="causal-lm", objectives=["labels"]),
        line="every token counts",
    ),
    Kind(
        tried="in Python: a mask of what counts under a name that nothing reads",
        make=lambda place: trained(
            place,
            decoder(),
            {**tokenised(), "response_mask": tokenised()["attention_mask"]},
            task="causal-lm",
            objectives=["labels"],
        ),
        refused=True,
    ),
    Kind(
        tried="a model of text and images as a model of text (Gemma 3)",
        make=lambda place: taught(place, TEXTS, wrapper(place), {"layers": 1}, task=UNPACKED),
    ),
    Kind(
        tried="descriptions of tools beside messages, in a template that writes them",
        make=lambda place: recipe(
            place, [chat(tools=[TOOL])] * 16, **templated(TOOLS + CHATML)
        ),
    ),
    Kind(
        tried="rows longer than the positions of one of the models",
        make=lambda place: taught(
            place, TEXTS, writer(place / "short", max_position_embeddings=16), {"pretrained": writer(place / "writer")}
        ),
        line="rows are cut at",
    ),
    Kind(
        tried="thoughts that the template cuts out of what is learned",
        make=lambda place: recipe(place, [chat(turn("user"), turn("assistant", THOUGHT))] * 16, **templated(CUTS)),
        line="leaves out",
    ),
    Kind(
        tried="a model with a table of positions (GPT-2) whose tokenizer pads on the left",
        make=lambda place: recipe(
            place,
            TEXTS,
            student={"pretrained": saved(place / "gpt2", family("gpt2", n_positions=64), left())},
            task=UNPACKED,
        ),
    ),
    Kind(
        tried="a student with a token that its teacher lacks",
        make=one_more_token,
        refused=True,
    ),
    Kind(
        tried="a mixture of experts whose config asks for balance (output_router_logits)",
        make=lambda place: recipe(
            place,
            TEXTS,
            student={"pretrained": saved(place / "experts", family("mixtral", output_router_logits=True, **EXPERTS))},
        ),
        line="router",
    ),
    Kind(
        tried="hidden states of a model that drops layers in training (OPT, M2M100)",
        make=dropping,
        line="no layer is dropped",
    ),
    Kind(
        tried="a fresh BART as the student of a pretrained one, whose decoder starts with the end token",
        make=shared_start,
    ),
    Kind(
        tried="in Python: a causal language model without a task",
        make=lambda place: trained(place, decoder(), {"text": [SAID] * 16}, objectives=["labels"]),
    ),
    Kind(
        tried="in Python: compute_metrics over a vocabulary",
        make=lambda place: trained(
            place, decoder(), {"text": [SAID] * 16}, objectives=["labels"], compute_metrics=lambda prediction: {}
        ),
        refused=True,
    ),
    Kind(
        tried="prompts alone, to be answered by the student itself (rollout.share: 1.0)",
        make=lambda place: {
            **recipe(place, [{"prompt": SAID}] * 16, [{"prompt": SAID, "completion": SAID}] * 8),
            "teacher": {"model": str(place / "writer")},
            "objectives": [{"kind": "logits", "temperature": 1.0}],
            "rollout": {"share": 1.0, "max_new_tokens": 4},
        },
        line="rollout",
    ),
    Kind(
        tried="one chat that is null, far down",
        make=lambda place: recipe(place, [*[chat()] * 555, {"messages": None}, chat()], [chat()] * 8),
        refused=True,
    ),
    Kind(
        tried="a student made of layers of a teacher in bfloat16",
        make=half,
        line="saved in bfloat16",
    ),
    Kind(
        tried="chats most of which are longer than task.max_length",
        make=lambda place: recipe(
            place,
            [chat()] * 4 + [chat(turn("user", SAID * 20), turn("assistant"))] * 12,
            [chat()] * 8,
            task={"name": "causal-lm", "max_length": 24},
        ),
        line="train: .*will be dropped",
    ),
    Kind(
        tried="in Python: a generation config that could not be saved (temperature without do_sample)",
        make=lambda place: trained(place, unwritable(place), {"text": [SAID] * 16}, objectives=["labels"]),
        refused=True,
    ),
    Kind(
        tried="turns with weight: 0 (OpenAI) or train: false",
        make=lambda place: recipe(place, [HALF_LEARNED] * 16),
    ),
    Kind(
        tried="several references where one text is meant",
        make=lambda place: recipe(
            place, [{"prompt": SAID, "completion": [SAID, "the bank"]}] * 16
        ),
        refused=True,
    ),
]  # fmt: skip


def left() -> Any:
    made = tokenizer()
    made.padding_side = "left"
    return made


def told(kind: Kind, place: Path) -> list[str]:
    """What check tells of a recipe that then runs; or what a trainer tells."""
    made, lines = kind.make(place), []
    if not isinstance(made, dict):
        return list(made)
    hf_distill.check(made, report=lines.append)
    result = hf_distill.run(made, runs=place / "runs", report=lambda line: None)
    assert result.metrics["loss"] > 0
    return lines


def outcome(kind: Kind, place: Path) -> tuple[str, str]:
    """What happens, and the line."""
    if kind.refused:
        with pytest.raises(HfDistillError) as error:
            told(kind, place)
        assert not (place / "runs").exists()
        return "refused", shown(str(error.value), place)
    lines = told(kind, place)
    if kind.line is None:
        return "works", ""
    found = [line for line in lines if re.search(kind.line, line)]
    assert found, (kind.tried, lines)
    return "works", shown(found[0], place)


def shown(line: str, place: Path) -> str:
    return f"`` {line.replace(f'{place}/', '')} ``"


@pytest.mark.slow
def test_every_kind_of_input_comes_out_as_the_page_says(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)  # What tiny models know is beside the point.
    rows = []
    for number, kind in enumerate(KINDS):
        place = tmp_path / str(number)
        place.mkdir()
        rows.append((kind.tried, *outcome(kind, place)))
    check_page("inputs.md", OPENING, HEAD, rows)
