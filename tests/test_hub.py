"""Pushing to the Hub, against a server on loopback that speaks its protocol to the real client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_distill.errors import HubError
from hf_distill.hub import WAITS, push_folder
from tests.hub_server import hub_server

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
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("# student\n")
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 1000)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "training.png").write_bytes(b"png")
    (tmp_path / "training_args.bin").write_bytes(b"local")
    return tmp_path


def push(hub, folder, model_id="me/student", token="hf_me", **options):
    waits: list[float] = []
    url = push_folder(folder, model_id, endpoint=hub.url, token=token, wait=waits.append, **options)
    return url, waits


def test_a_student_is_pushed_privately_in_one_commit_without_what_is_local(hub, folder):
    url, waits = push(hub, folder)
    repo = hub.repos["model", "me/student"]
    assert url.endswith("me/student") and waits == []
    assert repo.private and len(repo.commits) == 2
    names = {"config.json", "README.md", "model.safetensors", "figures/training.png"}
    assert names <= set(repo.head.files) and "training_args.bin" not in repo.head.files
    assert repo.head.files["model.safetensors"] == b"\x00" * 1000


def test_pushing_again_to_a_repository_that_is_there_works(hub, folder):
    push(hub, folder, private=False)
    (folder / "config.json").write_text('{"a": 1}')
    push(hub, folder)
    repo = hub.repos["model", "me/student"]
    assert not repo.private and repo.head.files["config.json"] == b'{"a": 1}'


@pytest.mark.parametrize("status", [503, 429, 0])
def test_what_may_pass_is_tried_again(hub, folder, status):
    hub.fail("POST", "/commit/", status, times=2)
    _, waits = push(hub, folder)
    assert waits == list(WAITS[:2])
    assert "config.json" in hub.repos["model", "me/student"].head.files


def test_a_hub_that_stays_down_is_told_after_all_tries_and_nothing_is_lost(hub, folder):
    hub.fail("POST", "/commit/", 503, times=99)
    with pytest.raises(HubError, match=r"503.*hf-distill push"):
        push(hub, folder)
    assert (folder / "model.safetensors").is_file()


def test_no_permission_is_told_at_once(hub, folder):
    with pytest.raises(HubError, match="no permission"):
        push(hub, folder, "somebody/student")
    assert sum("create" in line for line in hub.log) == 1


@pytest.mark.parametrize("token", ["hf_unknown"])
def test_an_unknown_token_is_told_to_log_in_and_never_shown(hub, folder, token):
    with pytest.raises(HubError, match="log in") as caught:
        push(hub, folder, token=token)
    assert token not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_told(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    waits: list[float] = []
    with pytest.raises(HubError, match="cannot be reached"):
        push_folder(folder, "me/student", endpoint="http://127.0.0.1:9", token="hf_me", wait=waits.append)
    assert waits == list(WAITS)


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
            [sys.executable, str(ROOT / "tests" / "hub_client.py"), str(tmp_path)],
            env=environment, capture_output=True, text=True, timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "done" in done.stdout
        trained = server.repos["model", "me/trained"].head.files
        assert b"knowledge-distillation" in trained["README.md"]
        assert b"distillation." not in trained["model.safetensors"][:4000]
        assert all(b"hf_me" not in content for repo in server.repos.values() for content in repo.head.files.values())
