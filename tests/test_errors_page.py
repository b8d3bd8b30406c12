"""Bad inputs of every kind: the command line refuses each in one line with an exit code, and a page shows them all.

``HF_DISTILL_WRITE_PAGES=1 pytest -n 0 tests/test_errors_page.py`` writes ``docs/errors.md``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.helpers.bad_inputs import (
    Case,
    case,
    check,
    cut,
    damaged,
    data,
    edited,
    entries,
    flipped,
    held,
    make_place,
    served,
    written,
)
from tests.helpers.command_line import call
from tests.helpers.error_pages import check_section, table
from tests.helpers.raw_server import dripping, raw_server, with_body

OPENING = """
# What hf-distill says of what it cannot use

Every row is a command that a test runs (`tests/test_errors_page.py`), and the one line that it prints to stderr. The
exit code is 2 where something can be mended by whoever called the command, 3 where the Hub refused
([its own page](hub_errors.md)), 130 after Ctrl-C, 143 after SIGTERM, and 70 for a fault of hf-distill itself, whose
line names a file with the traceback. `--debug` shows the traceback of any of them.
"""

NOBODY = "http://127.0.0.1:9/v1"
"""Where no server listens."""

LIBRARIES = ("transformers", "datasets", "huggingface_hub", "accelerate")

HEAD = ("what was tried", "command", "line", "exit code")

HEAD_OF_RECIPE = "version: 1\nname: x\n"
BILLION = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
PACKAGES = "What this machine cannot do"
WANTED = ("wandb", "tensorboard", "mlflow", "bitsandbytes", "torchao", "galore_torch", "lomo_optim", "deepspeed")
QUANTISED = {"quant_method": "bitsandbytes", "load_in_4bit": True}
MADE = "name: big, student: {pretrained: teacher}, objectives: [{kind: labels}]"
FEW = "text,label\n" + "good card,good\nbad card,bad\n" * 3
ROWS = "text,label\n" + "good card,good\nbad card,bad\n" * 8
PLANTED = "hf_" + "abcdefghijklmnopqrstuvwxyz01234567"

SYMBOLS = "text,label\n" + "!,good\n?,bad\n" * 8
CONTROL = "evaluate.control=true"
BEST = "training.load_best_model_at_end=true training.eval_strategy=epoch training.save_strategy=epoch"
JSONL = {"name": "rows.jsonl", "overrides": "'data.files={train: rows.jsonl, test: rows.jsonl}'"}
TAGS = [(["good", "card"], ["B-X", "O"]), (["bad", "card"], ["O", "B-X"])] * 8


def lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def several(*labels: list[Any]) -> str:
    """Rows with these labels."""
    return lines({"text": f"card {i}", "label": label} for i, label in enumerate(chain.from_iterable(labels)))


def tagged(tried: str, *splits: list[tuple[list[Any], list[str]]]) -> Case:
    """A check of words with tags, of the training and the test rows."""
    files = {
        f"{name}.jsonl": lines({"tokens": words, "labels": tags} for words, tags in rows)
        for name, rows in zip(("words", "test"), splits, strict=True)
    }
    overrides = "task=token-classification 'data.files={train: words.jsonl, test: test.jsonl}'"
    return check(tried, overrides, "alone.yaml", files=files)


def turns(*said: str) -> list[dict[str, str]]:
    """A chat: roles and what they say."""
    return [{"role": role, "content": content} for role, content in zip(said[::2], said[1::2], strict=True)]


CHAT = turns("user", "good card", "assistant", "bad card")


def chats(tried: str, messages: list[Any]) -> Case:
    """A check of training rows that are these chats."""
    rows = {
        "chats.jsonl": lines({"messages": each} for each in messages),
        "test.jsonl": lines([{"messages": CHAT}] * 4),
    }
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} [SEP] {% endfor %}"
    files = {**rows, "template.jinja": template}
    overrides = "'data.files={train: chats.jsonl, test: test.jsonl}' 'task={name: causal-lm, max_length: 16, "
    return check(tried, f"{overrides}chat_template: template.jinja}}'", "texts.yaml", files=files)


GROUPS: dict[str, tuple[str, tuple[Case, ...]]] = {
    "The command line": (
        "A command that is called wrongly says what is wrong, and where its help is.",
        (
            case("an unknown command", "rnu recipe.yaml"),
            case("no recipe", "run"),
            case("an unknown option", "check classes.yaml --verbose"),
            case("an option without its value", "run classes.yaml --runs"),
            case("a word where a number is meant", "plan classes.yaml --speedup twice"),
            case("one argument too many", "init text-classification causal-lm"),
            case("control characters", "'\x1b[31mrun'"),
            case("a task without a template", "init poetry"),
            case("a file that is there already", "init causal-lm --output classes.yaml"),
            case("a folder that is not there", "init causal-lm --output no/such/recipe.yaml"),
            case("recipes of a folder that is not there", "recipes no/such/folder"),
            check("an override without a value", "training"),
            check("an override without a key", "=3"),
            check("an override of nothing between dots", "training..seed=1"),
            check("an override that is no YAML", "'data.columns={text: [}'"),
            check("an index that a list does not have", "objectives.7.weight=2"),
            check("an index that is no number", "objectives.²=1"),
            check("a key below a value", "name.first=x"),
        ),
    ),
    "The recipe's file": (
        "A recipe is YAML 1.2 of plain data, and small. What is more is refused before anything is built of it.",
        (
            case("no such file", "check none.yaml"),
            case("a folder", "check teacher"),
            written("nothing in it", ""),
            written("a list", "- a\n- b\n"),
            written("a text", "distil me"),
            written("a bracket that is not closed", "version: 1\ndata: [1\nb: 2\n"),
            written("a tab", "version: 1\ndata:\n\tpath: x\n"),
            written("bytes that are no UTF-8", b"version: 1\nname: \xff\xfe\n"),
            written("a null byte", "version: 1\nname: 'a\0b'\n"),
            written("the same key twice", HEAD_OF_RECIPE + "name: y\n"),
            written("a tag that makes a Python object", "version: 1\nname: !!python/object/apply:os.system [id]\n"),
            written("aliases that unfold to millions of values", BILLION),
            written("an alias of what it stands in", "training: &a {b: *a}\n"),
            written("a thousand lists inside one another", "a: " + "[" * 1000 + "]" * 1000),
            written("300,000 bytes", "name: " + "x" * 300_000),
            written("a key that is no text", HEAD_OF_RECIPE + "training: {1.5: x}\n"),
            written("a number that is none", HEAD_OF_RECIPE + "training: {learning_rate: .nan}\n"),
        ),
    ),
    "Keys of a recipe": (
        "Every key acts or is refused, by its path; what is near in spelling is named.",
        (
            check("a key that is not there", "data.train_spilt=x"),
            check("a section that is not there", "techer.model=x"),
            check("a key of training that is not there", "training.learning_rat=1e-3"),
            check("another version", "version=2"),
            written("a key that every recipe has", "version: 1\nname: x\ntask: text-classification\n"),
            check("a text for a number", "seed=many"),
            check("a number below its least", "seed=-1"),
            check("a text for a yes or no", "hub.private=maybe"),
            check("a number for a section", "evaluate=3"),
            check("a text for a list", "evaluate.scorers=bleu"),
            check("a mapping for a list", "'objectives={kind: labels}'"),
            check("a word that is not among those it may be", "evaluate.split=train"),
            check("a folder's name that leaves the folder", "name=../x"),
            check("a name that the Hub does not allow", "hub.model_id=a/b/c"),
            check("a push to nowhere", "hub.push=true"),
            check("two kinds of teacher at once", "'teacher={model: a, recipe: b.yaml}'"),
            written("a teacher's recipe that is not there", HEAD_OF_RECIPE + "teacher: {recipe: none.yaml}\n"),
            check("two kinds of student at once", "'student={config: {hidden_size: 32}, pretrained: teacher}'"),
            check("no kind of student", "'student={}'"),
            check("a learning rate below 0", "training.learning_rate=-0.1"),
            check("a key of training that has its place elsewhere", "training.output_dir=x"),
            check("a value that TrainingArguments refuses", "training.eval_strategy=sometimes"),
            check("a metric that the task does not have", "evaluate.metric=accurracy"),
            check("a scorer that is not there", "evaluate.scorers=[blue]", "texts.yaml"),
            check("an unknown task", "task=translating"),
            check("an unknown option of a task", "'task={name: text-classification, max_lenght: 3}'"),
            check("an unknown kind of objective", "'objectives=[{kind: logit}]'"),
            check("an unknown option of an objective", "objectives.1.temprature=2"),
            check("a setting that no model can be asked for", "'evaluate.generation={num_beam: 2}'", "texts.yaml"),
        ),
    ),
    "Code that a recipe names": (
        "Nothing that a recipe names is imported unless `--allow-code` is given, and nothing of Python's standard "
        "library even then.",
        (
            check("a shell command as data", "'data={path: \"subprocess:run\", arguments: {args: id, shell: true}}'"),
            check(
                "the same with the flag",
                "'data={path: \"subprocess:run\", arguments: {args: id, shell: true}}' --allow-code",
            ),
            check("a module of somebody", "'data={path: \"their_data:load\"}'"),
            check("a module that is not there, with the flag", "'data={path: \"their_data:load\"}' --allow-code"),
            check("an objective", "'objectives=[{kind: \"antigravity:X\"}]'"),
            check("a task", "'task={name: \"their_task:Task\"}'"),
            check("a teacher", "'teacher={kind: \"their_teacher:Teacher\"}'"),
            check("a student", "'student={kind: \"their_student:make\"}'"),
            check("a scorer", "'evaluate.scorers=[\"their_scorer:score\"]'", "texts.yaml"),
            check("a metric of the Hub", "'evaluate.scorers=[\"evaluate:somebody/metric\"]'", "texts.yaml"),
            check("a kernel of the Hub", "'student={config: {attn_implementation: somebody/kernel}}'"),
            check("a compiler of DeepSpeed", "'training.deepspeed={compile: {backend: os.system}}'"),
            check("two at once", "'task={name: \"a:B\"}' 'objectives=[{kind: \"c:D\"}]'"),
        ),
    ),
    "Secrets": (
        "A recipe never holds a secret, only the name of a variable that begins with `HF_DISTILL_`; no line shows one.",
        (
            check("another secret for a server", "teacher.server.key_variable=HF_TOKEN", "served.yaml"),
            check("the key in place of its variable", f"teacher.server.key_variable={PLANTED}", "served.yaml"),
            check("a password in an address", "teacher.server.url=http://me:hunter2@host/v1", "served.yaml"),
            check("a key in an address", "'teacher.server.url=http://host/v1?key=hunter2'", "served.yaml"),
            check("a token for a function of data", f"'data={{path: \"m:f\", arguments: {{token: {PLANTED}}}}}'"),
            check(
                "a variable that is not for recipes",
                "'data={path: \"m:f\", arguments: {token: $AWS_SECRET_ACCESS_KEY}}'",
            ),
            check("a variable where none is read", "'training.run_name=$HF_DISTILL_NAME'"),
            check("a token of the Hub", f"training.hub_token={PLANTED}"),
            check("a token anywhere else", f"training.run_name={PLANTED}"),
            check(
                "a key over plain http to another machine",
                "teacher.server.url=http://198.51.100.1/v1",
                "served.yaml",
                environment={"HF_DISTILL_API_KEY": "sk-of-this-test"},
            ),
            check(
                "a key that holds a line feed",
                "",
                "served.yaml",
                environment={"HF_DISTILL_API_KEY": "sk-of\nthis-test"},
                answer=b"",
            ),
        ),
    ),
    "Keys that do not go together": (
        "[All of these rules](compatibility.md) are one table; here are some.",
        (
            check(
                "on-policy without a teacher",
                "teacher=null student.pretrained=teacher student.layers=null 'rollout={}'",
            ),
            check("on-policy with a cache", "'rollout={}'", "cached.yaml"),
            check("on-policy where nothing is written", "'rollout={}'"),
            check("a cached teacher of a stream", "data.streaming=true", "cached.yaml"),
            check("a stream without an end", "data.streaming=true training.max_steps=null"),
            check("labels without a teacher", "teacher=null 'label={}'", "texts.yaml"),
            check("an objective that needs a teacher, without one", "'student={pretrained: teacher}' teacher=null"),
            check("a single stage", "'stages=[{name: a, objectives: [{kind: labels}]}]'", "staged.yaml"),
            check("two stages of one name", "stages.1.name=FIRST", "staged.yaml"),
            check("objectives beside stages", "'objectives=[{kind: labels}]'", "staged.yaml"),
            check(
                "a metric of the teacher, without one",
                "teacher=null 'student={pretrained: decoder}' 'objectives=[{kind: labels}]' evaluate.metric=agreement",
                "texts.yaml",
            ),
            check("a served teacher's hidden states", "'objectives=[{kind: hidden}]'", "served.yaml"),
            check("a served teacher with beams", "evaluate.generation.num_beams=2", "served.yaml"),
            check("a cache of everything over a vocabulary", "teacher.cache.scheme=dense", "cached.yaml"),
            check(
                "a cache at several temperatures",
                "'objectives=[{kind: logits, temperature: 1}, {kind: logits, temperature: 2}]'",
                "cached.yaml",
            ),
            check("merged adapters", "'student.lora={merge: true}'", "staged.yaml"),
        ),
    ),
    "Data": (
        "Rows are looked at before anything is trained; a row is named by its number, from 0.",
        (
            check("a file that is not there", "data.files.train=none.csv"),
            check("a kind of file that is not read", "data.files.train=classes.yaml"),
            check("a data set that cannot be reached", "'data={path: nobody/nothing}'"),
            check("a split that is not there", "data.train_split=training"),
            check("no split to be scored on", "'data={files: {train: train.csv}}'"),
            check("one split twice", "data.test_split=train"),
            check("a column that is not there", "'data.columns={text: sentence}'"),
            check("a column that the task does not have", "'data.columns={sentence: text}'"),
            check("more rows for validation than there are", "data.validation_size=5000"),
            data("no rows", "text,label\n"),
            data("nothing at all", ""),
            data("one class", "text,label\n" + "good card,good\n" * 16),
            data("a row without a text", ROWS + ",good\n"),
            data("a row without a label", ROWS + "good card,\n"),
            data("a file of texts of no column that counts", "sentence,label\n" + "good card,good\nbad card,bad\n" * 8),
            data("labels that differ by case alone", ROWS + "good card,Good\n" * 3),
            data("scores as texts", "text,label\n" + "".join(f"card {i},{i / 7:.3f}?\n" for i in range(30))),
            data("a class that only the test rows have", ROWS + "odd card,odd\n", name="test.csv"),
            data("test rows of one class", "text,label\n" + "good card,good\n" * 8, name="test.csv"),
            data("a bad row far down", "text,label\n" + "good card,good\n" * 500 + ",bad\n", name="test.csv"),
            data("numbers where texts are meant", "text,label\n" + "12,good\n13,bad\n" * 8, name="test.csv"),
            data("a column that the test rows lack", ROWS.replace("text", "sentence"), name="test.csv"),
            data("lists of classes of another length", several([[1, 0], [0, 1]] * 8, [[1, 0, 1]]), **JSONL),
            data("a label that is an object", several([{"class": "good"}] * 8), **JSONL),
            data("labels within lists of lists", several([[["good"]], [["bad"]]] * 8), **JSONL),
            data("a score that is infinite", several([0.5, 0.25, 1e400] * 8), **JSONL),
            tagged("a tag that only the test rows have", TAGS, [*TAGS, (["good"], ["B-Y"])]),
            tagged("more tags than words", TAGS, [*TAGS, (["good"], ["O", "O"])]),
            tagged("a word that is null", TAGS, [*TAGS, (["good", None], ["O", "O"])]),
            chats("a role that nobody knows, far down", [CHAT] * 800 + [turns("narrator", "good")]),
            chats("a chat that is null, far down", [CHAT] * 800 + [None]),
            chats(
                "prompts that leave no room for any answer", [turns("user", "good card " * 20, "assistant", "bad")] * 8
            ),
            check("a floor of words where there are none", "evaluate.floor=true", files={"train.csv": SYMBOLS}),
            check("a metric that no evaluation logs", f"{BEST} training.metric_for_best_model=accurracy"),
            check(
                "a metric that the control does not log", f"{BEST} training.metric_for_best_model=loss_logits {CONTROL}"
            ),
            check("more tokens to be kept than there are", "'teacher.cache={scheme: top_k, k: 5000}'", "cached.yaml"),
            check("more draws than a cache counts", "'teacher.cache={scheme: sampled, draws: 5000}'", "cached.yaml"),
        ),
    ),
    "Models": (
        "Weights are read from safetensors alone, and no code of a model is run.",
        (
            check("a model that cannot be reached", "teacher.model=nobody/nothing-at-all"),
            check("a folder that is not there", "teacher.model=./no/such/folder"),
            check("a folder without a model", "teacher.model=./not-a-model"),
            check("a model with code of its own", "teacher.model=./own-code"),
            check("weights that are a pickle", "teacher.model=./pickled"),
            check("weights that are cut", "teacher.model=./broken-weights"),
            check("weights that are missing", "teacher.model=./without-weights"),
            check("a layer without weights", "teacher.model=./more-layers"),
            check("a student whose weights are cut", "'student={pretrained: ./broken-weights}'"),
            check("a model without a tokenizer", "teacher.model=./without-tokenizer"),
            check("more labels than the data have", "teacher.model=./three-labels"),
            check("labels of other names", "teacher.model=./other-labels"),
            check("a config that is cut", "", before=damaged("teacher/config.json", cut)),
            check("a model that writes, for classes", "teacher.model=./decoder 'teacher.labels=[bad, good]'"),
            check("a revision of a folder", "teacher.revision=v2"),
        ),
    ),
    "Students and objectives": (
        "A student is built as asked, or not at all.",
        (
            check("a layer that the teacher does not have", "'student={layers: [0, 7]}'"),
            check("more layers than the teacher has", "'student={layers: 9}'"),
            check(
                "heads that do not divide the width", "'student={config: {hidden_size: 30, num_attention_heads: 4}}'"
            ),
            check("an unknown kind of model", "'student={config: {model_type: burt}}'"),
            check("an unknown key of a config", "'student={config: {hiden_size: 32}}'"),
            check("a student with a token more than its teacher", "student.pretrained=one-more-token", "known.yaml"),
            check("a student with a pad token that its teacher lacks", "student.pretrained=own-pad", "known.yaml"),
            check(
                "fresh weights without a model type",
                "teacher=null 'student={config: {hidden_size: 32}}' 'objectives=[{kind: labels}]'",
            ),
            check(
                "a tokenizer of an unknown kind", "'student={config: {model_type: bert}, tokenizer: {kind: letters}}'"
            ),
            check("a vocabulary of two tokens", "'student={config: {hidden_size: 32}, tokenizer: {vocab_size: 2}}'"),
            check(
                "adapters on what is not there", "'student={pretrained: teacher, lora: {target_modules: [nothing]}}'"
            ),
            check("a dtype for adapters alone", "'student={pretrained: teacher, lora: {}, dtype: bfloat16}'"),
            check("all of it frozen", "'student={layers: 1, freeze: [embeddings, encoder]}'"),
            check("a temperature of 0", "objectives.1.temperature=0"),
            check("a weight below 0", "objectives.1.weight=-1"),
            check("an unknown divergence", "objectives.1.divergence=kl"),
            check("a layer of the student that is not there", "'objectives=[{kind: hidden, layers: {9: 0}}]'"),
            check("an objective of vectors for classes", "'objectives=[{kind: similarity}]'"),
            check("no objective", "objectives=[]"),
        ),
    ),
    "Training": (
        "A training that runs away stops before it saves anything; what no training can have is refused before.",
        (
            case(
                "a learning rate at which nothing is finite",
                "run alone.yaml name=fast training.learning_rate=1e30 "
                "training.max_steps=20 training.max_grad_norm=0 training.optim=sgd",
            ),
            case(
                "weights that are not finite",
                "run alone.yaml name=broken 'student={pretrained: teacher}' training.max_steps=4",
                before=lambda place: not_finite(place / "teacher"),
            ),
            case(
                "a teacher whose weights are not finite",
                "run classes.yaml training.max_steps=4",
                before=lambda place: not_finite(place / "teacher"),
            ),
            case(
                "a teacher that knows nothing",
                "run classes.yaml 'teacher={model: clueless}'",
                before=lambda place: clueless(place),
            ),
            check("a batch of no rows", "training.per_device_train_batch_size=0"),
            check("a warm-up in a wrong word", "training.lr_scheduler_type=gently"),
            check("a warm-up without what it needs", "training.lr_scheduler_type=cosine_with_min_lr"),
            check("a rate of Adam beyond 1", "training.adam_beta1=2"),
            check("an order of rows that is not there", "training.train_sampling_strategy=by_length"),
            check("too few rows for a whole batch", "training.dataloader_drop_last=true", files={"train.csv": FEW}),
        ),
    ),
    PACKAGES: (
        "A tiny model is trained for a step with the very keys of `training`, and each report is made without sending "
        "anything, so that what this machine lacks is known before any work. The key that is named is one without "
        "which that step goes.",
        (
            check("a report to what is not installed", "training.report_to=wandb"),
            check("several reports, one not installed", "'training.report_to=[tensorboard, mlflow]'"),
            check("a report to nobody", "training.report_to=nobody"),
            check("an optimizer of bitsandbytes", "training.optim=adamw_bnb_8bit"),
            check("an optimizer of torchao", "training.optim=adamw_torch_4bit"),
            check("an optimizer of galore", "training.optim=galore_adamw 'training.optim_target_modules=[query]'"),
            check("an optimizer of lomo", "training.optim=lomo"),
            check("DeepSpeed", "'training.deepspeed={zero_optimization: {stage: 2}}'"),
            check("FSDP in one process", "training.fsdp=true"),
            check("a file of FSDP that is not there", "training.fsdp=true training.fsdp_config=none.json"),
            check("kernels of Liger", "training.use_liger_kernel=true"),
            check(
                "weights quantised by bitsandbytes",
                "",
                before=edited("teacher/config.json", quantization_config=QUANTISED),
            ),
            check("the same where a teacher is made", f"'teacher={{recipe: {{{MADE}, training: {{optim: lomo}}}}}}'"),
        ),
    ),
    "Caches and texts of a teacher": (
        "A damaged file is named, and what to do; where the teacher is at hand its rows are read again, which is told.",
        (
            case("a live teacher", "cache classes.yaml"),
            case("nothing to be written", "label texts.yaml"),
            case(
                "more tokens than the vocabulary has",
                "cache cached.yaml teacher.cache.scheme=top_k teacher.cache.k=99999",
            ),
            check("an unknown scheme", "teacher.cache.scheme=everything", "cached.yaml"),
            case("a cache of other rows", "run cached.yaml", before=lambda place: other_rows(place)),
            case("a cache of another teacher", "cache cached.yaml teacher.model=small-decoder"),
            case("a manifest that is cut", "run cached.yaml", before=damaged("cache/manifest.json", cut)),
            case(
                "a manifest without its keys", "run cached.yaml", before=damaged("cache/manifest.json", lambda _: b"{}")
            ),
        ),
    ),
    "A teacher behind a server": (
        "An answer has a time and a size; what cannot be an answer is one line.",
        (
            served("a server that is not there", None),
            served("another model", with_body(b'{"data": [{"id": "large"}]}')),
            served("a wrong key", b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"),
            served("an address that is no API", b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
            served("a page in HTML", with_body(b"<html>Sign in</html>")),
            served("a redirect", b"HTTP/1.1 302 Found\r\nLocation: http://198.51.100.1/\r\nContent-Length: 0\r\n\r\n"),
            served("a fault for ever", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
            served("too many requests", b"HTTP/1.1 429 No\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"),
            served("a connection that breaks off", b""),
            served("an answer that is cut", with_body(b'{"data": [')),
            served("lists inside lists", with_body(b"[" * 50_000 + b"]" * 50_000)),
            served(
                "a byte now and then",
                dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{"),
                "teacher.server.timeout=0.3",
            ),
            served(
                "control characters",
                with_body(b'{"error": {"message": "\\u001b[31mno"}}').replace(b"200 OK", b"400 No"),
            ),
            served("no probabilities", with_body(b'{"data": [{"id": "tiny"}], "choices": [{"text": ""}]}')),
            served("a probability that is no number", entries("NaN")),
            check("an address that is none", "teacher.server.url=localhost", "served.yaml"),
        ),
    ),
    "Sweeps and plans": (
        "A grid is read as a whole before the first student is trained.",
        (
            case("nothing that changes", "sweep classes.yaml seed=7"),
            case("a key that is the same for all", "sweep classes.yaml data.train_limit=8,16"),
            case("a key that is not there", "sweep classes.yaml training.learning_rat=1,2"),
            case("a value that is missing", "sweep classes.yaml student.layers=1,,2"),
            case("the same key twice", "sweep classes.yaml student.layers=1,2 student.layers=2,1"),
            case("the same value twice", "sweep classes.yaml student.layers=1,1"),
            case("no bound", "plan classes.yaml"),
            case("a number of parameters that is none", "plan classes.yaml --max-parameters many"),
            case("a speed below 0", "plan classes.yaml --speedup -1"),
            case("smaller than anything", "plan classes.yaml --max-parameters 10"),
            case("no teacher", "plan alone.yaml --speedup 2"),
            case("a served teacher", "plan served.yaml --speedup 2"),
            case(
                "a folder that holds something else",
                "sweep classes.yaml student.layers=1,2 data.validation_size=16 --runs place",
                before=lambda place: foreign(place / "place" / "classes-sweep"),
            ),
        ),
    ),
    "Runs and checkpoints": (
        "A finished run is believed only whole. `hf-distill run` makes anew what is damaged, and says so; `evaluate` "
        "and `push` refuse it.",
        (
            case("a folder that is no run", "evaluate teacher"),
            case("a run that is not there", "push runs/nothing --model-id me/student"),
            case("no repository", "push runs/alone"),
            case("a repository's name that the Hub does not allow", "push runs/alone --model-id a/b/c"),
            case("a key that evaluation does not have", "evaluate runs/alone evaluate.metrc=f1"),
            case("a key that changes what was trained", "evaluate runs/alone training.max_steps=4"),
            case(
                "weights of which half is gone",
                "evaluate runs/alone",
                before=damaged("runs/alone/student/model.safetensors", cut),
            ),
            case(
                "64 other bytes in its weights",
                "evaluate runs/alone",
                before=damaged("runs/alone/student/model.safetensors", flipped),
            ),
            case(
                "a student that is gone",
                "evaluate runs/alone",
                before=lambda place: shutil.rmtree(place / "runs/alone/student"),
            ),
            case(
                "a student that is cut, to be pushed",
                "push runs/alone --model-id me/student",
                before=damaged("runs/alone/student/model.safetensors", cut),
            ),
            case(
                "results that are cut, to be pushed",
                "push runs/alone --model-id me/student",
                before=damaged("runs/alone/results.json", cut),
            ),
            case(
                "nothing that says what it was made of",
                "run alone.yaml",
                before=damaged("runs/alone/checkpoints/made_of.json", cut),
            ),
            case("another recipe of the same name", "run alone.yaml seed=8"),
            case("other rows in the same files", "run alone.yaml", files={"train.csv": ROWS}),
            case("a folder that another process works in", "run alone.yaml", around=held),
            case("a file where the folder should be", "run alone.yaml --runs train.csv"),
            case(
                "a folder that holds something else",
                "run classes.yaml --runs place",
                before=lambda place: foreign(place / "place" / "classes"),
            ),
        ),
    ),
}


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: tensor * float("nan") for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def clueless(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(place / "teacher", place / "clueless")
    weights = load_file(place / "clueless" / "model.safetensors")
    save_file(
        {name: 0 * tensor for name, tensor in weights.items()},
        place / "clueless" / "model.safetensors",
        {"format": "pt"},
    )


def other_rows(place: Path) -> None:
    lines = (place / "train.txt").read_text().splitlines()
    (place / "train.txt").write_text("\n".join(lines[:-8]) + "\n")


def foreign(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models, data, recipes, a cache and a finished run, which no test changes."""
    folder = tmp_path_factory.mktemp("models")
    make_place(folder)
    datasets.disable_progress_bars()  # As the command line does, before they are imported.
    with contextlib.chdir(folder):
        assert call("cache", "cached.yaml") == 0
        assert call("run", "alone.yaml") == 0
    yield folder
    datasets.enable_progress_bars()


