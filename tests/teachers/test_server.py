"""A teacher behind an endpoint: it teaches and writes as if it were here, whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from hf_distill import (
    CausalLanguageModeling,
    DistillationTrainer,
    Labels,
    Logits,
    ModelTeacher,
    cache,
    check,
    label,
    run,
)
from hf_distill.errors import HfDistillError, RecipeError, ServerError, TeacherError, WritingError
from hf_distill.evaluation.language_modeling import score_tokens
from hf_distill.evaluation.predict import Candidate
from hf_distill.evaluation.scores import Evaluation
from hf_distill.logs import reported
from hf_distill.recipe import ServerConfig
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.teachers import ServedTeacher
from hf_distill.teachers.endpoint import Client, prompt_likelihoods, write
from hf_distill.teachers.endpoint.completions import sampling
from hf_distill.teachers.served import documents_of
from tests.helpers import data as shared_data
from tests.helpers import tiny
from tests.helpers.seams import accept_any_teacher
from tests.helpers.serving import CUT, DROP, GARBAGE, serving

SIZE = len(tiny.CHAT_WORDS)
KEY = "sk-the-secret-of-this-test"
IDS = [5, 9, 12, 7, 20, 3]


def silent(line: str) -> None:
    """Nobody reads it."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """What is tried again is tried at once, and models are measured once: what is measured here tells nothing."""
    monkeypatch.setattr("hf_distill.teachers.endpoint.client.FIRST_WAIT", 0.0)
    accept_any_teacher(monkeypatch)
    monkeypatch.delenv("HF_DISTILL_API_KEY", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Llama with random weights and its tokenizer."""
    path = tmp_path_factory.mktemp("teacher") / "llama"
    tiny.decoder(2, seed=3).save_pretrained(path)
    tiny.chat_tokenizer(tiny.CHAT_TEMPLATE).save_pretrained(path)
    return path


@pytest.fixture
def server():
    with serving(tiny.decoder(2, seed=3), tiny.chat_tokenizer(tiny.CHAT_TEMPLATE)) as found:
        yield found


def config(server, **keys) -> ServerConfig:
    return ServerConfig(**{"url": server.url, "model": server.name, "top_k": SIZE, "timeout": 30.0, **keys})


@pytest.fixture
def recipe(server, folder):
    def make(rows: str = "answers", **keys) -> dict:
        return {
            "version": 1,
            "name": "served",
            "task": {"name": "causal-lm", "max_length": 32},
            "data": {"path": f"tests.helpers.data:{rows}"},
            "teacher": {"server": {"url": server.url, "model": server.name, "tokenizer": str(folder), "retries": 1}},
            "student": {"config": {"model_type": "llama", **SHAPE}, "tokenizer": str(folder)},
            "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
            "training": {"max_steps": 4, "per_device_train_batch_size": 4, "use_cpu": True, "logging_steps": 1},
            "evaluate": {"resamples": 100},
            **keys,
        }

    return make


SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
}


# --- as if it were here ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "options"), [("answer_texts", {}), ("answer_texts", {"packing": False}), ("answers", {})]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_all_tokens_of_a_served_teacher_give_loss_and_gradient_of_the_same_teacher_here(
    rows, options, side, server, tmp_path
):
    found = []
    for teacher in (ModelTeacher(tiny.decoder(2, seed=3)), ServedTeacher(Client(config(server)), SIZE)):
        student = tiny.decoder(1, seed=5)
        trainer = DistillationTrainer(
            model=student,
            teacher=teacher,
            task=CausalLanguageModeling(max_length=24, **options),
            objectives=[Labels(), Logits(temperature=1.0)],
            args=TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"),
            train_dataset=getattr(shared_data, rows)(8)["train"],
            processing_class=tiny.chat_tokenizer(side=side),
        )
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(student, batch)
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in student.parameters()])
        found.append((loss.item(), gradient))
    (here, expected), (served, gradient) = found
    assert served == pytest.approx(here, abs=1e-4)
    assert torch.allclose(gradient, expected, atol=1e-4)
    assert expected.abs().max() > 1e-2


def test_the_likeliest_tokens_and_the_mass_of_the_rest_are_those_of_the_model(server):
    positions = prompt_likelihoods(Client(config(server)), IDS, 5)
    with torch.inference_mode():
        logs = server.model(input_ids=torch.tensor([IDS])).logits[0].log_softmax(-1)
    assert [each.ids for each in positions] == logs[:-1].topk(5).indices.tolist()
    assert [each.actual for each in positions] == pytest.approx(
        logs[:-1].gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
    )
    teacher = ServedTeacher(Client(config(server, top_k=5)), SIZE)
    batch = {"input_ids": torch.tensor([IDS]), "attention_mask": torch.ones(1, 6), "labels": torch.tensor([IDS])}
    kept = teacher.targets(CausalLanguageModeling(), batch, frozenset({"logits"})).logits
    assert torch.allclose(kept.rest, 1 - logs[:-1].topk(5).values.exp().sum(1), atol=1e-5)
    assert torch.allclose(kept.probabilities, logs[:-1].topk(5).values.exp(), atol=1e-5)


