"""Secrets are planted wherever a run may have one, and looked for wherever it could leave one: they are nowhere."""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pytest
from ruamel.yaml import YAML

from hf_distill import check, evaluate, label, run, sweep
from hf_distill.cli import main
from hf_distill.errors import DataError, HubError, RecipeError
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.report.hub import push_folder
from tests.helpers import tiny
from tests.helpers.command_line import call, refused
from tests.helpers.hub_server import Handler, hub_server
from tests.helpers.pushable import pushable
from tests.helpers.seams import accept_any_teacher
from tests.helpers.serving import serving

PLANTED = {
    "HF_TOKEN": "hf_plantedTokenOfTheHub0123456789abcd",
    "HF_DISTILL_API_KEY": "planted-key/of+the-Server=1",
    "HF_DISTILL_DATA_TOKEN": "planted?Token&of the:data/2",
    "AWS_SECRET_ACCESS_KEY": "plantedSecretOfTheCloud/3",
}
TOKEN = "planted-Token/of+an=argument"


def silent(line: str) -> None:
    """Nobody reads it."""


def spelt(secret: str) -> set[bytes]:
    """How a secret could stand in a file."""
    texts = {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]}
    for shift in range(3):  # What is in base64 depends on what stands before it.
        coded = base64.b64encode(b"\0" * shift + secret.encode()).decode()
        texts |= {coded[4:-4], coded[4:-4].replace("+", "-").replace("/", "_")}
    return {text.encode() for text in texts}


def assert_nowhere(*places: Path | str | bytes, secrets: Iterable[str] = ()) -> None:
    """Look into texts, and into all files below folders."""
    forms = set().union(*map(spelt, secrets or [*PLANTED.values(), TOKEN]))
    for place in places:
        files = sorted(place.rglob("*")) if isinstance(place, Path) else []
        contents = {str(path): path.read_bytes() + str(path).encode() for path in files if path.is_file()}
        if not isinstance(place, Path):
            contents = {"a text": place.encode() if isinstance(place, str) else place}
        for name, content in contents.items():
            assert not [form for form in forms if form in content], name


def chain(error: BaseException) -> str:
    """All that Python shows of an error."""
    return "".join(traceback.format_exception(error))


