"""Recipes of several teachers: what is refused as it loads, and whole runs from recipe to card."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard
from transformers import BertForTokenClassification

from hf_distill import cache, check, load_recipe, plan, run, sweep
from hf_distill.errors import DataError, RecipeError, TeacherError
from hf_distill.recipe.load_recipe import dump_recipe
from hf_distill.report.card_metadata import card_metadata, licenses_of
from tests.helpers import tiny
from tests.helpers.seams import accept_any_teacher

PAIR = [{"model": "org/first"}, {"model": "org/second"}]
TAGS = ["O", "B-thing", "B-judgement"]
LOGITS = [{"kind": "labels"}, {"kind": "logits", "temperature": 2.0}]


def silent(_: str) -> None:
    pass


def recipe(members: list[dict] | None = None, teacher: dict | None = None, **changes) -> dict:
    return tiny.recipe(teacher={"ensemble": members or PAIR, **(teacher or {})}, objectives=LOGITS, **changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Two classifiers of one tokenizer that know little, the second with its labels in another order, and decoders."""
    folder = tmp_path_factory.mktemp("teachers")
    models = {
        "first": (tiny.bert(2, 32, seed=2), tiny.tokenizer()),
        "second": (tiny.bert(3, 48, seed=3, labels=("good", "bad")), tiny.tokenizer()),
        "teller": (tiny.decoder(3, seed=5), tiny.chat_tokenizer()),
        "writer": (tiny.decoder(2, 48, seed=6, vocab_size=len(tiny.CHAT_WORDS) + 4), tiny.chat_tokenizer()),
        "reader": (tiny.bert(2, 32, seed=2), tiny.tokenizer([*tiny.WORDS[:5], *tiny.WORDS[:4:-1]])),
    }
    for name, (model, made) in models.items():
        model.save_pretrained(folder / name)
        made.save_pretrained(folder / name)
    return {name: str(folder / name) for name in models}


@pytest.fixture
def no_chance(monkeypatch):
    """Teachers with random weights are good enough to see that all is passed on."""
    accept_any_teacher(monkeypatch)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ({"model": "a", "ensemble": PAIR}, "exactly one of ensemble, model, recipe and server"),
        ({}, "exactly one of ensemble, model, recipe and server"),
        ({"model": "a", "weight": 2.0}, "weight: no such key"),
        ({"model": "a", "route": "language"}, "route: does nothing for a single teacher"),
        ({"ensemble": []}, "at least one teacher"),
        ({"ensemble": [{"weight": 1.0}]}, "exactly one of model and recipe"),
        ({"ensemble": [{"model": "a", "weight": 0.0}]}, r"ensemble\.0\.weight: expected a number above 0"),
        ({"ensemble": [{"model": "a", "weight": -1}]}, r"ensemble\.0\.weight: expected a number above 0"),
        ({"ensemble": [{"model": "a", "weight": float("nan")}]}, r"ensemble\.0\.weight: expected a finite number"),
        ({"ensemble": [{"model": "a", "name": "x"}, {"model": "b", "name": "x"}]}, "two teachers are called x"),
        ({"ensemble": [{"model": "a/x"}, {"model": "b/x"}]}, "two teachers are called x"),
        ({"ensemble": PAIR, "route": "language"}, "each needs a name"),
        (
            {"ensemble": [{"model": "a", "name": "x", "weight": 1.0}], "route": "language"},
            "weight does nothing where teacher.route",
        ),
        ({"ensemble": PAIR, "revision": "v1"}, "revision: does nothing beside ensemble; say it of each member"),
        ({"ensemble": PAIR, "dtype": "float32"}, "dtype: does nothing beside ensemble"),
        ({"ensemble": PAIR, "labels": ["a"]}, "labels: does nothing beside ensemble"),
        ({"ensemble": [{"model": "a", "kind": "cached"}]}, "set teacher.kind: cached"),
        ({"ensemble": [{"model": "a", "device_map": "auto"}, {"model": "b"}]}, "device_map"),
        ({"ensemble": [{"model": "a", "wieght": 1.0}]}, "ensemble.0.wieght: no such key.*weight"),
        ({"ensemble": [{"recipe": {"student": {"layers": 2}}, "labels": ["a"]}]}, r"ensemble\.0\.labels: does nothing"),
    ],
)
def test_keys_that_do_nothing_or_do_not_go_together_are_refused_as_the_recipe_loads(teacher, told):
    with pytest.raises(RecipeError, match=told):
        load_recipe(tiny.recipe(teacher=teacher))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": {}}, "several teachers score texts together, and write none"),
        ({"rollout": {"share": 0.5}}, "what a student writes names no teacher"),
        ({"data": {"path": "x", "streaming": True}}, "a stream does not allow"),
    ],
)
def test_what_several_teachers_or_a_route_cannot_do_is_refused_as_the_recipe_loads(changes, told):
    members = [{"model": "a", "name": "x"}]
    with pytest.raises(RecipeError, match=told):
        load_recipe(recipe(members, {"route": "language"}, **changes))


