"""A plan: the largest student within bounds, by shapes alone, as fast as an evaluation later finds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hf_distill
from hf_distill import load_recipe
from hf_distill.errors import RecipeError
from hf_distill.evaluation import speed
from hf_distill.evaluation.predict import Candidate
from hf_distill.pipeline.preflight import resolve
from hf_distill.recipe.load_recipe import dump_recipe
from hf_distill.search import plan_speed
from hf_distill.search.plan import AS_LARGE
from hf_distill.search.plan_bounds import read_count
from hf_distill.search.plan_shapes import sketch_columns
from hf_distill.teachers import ModelTeacher
from tests.helpers import tiny
from tests.helpers.command_line import call, refused
from tests.helpers.recipes import language_recipe
from tests.helpers.seams import accept_any_teacher


def silent(line: str) -> None:
    """Report to nobody."""


class Clock:
    """Time passes by the work of a forward pass alone."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def seconds_a_row(self, config: Any) -> float:
        return 1e-4 + 1e-5 * config.num_hidden_layers * config.hidden_size

    def timed(self, run: Any) -> Any:
        def timed_run(candidate: Any, inputs: Any, has_vocabulary: bool) -> Any:
            self.now += self.seconds_a_row(candidate.model.config) * len(inputs["input_ids"])
            return run(candidate, inputs, has_vocabulary)

        return timed_run


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    for kind in (Candidate, ModelTeacher):
        monkeypatch.setattr(kind, "run", clock.timed(kind.run))
    return clock


def recipe_of(folder: Path, layers: int = 4, **changes: Any) -> dict[str, Any]:
    """A teacher of some layers and 4 heads."""
    if not (folder / "teacher").is_dir():
        tiny.bert(layers, seed=5).save_pretrained(folder / "teacher")
        tiny.tokenizer().save_pretrained(folder / "teacher")
    return {
        "version": 1,
        "name": "tiny",
        "task": {"name": "text-classification", "max_length": 32},
        "data": {"path": "tests.helpers.tiny:splits", "arguments": {"train": 48, "test": 24}},
        "teacher": {"model": str(folder / "teacher")},
        "student": {"layers": 1},
        "objectives": [{"kind": "logits"}],
        "training": {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "use_cpu": True},
        "evaluate": {"resamples": 100, "control": False, "batch_size": 8},
        **changes,
    }


def all_students(recipe: dict[str, Any]) -> list[Any]:
    given = resolve(load_recipe(recipe))
    columns = sketch_columns(given.recipe, given.task, given.data, given.teacher)
    return [each for column in columns for each in column]


@pytest.mark.slow
@pytest.mark.parametrize("bound", [1.3, 4.0])
def test_the_largest_student_that_is_fast_enough_is_found_and_of_equals_the_deepest(bound, tmp_path, clock):
    recipe = recipe_of(tmp_path)
    students = all_students(recipe)
    assert len(students) == 4 * 4
    at = clock.seconds_a_row(tiny.bert(4).config)
    fitting = [each for each in students if at / clock.seconds_a_row(each.config) >= bound]
    most = max(each.parameters for each in fitting)
    expected = max((e for e in fitting if e.parameters >= AS_LARGE * most), key=lambda e: (e.depth, e.parameters))
    result = hf_distill.plan(recipe, speedup=bound, runs=tmp_path / "runs", report=silent)
    assert result.student == expected.student
    assert len(result.results["students"]) < len(students)
    chosen = result.results["chosen"]
    assert chosen["parameters"] == expected.parameters
    assert chosen["speedup"] == pytest.approx(at / clock.seconds_a_row(expected.config))


@pytest.mark.slow
def test_what_is_planned_is_what_a_run_then_reports(tmp_path, clock, monkeypatch):
    accept_any_teacher(monkeypatch)
    monkeypatch.setattr("hf_distill.evaluation.speed.ROUNDS", plan_speed.ROUNDS)
    recipe = recipe_of(tmp_path)
    plan = hf_distill.plan(recipe, speedup=4.0, runs=tmp_path / "runs", report=silent)
    assert plan.student["width"].keys() == {"hidden_size", "heads", "intermediate_size"}
    result = hf_distill.run({**recipe, "student": plan.student}, runs=tmp_path / "runs", report=silent)
    found, planned = result.results["models"]["student"], plan.results["chosen"]
    for name in ("parameters", "latency_ms", "samples_per_second"):
        assert found[name] == pytest.approx(planned[name]), name
    assert result.comparison["speedup"] == pytest.approx(planned["speedup"])
    conditions = dict(plan.results["speed"])
    assert conditions == result.results["speed"]


@pytest.mark.slow
def test_bounds_may_be_combined_and_the_command_shows_and_writes_everything(tmp_path, capsys):
    dump_recipe(load_recipe(recipe_of(tmp_path, layers=3)), tmp_path / "recipe.yaml")
    bounds = ("--max-latency-ms", 10_000, "--max-parameters", "0.03M")
    assert call("plan", tmp_path / "recipe.yaml", "evaluate.batch_size=4", *bounds, "--runs", tmp_path / "runs") == 0
    told, folder = capsys.readouterr().out, tmp_path / "runs" / "tiny-plan"
    results = json.loads((folder / "plan.json").read_text())
    assert all(each["parameters"] <= 30_000 for each in results["students"])
    assert results["chosen"]["parameters"] == max(each["parameters"] for each in results["students"])
    low, high = results["chosen"]["latency_quartiles"]
    assert low <= results["chosen"]["latency_ms"] <= high
    assert any(each["frontier"] for each in results["students"])
    assert results["command"].endswith("--max-latency-ms 10000.0 --max-parameters 30000")
    assert (folder / "frontier.png").stat().st_size > 0
    assert load_recipe({**recipe_of(tmp_path), **yaml_of(folder / "student.yaml")}).student.layers
    for part in ("teacher", "on the frontier", "chosen", "latency ms", "student.yaml"):
        assert part in told, part


