"""A recipe runs no code unless somebody allows it: each way to name some is refused before anything is imported."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import hf_distill
from hf_distill.errors import HfDistillError, RecipeError
from hf_distill.recipe.data import LOADERS
from hf_distill.recipe.load_recipe import check_code, dump_recipe, load_recipe
from hf_distill.recipe.yaml_text import read_yaml, write_yaml
from tests.helpers import tiny
from tests.helpers.command_line import call, refused

PACKAGE = Path(hf_distill.__file__).parent
ATTACK = "attack_of_a_stranger:X"
LABELS = {"kind": "labels"}
OWN = {"student": {"pretrained": "a/b"}, "training": {}}
BERT = {"model_type": "bert", "hidden_size": 32}
STAGE = {"name": "first", "objectives": [LABELS], "training": {"max_steps": 1}}
WRITES = {"task": "causal-lm", "student": {"config": {**BERT, "model_type": "llama"}, "tokenizer": "a/b"}}

KINDS: dict[str, dict[str, Any]] = {
    "data.path": {"data": {"path": ATTACK}},
    "data.test.path": {"data": {"path": "a/b", "test": {"path": ATTACK}}},
    "task.name": {"task": ATTACK},
    "teacher.kind": {"teacher": {"kind": ATTACK}},
    "student.kind": {"student": {"kind": ATTACK}},
    "objectives.1.kind": {"objectives": [LABELS, {"kind": ATTACK, "weight": 2}]},
    "stages.1.objectives.0.kind": {
        **{"objectives": None, "training": None},
        "stages": [STAGE, {**STAGE, "name": "second", "objectives": [{"kind": ATTACK}]}],
    },
    "label.scorer": {**WRITES, "label": {"scorer": ATTACK}},
    "evaluate.scorers.1": {"evaluate": {"scorers": ["bleu", ATTACK]}},
    "teacher.recipe.data.path": {"teacher": {"recipe": {**OWN, "data": {"path": ATTACK}}}},
    "teacher.recipe.objectives.0.kind": {"teacher": {"recipe": {**OWN, "objectives": [{"kind": ATTACK}]}}},
    "teacher.recipe.evaluate.scorers.0": {"teacher": {"recipe": {**OWN, "evaluate": {"scorers": [ATTACK]}}}},
    "teacher.ensemble.1.recipe.task.name": {
        "teacher": {"ensemble": [{"model": "a/b"}, {"recipe": {**OWN, "task": ATTACK}}]}
    },
    "teacher.ensemble.0.recipe.student.kind": {
        "teacher": {"ensemble": [{"recipe": {**OWN, "student": {"kind": ATTACK}}}, {"model": "a/b"}]}
    },
}
"""Each key that may name code, and what of a recipe holds it."""

OTHER: dict[str, dict[str, Any]] = {
    "evaluate.scorers.0": {"evaluate": {"scorers": ["evaluate:some/metric"]}},
    "rollout.engine_options.worker_cls": {
        "rollout": {"engine": "vllm", "engine_options": {"dtype": "half", "worker_cls": "attack_of_a_stranger.X"}}
    },
    "student.config.text_config.attn_implementation": {
        "student": {"config": {"text_config": {"attn_implementation": "stranger/kernel"}}}
    },
    "training.deepspeed": {"training": {"deepspeed": "deepspeed.json"}},
    "training.deepspeed.compile.backend": {"training": {"deepspeed": {"compile": {"backend": "os.system"}}}},
    "stages.1.training.deepspeed": {
        **{"objectives": None, "training": None},
        "stages": [STAGE, {**STAGE, "name": "second", "training": {"max_steps": 1, "deepspeed": '{"compile": {}}'}}],
    },
}
"""Ways to name code that are no dotted paths."""

REACHED = ["data.path", "task.name", "teacher.kind", "objectives.1.kind", "evaluate.scorers.1", "student.kind"]
"""Keys whose code a check of the recipe runs, where it is allowed."""


@pytest.fixture
def marker(tmp_path_factory, monkeypatch):
    """What a stranger's module leaves where it is imported."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "attack_of_a_stranger.py").write_text("import pathlib\n(pathlib.Path(__file__).parent / 'ran').touch()\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "attack_of_a_stranger", raising=False)
    return folder / "ran"


@pytest.fixture
def ours_alone():
    """Without what the tests add to our own functions."""
    kept = set(LOADERS)
    LOADERS.intersection_update({"hf_distill.data.docstrings:load"})
    yield
    LOADERS.update(kept)


def recipe_of(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in tiny.recipe(**changes).items() if value is not None}


def written(folder, **changes: Any):
    write_yaml(recipe_of(**changes), folder / "recipe.yaml")
    return folder / "recipe.yaml"


@pytest.mark.parametrize("key", KINDS)
def test_a_recipe_that_names_code_is_refused_by_its_key_and_nothing_is_imported(key, marker, tmp_path, capsys):
    path = written(tmp_path, **KINDS[key])

    told = refused(capsys, tmp_path, "check", path)

    assert f"recipe.{key}: {ATTACK}" in told
    assert "--allow-code" in told
    assert not marker.exists()


