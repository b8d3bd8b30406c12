"""The command line: what it prints, and how it refuses: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers import tiny
from tests.helpers.command_line import call, refused


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe with changes and gives its path."""

    def write(**changes) -> Path:
        path = tmp_path / "recipe.yaml"
        YAML(typ="safe", pure=True).dump(tiny.recipe(**changes), path)
        return path

    return write


def rows_file(folder: Path, lines: list[str]) -> str:
    path = folder / "rows.csv"
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return str(path)


CASES = {
    "a missing file": ([], {"data": {"files": {"train": "no.csv", "test": "no.csv"}}}, "there is no file no.csv"),
    "a column that is not there": (["data.columns={text: sentence}"], {}, "no column 'sentence'"),
    "an unknown key": (["data.train_spilt=x"], {}, "recipe.data.train_spilt: no such key; did you mean train_split?"),
    "an unknown training key": (["training.learning_rat=1"], {}, "did you mean learning_rate?"),
    "a wrong type": (["seed=many"], {}, "recipe.seed: expected an integer"),
    "a rate that is no number": (["training.learning_rate=.nan"], {}, "learning_rate"),
    "a negative rate": (["training.learning_rate=-0.1"], {}, "learning_rate"),
    "an override without a value": (["training"], {}, "expected key=value"),
    "an unknown model": (["teacher={model: nobody/nothing-at-all}"], {}, "nobody/nothing-at-all"),
    "a folder that is not there": (["teacher={model: ./no/such/folder}"], {}, "there is no folder"),
    "an unknown objective": (["objectives=[{kind: logit}]"], {}, "labels, logits, hidden"),
    "an unknown option": (["objectives.1.temprature=2"], {}, "temperature"),
    "a temperature of 0": (["objectives.1.temperature=0"], {}, "above 0"),
    "an unknown task": (["task=translating"], {}, "text-classification"),
    "an unknown metric": (["evaluate.metric=accurracy"], {}, "accuracy"),
    "a callable that is not there": (
        ["data.path=tests.helpers.tiny:nothing", "--allow-code"],
        {},
        "cannot be imported",
    ),
    "an unknown data set": (["data.path=nobody/nothing", "data.arguments={}"], {}, "nobody/nothing"),
    "an argument that TrainingArguments refuses": (["training.eval_strategy=sometimes"], {}, "recipe.training"),
    "an objective that no teacher serves": (
        ["teacher=null", "student={pretrained: a/b}"],
        {},
        "but the recipe names none",
    ),
}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_one_line(name, command, recipe, capsys, tmp_path, monkeypatch):
    overrides, changes, part = CASES[name]
    path = recipe(**changes)
    monkeypatch.chdir(tmp_path)
    runs = ["--runs", tmp_path / "runs"] if command == "run" else []
    assert part in refused(capsys, tmp_path, command, path, *overrides, *runs)


def test_layers_out_of_range_are_told_by_check(recipe, capsys, tmp_path):
    path = recipe(student={"layers": [0, 7]})
    assert "the teacher has no layer 7" in refused(capsys, tmp_path, "check", path)
    path = recipe(student={"layers": 2}, objectives=[{"kind": "hidden", "layers": {9: 0}}])
    assert "layer 9 of the student is out of range" in refused(capsys, tmp_path, "check", path)


def test_files_that_are_no_recipe_are_told(capsys, tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")
    assert "mapping" in refused(capsys, tmp_path, "check", path)
    path.write_text("a: [1\nb: 2\n")
    assert "line" in refused(capsys, tmp_path, "check", path)
    assert "there is no recipe" in refused(capsys, tmp_path, "check", tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["good card,a", "bad card,a"] * 8, "at least two"),
        (["good card,a", ",b"] * 8, "no text"),
        ([], "no rows"),
    ],
    ids=["one class", "empty text", "no rows"],
)
def test_rows_that_cannot_be_learned_from_are_told(lines, part, recipe, capsys, tmp_path):
    file = rows_file(tmp_path, lines)
    path = recipe(data={"files": {"train": file, "test": file}, "validation_size": 2})
    assert part in refused(capsys, tmp_path, "check", path)