def test_a_recipe_of_several_teachers_is_written_so_that_it_loads_again_to_the_same(tmp_path):
    own = {"student": {"layers": 2}, "seed": 3}
    loaded = load_recipe(recipe([{"recipe": own}, {"model": "b", "weight": 2}]), ["teacher.ensemble.1.weight=3"])
    first, second = loaded.teacher.ensemble
    assert (first.teacher.recipe.seed, first.teacher.recipe.name, second.weight) == (3, "tiny-teacher-1", 3.0)
    dump_recipe(loaded, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == loaded


def test_a_recipe_of_one_teacher_keeps_the_hash_that_it_had():
    assert not {"ensemble", "route"} & load_recipe(tiny.recipe()).to_dict()["teacher"].keys()


# --- what is seen before training -------------------------------------------------------------------------------------


def test_check_tells_of_all_members_and_refuses_what_they_cannot_do(folders):
    lines: list[str] = []
    members = [{"model": folders["first"]}, {"model": folders["second"], "weight": 2.0}]
    check(recipe(members), report=lines.append)
    assert any("the student takes of a teacher, it takes of first" in line for line in lines)
    assert sum("labels: the teacher's stand in" in line for line in lines) == 2
    with pytest.raises(TeacherError, match=r"objective hidden: .*hidden_states.*use logits"):
        check({**recipe(members), "objectives": [{"kind": "hidden"}]}, report=silent)
    with pytest.raises(TeacherError, match=r"first .* and reader .* cut texts into different ones"):
        check(recipe([members[0], {"model": folders["reader"]}]), report=silent)
    with pytest.raises(RecipeError, match="a plan makes students of one teacher"):
        plan(recipe(members), speedup=2.0, report=silent)


@pytest.mark.parametrize(
    ("names", "columns", "told"),
    [
        (("de", "fr"), {"language": "tongue"}, "name no teacher in column 'language' .first: row 1, 'en'"),
        (("de", "en"), {}, "has no column 'language', in which teacher.route looks"),
    ],
)
def test_rows_that_name_no_teacher_are_refused_when_they_are_read(names, columns, told, folders):
    members = [{"model": folders[m], "name": n} for m, n in zip(("first", "second"), names, strict=True)]
    data = {"path": "tests.helpers.data:by_language", "columns": columns}
    with pytest.raises(DataError, match=told):
        check(recipe(members, {"route": "language"}, data=data), report=silent)


def test_texts_of_several_teachers_are_not_laid_end_to_end(folders):
    members = [{"model": folders["teller"], "name": "de"}, {"model": folders["writer"], "name": "en"}]
    with pytest.raises(RecipeError, match="set it to false"):
        check(language_recipe(members, {"route": "tongue"}, packing=True), report=silent)


def test_an_ensemble_writes_nothing(folders):
    members = [{"model": folders["teller"]}, {"model": folders["writer"]}]
    with pytest.raises(RecipeError, match="several teachers score texts together, and write none that rouge"):
        check({**language_recipe(members), "evaluate": {"scorers": ["rouge"]}}, report=silent)


# --- runs -------------------------------------------------------------------------------------------------------------


def language_recipe(members: list[dict], teacher: dict | None = None, packing: bool = False) -> dict:
    return {
        "version": 1,
        "name": "language",
        "task": {"name": "causal-lm", "max_length": 16, "packing": packing},
        "data": {"path": "tests.helpers.data:texts_by_language"},
        "teacher": {"ensemble": members, **(teacher or {})},
        "student": {"layers": 2},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
        "training": {"max_steps": 4, "per_device_train_batch_size": 8, "use_cpu": True, "eval_strategy": "no"},
        "evaluate": {"resamples": 100, "control": False},
    }


@pytest.mark.slow
def test_two_teachers_made_by_their_own_recipes_from_recipe_to_card(tmp_path):
    own = tiny.recipe()["teacher"]["recipe"]
    members = [{"name": "one", "weight": 2.0, "recipe": own}, {"name": "two", "recipe": {**own, "seed": 8}}]
    given = recipe(members)
    given["training"] = {**given["training"], "num_train_epochs": 6}
    result = run(given, runs=tmp_path, report=silent)
    models = result.results["models"]
    told = models["teacher"]["members"]
    assert [(each["name"], each["weight"]) for each in told] == [("one", 0.6667), ("two", 0.3333)]
    made = sorted((tmp_path / "teachers").glob("*/results.json"))
    assert len(made) == 2
    alone = [json.loads(path.read_text())["models"]["student"] for path in made]
    for key in ("parameters", "disk_bytes"):
        assert models["teacher"][key] == sum(each[key] for each in alone)
    assert models["teacher"]["metrics"]["accuracy"]["value"] > 0.9
    assert models["student"]["metrics"]["accuracy"]["value"] > 0.8
    card = (result.student / "README.md").read_text()
    assert "Its teacher is 2 models: the weighted mean of their probabilities" in card
    assert "* one, weight 0.6667: tiny-teacher-1, made by its own recipe" in card
    assert "one (0.6667) + two (0.3333)" in card
    again: list[str] = []
    assert run(given, runs=tmp_path, report=again.append).results == result.results
    assert any("is complete" in line for line in again)


@pytest.mark.slow
def test_a_cache_keeps_what_all_say_together_and_a_sweep_reads_it(tmp_path, folders, no_chance):
    members = [{"model": folders["first"], "weight": 2.0}, {"model": folders["second"]}]
    given = recipe(members, {"kind": "cached"}, evaluate={"resamples": 100, "control": False})
    given["training"] = {**given["training"], "num_train_epochs": 1, "save_strategy": "no", "eval_strategy": "no"}
    folder = cache(given, runs=tmp_path, report=silent)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [(each["name"], round(each["weight"], 3)) for each in manifest["members"]] == [
        ("first", 0.667),
        ("second", 0.333),
    ]
    assert manifest["weights"].count("+") == 1
    assert manifest["members"][1]["labels"] == [1, 0]
    cached = run(given, runs=tmp_path, report=silent).results["training"]
    live = run({**given, "name": "live"}, ["teacher.kind=live"], runs=tmp_path, report=silent).results["training"]
    assert cached["student"]["steps"] == live["student"]["steps"]
    swept = sweep(given, ["objectives.1.temperature=1,2"], runs=tmp_path, report=silent)
    assert len(swept.results["combinations"]) == 2
    other = recipe([{**members[0], "weight": 5.0}, members[1]], {"kind": "cached"}, training=given["training"])
    assert cache(other, runs=tmp_path, report=silent) != folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["live", "cached"])