def test_tokens_that_only_fill_up_the_servers_vocabulary_are_part_of_the_rest(server):
    batch = {"input_ids": torch.tensor([IDS]), "attention_mask": torch.ones(1, 6), "labels": torch.tensor([IDS])}
    kept = (
        ServedTeacher(Client(config(server)), 30).targets(CausalLanguageModeling(), batch, frozenset({"logits"})).logits
    )
    assert kept.ids.max() < 30
    assert kept.vocabulary == 30
    assert torch.allclose(kept.probabilities.sum(1) + kept.rest, torch.ones(5))


def test_each_text_of_a_packed_row_is_asked_by_itself_up_to_its_last_token_that_counts():
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9, 10], [1, 1, 11, 12, 13, 14]]),
        "attention_mask": torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 0, 1]]),
    }
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]]).bool().flatten()
    found = list(documents_of(batch, mask))
    assert [each.ids for each in found] == [[5, 6, 7], [8, 9], [11, 12]]
    assert [each.places for each in found] == [[0, 1], [3], [7]]


def test_a_served_teacher_is_scored_as_the_same_model_here(server, folder):
    rows, task = shared_data.answers()["test"], CausalLanguageModeling(max_length=32)
    served = ServedTeacher.of(config(server, tokenizer=str(folder)))
    found = served.score(Evaluation(task=task, rows=rows))
    encoded = task.encode(rows, served.tokenizer)
    sizes = [len(text.encode()) for text in task.texts(rows)]
    expected = score_tokens(
        Candidate(model=tiny.decoder(2, seed=3), tokenizer=served.tokenizer), task, encoded, sizes=sizes
    ).metrics()
    assert found.metrics() == pytest.approx(expected, abs=1e-5)
    assert found.metrics().keys() == {"loss", "perplexity", "accuracy", "calibration_error", "bits_per_byte"}


def test_a_served_teacher_writes_what_the_same_model_writes_here(recipe, folder, tmp_path):
    for rows in ("answers", "chats"):
        settings = recipe(rows, label={"generation": {"num_beams": 1, "max_new_tokens": 6}}, name=rows)
        settings["task"]["max_length"] = 64  # Of a chat that is longer, a teacher that is here sees the end alone.
        local = {**settings, "teacher": {"model": str(folder), "dtype": "float32"}}
        ours, theirs = (written(label(each, runs=tmp_path / rows, report=silent)) for each in (settings, local))
        assert len(ours) > 5  # Empty texts are dropped.
        column = "messages" if rows == "chats" else "completion"
        assert [row[column] for row in ours] == [row[column] for row in theirs]
        for name in ("mean_log_probability", "row_id"):
            assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], abs=1e-3)


WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}{% for m in messages %}{{ m.role }} "
    "{{ m.content }} {% for c in m.tool_calls or [] %}{% for v in c.function.arguments.values() %}{{ v }} "
    "{% endfor %}{% endfor %}[SEP] {% endfor %}"
)


@pytest.mark.parametrize("as_text", [True, False])
def test_tools_and_their_calls_reach_a_served_teacher_as_its_interface_takes_them(as_text, recipe, server, tmp_path):
    """Arrow gives each tool the argument names of the others, as nulls: none of these may be sent."""

    def chat(i: int) -> dict:
        name, argument, value = (("bank", "city", "river"), ("garden", "zone", "house"))[i % 2]
        given = json.dumps({argument: value}) if as_text else {argument: value}
        call = {"type": "function", "id": f"call{i}", "function": {"name": name, "arguments": given}}
        parameters = {"type": "object", "properties": {argument: {"type": "string"}}}
        return {
            "messages": [
                {"role": "user", "content": f"my {tiny.SUBJECTS[i % 8]}"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "good", "tool_call_id": f"call{i}"},
                {"role": "assistant", "content": "is fine"},
            ],
            "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
        }

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(chat(i)) + "\n" for i in range(8)))
    server.tokenizer.chat_template = WITH_TOOLS
    tiny.decoder(2, seed=3).save_pretrained(tmp_path / "llama")
    server.tokenizer.save_pretrained(tmp_path / "llama")
    settings = recipe(label={"generation": {"num_beams": 1, "max_new_tokens": 4}}, name="tools")
    settings["data"] = {"files": dict.fromkeys(("train", "validation", "test"), str(rows))}
    settings["teacher"]["server"]["tokenizer"] = settings["student"]["tokenizer"] = str(tmp_path / "llama")
    settings["task"]["max_length"] = 64
    local = {**settings, "teacher": {"model": str(tmp_path / "llama"), "dtype": "float32"}}
    ours, theirs = (written(label(each, runs=tmp_path / "runs", report=silent)) for each in (settings, local))
    assert len(ours) > 4
    assert [row["messages"] for row in ours] == [row["messages"] for row in theirs]
    asked = [body for path, body in server.requests if path == "/v1/chat/completions"]
    sent = {body["messages"][0]["content"]: body for body in asked}
    for i in range(8):
        expected, body = chat(i), sent[f"my {tiny.SUBJECTS[i % 8]}"]
        assert body["tools"] == expected["tools"]
        user, call, tool = body["messages"]
        assert (user, tool) == (expected["messages"][0], expected["messages"][2])
        (made,) = call["tool_calls"]
        (meant,) = expected["messages"][1]["tool_calls"]
        arguments = meant["function"]["arguments"]
        assert json.loads(made["function"]["arguments"]) == (json.loads(arguments) if as_text else arguments)
        assert (made["id"], made["type"], made["function"]["name"]) == (
            f"call{i}",
            "function",
            meant["function"]["name"],
        )