def test_check_tells_sizes_maps_and_costs_without_writing(recipe, capsys, tmp_path):
    path = recipe()
    before = sorted(tmp_path.rglob("*"))
    assert call("check", path) == 0
    told = capsys.readouterr().out
    for part in (
        "192 train",
        "2: bad, good",
        "of the teacher's",
        "0 <- 1, 1 <- 2",
        "projections 32 -> 48",
        "steps: 24",
        "GiB",
    ):
        assert part in told, part
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("has", [True, False])
def test_check_tells_where_bfloat16_is_slower_than_float32(recipe, capsys, monkeypatch, has):
    monkeypatch.setattr("hf_distill.pipeline.checks.costs.multiplies_bfloat16", lambda: has)

    assert call("check", recipe(), "training.bf16=true", "training.use_cpu=true") == 0

    assert ("bf16: this CPU has no instructions" in capsys.readouterr().out) is not has


def test_a_student_larger_than_its_teacher_is_allowed_and_told(recipe, capsys):
    path = recipe(student={"config": {"num_hidden_layers": 6}}, objectives=[{"kind": "logits"}])
    assert call("check", path) == 0
    assert "larger than its teacher" in capsys.readouterr().out


def test_run_shows_the_table_and_where_things_are(copied, capsys):
    assert call("run", copied / "recipe.yaml", "evaluate.batch_size=16", "--runs", copied.parent) == 0
    told = capsys.readouterr().out
    for part in (
        "teacher",
        "student",
        "control",
        "bag of words",
        "95% interval",
        str(copied / "student" / "README.md"),
    ):
        assert part in told, part
    assert "\x1b[" not in told


def test_evaluate_and_push_refuse_what_is_no_run(capsys, tmp_path):
    assert "is no run" in refused(capsys, tmp_path, "evaluate", tmp_path)
    assert "is no run" in refused(capsys, tmp_path, "push", tmp_path)


def test_push_needs_to_know_where_to(finished, capsys, tmp_path):
    assert "--model-id" in refused(capsys, tmp_path, "push", finished)


def test_debug_shows_the_traceback(tmp_path):
    from hf_distill.errors import RecipeError

    with pytest.raises(RecipeError):
        call("check", tmp_path / "none.yaml", "--debug")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("name"),
        RecursionError("maximum recursion depth exceeded"),
        OSError(5, "Input/output error"),
        ValueError("two\nlines, \x1b[31mand red"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_nobody_foresaw_is_one_line_and_a_file_with_its_traceback(
    error, recipe, capsys, tmp_path, monkeypatch
):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("hf_distill.pipeline.preflight.check", fail)

    assert call("check", recipe()) == 70

    (line,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.glob("hf-distill-*.txt")
    assert line.startswith("hf-distill: this is a fault of hf-distill, please report it at https://")
    assert str(file) in line
    assert line.isprintable()
    assert "in fail\n    raise error" in file.read_text()
    assert "hf_planted" not in file.read_text()
    with pytest.raises(type(error)):
        call("check", recipe(), "--debug")


def test_without_a_place_for_the_file_the_line_says_how_to_see_the_traceback(recipe, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr("hf_distill.pipeline.preflight.check", lambda *_, **__: 1 / 0)

    assert call("check", recipe()) == 70

    assert "--debug" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_fault(recipe, capsys, monkeypatch):
    def leave(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("hf_distill.pipeline.preflight.check", leave)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1, raising=False)

    assert call("check", recipe()) == 1

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("task", ["text-classification", "causal-lm", "translation", "summarization", "embeddings"])
def test_init_writes_a_recipe_that_loads_and_recipes_lists_it(task, capsys, tmp_path, monkeypatch):
    from hf_distill import load_recipe

    assert call("init", task, "--output", tmp_path / "mine.yaml") == 0
    assert load_recipe(tmp_path / "mine.yaml").task.name == task
    assert "is there already" in refused(capsys, tmp_path, "init", task, "--output", tmp_path / "mine.yaml")
    assert "text-classification" in refused(capsys, tmp_path, "init", "poetry", "--output", tmp_path / "poem.yaml")
    capsys.readouterr()
    assert call("recipes", tmp_path) == 0
    assert "mine.yaml" in capsys.readouterr().out