def test_rows_are_taught_by_the_teacher_that_they_name(kind, tmp_path, folders, no_chance):
    members = [{"model": folders["first"], "name": "de"}, {"model": folders["second"], "name": "en"}]
    data = {"path": "tests.helpers.data:by_language", "columns": {"language": "tongue"}}
    given = recipe(members, {"route": "language", "kind": kind}, data=data)
    given["training"] = {**given["training"], "max_steps": 3, "save_strategy": "no", "eval_strategy": "no"}
    lines: list[str] = []
    result = run(given, runs=tmp_path, report=lines.append)
    assert "teacher: of 192 train rows 64 by de, 128 by en are taught" in lines
    assert all("weight" not in each for each in result.results["models"]["teacher"]["members"])
    assert "each row is taught by one" in (result.student / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "overrides"),
    [
        ({}, []),
        ({"kind": "cached"}, []),
        ({"route": "tongue"}, []),
        ({}, ["rollout={share: 0.5, max_new_tokens: 4, prompt_tokens: 3}", "objectives.1.divergence=reverse_kl"]),
    ],
    ids=["live", "cached", "routed", "on-policy"],
)
def test_language_models_with_padded_vocabularies_teach_together(teacher, overrides, tmp_path, folders, no_chance):
    names = ("de", "en") if teacher.get("route") else (None, None)
    members = [
        {"model": folders[model], **({"name": name} if name else {})}
        for model, name in zip(("teller", "writer"), names, strict=True)
    ]
    result = run(language_recipe(members, teacher), overrides, runs=tmp_path, report=silent)
    scores = {name: model["metrics"] for name, model in result.results["models"].items()}
    assert scores["teacher"]["kl_to_teacher"]["value"] == pytest.approx(0.0, abs=1e-5)
    assert scores["student"]["kl_to_teacher"]["value"] > 0.0


