"""Pushing to the Hub, against a server on loopback that speaks its protocol to the real client."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
import urllib.request
from email.utils import formatdate
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from hf_distill.errors import HubError
from hf_distill.report.hub import push_folder
from hf_distill.report.hub.retries import WAITS
from tests.helpers.hub_server import HANG, LOST, RESET, hub_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hub(monkeypatch):
    # The tests run offline; this client may talk to loopback.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with hub_server() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    contents = {
        "config.json": b"{}",
        "README.md": b'---\nlicense: mit\n---\n\n# student\n\npipeline("text-classification", "USER/student")\n',
        "model.safetensors": b"\x00" * 1000,
        "figures/training.png": b"png",
        "training_args.bin": b"local",
        "checkpoint-10/model.safetensors": b"half done",
        ".cache/lock": b"",
    }
    for name, content in contents.items():
        (tmp_path / "student" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "student" / name).write_bytes(content)
    return tmp_path / "student"


def push(hub, folder, model_id="me/student", token="hf_me", **options):
    waits: list[float] = []
    url = push_folder(folder, model_id, endpoint=hub.url, token=token, wait=waits.append, **options)
    return url, waits


def refusal(hub, folder, model_id="me/student", token="hf_me"):
    """The one line that a push ends with, and how long it waited for a better answer."""
    waits: list[float] = []
    with pytest.raises(HubError) as caught:
        push_folder(folder, model_id, endpoint=hub.url, token=token, wait=waits.append)
    return str(caught.value), waits


def test_a_student_is_pushed_privately_in_one_commit_without_what_is_local(hub, folder):
    url, waits = push(hub, folder)
    repo = hub.repos["model", "me/student"]
    assert url == f"{hub.url}/me/student"
    assert waits == []
    assert repo.private
    assert [commit.title for commit in repo.commits[1:]] == ["Add student, distilled with hf_distill"]
    names = {"config.json", "README.md", "model.safetensors", "figures/training.png"}
    assert set(repo.head.files) - {".gitattributes"} == names
    assert repo.head.files["model.safetensors"] == b"\x00" * 1000


def test_one_commit_is_made_where_the_client_could_stream_several(hub, folder, monkeypatch):
    for number in range(40):
        (folder / f"{number}_Dense").mkdir()
        (folder / f"{number}_Dense" / "config.json").write_text("{}")
    # Small files take the same way with Xet on; it is there that upload_folder makes several commits.
    monkeypatch.setattr("tests.helpers.hub_server.LARGE", ())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    push(hub, folder)
    assert sum("/commit/" in line for line in hub.log) == 1
    assert hub.repos["model", "me/student"].head.files["39_Dense/config.json"] == b"{}"


def test_the_pushed_card_names_the_repository_and_the_local_one_stays_as_it_is(hub, folder):
    push(hub, folder, "me/other-name")
    assert b'"me/other-name"' in hub.repos["model", "me/other-name"].head.files["README.md"]
    assert b'"USER/student"' in (folder / "README.md").read_bytes()


def test_what_was_pushed_comes_back_byte_for_byte(hub, folder, tmp_path):
    push(hub, folder)
    api = HfApi(endpoint=hub.url, token="hf_me")
    there = Path(api.snapshot_download("me/student", cache_dir=tmp_path / "cache"))
    for name in ("config.json", "model.safetensors", "figures/training.png"):
        assert (there / name).read_bytes() == (folder / name).read_bytes()
    assert api.model_info("me/student").sha == hub.repos["model", "me/student"].head.oid
    assert [branch.name for branch in api.list_repo_refs("me/student").branches] == ["main"]
    assert {entry.path for entry in api.list_repo_tree("me/student")} >= {"config.json", "figures"}
    assert api.whoami()["name"] == "me"


def test_a_private_repository_is_not_there_for_others(hub, folder):
    push(hub, folder)
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url, token="hf_you").model_info("me/student")
    assert HfApi(endpoint=hub.url, token="hf_me").model_info("me/student").private


def test_the_server_sends_parts_of_a_file(hub):
    hub.add("me/open", {"model.safetensors": bytes(range(100))})
    request = urllib.request.Request(
        f"{hub.url}/me/open/resolve/main/model.safetensors", headers={"Range": "bytes=10-19"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == "bytes 10-19/100"
        assert answer.headers["X-Repo-Commit"] == hub.repos["model", "me/open"].head.oid
        assert answer.read() == bytes(range(10, 20))


def test_pushing_again_sends_what_changed_in_one_commit(hub, folder):
    push(hub, folder, private=False)
    (folder / "config.json").write_text('{"a": 1}')
    push(hub, folder, private=False)
    repo = hub.repos["model", "me/student"]
    assert not repo.private
    assert len(repo.commits) == 3
    assert repo.head.files["config.json"] == b'{"a": 1}'
    assert sum("PUT" in line for line in hub.log) == 2


def test_pushing_again_what_has_not_changed_makes_no_commit(hub, folder, caplog):
    push(hub, folder)
    with caplog.at_level(logging.INFO, "hf_distill"):
        push(hub, folder)
    assert len(hub.repos["model", "me/student"].commits) == 2
    assert "(private, commit" in caplog.messages[-1]
    assert "holds this student already" in caplog.messages[-1]


# ---- what a repository holds


def test_a_public_repository_is_refused_for_a_student_that_is_to_be_private(hub, folder):
    push(hub, folder, private=False)
    (folder / "config.json").write_text('{"a": 1}')
    message, _ = refusal(hub, folder)
    assert "me/student is public" in message
    assert "--public" in message
    assert hub.repos["model", "me/student"].head.files["config.json"] == b"{}"


def test_a_repository_that_was_made_public_by_others_is_refused_even_when_empty(hub, folder):
    hub.add("me/student", {".gitattributes": b""})
    assert "is public" in refusal(hub, folder)[0]
    push(hub, folder, private=False)
    assert "model.safetensors" in hub.repos["model", "me/student"].head.files


def test_a_private_repository_stays_private_where_the_student_may_be_public_and_that_is_told(hub, folder, caplog):
    hub.add("me/student", {}, private=True)
    with caplog.at_level(logging.INFO, "hf_distill"):
        push(hub, folder, private=False)
    assert hub.repos["model", "me/student"].private
    assert any("stays private" in line for line in caplog.messages)
    assert f"pushed: {hub.url}/me/student (private, commit" in caplog.messages[-1]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {".gitattributes": b"*.bin filter=lfs"},
        {".gitattributes": b"", "README.md": b""},
        {"README.md": b"---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n"},
    ],
)
def test_what_the_hub_puts_into_a_new_repository_is_nobodys(hub, folder, files):
    hub.add("me/student", files, private=True)
    push(hub, folder)
    assert len(hub.repos["model", "me/student"].commits) == 2


FOREIGN = {
    "a hand-written card": {"README.md": b"# My notes\n"},
    "a card of metadata alone": {"README.md": b"---\nextra_gated_prompt: sign here\n---\n"},
    "another model": {"config.json": b'{"a": 2}', "model.safetensors": b"theirs", "README.md": b"# Theirs"},
    "weights in another format": {"pytorch_model.bin": b"theirs"},
    "a document": {"notes/plan.txt": b"theirs"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_put_there_is_not_overwritten_unless_that_is_said(hub, folder, name):
    before = FOREIGN[name]
    repo = hub.add("me/student", before, private=True)
    message, waits = refusal(hub, folder)
    assert "me/student holds what no push of this run put there" in message
    assert sorted(before)[0] in message
    assert "--force" in message
    assert waits == []
    assert len(repo.commits) == 1
    push(hub, folder, force=True)
    assert len(repo.commits) == 2
    assert repo.head.files["model.safetensors"] == b"\x00" * 1000
    assert b"me/student" in repo.head.files["README.md"]


def test_force_does_not_publish(hub, folder):
    hub.add("me/student", {"config.json": b"theirs"})
    with pytest.raises(HubError, match="is public"):
        push(hub, folder, force=True)


def test_another_run_is_told_whose_student_is_there(hub, folder):
    push(hub, folder, run="first")
    push(hub, folder, run="first")
    with pytest.raises(HubError, match=r"holds the student of the run first \(.*model\.safetensors.*--force"):
        push(hub, folder, run="second")
    push(hub, folder, run="second", force=True)


@pytest.mark.parametrize(
    ("change", "harmless"),
    [
        ({"README.md": b"# Edited by hand"}, False),
        ({"model.safetensors": b"tuned further"}, False),
        ({"adapter_config.json": b"{}"}, False),
        ({"pytorch_model.bin": b"converted"}, False),
        ({"notes.md": b"mine", "data/rows.csv": b"mine"}, True),
    ],
)
def test_what_was_changed_since_the_last_push_is_not_undone(hub, folder, caplog, change, harmless):
    push(hub, folder)
    repo = hub.repos["model", "me/student"]
    repo.commit("Update by hand", {**repo.head.files, **change}, "me")
    (folder / "config.json").write_text('{"a": 1}')
    if harmless:
        with caplog.at_level(logging.INFO, "hf_distill"):
            push(hub, folder)
        assert change.items() <= repo.head.files.items()
        assert repo.head.files["config.json"] == b'{"a": 1}'
        assert any("kept" in line and "notes.md" in line for line in caplog.messages)
    else:
        message, _ = refusal(hub, folder)
        assert "has changed since this run was pushed" in message
        assert next(iter(change)) in message
        assert len(repo.commits) == 3


def test_what_the_student_does_not_have_and_would_be_loaded_is_deleted_in_the_same_commit(hub, folder, caplog):
    stale = {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"old",
        "special_tokens_map.json": b"{}",
        "added_tokens.json": b"{}",
        "tokenizer_config.json": b"{}",
        "model-00001-of-00002.safetensors": b"old",
        "model.safetensors.index.json": b"{}",
        "pytorch_model.bin": b"old",
        "tf_model.h5": b"old",
        "flax_model.msgpack": b"old",
        "onnx/model.onnx": b"old",
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
        "generation_config.json": b"{}",
        "chat_template.jinja": b"old",
        "additional_chat_templates/tools.jinja": b"old",
        "preprocessor_config.json": b"{}",
        "modeling_mine.py": b"old",
        "spiece.model": b"old",
        "vocab.txt": b"old",
    }
    kept = {".gitattributes": b"", "notes.md": b"mine", "data/config.json": b"mine", "figures/old.png": b"mine"}
    repo = hub.add("me/student", {**stale, **kept}, private=True)
    with caplog.at_level(logging.INFO, "hf_distill"):
        push(hub, folder, force=True)
    assert len(repo.commits) == 2
    assert not stale.keys() & repo.head.files.keys()
    assert kept.items() <= repo.head.files.items()
    assert any("deleted there" in line and "1_Pooling/config.json" in line for line in caplog.messages)
    assert any(
        "kept there" in line and "data/config.json, figures/old.png, notes.md" in line for line in caplog.messages
    )


def test_the_next_student_of_a_run_leaves_nothing_of_the_one_before(hub, folder):
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "config.json").rename(folder / "adapter_config.json")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    push(hub, folder)
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    (folder / "adapter_config.json").rename(folder / "config.json")
    (folder / "special_tokens_map.json").unlink()
    push(hub, folder)
    repo = hub.repos["model", "me/student"]
    assert len(repo.commits) == 3
    assert set(repo.head.files) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "figures/training.png"
    }  # fmt: skip


def test_a_repository_that_ignores_files_is_refused_for_the_hub_would_leave_them_out(hub, folder):
    hub.add("me/student", {".gitignore": b"*.safetensors"}, private=True)
    with pytest.raises(HubError, match=r"\.gitignore"):
        push(hub, folder, force=True)


def test_a_commit_that_comes_in_between_is_not_overwritten(hub, folder, monkeypatch):
    push(hub, folder)
    repo = hub.repos["model", "me/student"]
    (folder / "config.json").write_text('{"a": 1}')
    send = HfApi.create_commit

    def late(*arguments, **options):
        repo.commit("Somebody was faster", {**repo.head.files, "config.json": b'{"a": 2}'}, "me")
        return send(*arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", late)
    message, waits = refusal(hub, folder)
    assert "412" in message
    assert "another commit came first" in message
    assert waits == []
    assert repo.head.files["config.json"] == b'{"a": 2}'


def test_a_repository_that_is_made_in_between_is_looked_at_again(hub, folder, monkeypatch):
    make = HfApi.create_repo

    def late(*arguments, **options):
        hub.add("me/student", {"config.json": b"theirs"})
        return make(*arguments, **options)

    monkeypatch.setattr(HfApi, "create_repo", late)
    assert "is public" in refusal(hub, folder)[0]
    hub.repos.clear()
    with pytest.raises(HubError, match="holds what no push"):
        push(hub, folder, private=False)
    assert hub.repos["model", "me/student"].head.files == {"config.json": b"theirs"}


# ---- what is sent


def test_only_files_of_a_student_are_sent_and_what_is_not_is_named(hub, folder, caplog, tmp_path):
    foreign = [
        "notes.txt", "rows.csv", "results.json", "trainer_state.json", "optimizer.pt", "pytorch_model.bin", "cache.pkl",
        ".env", ".git/config", "model.safetensors.partial", "modeling_mine.py", "checkpoint-10/config.json",
        "deep/1_Pooling/config.json",
    ]  # fmt: skip
    for name in foreign:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"private")
    with caplog.at_level(logging.INFO, "hf_distill"):
        push(hub, folder)
    files = hub.repos["model", "me/student"].head.files
    assert set(files) - {".gitattributes"} == {"config.json", "README.md", "model.safetensors", "figures/training.png"}
    assert any("not sent" in line and ".env" in line for line in caplog.messages)


def test_links_are_never_followed(hub, folder, tmp_path, caplog):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "elsewhere").symlink_to(tmp_path / "home")
    with caplog.at_level(logging.INFO, "hf_distill"):
        push(hub, folder)
    assert any("not sent" in line and "elsewhere, " in line and "notes.txt" in line for line in caplog.messages)
    assert not any(b"secret" in content for content in hub.repos["model", "me/student"].head.files.values())
    (folder / "vocab.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "1_Pooling").symlink_to(tmp_path / "home")
    message, _ = refusal(hub, folder)
    assert "1_Pooling, vocab.txt would be sent, but links" in message


def cut(name, text):
    return lambda folder: (folder / name).write_text(text)


BROKEN = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no files with weights"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "a config that is cut": (cut("config.json", '{"a": '), r"config\.json is no whole JSON file"),
    "a shard that is missing": (
        cut("model.safetensors.index.json", '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'),
        r"lacks model-00002-of-00002\.safetensors",
    ),
    "metadata that are no YAML": (cut("README.md", "---\nlicense: [mit\n---\n# x"), "metadata cannot be read"),
    "adapters beside a folder that is gone": (
        cut("adapter_config.json", '{"base_model_name_or_path": "/gone/base"}'),
        r"lora\.merge: true",
    ),
    "adapters beside nothing": (cut("adapter_config.json", '{"base_model_name_or_path": null}'), r"lora\.merge: true"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_student_that_nobody_could_load_is_refused_before_anything_is_asked(hub, folder, name):
    spoil, message = BROKEN[name]
    spoil(folder)
    with pytest.raises(HubError, match=message):
        push(hub, folder)
    assert hub.log == []


# ---- names


def test_a_name_alone_is_one_of_the_users(hub, folder):
    url, _ = push(hub, folder, "student")
    assert url == f"{hub.url}/me/student"
    assert b'"me/student"' in hub.repos["model", "me/student"].head.files["README.md"]
    assert "hf auth login" in refusal(hub, folder, "student", token="hf_unknown")[0]


@pytest.mark.parametrize("model_id", ["", "me/", "/student", "me/my/student", "me/stu dent", "me/a--b", "me/é", "../x"])
def test_a_name_that_the_hub_does_not_allow_is_refused_before_anything_is_asked(hub, folder, model_id):
    message, waits = refusal(hub, folder, model_id)
    assert repr(model_id) in message
    assert waits == []
    assert hub.log == []


# ---- what may pass


@pytest.mark.parametrize("status", [408, 429, 500, 503, RESET])
@pytest.mark.parametrize("request_path", ["/repos/create", "/commit/"])
def test_what_may_pass_is_tried_again(hub, folder, status, request_path):
    hub.fail("POST", request_path, status, times=2)
    _, waits = push(hub, folder)
    assert waits == list(WAITS[:2])
    assert len(hub.repos["model", "me/student"].commits) == 2


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 1.0),
        ({"Retry-After": "33"}, 33.0),
        ({"Retry-After": "0"}, 1.0),
        ({"Retry-After": "86400"}, 300.0),
        ({"Retry-After": "soon"}, 1.0),
        ({"Retry-After": "-5"}, 1.0),
        ({"Retry-After": "a date"}, pytest.approx(90, abs=10)),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1.0),
        ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 55.0),
    ],
)
@pytest.mark.parametrize(
    ("method", "where", "status"),
    [("GET", "/api/models/me/student$", 503), ("POST", "/preupload/", 429), ("PUT", "/lfs/", 503)],
)
def test_the_hub_is_asked_again_when_it_wants_to_be_and_that_is_told(
    hub, folder, caplog, method, where, status, headers, expected
):
    if headers.get("Retry-After") == "a date":
        headers = {"Retry-After": formatdate(time.time() + 100, usegmt=True)}
    hub.fail(method, where, status, headers=headers)
    with caplog.at_level(logging.INFO, "hf_distill"):
        _, waits = push(hub, folder)
    assert waits == [expected]
    assert f"the Hub answered {status} (injected); trying again in {waits[0]:.0f} s (1 of 4)" in caplog.messages
    assert len(hub.repos["model", "me/student"].commits) == 2


@pytest.mark.parametrize(
    ("method", "where"),
    [("POST", "/preupload/"), ("POST", "/objects/batch"), ("PUT", "/lfs/"), ("GET", "/tree/"), ("POST", "/commit/")],
)
@pytest.mark.parametrize("status", [503, RESET])
def test_tries_of_ours_and_of_the_client_do_not_multiply(hub, folder, monkeypatch, method, where, status):
    (folder / "figures" / "training.png").unlink()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: pytest.fail("a wait of its own"))
    hub.fail(method, where, status, times=99)
    message, waits = refusal(hub, folder)
    assert waits == list(WAITS)
    assert sum(re.search(where, line) is not None and line.startswith(method) for line in hub.log) == 1 + len(WAITS)
    assert ("503" if status == 503 else "cannot be reached") in message


def test_a_hub_that_keeps_silent_is_given_up(hub, folder, monkeypatch):
    monkeypatch.setattr("hf_distill.report.hub.retries.TIMEOUT", 0.2)
    hub.fail("POST", "/commit/", HANG)
    _, waits = push(hub, folder)
    assert waits == [WAITS[0]]


def test_the_client_is_as_it_was_after_a_push(hub, folder):
    from huggingface_hub.utils import _http

    before = _http._GLOBAL_CLIENT_FACTORY
    push(hub, folder)
    refusal(hub, folder, "somebody/student")
    assert _http._GLOBAL_CLIENT_FACTORY is before


def test_a_repository_that_is_just_being_made_is_waited_for(hub, folder):
    busy = b'{"error": "Cannot create repo: another conflicting operation is in progress"}'
    hub.fail("POST", "/repos/create", 409, body=busy)
    _, waits = push(hub, folder)
    assert waits == [WAITS[0]]
    assert len(hub.repos["model", "me/student"].commits) == 2


@pytest.mark.parametrize("body", [b"{}", b'{"error": "You already created this model repo"}', b"", b"<html>"])
def test_a_repository_that_is_there_but_cannot_be_seen_is_told(hub, folder, body):
    hub.fail("POST", "/repos/create", 409, times=99, body=body)
    message, _ = refusal(hub, folder)
    assert "me/student is there" in message
    assert "token" in message


WRONG = {
    "a page": b"<html>We are down</html>",
    "nothing": b"",
    "an empty object": b"{}",
    "a list": b"[]",
    "half an object": b'{"url": "http',
    "a number": b"1",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("GET", "/api/models/me/student$"),
        ("POST", "/repos/create"),
        ("GET", "/tree/"),
        ("POST", "/validate-yaml"),
        ("POST", "/preupload/"),
        ("POST", "/objects/batch"),
        ("POST", "/commit/"),
    ],
)
def test_an_answer_that_is_none_of_the_hubs_is_one_line_and_nothing_is_committed(hub, folder, method, where, name):
    hub.fail(method, where, 200, times=99, body=WRONG[name])
    if (name, where) == ("an empty object", "/validate-yaml"):
        push(hub, folder)  # No faults: that is an answer, too.
    else:
        message, _ = refusal(hub, folder)
        assert "\n" not in message
        assert "was not pushed" in message
    hub.faults.clear()
    push(hub, folder)
    assert len(hub.repos["model", "me/student"].commits) == 2


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, folder):
    hub.fail("POST", "/commit/", LOST)
    _, waits = push(hub, folder)
    assert waits == [WAITS[0]]
    assert len(hub.repos["model", "me/student"].commits) == 2


def test_a_hub_that_stays_down_is_told_after_all_tries_and_nothing_is_lost(hub, folder):
    hub.fail("POST", "/commit/", 503, times=99)
    message, waits = refusal(hub, folder)
    assert "503" in message
    assert "hf-distill push RUN" in message
    assert waits == list(WAITS)
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422])
def test_what_cannot_pass_is_told_at_once(hub, folder, status):
    hub.fail("POST", "/commit/", status, times=99)
    message, waits = refusal(hub, folder)
    assert waits == []
    assert "no permission" in message if status == 403 else f"answered {status} (injected)" in message


def test_no_permission_below_anothers_name_is_told_at_once(hub, folder):
    message, waits = refusal(hub, folder, "somebody/student")
    assert "no permission" in message
    assert "your own user name" in message
    assert waits == []
    assert sum("create" in line for line in hub.log) == 1


def test_an_unknown_token_is_told_to_log_in_and_shown_nowhere(hub, folder):
    message, waits = refusal(hub, folder, token="hf_unknown")
    assert "hf auth login" in message
    assert "hf_unknown" not in message
    assert waits == []


def test_a_token_that_the_server_repeats_does_not_reach_the_message(hub, folder, monkeypatch):
    monkeypatch.setattr(
        "tests.helpers.hub_server.Handler.create",
        lambda self: self.answer(
            {"error": "no"}, 422, {"X-Error-Message": f"bad request of {self.headers['Authorization']}"}
        ),
    )
    message, _ = refusal(hub, folder)
    assert "bad request of Bearer [secret]" in message
    assert "hf_me" not in message


def test_offline_mode_is_told_at_once_with_the_command_for_later(hub, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message, waits = refusal(hub, folder)
    assert "HF_HUB_OFFLINE" in message
    assert "hf-distill push RUN" in message
    assert waits == []
    assert hub.log == []


def test_a_hub_that_cannot_be_reached_is_told_after_all_tries(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    waits: list[float] = []
    with pytest.raises(HubError, match="cannot be reached"):
        push_folder(folder, "me/student", endpoint="http://127.0.0.1:9", token="hf_me", wait=waits.append)
    assert waits == list(WAITS)


def test_an_empty_folder_is_told_before_a_repository_is_made(hub, tmp_path):
    with pytest.raises(HubError, match="holds no files"):
        push(hub, tmp_path)
    assert hub.repos == {}


@pytest.mark.slow
def test_a_person_pushes_loads_and_trains_with_the_real_clients(tmp_path):
    with hub_server() as server:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": "hf_me",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "helpers" / "hub_client.py"), str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "done" in done.stdout
        trained = server.repos["model", "me/trained"].head.files
        assert b"knowledge-distillation" in trained["README.md"]
        assert b"distillation." not in trained["model.safetensors"][:4000]
        assert all(b"hf_me" not in content for repo in server.repos.values() for content in repo.head.files.values())