def written(folder: Path) -> list[dict]:
    return list(Dataset.from_parquet(str(folder / "datasets" / "train-00000-of-00001.parquet")))


# --- many requests --------------------------------------------------------------------------------------------------


def test_32_requests_are_under_way_and_their_answers_come_in_order(server):
    server.together = threading.Barrier(32)  # None is answered before 32 have come.
    client = Client(config(server, concurrency=32))
    prompts = [[5 + i % 20, 6 + i // 20, 7] for i in range(64)]
    found = client.map(lambda ids: prompt_likelihoods(client, ids, 3), prompts)
    assert server.most == 32
    server.together = None
    assert found == [prompt_likelihoods(client, ids, 3) for ids in prompts]


def test_no_more_requests_begin_in_a_minute_than_the_recipe_allows(server):
    now, waits = [0.0], []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    client = Client(config(server, requests_per_minute=30.0), wait=wait, clock=lambda: now[0])
    for _ in range(4):
        prompt_likelihoods(client, IDS, 1)
    assert waits == [2.0, 2.0, 2.0]


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [(500, 503), (429, 429), (DROP,), (GARBAGE,), (CUT, 408)])
def test_a_fault_that_passes_is_survived(faults, server):
    expected = prompt_likelihoods(Client(config(server)), IDS, 3)
    server.fail(*faults)
    assert prompt_likelihoods(Client(config(server), wait=silent), IDS, 3) == expected
    assert len(server.requests) == 2 + len(faults)


def test_waits_double_and_are_drawn_and_retry_after_is_kept_to(server, monkeypatch):
    monkeypatch.setattr("hf_distill.teachers.endpoint.client.FIRST_WAIT", 1.0)
    waits: list[float] = []
    server.fail(500, 500, 500, 500)
    prompt_likelihoods(Client(config(server), wait=waits.append), IDS, 1)
    assert all(2**i / 2 <= seconds <= 2**i for i, seconds in enumerate(waits))
    assert len(waits) == 4
    waits.clear()
    server.fail(429, Retry_After="7")
    prompt_likelihoods(Client(config(server), wait=waits.append), IDS, 1)
    assert waits == [7.0]
    server.fail(503, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT")
    prompt_likelihoods(Client(config(server), wait=waits.append), IDS, 1)
    assert waits[1:] == [0.0]
    server.fail(429, Retry_After="86400")
    with pytest.raises(ServerError, match="asks to wait 86,400 s"):
        prompt_likelihoods(Client(config(server), wait=waits.append), IDS, 1)


def telling(entry: dict):
    """An answer that says this of each token."""
    return lambda body: (200, {"choices": [{"prompt_logprobs": [None, *[entry] * 5]}]})


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ([429] * 9, r"still answers 429.*lower teacher\.server\.concurrency.*after 3 tries"),
        ([500] * 9, r"answers 500 \(out of order\).*run the command again"),
        ([DROP] * 9, "cannot be reached, or broke off"),
        ([GARBAGE] * 9, r"is not JSON.*ends with /v1"),
        ([CUT] * 9, "cut off: log-probabilities of 3 of 6 tokens"),
        ([302], "a redirect; set teacher.server.url"),
        ([400], r"refuses the request with 400 \(out of order\)"),
        ([lambda body: (200, [])] * 9, "no choices"),
        ([lambda body: (200, {"choices": [{}]})], r"no log-probabilities of prompts.*hf-distill label"),
        (
            [lambda body: (200, {"choices": [{"prompt_logprobs": [None, *[{"1": {"logprob": -1}}] * 5]}]})],
            "another token",
        ),
        ([lambda body: (200, {"choices": [{"prompt_logprobs": [None, *[{"a": 1}] * 5]}]})] * 9, "cannot be read"),
        (
            [lambda body: (200, {"choices": [{"prompt_logprobs": [None, *[{"9": {"logprob": 1.0}}] * 5]}]})] * 9,
            "above 0",
        ),
    ],
)
def test_a_fault_that_stays_is_told_in_one_line(faults, told, server):
    server.fail(*faults)
    with pytest.raises(ServerError, match=told) as raised:
        prompt_likelihoods(Client(config(server, retries=2), wait=silent), IDS, 3)
    assert "\n" not in str(raised.value)
    assert len(server.requests) == min(3, len(faults))


