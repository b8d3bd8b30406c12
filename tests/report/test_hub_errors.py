"""What the Hub may answer, at each stage of ``hf-distill push``: one line, an exit code, and a second push that works.

``HF_DISTILL_WRITE_PAGES=1 pytest -n 0 tests/report/test_hub_errors.py`` writes ``docs/hub_errors.md``.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import pytest

from hf_distill.cli import app
from hf_distill.pipeline import flow
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from hf_distill.report.hub import push_folder
from tests.helpers import tiny
from tests.helpers.error_pages import check_page
from tests.helpers.hub_server import CUT, HANG, LOST, RESET, hub_server
from tests.helpers.pushable import pushable

OPENING = """
# What the Hub may answer to a push

Each row is a fault of the Hub at one stage of `hf-distill push RUN --model-id me/student`, put there by a test
(`tests/report/test_hub_errors.py`): what the command prints, its exit code, and what the Hub holds afterwards. The
student itself is never touched. Where the fault is gone, the same command finishes, and one commit is there. What may
pass is tried again four times, after 1, 2, 4 and 8 seconds or when the Hub wants to be asked again (at most 300 s).
"""

HEAD = ("what was tried", "line", "exit code", "left on the Hub", "after a second push")

STAGES = {
    "ask for the repository": ("GET", "/api/models/me/student$"),
    "make the repository": ("POST", "/repos/create"),
    "list its files": ("GET", "/tree/"),
    "check the card": ("POST", "/validate-yaml"),
    "announce the files": ("POST", "/preupload/"),
    "announce the weights": ("POST", "/objects/batch"),
    "send the weights": ("PUT", "/lfs/"),
    "check the weights": ("POST", "/verify"),
    "commit": ("POST", "/commit/"),
}


@dataclass(frozen=True)
class Fault:
    """How a request is answered, and how often."""

    shown: str
    status: int
    times: int = 99
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


EVERYWHERE = (
    Fault("401", 401),
    Fault("403", 403),
    Fault("503 for ever", 503),
    Fault("429 once, Retry-After: 33", 429, 1, (("Retry-After", "33"),)),
    Fault("the connection is cut once", RESET, 1),
)
SOME = {
    "ask for the repository": (Fault("a page in HTML for ever", 200, body=b"<html>We are down</html>"),),
    "make the repository": (
        Fault("409 without a url", 409, body=b'{"error": "You already created this model repo"}'),
        Fault("made, and the answer is lost", LOST, 1),
        Fault("an object without a url", 200, body=b"{}"),
        Fault("402", 402),
    ),
    "list its files": (Fault("an empty list", 200, body=b"[]"), Fault("the answer is cut once", CUT, 1)),
    "announce the files": (Fault("an empty answer", 200, body=b""), Fault("an object without files", 200, body=b"{}")),
    "announce the weights": (Fault("500 once", 500, 1),),
    "send the weights": (Fault("413", 413), Fault("the connection is cut for ever", RESET)),
    "commit": (
        Fault("412", 412),
        Fault("409", 409),
        Fault("429 for ever, Retry-After: 86400", 429, 99, (("Retry-After", "86400"),)),
        Fault("silence once", HANG, 1),
        Fault("made, and the answer is lost", LOST, 1),
        Fault("an object without a commit", 200, body=b"{}"),
        Fault("413", 413),
    ),
}
CASES = [(stage, fault) for stage in STAGES for fault in (*EVERYWHERE, *SOME.get(stage, ()))]


@pytest.fixture
def run_folder(tmp_path):
    return pushable(tmp_path / "tiny")


@dataclass
class Terminal:
    """Pushes as a person does, and keeps what was seen."""

    hub: object
    folder: object
    capsys: object
    waits: list[float]

    def push(self, *options: str) -> tuple[int, list[str]]:
        self.waits.clear()
        self.capsys.readouterr()
        try:
            app(["push", str(self.folder), "--model-id", "me/student", *options], standalone_mode=False)
            code = 0
        except SystemExit as error:
            code = error.code
        seen = self.capsys.readouterr()
        # A bar of the client may stand before it in its line.
        lines = [*seen.out.splitlines(), *re.findall("hf-distill: .*", seen.err)]
        assert "Traceback" not in seen.err
        if lines[:1] == ["the card holds no rows of rows"]:  # Which every push says first.
            del lines[0]
        return code, [
            re.sub("commit [0-9a-f]{8}", "commit 12345678", line.replace(self.hub.url, "URL")) for line in lines
        ]

    def held(self) -> str:
        repo = self.hub.repos.get(("model", "me/student"))
        if repo is None:
            return "nothing"
        return "the student" if "model.safetensors" in repo.head.files else "an empty private repository"


@pytest.fixture
def terminal(run_folder, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("hf_distill.report.hub.retries.TIMEOUT", 2.0)
    waits: list[float] = []
    with hub_server() as hub:
        pushes = functools.partial(push_folder, endpoint=hub.url, token="hf_me", wait=waits.append)
        monkeypatch.setattr(flow, "push_folder", pushes)
        yield Terminal(hub, run_folder, capsys, waits)


def row(terminal: Terminal, stage: str, fault: Fault) -> tuple[object, ...]:
    """Provoke a fault, push again without it, and tell both."""
    hub = terminal.hub
    hub.repos.clear(), hub.large.clear(), hub.faults.clear()
    hub.fail(*STAGES[stage], fault.status, fault.times, headers=dict(fault.headers), body=fault.body)
    code, lines = terminal.push()
    assert sum(terminal.waits) <= 4 * 300
    assert len(lines) == len(terminal.waits) + 1, lines
    assert code == (3 if lines[-1].startswith("hf-distill: ") else 0), lines
    left = terminal.held()
    hub.faults.clear()
    again, after = terminal.push()
    repo = hub.repos["model", "me/student"]
    assert again == 0, after
    assert repo.private
    assert [commit.title for commit in repo.commits[1:]] == ["Add tiny, distilled with hf_distill"]
    assert set(repo.head.files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    line = lines[-1] if code or len(lines) == 1 else f"{lines[0]}; {lines[-1]}"
    return f"{stage}: {fault.shown}", line, code, left, "one commit"


@pytest.mark.slow
def test_every_fault_is_a_line_and_a_second_push_finishes_with_one_commit(terminal):
    rows = [row(terminal, stage, fault) for stage, fault in CASES]
    assert len(rows) >= 20
    check_page("hub_errors.md", OPENING, HEAD, rows)


@pytest.mark.parametrize(
    ("options", "code"), [(["--model-id", ""], 2), (["--model-id", "me/stu dent"], 2), (["--model-id", "a/b/c"], 2)]
)
def test_a_name_that_the_hub_does_not_allow_is_a_mistake_of_the_user(terminal, options, code):
    found, lines = terminal.push(*options)
    assert found == code
    assert "hub.model_id" in lines[-1]
    assert terminal.hub.log == []


def test_the_command_tells_where_the_student_is_and_who_sees_it(terminal):
    assert terminal.push() == (0, ["pushed: URL/me/student (private, commit 12345678)"])
    assert terminal.push() == (
        0,
        ["pushed: URL/me/student (private, commit 12345678, which holds this student already)"],
    )
    code, lines = terminal.push("--model-id", "open", "--public")
    assert (code, lines[-1]) == (0, "pushed: URL/me/open (public, commit 12345678)")
    code, lines = terminal.push("--model-id", "open")
    assert code == 3
    assert "--public" in lines[-1]


def test_the_command_takes_the_place_of_others_only_where_that_is_said(terminal):
    terminal.hub.add("me/student", {"pytorch_model.bin": b"theirs"}, private=True)
    code, lines = terminal.push()
    assert code == 3
    assert "pytorch_model.bin" in lines[-1]
    assert "--force" in lines[-1]
    code, lines = terminal.push("--force")
    assert code == 0
    assert any("deleted" in line and "pytorch_model.bin" in line for line in lines)


def test_a_run_whose_push_fails_is_kept_and_ends_with_the_exit_code_of_the_hub(terminal, copied, capsys, tmp_path):
    terminal.hub.fail("POST", "/commit/", 403)
    recipe = tmp_path / "pushed.yaml"
    dump_recipe(load_recipe(tiny.recipe(hub={"push": True, "model_id": "student"})), recipe)
    with pytest.raises(SystemExit) as caught:
        app(["run", str(recipe), "--runs", str(copied.parent)], standalone_mode=False)
    assert caught.value.code == 3
    assert "no permission" in capsys.readouterr().err
    assert (copied / "results.json").is_file()
    assert (copied / "student" / "README.md").is_file()
    terminal.hub.fail("POST", "/commit/", 403)
    with pytest.raises(SystemExit) as caught:
        app(["push", str(copied)], standalone_mode=False)
    assert caught.value.code == 3
    app(["push", str(copied)], standalone_mode=False)
    assert "model.safetensors" in terminal.hub.repos["model", "me/student"].head.files
