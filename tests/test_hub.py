"""Pushing to the Hub, against a server on loopback that speaks its protocol to the real client."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from hf_distill.errors import HubError
from hf_distill.report.hub import WAITS, push_folder
from tests.helpers.hub_server import LOST, RESET, hub_server

ROOT = Path(__file__).resolve().parents[1]


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
        (folder / f"part{number}.json").write_text(str(number))
    # Small files take the same way with Xet on; it is there that upload_folder makes several commits.
    (folder / "model.safetensors").unlink()
    (folder / "figures" / "training.png").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    push(hub, folder)
    assert sum("/commit/" in line for line in hub.log) == 1
    assert hub.repos["model", "me/student"].head.files["part39.json"] == b"39"


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


def test_pushing_again_sends_what_changed_and_keeps_the_visibility(hub, folder):
    push(hub, folder, private=False)
    (folder / "config.json").write_text('{"a": 1}')
    push(hub, folder)
    repo = hub.repos["model", "me/student"]
    assert not repo.private
    assert repo.head.files["config.json"] == b'{"a": 1}'
    assert sum("PUT" in line for line in hub.log) == 2


def test_pushing_again_what_has_not_changed_makes_no_commit(hub, folder):
    push(hub, folder)
    push(hub, folder)
    assert len(hub.repos["model", "me/student"].commits) == 2


@pytest.mark.parametrize("status", [408, 429, 500, 503, RESET])
@pytest.mark.parametrize("request_path", ["/repos/create", "/commit/"])
def test_what_may_pass_is_tried_again(hub, folder, status, request_path):
    hub.fail("POST", request_path, status, times=2)
    _, waits = push(hub, folder)
    assert waits == list(WAITS[:2])
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


@pytest.mark.parametrize("model_id", ["me/my/student", "me/stu dent"])
def test_a_name_that_the_hub_does_not_allow_is_told(hub, folder, model_id):
    message, waits = refusal(hub, folder, model_id)
    assert "refused" in message
    assert waits == []
    assert hub.log == []


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