def test_a_server_that_is_slow_or_not_there_is_told_with_the_address(server):
    held = threading.Event()
    server.fail(lambda body: (held.wait(20), (200, {}))[1])
    with pytest.raises(ServerError, match=r"no answer within 0\.05 s; raise teacher\.server\.timeout"):
        prompt_likelihoods(Client(config(server, retries=0, timeout=0.05)), IDS, 3)
    held.set()
    nobody = ServerConfig(url="http://127.0.0.1:9/v1", model="m", retries=1)
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9/v1: the server cannot be reached.*after 2 tries"):
        prompt_likelihoods(Client(nobody, wait=silent), IDS, 3)


def test_a_wrong_key_is_never_tried_again_nor_shown(folder, monkeypatch):
    with serving(tiny.decoder(2, seed=3), tiny.chat_tokenizer(), key=KEY) as server:
        for value, told in ((None, "was not sent, for the variable is not set"), ("sk-wrong", "was refused")):
            if value:
                monkeypatch.setenv("HF_DISTILL_API_KEY", value)
            server.requests.clear()
            with pytest.raises(ServerError, match=told) as raised:
                prompt_likelihoods(Client(config(server)), IDS, 3)
            assert len(server.requests) == 1
            assert "sk-" not in str(raised.value)
        monkeypatch.setenv("HF_DISTILL_API_KEY", KEY)
        assert len(prompt_likelihoods(Client(config(server)), IDS, 3)) == 5
        server.fail(*[lambda body: (400, {"error": {"message": f"no quota for {KEY}"}})])
        with pytest.raises(ServerError, match=r"no quota for \[key\]"):
            prompt_likelihoods(Client(config(server)), IDS, 3)
        monkeypatch.setenv("HF_DISTILL_MINE", "sk-\n-broken")
        with pytest.raises(ServerError, match="the key in HF_DISTILL_MINE holds characters"):
            Client(config(server, key_variable="HF_DISTILL_MINE"))


def test_what_the_start_up_test_finds_is_told(recipe, server, folder):
    task, lines = CausalLanguageModeling(max_length=32), []
    with reported(lines.append):
        ServedTeacher.of(config(server, tokenizer=str(folder))).verify(load_recipe(recipe()), task)
    assert lines[0] == f"server: tiny-llama is there, and gives the {SIZE} likeliest tokens of each position"
    assert "into the same" in lines[1]
    assert "differ from those of the model that is here by 0.0" in lines[2]
    for options, told in (({"tokenize": False}, "the same"), ({"tokenize": True}, "the same")):
        server.options |= options
        with reported(lines.append):
            ServedTeacher.of(config(server, tokenizer=str(folder))).verify(load_recipe(recipe()), task)
        assert told in lines[-2]


@pytest.mark.parametrize(
    ("keys", "options", "told"),
    [
        ({"model": "llama-70b"}, {}, r"serves no model 'llama-70b'; it serves tiny-llama"),
        ({"top_k": 5}, {"max_logprobs": 4}, r"start vLLM with --max-logprobs of at least teacher\.server\.top_k"),
        ({}, {"max_model_len": 16}, r"room for 16 tokens of tiny-llama.*lower task\.max_length"),
        ({}, {"prompt_logprobs": False}, r"no log-probabilities of prompts"),
    ],
)
def test_what_the_start_up_test_finds_amiss_is_refused(keys, options, told, recipe, server, folder):
    server.options |= options
    teacher, task = (
        ServedTeacher.of(config(server, tokenizer=str(folder), **keys)),
        CausalLanguageModeling(max_length=32),
    )
    with pytest.raises(ServerError, match=told):
        teacher.verify(load_recipe(recipe()), task)


