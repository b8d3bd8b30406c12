"""The recipe: read strictly, overridden by dotted keys, and written so that it loads again to the same."""

from __future__ import annotations

import dataclasses

import pytest

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from hf_distill.recipe.stages import RESERVED_TRAINING
from tests.helpers import tiny

SHORT = """
version: 1
name: short
task: text-classification
data: {path: some/data, columns: {text: sentence}}
teacher: {model: some/teacher}
student: {layers: 2}
training: {learning_rate: 3e-5, optim: no}
"""


def written(path, text: str):
    (path / "recipe.yaml").write_text(text)
    return path / "recipe.yaml"


def test_the_keys_stand_in_the_order_of_the_flow():
    names = [field.name for field in dataclasses.fields(Recipe)]
    assert names == [
        "version",
        "name",
        "seed",
        "task",
        "data",
        "teacher",
        "label",
        "student",
        "rollout",
        "objectives",
        "stages",
        "training",
        "training_guard",
        "evaluate",
        "hub",
    ]


def test_numbers_and_words_are_those_of_yaml_1_2(tmp_path):
    training = load_recipe(written(tmp_path, SHORT)).training
    assert training == {"learning_rate": 3e-5, "optim": "no"}


def test_a_recipe_written_and_read_again_is_equal(tmp_path):
    sides = SHORT.replace("layers: 2", "layers: {encoder: [0, -1], decoder: 2}")
    for recipe in (load_recipe(tiny.recipe()), *(load_recipe(written(tmp_path, each)) for each in (SHORT, sides))):
        dump_recipe(recipe, tmp_path / "again.yaml")
        assert load_recipe(tmp_path / "again.yaml") == recipe


def test_overrides_reach_nested_keys_lists_and_whole_mappings():
    recipe = load_recipe(
        tiny.recipe(),
        [
            "training.learning_rate=3e-5",
            "objectives.1.temperature=4",
            "student={layers: [0, -1]}",
            "task.max_length=16",
            "recipe.seed=9",
            "teacher.recipe.training.num_train_epochs=1",
        ],
    )
    assert recipe.training["learning_rate"] == 3e-5
    assert recipe.objectives[1].options["temperature"] == 4
    assert recipe.student.layers == [0, -1]
    assert recipe.task.options["max_length"] == 16
    assert recipe.seed == 9
    assert recipe.teacher.recipe.training["num_train_epochs"] == 1


def test_an_override_leaves_the_callers_mapping_as_it_was():
    source = tiny.recipe()
    load_recipe(source, {"training.learning_rate": 1.0})
    assert source == tiny.recipe()


def test_a_teachers_recipe_inherits_task_data_and_seed_and_may_lie_in_another_file(tmp_path):
    (tmp_path / "teacher.yaml").write_text("{student: {pretrained: some/model}, training: {num_train_epochs: 2}}")
    text = SHORT.replace("{model: some/teacher}", "{recipe: teacher.yaml}")
    recipe = load_recipe(written(tmp_path, text), ["seed=5"])
    teacher = recipe.teacher.recipe
    assert (teacher.seed, teacher.data, teacher.task) == (5, recipe.data, recipe.task)
    assert teacher.teacher is None
    assert teacher.training == {"num_train_epochs": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n- b\n", "expected a mapping of recipe keys, got list"),
        ("", "expected a mapping of recipe keys"),
        ("a: [1", "not valid YAML: line 1"),
        (SHORT.replace("version: 1", "version: 2"), "recipe.version: expected 1, got 2"),
        (SHORT.replace("name: short", "name: ../up"), "recipe.name"),
        (SHORT.replace("name: short", "name: Labels"), "recipe.name: Labels is the folder"),
        (SHORT.replace("name: short", "name: caches"), "recipe.name: caches is the folder"),
        (SHORT.replace("name: short\n", ""), "recipe.name: required, but missing"),
        (
            SHORT.replace("layers: 2", "config: {}, pretrained: a/b"),
            "or exactly one of config and pretrained, got config and pretrained",
        ),
        (
            SHORT.replace("teacher: {model: some/teacher}\n", "").replace("}}", "}, unlabelled_split: more}"),
            "unlabelled rows teach nothing without a teacher",
        ),
        (SHORT.replace("some/teacher}", "some/teacher, cache: {}}"), "does nothing for a live teacher"),
        (SHORT.replace("some/teacher}", "some/teacher, kind: cached, cache: {k: 5}}"), "recipe.teacher.cache.k: does"),
        (SHORT.replace("some/teacher}", "some/teacher, kind: cached, cache: {verify: -1}}"), "cache.verify: expected"),
        (SHORT.replace("layers: 2", "layers: two"), "recipe.student.layers: expected an integer or a list"),
        (SHORT.replace("layers: 2", "layers: {encoder: two}"), "recipe.student.layers.encoder: expected an integer or"),
        (SHORT.replace("layers: 2", "layers: {encoders: 2}"), "expected encoder, decoder or both as the keys"),
        (SHORT.replace("layers: 2", "layers: {}"), "as the keys of the mapping, got none"),
        (SHORT.replace("path: some/data", "path: some/data, files: {train: a.csv}"), "exactly one of path and files"),
        (
            SHORT.replace("path: some/data", "path: some/data, test_limit: 0"),
            "recipe.data.test_limit: expected at least 1",
        ),
        (SHORT.replace("model: some/teacher", "model: a/b, dtype: int4"), "recipe.teacher.dtype: expected one of auto"),
        (SHORT + "hub: {push: true}\n", "recipe.hub.model_id: required to push"),
        (SHORT + "evaluate: {resamples: 3}\n", "recipe.evaluate.resamples: expected at least 100"),
        (SHORT + "evaluate: {control: 1}\n", "recipe.evaluate.control: expected true or false, got 1 (integer)"),
        (SHORT + "objectives: []\n", "recipe.objectives: expected at least one"),
        (SHORT + "objectives: [logits]\n", "recipe.objectives.0: expected a mapping"),
        (SHORT + "nmae: x\n", "recipe.nmae: no such key; did you mean name?"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(text, told, tmp_path):
    with pytest.raises(RecipeError) as refused:
        load_recipe(written(tmp_path, text))
    assert told in str(refused.value)


@pytest.mark.parametrize("key", RESERVED_TRAINING)
def test_training_keys_that_would_do_nothing_are_refused_with_their_reason(key):
    with pytest.raises(RecipeError, match=f"recipe.training.{key}: cannot be set here: "):
        load_recipe(tiny.recipe(), {f"training.{key}": 1})


@pytest.mark.parametrize("override", ["objectives.7.weight=1", "name.x=1", "=3", "seed"])
def test_an_override_that_reaches_nothing_is_refused(override):
    with pytest.raises(RecipeError):
        load_recipe(tiny.recipe(), [override])


@pytest.mark.parametrize(("key", "value"), [("max_steps", 0), ("max_steps", -5), ("num_train_epochs", 0)])
def test_a_training_without_a_length_is_refused(key, value):
    with pytest.raises(RecipeError, match=rf"training\.{key}: expected .*, got {value}"):
        load_recipe(tiny.recipe(), {f"training.{key}": value})


def test_a_name_that_no_folder_can_have_is_refused():
    with pytest.raises(RecipeError, match=r"recipe\.name: expected at most 100 letters"):
        load_recipe(tiny.recipe(name="a" * 101))