@pytest.fixture
def planted(monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("hf_distill.teachers.endpoint.client.FIRST_WAIT", 0.0)
    accept_any_teacher(monkeypatch)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with hub_server() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        yield server


@pytest.fixture
def server():
    made = tiny.chat_tokenizer(tiny.CHAT_TEMPLATE)
    with serving(tiny.decoder(2, seed=3), made, key=PLANTED["HF_DISTILL_API_KEY"]) as found:
        yield found


def guarded(**arguments: str) -> dict:
    return {"path": "tests.helpers.data:guarded", "arguments": {"token": "$HF_DISTILL_DATA_TOKEN", **arguments}}


@pytest.fixture
def recipe(server, tmp_path):
    """A served teacher with a key, data with a token, and a push."""
    tiny.decoder(2, seed=3).save_pretrained(tmp_path / "llama")
    tiny.chat_tokenizer(tiny.CHAT_TEMPLATE).save_pretrained(tmp_path / "llama")
    served = {"url": server.url, "model": server.name, "tokenizer": str(tmp_path / "llama"), "retries": 0, "top_k": 5}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    student = {
        "config": {"model_type": "llama", **shape, "intermediate_size": 32},
        "tokenizer": str(tmp_path / "llama"),
    }
    return {
        "version": 1,
        "name": "guarded",
        "task": {"name": "causal-lm", "max_length": 32},
        "data": guarded(),
        "teacher": {"server": served, "kind": "cached"},
        "student": student,
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
        "training": {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
            "logging_steps": 1,
            "save_steps": 1,
        },
        "evaluate": {"resamples": 100, "control": False},
        "hub": {"push": True, "model_id": "me/student"},
    }


def test_a_run_leaves_no_secret_and_goes_on_with_another_value_of_it(
    recipe, server, hub, planted, tmp_path, capfd, monkeypatch
):
    lines: list[str] = []
    runs = tmp_path / "runs"
    monkeypatch.setenv("HF_TOKEN", "hf_me")  # The user "me" of the loopback Hub.
    result = run(recipe, {"data.arguments.rows": "answers"}, runs=runs, report=lines.append)
    monkeypatch.setenv("HF_TOKEN", PLANTED["HF_TOKEN"])
    label({**recipe, "teacher": {**recipe["teacher"], "kind": "live"}}, runs=runs, report=lines.append)
    assert {path.name for path in runs.iterdir()} >= {"guarded", "caches", "labels"}
    assert len([path for path in runs.rglob("*") if path.is_file()]) > 25
    files = b"".join(
        content for commit in hub.repos["model", "me/student"].commits for content in commit.files.values()
    )
    told = capfd.readouterr()
    assert len(files) > 10_000
    assert "gets the key in HF_DISTILL_API_KEY" in "\n".join(lines)
    assert_nowhere(runs, files, "\n".join(lines), told.out, told.err)
    saved = result.folder / "recipe.yaml"
    assert "token: $HF_DISTILL_DATA_TOKEN" in saved.read_text()

    again = ("hub.push=false",)
    monkeypatch.setenv("HF_DISTILL_DATA_TOKEN", "planted otherwise")
    assert run(saved, again, runs=runs, report=lines.append).results == result.results
    assert lines[-1].endswith("is complete; delete it to train again")
    evaluate(result.folder, report=lines.append)
    monkeypatch.delenv("HF_DISTILL_DATA_TOKEN")
    with pytest.raises(DataError, match=r"data\.arguments: the recipe has HF_DISTILL_DATA_TOKEN.*set it"):
        run(saved, again, runs=runs, report=lines.append)
    assert_nowhere(runs, "\n".join(lines), secrets=[*PLANTED.values(), "planted otherwise"])


REFUSED = {
    "a token": f"data.arguments.token={TOKEN}",
    "a password": f"data.arguments.db_password={TOKEN}",
    "a key": f"data.arguments.key={TOKEN}",
    "a number": "data.arguments.password=73519846",
    "a list": f"data.arguments.auth=[me, {TOKEN}]",
    "a mapping": f"data.arguments={{headers: {{Authorization: 'Bearer {TOKEN}'}}}}",
    "a whole section": f"data={{path: 'tests.helpers.data:guarded', arguments: {{token: '{TOKEN}'}}}}",
    "a token of a known shape": "data.arguments.x=hf_plantedPlantedPlanted01",
    "one of the environment": f"data.arguments.x=see {PLANTED['AWS_SECRET_ACCESS_KEY']}",
    "an address": f"data.path=https://me:{quote(TOKEN, safe='')}@example.com/rows.csv",
    "a signed address": f"data.files={{train: 'https://example.com/a.csv?X-Amz-Signature={TOKEN}'}}",
    "a signed address of several": f"data.files={{train: [a.csv, 'https://example.com/a.csv?sig={TOKEN}']}}",
    "an encoded address": f"data.path=https%3A%2F%2Fexample.com%2F%3Faccess_token%3D{quote(TOKEN, safe='')}",
    "the address of a server": f"teacher.server.url=https://{quote(TOKEN, safe='')}@example.com/v1",
    "parameters of a server": f"teacher.server.url=https://example.com/v1?api-key={TOKEN}",
    "a key of a server": f"teacher.server.api_key={TOKEN}",
    "a key for its variable": "teacher.server.key_variable=hf_plantedPlantedPlanted01",
    "a model": f"teacher.model=https://me:{quote(TOKEN, safe='')}@huggingface.co/a/b",
    "a student": f"student.pretrained=https://huggingface.co/a/b?token={TOKEN}",
    "a tokenizer": f"student.tokenizer=https://me:{quote(TOKEN, safe='')}@huggingface.co/a/b",
    "the Hub's token": f"training.hub_token={TOKEN}",
    "a plug-in's key": f"teacher={{kind: 'my_teacher:Mine', api_key: '{TOKEN}'}}",
    "an option": f"objectives.0.password={TOKEN}",
    "an unknown key": f"hub.token={TOKEN}",
    "a name": "hf_plantedPlantedPlanted01",
    "a name of a key": "data.arguments.hf_plantedPlantedPlanted01=1",
    "a token without an equals sign": "data.arguments=hf_plantedPlantedPlanted01",
    "a key twice": f"data.arguments={{token: x, token: '{TOKEN}'}}",
    "a variable of another": "data.arguments.token=$HF_TOKEN",
    "a variable of another in braces": "data.arguments.login=${AWS_SECRET_ACCESS_KEY}",
    "a variable where none is read": "task.options.x=$HF_DISTILL_DATA_TOKEN",
}


@pytest.mark.parametrize("command", ["check", "run", "sweep"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_secret_as_it_is_is_refused_before_anything_else_and_not_shown(
    name, command, planted, capsys, tmp_path, monkeypatch
):
    path = tmp_path / "recipe.yaml"
    YAML(typ="safe", pure=True).dump(tiny.recipe(), path)
    monkeypatch.chdir(tmp_path)
    grid = ["training.learning_rate=1e-3,1e-4"] if command == "sweep" else []
    told = refused(capsys, tmp_path, command, path, *grid, REFUSED[name])
    assert_nowhere(told, secrets=[*PLANTED.values(), TOKEN, "hf_plantedPlantedPlanted01", "73519846"])


def test_a_secret_in_a_file_is_refused_as_one_on_the_command_line_is(tmp_path):
    data = {"path": "tests.helpers.data:guarded", "arguments": {"token": TOKEN}}
    inner = tiny.recipe(name="inner", teacher=None, objectives=[{"kind": "labels"}], data=data)
    path = tmp_path / "inner.yaml"
    YAML(typ="safe", pure=True).dump(inner, path)
    for source in (path, inner, tiny.recipe(teacher={"recipe": str(path)}), tiny.recipe(teacher={"recipe": inner})):
        with pytest.raises(
            RecipeError, match=r"data\.arguments\.token: a secret \(not shown\).*HF_DISTILL_TOKEN"
        ) as raised:
            load_recipe(source)
        assert_nowhere(chain(raised.value))


def test_references_are_read_wherever_they_stand_in_arguments(planted, monkeypatch):
    from hf_distill.secrets.references import complaint, resolved, variables

    value = {
        "a": ["Bearer ${HF_DISTILL_DATA_TOKEN}"],
        "url": "https://h/?sig=$HF_DISTILL_DATA_TOKEN&x=1",
        "n": 5,
        "t": "$x",
    }
    secret = PLANTED["HF_DISTILL_DATA_TOKEN"]
    assert complaint({"data": {"arguments": value}}, "recipe") is None
    assert variables(value) == {"HF_DISTILL_DATA_TOKEN"}
    assert resolved(value) == {"a": [f"Bearer {secret}"], "url": f"https://h/?sig={secret}&x=1", "n": 5, "t": "$x"}


@pytest.mark.parametrize("kind", ["ValueError", "OSError", "KeyError"])
def test_a_callable_that_fails_and_repeats_what_it_was_given_shows_none_of_it(kind, planted, monkeypatch):
    address = "https://me:mine-and-yours@example.com/a?sig=$HF_DISTILL_DATA_TOKEN"
    with pytest.raises(RecipeError, match=r"data\.arguments\.address: a secret"):
        check(tiny.recipe(data=guarded(fails=kind, address=address)), report=silent)
    monkeypatch.setenv("HF_DISTILL_URL", "https://me:mine-and-yours@example.com/a")
    monkeypatch.setenv("HF_DISTILL_PIN", "abc4")  # As short as this, it is known since it was given.
    data = guarded(fails=kind, address="$HF_DISTILL_URL?sig=$HF_DISTILL_DATA_TOKEN&pin=$HF_DISTILL_PIN")
    with pytest.raises(DataError, match=rf"data\.path: tests\.helpers\.data:guarded failed: {kind}.*--debug") as raised:
        check(tiny.recipe(data=data), report=silent)
    assert_nowhere(chain(raised.value), secrets=[*PLANTED.values(), "mine-and-yours"])
    assert "abc4" not in chain(raised.value)


def test_debug_and_faults_of_ours_show_no_secret_on_the_terminal(planted, capsys, tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    YAML(typ="safe", pure=True).dump(tiny.recipe(data=guarded(fails="ValueError")), path)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # Back as it was afterwards.
    monkeypatch.setattr(sys, "argv", ["hf-distill", "check", str(path), "--debug"])
    with pytest.raises(DataError) as raised:
        main()
    traceback.print_exception(raised.value)
    try:
        raise RuntimeError(f"sent {PLANTED['HF_TOKEN']}") from ValueError(PLANTED["AWS_SECRET_ACCESS_KEY"])
    except RuntimeError:
        traceback.print_exc()
    print(PLANTED["HF_DISTILL_API_KEY"])
    told = capsys.readouterr()
    assert "failed: ValueError" in told.err
    assert "RuntimeError: sent [secret]" in told.err
    assert_nowhere(told.out, told.err)


@pytest.mark.parametrize("status", [400, 401, 403, 422, 500])
def test_a_hub_that_repeats_the_token_shows_it_to_nobody(status, hub, planted, tmp_path, monkeypatch, capsys):
    def repeat(self: Handler) -> None:
        said = f"no: {self.headers['Authorization']} and {quote(self.headers['Authorization'])}\x1b[31m"
        self.answer({"error": said}, status, {"X-Error-Message": said.replace("\x1b", "")})

    monkeypatch.setattr(Handler, "create", repeat)
    folder = tmp_path / "run"
    pushable(folder)
    with pytest.raises(HubError) as raised:
        push_folder(folder / "student", "me/student", wait=lambda _: None)
    assert_nowhere(chain(raised.value))
    assert str(raised.value).isprintable()
    monkeypatch.setattr("hf_distill.report.hub.retries.WAITS", ())
    assert call("push", folder, "--model-id", "me/student") == 3
    told = capsys.readouterr()
    assert_nowhere(told.out, told.err, folder)


@pytest.mark.slow
def test_a_sweep_leaves_no_secret(planted, tmp_path):
    lines: list[str] = []
    data = guarded(rows="classes")
    result = sweep(tiny.recipe(data=data), ["training.learning_rate=1e-3,2e-3"], runs=tmp_path, report=lines.append)
    assert result.recipe.is_file()
    assert_nowhere(tmp_path, "\n".join(lines))