def test_another_tokenizer_or_another_model_behind_the_name_is_refused(recipe, server, folder):
    task = CausalLanguageModeling(max_length=32)
    server.tokenizer = tiny.tokenizer([*tiny.WORDS[:5], *reversed(tiny.CHAT_WORDS[5:])])
    for tokenize in (True, False):
        server.options["tokenize"] = tokenize
        with pytest.raises(ServerError, match="cuts a probe into other tokens"):
            ServedTeacher.of(config(server, tokenizer=str(folder))).verify(load_recipe(recipe()), task)
    server.tokenizer = tiny.chat_tokenizer()
    server.model = tiny.decoder(2, seed=4)
    with pytest.raises(ServerError, match="it serves another model"):
        ServedTeacher.of(config(server, tokenizer=str(folder))).verify(load_recipe(recipe()), task)


# --- the recipe -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"url": "localhost:8000"}, r"server\.url: expected an address"),
        ({"url": "http://localhost:port/v1"}, r"server\.url: expected an address"),
        ({"url": f"http://me:{KEY}@localhost/v1"}, r"server\.url: a secret \(not shown\).*key_variable"),
        ({"url": "http://@localhost/v1"}, "holds a user name, a password or parameters"),
        ({"url": f"http://localhost/v1?key={KEY}"}, r"server\.url: a secret \(not shown\).*key_variable"),
        ({"url": "http://localhost/v1?version=1"}, "holds a user name, a password or parameters"),
        ({"url": "http://localhost\\.evil.com/v1"}, r"server\.url: expected an address"),
        ({"key_variable": KEY}, r"server\.key_variable: a secret \(not shown\).*key_variable names"),
        ({"key_variable": "HF_TOKEN"}, r"key_variable: expected the name.*begins with HF_DISTILL_.*HF_DISTILL_API_KEY"),
        ({"key_variable": "AWS_SECRET_ACCESS_KEY"}, "begins with HF_DISTILL_"),
        ({"key_variable": "HF_DISTILL_"}, "begins with HF_DISTILL_"),
        ({"key_variable": "hf_distill_key"}, "begins with HF_DISTILL_"),
        ({"key_variable": "XHF_DISTILL_KEY"}, "begins with HF_DISTILL_"),
        ({"model": ""}, r"server\.model: expected"),
        ({"top_k": 0}, r"server\.top_k: expected at least 1"),
        ({"concurrency": 0}, r"server\.concurrency: expected at least 1"),
        ({"retries": -1}, r"server\.retries: expected at least 0"),
        ({"timeout": 0}, r"server\.timeout: expected a number above 0"),
        ({"requests_per_minute": 0}, r"server\.requests_per_minute: expected a number above 0"),
        ({"key": KEY}, r"server\.key: a secret \(not shown\).*key_variable"),
        ({"key": "EMPTY"}, r"server\.key: no such key"),
    ],
)
def test_a_key_of_the_server_that_cannot_be_is_refused_and_no_secret_is_shown(keys, told, recipe):
    settings = recipe()
    settings["teacher"]["server"] |= keys
    with pytest.raises(RecipeError, match=told) as raised:
        load_recipe(settings)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"model": "a/b"}, "exactly one of ensemble, model, recipe and server"),
        ({"dtype": "float32"}, r"teacher\.dtype: does nothing for a served teacher"),
        ({"revision": "main"}, r"teacher\.revision: does nothing for a served teacher"),
        ({"kind": "cached", "cache": {"scheme": "sampled"}}, "of which sampled cannot be made"),
        ({"kind": "cached", "cache": {"scheme": "top_k", "k": 5}}, r"cache\.k: does nothing.*server\.top_k"),
    ],
)
def test_what_a_served_teacher_makes_idle_is_refused(keys, told, recipe):
    settings = recipe()
    settings["teacher"] |= keys
    with pytest.raises(RecipeError, match=told):
        load_recipe(settings)


@pytest.mark.parametrize(
    ("objective", "error", "told"),
    [
        ({"kind": "hidden"}, TeacherError, "hidden_states, which no server gives"),
        ({"kind": "logits", "temperature": 2.0}, TeacherError, r"temperature 2.*set temperature: 1\.0"),
        ({"kind": "logits", "temperature": {"from": 2.0, "to": 1.0}}, TeacherError, "temperature goes from"),
        (
            {"kind": "logits", "divergence": "reverse_kl", "temperature": 1.0},
            TeacherError,
            "a server gives some of them",
        ),
    ],
)
def test_an_objective_that_a_server_cannot_serve_is_refused_before_it_is_asked(objective, error, told, recipe, server):
    settings = recipe(objectives=[{"kind": "labels"}, objective])
    for kind in ("live", "cached"):
        settings["teacher"]["kind"] = kind
        with pytest.raises(error, match=told):
            check(settings, report=silent)
    assert not server.requests