@pytest.mark.parametrize("key", REACHED)
def test_what_is_refused_would_have_run(key, marker, tmp_path):
    changes = KINDS[key] if key != "student.kind" else {**KINDS[key], "objectives": [LABELS]}
    with pytest.raises(HfDistillError):
        hf_distill.check(recipe_of(**changes), report=lambda line: None, allow_code=True)
    assert marker.exists()


@pytest.mark.parametrize("key", OTHER)
def test_code_that_is_named_in_other_ways_is_refused_too(key):
    with pytest.raises(RecipeError, match=rf"recipe\.{key}: .*--allow-code"):
        load_recipe(recipe_of(**OTHER[key]))
    assert load_recipe(recipe_of(**OTHER[key]), allow_code=True)


def renamed(value: Any, name: str) -> Any:
    """The same with another name for the attack."""
    if isinstance(value, dict):
        return {key: renamed(item, name) for key, item in value.items()}
    return [renamed(item, name) for item in value] if isinstance(value, list) else name if value == ATTACK else value


@pytest.mark.parametrize("key", KINDS)
def test_each_key_is_an_override_too(key, marker, tmp_path, capsys):
    harmless = {"path": "a/b", "name": "text-classification"}.get(key.rpartition(".")[2], "labels")
    changes = {} if key in ("teacher.kind", "student.kind") else renamed(KINDS[key], harmless)
    told = refused(capsys, tmp_path, "check", written(tmp_path, **changes), f"{key}={ATTACK}")
    assert f"recipe.{key}: {ATTACK}" in told
    assert not marker.exists()


def test_all_of_it_is_named_at_once(marker):
    changes = {
        **KINDS["data.path"],
        **KINDS["teacher.kind"],
        **KINDS["objectives.1.kind"],
        **OTHER["evaluate.scorers.0"],
    }
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe_of(**changes))
    for key in ("data.path", "teacher.kind", "objectives.1.kind", "evaluate.scorers.0"):
        assert f"recipe.{key}: " in str(error.value)
    assert not marker.exists()


def test_a_teachers_recipe_in_a_file_of_its_own_is_asked_about_too(marker, tmp_path):
    write_yaml({**OWN, "data": {"path": ATTACK}}, tmp_path / "teacher.yaml")
    path = written(tmp_path, teacher={"recipe": "teacher.yaml"})
    with pytest.raises(RecipeError, match=r"recipe\.teacher\.recipe\.data\.path"):
        load_recipe(path)
    assert not marker.exists()


def test_options_cannot_hide_what_kind_they_are_of():
    hidden = {"kind": ATTACK, "weight": 1.0, "options": {"kind": "labels"}}
    with pytest.raises(RecipeError, match=r"recipe\.objectives\.0\.options\.kind"):
        load_recipe(recipe_of(objectives=[hidden]), allow_code=True)
    with pytest.raises(RecipeError, match=r"recipe\.teacher\.options\.kind"):
        load_recipe(recipe_of(teacher={"kind": ATTACK, "options": {"kind": "live"}}), allow_code=True)


@pytest.mark.parametrize("command", ["run", "check", "cache", "label", "plan"])
def test_every_command_that_reads_a_recipe_asks(command, marker, tmp_path, capsys):
    more = ["--max-parameters", "1M"] if command == "plan" else []
    more += [] if command == "check" else ["--runs", tmp_path / "runs"]
    assert "recipe.data.path" in refused(capsys, tmp_path, command, written(tmp_path, data={"path": ATTACK}), *more)
    assert not marker.exists()


@pytest.mark.parametrize("command", ["evaluate", "push"])
def test_a_run_of_such_a_recipe_asks_again(command, marker, tmp_path, capsys):
    recipe = load_recipe(recipe_of(data={"path": ATTACK}), allow_code=True)
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_text().startswith("# Needs --allow-code: recipe.data.path")
    assert load_recipe(tmp_path / "recipe.yaml", allow_code=True) == recipe
    assert "recipe.data.path" in refused(capsys, tmp_path, command, tmp_path)
    assert not marker.exists()


def test_the_values_of_a_sweep_are_asked_about_before_the_first_is_trained(marker, tmp_path, capsys):
    grid = [f"objectives.0.kind=labels,{ATTACK}", f"objectives.1.kind=logits,{ATTACK}2"]
    told = refused(capsys, tmp_path, "sweep", written(tmp_path), *grid, "--runs", tmp_path / "runs")
    assert f"recipe.objectives.0.kind: {ATTACK})" in told
    assert f"recipe.objectives.1.kind: {ATTACK}2, " in told
    assert not marker.exists()


@pytest.mark.parametrize("verb", ["run", "check", "cache", "label", "plan", "load_recipe"])
def test_every_verb_of_python_asks(verb, marker):
    more = {"max_parameters": "1M"} if verb == "plan" else {}
    with pytest.raises(RecipeError, match=r"recipe\.data\.path: attack_of_a_stranger:X.*allow_code=True"):
        getattr(hf_distill, verb)(recipe_of(data={"path": ATTACK}), **more)
    with pytest.raises(RecipeError, match=r"recipe\.data\.path: attack_of_a_stranger:X.*allow_code=True"):
        hf_distill.distill(**{**recipe_of(data={"path": ATTACK}), "version": 1})
    assert not marker.exists()