OF_THIS_MACHINE = {
    r"has [\d,]+ bytes instead of [\d,]+": "has 1,000 bytes instead of 2,000",
    r"process \d+ on \S+, since [\d-]+ [\d:]+": "process 4321 on a-machine, since 2026-01-01 12:00:00",
    r"[0-9a-f]{37}\.\.\.": "0123456789abcdef...",
    r"http://127\.0\.0\.1:\d+": "http://127.0.0.1:8000",
}


def refusal(each: Case, place: Path, capsys, monkeypatch) -> tuple[str, int]:
    """The line and the exit code of a command."""
    monkeypatch.chdir(place)
    for name, value in each.environment.items():
        monkeypatch.setenv(name, value)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(raw_server(each.answer)).url if each.answer is not None else NOBODY
        served_recipe = (place / "served.yaml").read_text().replace("SERVER", url)
        for name, content in {"served.yaml": served_recipe, **each.files}.items():
            (place / name).unlink(missing_ok=True)  # It may be a link to the file of all tests.
            (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if each.before is not None:
            each.before(place)
        if each.around is not None:
            stack.enter_context(each.around(place))
        capsys.readouterr()
        for library in LIBRARIES:  # They write to stderr as it was when they were imported.
            for handler in logging.getLogger(library).handlers:
                if type(handler) is logging.StreamHandler:
                    monkeypatch.setattr(handler, "stream", sys.stderr)
        code = call(*shlex.split(each.command))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, (each.tried, code, lines)
    (line,) = lines
    assert line.startswith("hf-distill: "), each.tried
    assert line.isprintable()
    line = line.replace(f"{place}/", "")
    for pattern, example in OF_THIS_MACHINE.items():
        line = re.sub(pattern, example, line)
    return line, code


def shown(each: Case) -> str:
    command = each.command.replace("\x1b", "\\x1b").replace(PLANTED, "hf_...")
    return f"`hf-distill {command}`"


@pytest.mark.slow
@pytest.mark.parametrize("title", GROUPS)
def test_every_bad_input_is_one_line_and_an_exit_code(title, models, tmp_path, capsys, monkeypatch):
    about, cases = GROUPS[title]
    if title == PACKAGES and any(map(importlib.util.find_spec, (*WANTED, "liger_kernel"))):
        pytest.skip("some of the packages that are asked for are installed here")
    rows = []
    for number, each in enumerate(cases):
        copy = shutil.copy2 if each.before else os.link
        place = shutil.copytree(models, tmp_path / str(number), copy_function=copy)
        with monkeypatch.context() as patch:
            line, code = refusal(each, place, capsys, patch)
        assert code == each.code, (each.tried, line)
        assert PLANTED not in line
        rows.append((each.tried, shown(each), f"`` {line} ``", code))
    check_section("errors.md", OPENING, list(GROUPS), title, f"{about}\n\n{table(HEAD, rows)}")


def test_check_refuses_what_is_wrong_with_recipes_data_and_models():
    """What ``run`` alone refuses is a training that runs away, or what lies in folders."""
    for title in (
        "Keys of a recipe",
        "Keys that do not go together",
        "Data",
        "Models",
        "Students and objectives",
        PACKAGES,
    ):
        assert all(each.command.startswith("check ") for each in GROUPS[title][1])


def test_the_page_has_many_kinds_of_bad_input():
    assert sum(len(cases) for _, cases in GROUPS.values()) >= 80