def test_what_cannot_be_done_with_a_served_teacher_is_refused_by_name(recipe, folder, tmp_path):
    other = tmp_path / "other"
    tiny.decoder(1).save_pretrained(other)
    tiny.tokenizer([*tiny.WORDS[:5], *reversed(tiny.CHAT_WORDS[5:])]).save_pretrained(other)
    words = {**recipe(), "task": {"name": "text-classification"}, "data": {"path": "tests.helpers.tiny:splits"}}
    labels = [{"kind": "labels"}]
    server = {**recipe()["teacher"]["server"], "top_k": 5}
    for settings, error, told in (
        (words, RecipeError, "asked for causal-lm alone, got text-classification"),
        (recipe(student={"layers": 1}), RecipeError, "those of a served teacher are not here"),
        (recipe(student={"pretrained": str(other)}), HfDistillError, "end token|different tokens"),
        (recipe(evaluate={"metric": "kl_to_teacher"}), RecipeError, "the likeliest tokens alone"),
        (recipe(objectives=labels, teacher={"server": server}), RecipeError, r"server\.top_k: no objective asks"),
        (recipe(objectives=labels, teacher={**recipe()["teacher"], "kind": "cached"}), RecipeError, "nothing to cache"),
        (recipe(label={"generation": {"num_beams": 4}}), RecipeError, "does not search with beams"),
        (recipe(label={"generation": {"no_repeat_ngram_size": 3}}), RecipeError, "cannot be asked for it"),
        (recipe(label={"generation": {"temperature": 0.5}}), RecipeError, "without do_sample"),
        (recipe(label={"hypotheses": 3, "choose": "best"}), RecipeError, "writes the same text each time"),
        (recipe(label={"batch_size": 4}), RecipeError, r"server\.concurrency tells"),
        (recipe(evaluate={"generation": {"num_beams": 4}}), RecipeError, "evaluate.generation.num_beams"),
    ):
        with pytest.raises(error, match=told):
            check(settings, report=silent)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["live", "cached"])
def test_one_stage_that_asks_a_served_teacher_is_enough(kind, recipe, tmp_path):
    settings = recipe()
    logits = settings.pop("objectives")
    settings["teacher"] = {**settings["teacher"], "kind": kind}
    settings["training"].pop("max_steps", None)
    settings["stages"] = [
        {"name": "labels", "objectives": [{"kind": "labels"}], "training": {"max_steps": 1}},
        {"name": "teacher", "objectives": logits, "training": {"max_steps": 1}},
    ]
    found = run(settings, runs=tmp_path, report=silent).results
    assert list(found["stages"]) == ["labels", "teacher"]


def test_sweeps_and_plans_need_a_teacher_that_is_here(recipe, tmp_path):
    import hf_distill

    with pytest.raises(RecipeError, match="a sweep counts and scores"):
        hf_distill.sweep(recipe(), ["training.learning_rate=1e-3,1e-4"], runs=tmp_path, report=silent)
    with pytest.raises(RecipeError, match="a plan measures students"):
        hf_distill.plan(recipe(), speedup=2.0, runs=tmp_path, report=silent)


def test_a_recipe_without_a_server_is_written_as_before_there_was_one(recipe):
    assert load_recipe(load_recipe(recipe()).to_dict()) == load_recipe(recipe())
    assert "server" not in load_recipe({**recipe(), "teacher": {"model": "a/b"}}).to_dict()["teacher"]


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["live", "cached"])
def test_a_run_learns_from_a_served_teacher_and_tells_what_is_not_known_of_it(
    kind, folder, recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_DISTILL_API_KEY", KEY)
    with serving(tiny.decoder(2, seed=3), tiny.chat_tokenizer(), key=KEY) as server:
        settings = recipe("answer_texts" if kind == "live" else "answers")
        settings["teacher"] |= {"kind": kind}
        settings["teacher"]["server"] |= {"url": server.url, "top_k": 12}
        lines: list[str] = []
        result = run(settings, runs=tmp_path, report=lines.append)
        teacher = result.results["models"]["teacher"]
        assert teacher["origin"] == "served as tiny-llama"
        assert teacher.keys().isdisjoint({"parameters", "disk_bytes", "latency_ms", "samples_per_second"})
        assert teacher["metrics"].keys() == {"loss", "perplexity", "accuracy", "calibration_error", "bits_per_byte"}
        assert result.metrics.keys() == teacher["metrics"].keys()
        comparison = result.comparison
        assert comparison["size_ratio"] is comparison["speedup"] is comparison["agreement"] is None
        assert comparison["student_minus_control"] is not None
        card = (result.student / "README.md").read_text()
        assert "**tiny-llama**, served, so that its size and speed are not known" in card
        assert "Teacher: served as tiny-llama." in card
        assert "told the likeliest tokens alone" in card
        terms = [each["loss_logits"] for each in history(result.folder) if "loss_logits" in each]
        assert len(terms) == 4
        assert all(value > 0 for value in terms)
        told = capsys.readouterr()
        everything = "\n".join([*lines, told.out, told.err])
        assert KEY not in everything
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) > 20
        assert not [path for path in files if KEY.encode() in path.read_bytes()]
        server.requests.clear()
        again = {
            **settings,
            "teacher": {**settings["teacher"], "server": {**settings["teacher"]["server"], "retries": 9}},
        }
        assert run(again, runs=tmp_path, report=silent).folder == result.folder  # The same model, asked otherwise.