@pytest.mark.parametrize("flag", [[], ["--allow-code"]], ids=["refused", "allowed"])
@pytest.mark.parametrize("path", ["subprocess:run", "os:system", "builtins:exec", "subprocess:Popen", "pty:spawn"])
def test_no_flag_lets_a_recipe_call_pythons_standard_library(path, flag, tmp_path, capsys):
    target = tmp_path / "ran"
    arguments = {"args": f"id > {target}", "command": f"id > {target}", "shell": True}
    recipe = written(tmp_path, data={"path": path, "arguments": arguments})
    told = refused(capsys, tmp_path, "check", recipe, *flag)
    assert f"recipe.data.path: {path}" in told
    assert "standard library" in told
    assert not target.exists()


@pytest.mark.parametrize("key", KINDS)
def test_no_key_may_name_pythons_standard_library(key, monkeypatch):
    monkeypatch.setitem(sys.modules, "antigravity", None)  # An import of it would be another error.
    with pytest.raises(RecipeError, match=rf"recipe\.{key}: antigravity:X.*standard library"):
        load_recipe(recipe_of(**renamed(KINDS[key], "antigravity:X")), allow_code=True)


def test_what_a_module_has_imported_is_refused_where_its_code_is_allowed(tmp_path, capsys):
    path = written(tmp_path, data={"path": "tests.helpers.named:run", "arguments": {"args": f"id > {tmp_path}/ran"}})
    told = refused(capsys, tmp_path, "check", path, "--allow-code")
    assert "tests.helpers.named:run is of Python's standard library" in told


@pytest.mark.parametrize(
    "path", ["https://host/rows", "a:b:c", "mine.rows:load.all", ":load", "mine:", "a b:c", "C:\\rows"]
)
def test_what_has_not_the_form_of_a_dotted_path_is_told_so(path):
    with pytest.raises(RecipeError, match=r"recipe\.data\.path: expected .* package\.module:function, got"):
        load_recipe(recipe_of(data={"path": path}), allow_code=True)


def test_our_own_loader_needs_no_leave_and_no_other_function_of_ours_goes_without(ours_alone):
    load_recipe(recipe_of(data={"path": "hf_distill.data.docstrings:load"}))
    for other in ("hf_distill.artifacts:remove", "hf_distill.data.docstrings:_docstrings", "tests.helpers.tiny:splits"):
        with pytest.raises(RecipeError, match=f"recipe.data.path: {other}.*--allow-code"):
            load_recipe(recipe_of(data={"path": other}))
    with pytest.raises(RecipeError, match=r"recipe\.task\.name"):
        load_recipe(recipe_of(task="hf_distill.data.docstrings:load"))


def test_the_folder_in_which_a_command_runs_is_searched_only_with_leave(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = written(tmp_path)
    assert "there is no recipe" in refused(capsys, tmp_path, "check", tmp_path / "none.yaml")
    assert str(tmp_path) not in sys.path
    (tmp_path / "my_rows_here.py").write_text(
        "from tests.helpers.tiny import splits\ndef load(): return splits(8, 8)\n"
    )
    assert call("check", path, "data.path=my_rows_here:load", "data.arguments={}", "--allow-code") == 0
    assert sys.path[-1] == str(tmp_path)


def test_the_script_of_a_data_set_never_runs(marker, tmp_path, capsys):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.py").write_text("import attack_of_a_stranger\n")
    told = refused(capsys, tmp_path, "check", written(tmp_path, data={"path": str(tmp_path / "rows")}), "--allow-code")
    assert "cannot be loaded" in told
    assert not marker.exists()


RUNS = re.compile(
    r"(?<!def )\b(look_up|plug_in|import_module|__import__|evaluate\.load|exec|run_path|run_module)\("
    r"|(?<![.\w])eval\(|trust_remote_code=True|torch\.load\(|pickle\.load"
)
"""What runs code that a text names."""


def test_code_that_a_text_names_is_run_at_no_other_places_than_these():
    files = sorted(PACKAGE.rglob("*.py"))
    found = {str(path.relative_to(PACKAGE)): RUNS.findall(path.read_text()) for path in files}
    assert {path: names for path, names in found.items() if names} == {
        "__init__.py": ["import_module"],  # Of our own names.
        "names.py": ["plug_in", "import_module"],
        "data/sources.py": ["plug_in"],
        "evaluation/metrics.py": ["evaluate.load", "look_up"],
        "objectives/__init__.py": ["look_up"],
        "students/build.py": ["look_up"],
        "tasks/__init__.py": ["look_up"],
        "teachers/__init__.py": ["look_up"],
    }


def test_recipes_that_name_none_pass(tmp_path):
    check_code([load_recipe(recipe_of())], allow_code=False)
    dump_recipe(load_recipe(recipe_of()), tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").read_text().startswith("#")
    assert read_yaml(tmp_path / "recipe.yaml")["name"] == "tiny"
