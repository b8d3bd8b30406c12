"""No damaged recipe is a traceback, and what loads is written and read again to the same; `fuzz.py` tries more."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_distill.errors import RecipeError
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.recipe.yaml_text import read_yaml_value
from tests.helpers import tiny
from tests.recipe.fuzz import cases, outcome

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *("version", "name", "seed", "task", "task.name", "data", "data.path", "data.columns", "data.files", "data.test"),
    *(
        "teacher",
        "teacher.kind",
        "teacher.recipe",
        "teacher.recipe.task",
        "teacher.ensemble",
        "teacher.server",
        "label",
    ),
    *(
        "student",
        "student.config",
        "student.layers",
        "student.lora",
        "student.width",
        "rollout",
        "objectives",
        "stages",
    ),
    *("objectives.0", "objectives.0.weight", "objectives.1.options", "training", "training.learning_rate", "hub"),
    *("evaluate", "evaluate.scorers", "evaluate.generation", "label.filters.length_ratio", "rollout.engine_options"),
]
FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def test_shipped_recipes_that_are_damaged_load_or_are_refused(tmp_path):
    told = [outcome(source, changes, tmp_path) for _, source, changes in cases(seed=1, count=40)]
    assert {"loaded", "RecipeError"} <= set(told)


@FEW
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_at_any_key_loads_or_is_refused(key, value, tmp_path_factory):
    told = outcome(tiny.recipe(), {key: value}, tmp_path_factory.getbasetemp())
    assert told.startswith(("loaded", "RecipeError"))


@FEW
@given(text=st.text(alphabet=st.sampled_from("ab:-[]{},&*!|>'\"#%?\n\t 01.²\\é\x00~<"), max_size=40))
def test_any_text_is_yaml_or_is_refused(text):
    told = "given: plain data"
    try:
        read_yaml_value(text, "given")
    except RecipeError as error:
        told = str(error)
    assert told.startswith("given: ")


TREE = (
    "version: 1\nname: x\ntask: text-classification\nstudent: {layers: 2}\nteacher: {model: a/b}\ndata: {path: a/b}\n"
)
LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LAUGHS, "expected at most 20,000 values"),
        (MERGES, "expected at most 20,000 values"),
        (f"{TREE}training: &t {{a: *t}}\n", "line 7: the alias *t stands inside of what it names"),
        (f"{TREE}training: {'[' * 1000}\n", "line 7: expected at most 30 levels"),
        (f"{TREE}training: {'{a: ' * 1000}\n", "line 7: expected at most 30 levels"),
        (f"{TREE}training: {{{'k: 1, ' * 40000}}}\n", "expected at most 200,000 bytes"),
        (f"{TREE}training: {{1: 2, a: 3}}\n", "recipe.training: expected keys that are short texts, got 1 (integer)"),
        (f"{TREE}training: {{1: 2}}\n", "recipe.training: expected a string, got 1 (integer)"),
        (f"{TREE}training: {{null: 2}}\n", "recipe.training: expected keys that are short texts, got null"),
        (f"{TREE}training: {{[a]: 2}}\n", "recipe.training: expected keys that are short texts, got"),
        (f"{TREE}training: {{{'k' * 300}: 2}}\n", "recipe.training: expected keys that are short texts, got"),
        (f"{TREE}training: {{a: 1, a: 2}}\n", "not valid YAML: line 7, column 18: while constructing a mapping"),
        (f"{TREE}training: {{a: .nan}}\n", "recipe.training.a: expected a finite number, got nan"),
        (f"{TREE}training: {{a: [0, -.inf]}}\n", "recipe.training.a.1: expected a finite number, got -inf"),
        (f"{TREE}training: {{a: 1e400}}\n", "recipe.training.a: expected a finite number, got inf"),
        (f"{TREE}training: {{a: {10**30}}}\n", "recipe.training.a: expected an integer of at most 64 bits"),
        (f"{TREE}training: {{a: {'9' * 5000}}}\n", "not valid YAML"),
        (f"{TREE}training: {{a: 2026-01-02}}\n", "recipe.training.a: expected a text, a number"),
        (f"{TREE}training: {{a: !!set {{b}}}}\n", "line 7: expected YAML 1.2 without tags"),
        (f"{TREE}training: {{a: !!binary aGk=}}\n", "line 7: expected YAML 1.2 without tags"),
        (f"{TREE}training: !!python/object/apply:os.system [id]\n", "line 7: expected YAML 1.2 without tags"),
        (f"%YAML 1.1\n---\n{TREE}", "expected YAML 1.2 without tags"),
        (f"{TREE}---\n{TREE}", "expected a single document"),
        (TREE.replace("a/b}", '"a\\0b"}', 1), "recipe.teacher.model: expected a text, got one with a"),
        (TREE.replace("a/b}", '"\\ud800"}', 1), "recipe.teacher.model: expected a text, got one with a"),
        (TREE.replace("model: a/b", 'recipe: "\\0"'), "recipe.teacher.recipe: expected a text, got one with a"),
        (TREE.replace("model: a/b", "ensemble: 5"), "recipe.teacher.ensemble: expected a list, got 5 (integer)"),
        (TREE.replace("model: a/b", "recipe: {}").replace("text-classification", "{1: 2}"), "recipe.task"),
        (f"{TREE}evaluate: {{scorers: bleu}}\n", "recipe.evaluate.scorers: expected a list, got 'bleu' (string)"),
        (f"{TREE}evaluate: {{scorers: 3}}\n", "recipe.evaluate.scorers: expected a list, got 3 (integer)"),
        (f"{TREE}objectives: logits\n", "recipe.objectives: expected a list"),
        (f"{TREE}stages: two\n", "recipe.stages: expected a list"),
        (f"{TREE}seed: {2**32}\n", "recipe.seed: expected 0 to 4,294,967,295"),
        ("", "holds nothing; expected a mapping of recipe keys"),
        ("# nothing\n", "holds nothing; expected a mapping of recipe keys"),
        ("just words", "expected a mapping of recipe keys, got str"),
    ],
)  # fmt: skip
def test_a_text_beyond_limits_is_refused_by_its_line_or_key(text, told, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(tmp_path / "recipe.yaml")
    assert told in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "override",
    [
        *("objectives.²=1", "objectives.99999999999999999999.weight=1", "objectives.-9.weight=1", "=", "==", "a", ""),
        *("training..a=1", ".=1", f"training.a={'[' * 1000}", f"{'a.' * 500}a=1", "seed=!!int 3", "seed=[1"),
        *("seed=.nan", "seed=1e400", "training.a=2026-01-02", "training.\x1b=1", "training.a={b: 1, b: 2}"),
        'data.path="\\0"',
    ],
)  # fmt: skip
def test_an_override_beyond_limits_is_refused(override):
    with pytest.raises(RecipeError) as error:
        load_recipe(tiny.recipe(), [override])
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


def test_a_mapping_of_python_that_holds_itself_is_refused():
    training: dict = {}
    training["a"] = training
    with pytest.raises(RecipeError, match="levels"):
        load_recipe(tiny.recipe(training=training))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80name: x", "name: é".encode("latin-1")])
def test_a_file_that_is_no_utf_8_is_refused(content, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_folder_and_a_file_without_end_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="expected at most 200,000 bytes"):
        load_recipe("/dev/zero")


def test_aliases_and_merges_within_limits_are_read(tmp_path):
    text = f"{TREE}training: &t {{max_steps: 5}}\n".replace("model: a/b", "recipe: {student: {pretrained: a/b}}")
    (tmp_path / "recipe.yaml").write_text(f"{text}objectives: [&l {{kind: labels}}, {{<<: *l, weight: 2}}]\n")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert [(each.kind, each.weight) for each in recipe.objectives] == [("labels", 1.0), ("labels", 2.0)]