def history(folder: Path) -> list[dict]:
    (path,) = folder.glob("checkpoints/**/student*.json")
    return json.loads(path.read_text())["log_history"]


@pytest.mark.slow
def test_where_the_cache_keeps_all_tokens_the_losses_are_those_with_the_served_teacher_live(recipe, server, tmp_path):
    found = []
    for kind in ("live", "cached"):
        settings = recipe(name=kind)
        settings["teacher"] |= {"kind": kind, **({"cache": {"verify": 5}} if kind == "cached" else {})}
        settings["teacher"]["server"]["top_k"] = SIZE
        result = run(settings, runs=tmp_path, report=silent)
        found.append([each["loss"] for each in history(result.folder) if "loss" in each])
    assert found[0] == pytest.approx(found[1], rel=2e-3)


def test_a_server_that_dies_and_comes_back_loses_no_row_and_doubles_none(recipe, server, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.labelling.shards.SHARD_ROWS", 7)
    settings = recipe(label={"generation": {"do_sample": True, "max_new_tokens": 6}}, seed=11)
    expected = written(label(settings, runs=tmp_path / "whole", report=silent))
    server.requests.clear()
    server.dies_after = 15
    with pytest.raises(ServerError, match="what was finished is kept: run the command again"):
        label(settings, runs=tmp_path / "broken", report=silent)
    assert len(list(tmp_path.glob("broken/labels/written-*/shard-*.jsonl"))) == 2
    server.dies_after = None
    server.requests.clear()
    found = written(label(settings, runs=tmp_path / "broken", report=silent))
    assert found == expected
    told = json.loads(next(tmp_path.glob("broken/labels/*/provenance.json")).read_text())
    assert told["rows"]["written"] == 24
    assert len({row["row_id"] for row in found}) == len(found) > 12
    assert sum(path == "/v1/completions" for path, _ in server.requests) == 10  # Of 24 rows 14 were written before.


def test_a_cache_that_was_broken_off_goes_on_where_it_stopped(recipe, server, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.teachers.cache_store.SHARD_ROWS", 8)
    settings = recipe()
    settings["teacher"] |= {"kind": "cached"}
    whole = cache(settings, runs=tmp_path / "whole", report=silent)
    asked = {json.dumps(body["prompt"]) for path, body in server.requests if isinstance(body.get("prompt"), list)}
    server.requests.clear()
    server.dies_after = 15
    with pytest.raises(ServerError, match="cannot be reached"):
        cache(settings, runs=tmp_path / "broken", report=silent)
    server.dies_after = None
    done = len(list(tmp_path.glob("broken/**/shard-*.safetensors")))
    assert 0 < done < 4
    server.requests.clear()
    broken = cache(settings, runs=tmp_path / "broken", report=silent)
    for path in sorted(whole.glob("shard-*.safetensors")):
        assert path.read_bytes() == (broken / path.name).read_bytes()
    again = [json.dumps(body["prompt"]) for _, body in server.requests if isinstance(body.get("prompt"), list)]
    # The start-up test's probe, and the rows of the shards that were not there, each once.
    assert len(again) == len(set(again)) == 1 + 30 - 8 * done
    assert set(again) <= asked


def test_a_student_learns_on_what_it_writes_from_a_served_teacher(recipe, server, tmp_path):
    settings = recipe(rollout={"share": 1.0, "max_new_tokens": 4}, objectives=[{"kind": "logits", "temperature": 1.0}])
    result = run(settings, runs=tmp_path, report=silent)
    assert any("rollout_length" in each for each in history(result.folder))


# --- what it writes -------------------------------------------------------------------------------------------------


def test_sampling_settings_have_the_servers_names(server):
    asked = sampling({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_new_tokens": 8})
    assert asked == {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 8}
    assert sampling({"do_sample": False, "max_new_tokens": 8}) == {"temperature": 0.0, "max_tokens": 8}
    found = write(Client(config(server)), IDS, asked, 3, 7)
    assert len({each.text for each in found}) > 1
    assert found == write(Client(config(server)), IDS, asked, 3, 7)
    body = server.requests[-1][1]
    assert (body["n"], body["seed"], body["max_tokens"]) == (3, 7, 8)


def test_of_several_texts_the_likeliest_is_taken_where_the_server_tells_and_refused_where_not(recipe, server, tmp_path):
    drawn = {"generation": {"do_sample": True, "max_new_tokens": 6}, "hypotheses": 3}
    folder = label(recipe(label=drawn), runs=tmp_path, report=silent)
    found = {row["row_id"]: row["completion"] for row in written(folder)}
    assert len(found) > 12  # Empty texts are dropped.
    for line in next(folder.parent.glob("written-*")).glob("shard-*.jsonl"):
        for entry in map(json.loads, line.read_text().splitlines()):
            best = max(entry["hypotheses"], key=lambda each: each["mean_log_probability"])
            assert found.get(entry["row_id"], "") == best["text"]
    server.options["logprobs"] = False
    with pytest.raises(WritingError, match="no log-probabilities of what it writes"):
        label(recipe(label=drawn, seed=5), runs=tmp_path, report=silent)
    one = {"generation": {"max_new_tokens": 6}}
    folder = label(recipe(label=one), runs=tmp_path, report=silent)
    assert {row["mean_log_probability"] for row in written(folder)} == {None}
    assert json.loads((folder / "provenance.json").read_text())["teacher"]["origin"] == "served as tiny-llama"


def test_texts_that_were_cut_are_counted_and_an_answer_that_stopped_for_no_reason_is_asked_for_again(
    recipe, server, tmp_path
):
    lines: list[str] = []
    server.faults = [0, CUT]  # The first is asked for the models.
    folder = label(recipe(label={"generation": {"max_new_tokens": 2}}), runs=tmp_path, report=lines.append)
    assert json.loads((folder / "provenance.json").read_text())["not_ended"] > 12
    assert any("were cut at the most tokens" in line for line in lines)
    server.faults = [CUT] * 9
    with pytest.raises(ServerError, match=r"did not come to an end \(finish_reason None\)"):
        write(Client(config(server, retries=1), wait=silent), IDS, {"temperature": 0.0}, 1, 0)
    server.faults = [lambda body: (200, {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]})] * 9
    with pytest.raises(ServerError, match=r"asked for 2 texts and gave 1; set label\.hypotheses"):
        write(Client(config(server, retries=1), wait=silent), IDS, {"temperature": 1.0}, 2, 0)


def test_a_run_trains_on_what_a_served_teacher_wrote_and_judges_what_models_write(recipe, tmp_path):
    settings = recipe(
        "chats",
        label={"generation": {"max_new_tokens": 6}},
        evaluate={"resamples": 100, "scorers": ["rouge"], "generation": {"max_new_tokens": 6}},
    )
    result = run(settings, runs=tmp_path, report=silent)
    assert result.results["labels"]["rows"]["kept"] == 8
    assert "rougeL" in result.results["models"]["teacher"]["metrics"]


# --- another server than ours ---------------------------------------------------------------------------------------


@pytest.fixture
def transformers_serve(folder, tmp_path):
    """``transformers serve`` of the same model, found in a cache of the Hub; gives its address."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="transformers serve needs the extra transformers[serving]")
    repo = tmp_path / "hub" / "models--tests--tiny-llama"
    shutil.copytree(folder, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    start = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    options = ["--host", "127.0.0.1", "--port", port, "--device", "cpu", "--dtype", "float32"]
    process = subprocess.Popen(
        [sys.executable, "-c", start, "serve", "tests/tiny-llama", *options],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


COMMIT = "0" * 40


@pytest.mark.slow
def test_transformers_serve_writes_after_chats_and_says_that_it_gives_no_log_probabilities(
    transformers_serve, recipe, folder, tmp_path
):
    keys = {"url": transformers_serve, "model": "tests/tiny-llama", "tokenizer": str(folder)}
    starting = Client(ServerConfig(**keys, retries=300), wait=lambda _: threading.Event().wait(0.2))
    assert starting.check_model() is None
    settings = recipe("chats", label={"generation": {"max_new_tokens": 6}}, teacher={"server": keys})
    settings["task"]["max_length"] = 64
    local = {**settings, "teacher": {"model": str(folder), "dtype": "float32"}}
    local["label"] = {"generation": {"num_beams": 1, "max_new_tokens": 6}}
    ours, theirs = (written(label(each, runs=tmp_path, report=silent)) for each in (settings, local))
    assert [row["messages"] for row in ours] == [row["messages"] for row in theirs]
    assert {row["mean_log_probability"] for row in ours} == {None}
    with pytest.raises(ServerError, match=r"422 \(Unexpected.*gives no log-probabilities of prompts.*hf-distill label"):
        check(settings, report=silent)