def test_what_the_hub_reads_names_every_member_that_it_has(finished):
    results = json.loads((finished / "results.json").read_text())
    member = {"revision": "abc", "origin": "pretrained", "model": "org/a", "hub_id": "org/a", "license": "mit"}
    members = [member, {**member, "hub_id": "org/b", "license": "apache-2.0"}, {**member, "hub_id": None}]
    results["models"]["teacher"]["members"] = members
    metadata = card_metadata(results)
    assert metadata["base_model"] == ["org/a", "org/b"]
    assert {"teacher:org/a", "teacher:org/b"} <= set(metadata["tags"])
    assert licenses_of(results["models"]) == ["apache-2.0", "mit"]
    assert ModelCard.load(finished / "student" / "README.md").data.tags


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["live", "cached"])
@pytest.mark.parametrize(
    ("task", "data", "labels"),
    [
        ("token-classification", {"path": "tests.helpers.data:few_tags"}, TAGS),
        (
            "text-classification",
            {"path": "tests.helpers.data:several_labels"},
            ["bad", "card", "good"],
        ),
    ],
    ids=["words", "several labels"],
)
def test_words_and_rows_of_several_labels_are_taught_together(task, data, labels, kind, tmp_path, no_chance):
    members = []
    for seed, order in enumerate((labels, labels[::-1])):
        words = task == "token-classification"
        more = {"kind": BertForTokenClassification} if words else {"problem_type": "multi_label_classification"}
        tiny.bert(2, 32, labels=tuple(order), seed=seed, **more).save_pretrained(tmp_path / str(seed))
        tiny.tokenizer().save_pretrained(tmp_path / str(seed))
        members.append({"model": str(tmp_path / str(seed))})
    columns = {"columns": {"labels": "ner_tags"}} if task == "token-classification" else {}
    given = recipe(members, {"kind": kind}, task={"name": task, "max_length": 32}, data={**data, **columns})
    given["training"] = {**given["training"], "max_steps": 3, "save_strategy": "no", "eval_strategy": "no"}
    given["evaluate"] = {"resamples": 100, "control": False}
    result = run(given, runs=tmp_path / "runs", report=silent)
    assert result.results["comparison"]["agreement"] > 0