def yaml_of(path: Path) -> Any:
    from hf_distill.recipe.yaml_text import read_yaml

    return read_yaml(path)


@pytest.mark.slow
def test_on_the_frontier_no_student_is_larger_and_faster(tmp_path, clock):
    plan = hf_distill.plan(recipe_of(tmp_path), speedup=1.5, runs=tmp_path / "runs", report=silent)
    students = plan.results["students"]
    for each in students:
        beaten = any(o["parameters"] > each["parameters"] and o["speedup"] >= each["speedup"] for o in students)
        assert each["frontier"] != beaten


@pytest.mark.parametrize(
    ("bounds", "part"),
    [
        (("--speedup", 1000), "keeps to 1000 times the teacher's speed: the nearest"),
        (("--max-latency-ms", 1e-6), "the nearest"),
        (("--max-parameters", "10"), "the smallest, 1 layer x 8, has"),
        ((), "expected at least one of speedup"),
        (("--speedup", -1), "above 0"),
        (("--max-parameters", "many"), "such as 10M"),
    ],
)
def test_bounds_that_no_student_keeps_to_are_told_with_the_nearest(bounds, part, tmp_path, capsys):
    dump_recipe(load_recipe(recipe_of(tmp_path, layers=2)), tmp_path / "recipe.yaml")
    line = refused(capsys, tmp_path, "plan", tmp_path / "recipe.yaml", *bounds, "--runs", tmp_path / "runs")
    assert part in line


@pytest.mark.slow
def test_a_student_that_is_slower_when_measured_longer_gives_way_to_the_next(tmp_path, clock, monkeypatch):
    from hf_distill.search.plan_speed import Stopwatch

    recipe = recipe_of(tmp_path)
    first = hf_distill.plan(recipe, speedup=1.3, runs=tmp_path / "runs", report=silent)
    exact = Stopwatch.exact

    def slower(self, sketch):
        teacher, student = exact(self, sketch)
        if sketch.student == first.student:
            student = type(student)(**{**vars(student), "speedup": 1.2})
        return teacher, student

    monkeypatch.setattr(Stopwatch, "exact", slower)
    lines: list[str] = []
    second = hf_distill.plan(recipe, speedup=1.3, runs=tmp_path / "runs", report=lines.append)
    assert any("misses the bounds" in line for line in lines)
    assert second.student != first.student
    assert second.results["chosen"]["speedup"] >= 1.3


@pytest.mark.slow
def test_a_teacher_that_its_own_recipe_makes_is_planned_for_without_making_it(tmp_path):
    recipe = tiny.recipe(student={"layers": 1}, objectives=[{"kind": "logits"}])
    plan = hf_distill.plan(recipe, max_parameters="1M", runs=tmp_path, report=silent)
    assert plan.student == {"layers": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-plan"]


def test_a_decoder_whose_heads_share_keys_is_narrowed_to_a_shape_that_can_be_built(tmp_path):
    recipe = {**language_recipe(tmp_path), "objectives": [{"kind": "logits"}]}
    recipe["data"] = {"path": "tests.helpers.tiny:splits", "arguments": {"train": 48, "test": 24}}
    plan = hf_distill.plan(recipe, max_parameters=5_000, runs=tmp_path / "runs", report=silent)
    assert "width" in plan.student
    lines: list[str] = []
    hf_distill.check({**recipe, "student": plan.student}, report=lines.append)
    assert any(f"{plan.results['chosen']['parameters'] / 1e6:.1f} million parameters" in line for line in lines)


@pytest.mark.slow
def test_of_an_encoder_decoder_the_depth_of_both_sides_is_planned_as_it_writes(tmp_path):
    tiny.encoder_decoder("marian", 2, 2).save_pretrained(tmp_path / "teacher")
    tiny.chat_tokenizer().save_pretrained(tmp_path / "teacher")
    recipe = recipe_of(tmp_path, objectives=[{"kind": "logits"}], student={"layers": {"encoder": 1, "decoder": 1}})
    recipe |= {"task": {"name": "translation", "max_length": 16}}
    recipe["data"] = {"path": "tests.helpers.data:copies"}
    lines: list[str] = []
    plan = hf_distill.plan(recipe, max_latency_ms=60_000, runs=tmp_path / "runs", report=lines.append)
    assert plan.student == {"layers": {"encoder": 2, "decoder": 2}}
    assert plan.results["speed"]["written_tokens"] > 0
    assert any("measured: 1+1 layers x 16" in line for line in lines)


def test_a_plan_needs_a_teacher(tmp_path):
    recipe = tiny.recipe(teacher=None, student=tiny.recipe()["teacher"]["recipe"]["student"])
    recipe["objectives"] = [{"kind": "labels"}]
    with pytest.raises(RecipeError, match="names none"):
        hf_distill.plan(recipe, speedup=2, runs=tmp_path, report=silent)


@pytest.mark.parametrize(
    ("text", "count"), [("10M", 10_000_000), ("1.5b", 1_500_000_000), ("500K", 500_000), ("66000000", 66_000_000)]
)
def test_numbers_of_parameters_are_read_as_people_write_them(text, count):
    assert read_count(text) == count
