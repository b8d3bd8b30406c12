"""What of the data and of the machine leaves with a student: what is asked for, and what is said of it."""

from __future__ import annotations

import copy
import json
import shutil
from types import SimpleNamespace

import pytest

import hf_distill
from hf_distill import load_recipe, run
from hf_distill.data.sources import is_public
from hf_distill.errors import RecipeError
from hf_distill.names import portable
from hf_distill.recipe import DataConfig, TestDataConfig
from hf_distill.recipe.load_recipe import dump_recipe
from hf_distill.report.card_contents import card_facts, contents, portable_facts, without_rows
from tests.helpers import tiny
from tests.helpers.hub_server import hub_server
from tests.report.test_card import ANALYSIS, RESULTS

# --- rows -------------------------------------------------------------------------------------------------------------


def quoted(folder) -> list[str]:
    """The texts of an analysis that the card beside it quotes."""
    card = (folder / "student" / "README.md").read_text()
    rows = json.loads((folder / "analysis.json").read_text())["examples"]
    return [row["text"] for row in rows if row["text"] in card]


@pytest.mark.slow
def test_a_card_quotes_rows_only_where_the_recipe_asks(copied, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr("hf_distill.pipeline.flow.push_folder", lambda *given, **options: "pushed")
    assert quoted(copied) == []
    result = hf_distill.evaluate(copied, {"evaluate.examples": True}, report=lines.append)
    rows = json.loads((copied / "analysis.json").read_text())["examples"]
    assert quoted(copied) == [row["text"] for row in rows[:4]] != []
    assert f"quotes {len(quoted(copied))} row" in contents(result.results)
    again = hf_distill.evaluate(copied, {"evaluate.examples": False}, report=lines.append)
    assert quoted(copied) == []
    assert "the card holds no rows of tests.helpers.tiny:splits; it names 2 labels" in contents(again.results)
    assert not list((copied / "student").rglob("analysis.json"))
    assert load_recipe(copied / "recipe.yaml").evaluate.examples is False


def test_push_tells_what_of_the_data_the_card_holds(copied, capsys, monkeypatch):
    from tests.helpers.command_line import call

    monkeypatch.setattr("hf_distill.pipeline.flow.push_folder", lambda *given, **options: "there")
    assert call("push", copied, "--model-id", "me/student") == 0
    told = capsys.readouterr().out.splitlines()
    expected = "the card holds no rows of tests.helpers.tiny:splits; it names 2 labels; the tokenizer holds words"
    assert told[0].startswith(expected)
    assert contents({}).startswith("the card is of an earlier release and may quote rows")


def test_examples_do_nothing_without_a_teacher_and_are_refused():
    with pytest.raises(RecipeError, match=r"recipe\.evaluate\.examples"):
        load_recipe({**tiny.recipe(teacher=None), "evaluate": {"examples": True}, "student": {"pretrained": "a/b"}})


def test_a_recipe_that_says_nothing_of_examples_keeps_its_hash():
    assert "examples" not in load_recipe(tiny.recipe()).to_dict()["evaluate"]
    asked = load_recipe(tiny.recipe(evaluate={"examples": False}))
    assert asked.to_dict()["evaluate"]["examples"] is False
    assert load_recipe(asked.to_dict()) == asked


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server() as server:
        from huggingface_hub import HfApi

        monkeypatch.setattr("hf_distill.data.sources.HfApi", lambda token: HfApi(endpoint=server.url, token=token))
        server.add("me/public", {}, "dataset")
        server.add("me/private", {}, "dataset", private=True)
        yield server


FILES = {"train": "train.csv", "test": "test.csv"}
SOURCES = {
    "a public data set": (DataConfig(path="me/public"), True),
    "a private data set": (DataConfig(path="me/private"), False),
    "a data set that is not there": (DataConfig(path="me/nothing"), False),
    "a name that no data set has": (DataConfig(path="no such name"), False),
    "files": (DataConfig(files=FILES), False),
    "our own loader": (DataConfig(path="hf_distill.data.docstrings:load"), True),
    "a loader of others": (DataConfig(path="hf_distillery.data:load"), False),
    "a private test split": (DataConfig(path="me/public", test=TestDataConfig(path="me/private")), False),
    "a public test split": (DataConfig(path="me/public", test=TestDataConfig(path="me/public")), True),
    "a public test split of files": (
        DataConfig(files={"train": "x.csv"}, test=TestDataConfig(path="me/public")),
        False,
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_rows_are_public_where_anybody_can_read_them(name, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_me")  # Whom the private one belongs to.
    config, public = SOURCES[name]
    assert is_public(config) is public


def test_a_folder_is_not_public_whatever_it_is_called(hub, tmp_path, monkeypatch):
    (tmp_path / "me" / "public").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_public(DataConfig(path="me/public"))


def test_what_cannot_be_found_out_is_not_public(hub, monkeypatch):
    hub.fail("GET", "me/public", 500, times=100)
    assert not is_public(DataConfig(path="me/public"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not is_public(DataConfig(path="me/public"))


@pytest.mark.parametrize("fact", ["private", "gated", "disabled"])
def test_a_data_set_that_one_must_ask_for_is_not_public(fact, monkeypatch):
    facts = SimpleNamespace(**{"private": False, "gated": False, "disabled": None, fact: "manual"})
    api = SimpleNamespace(dataset_info=lambda *given, **options: facts)
    monkeypatch.setattr("hf_distill.data.sources.HfApi", lambda token: api)
    assert not is_public(DataConfig(path="me/data"))


# --- the line ---------------------------------------------------------------------------------------------------------


def test_the_line_counts_rows_and_labels_and_tells_of_words():
    recipe = load_recipe(tiny.recipe())
    data = {"data": {"evaluated_split": "test", "source": "rows.csv"}}
    rows = {"rows": [{"text": str(i)} for i in range(9)], "written": [{"text": "0"}, {"text": "1"}], "summary": ["x"]}
    assert contents({**data, "card": card_facts(recipe, rows, 1200)}) == (
        "the card quotes 4 rows of the test split of rows.csv; it names 1,200 labels; the tokenizer holds words of the "
        "data's texts"
    )
    assert contents({**data, "card": card_facts(recipe, {"examples": [{"text": "x"}]}, 0)}).startswith(
        "the card quotes 1 row of the test split of rows.csv; the tokenizer"
    )
    assert without_rows(rows) == {"summary": ["x"]}
    assert contents({**data, "card": card_facts(recipe, without_rows(rows), 0)}).startswith("the card holds no rows of")


TRAINED = {"vocab_size": 100}
CONFIG = {"model_type": "bert"}


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"config": CONFIG, "tokenizer": TRAINED}, True),
        ({"config": CONFIG, "tokenizer": "some/tokenizer"}, False),
        ({"pretrained": "some/model"}, False),
        ({"pretrained": "some/model", "vocabulary": {"size": 100}, "layers": 1}, True),
        ({"layers": 1}, None),
        ({"layers": 1, "vocabulary": {"size": 100}}, True),
        ({"config": {"num_hidden_layers": 1}}, None),
    ],
)
@pytest.mark.parametrize("teacher", ["some/teacher", True, False])
def test_a_tokenizer_holds_words_where_it_or_its_teachers_was_made_of_the_data(student, words, teacher):
    made = {"student": {"config": CONFIG, "tokenizer": TRAINED if teacher is True else "some/tokenizer"}}
    recipe = tiny.recipe(student=student, objectives=[{"kind": "logits"}])
    recipe["teacher"] = {"model": teacher} if isinstance(teacher, str) else {"recipe": made}
    assert load_recipe(recipe).takes_words_of_the_data is (teacher is True if words is None else words)


# --- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ada/secret/train.csv", "train.csv"),
        ("/home/ada/My Data/train set.csv", "train set.csv"),
        ("//home/ada/x.csv", "x.csv"),
        ("~/secret/x.csv", "x.csv"),
        ("~ada/secret/x.csv", "x.csv"),
        ("../../ada/x.csv", "x.csv"),
        ("/home/ada/folder/", "folder"),
        ("C:\\Users\\ada\\x y.csv", "x y.csv"),
        ("C:/Users/ada/x.csv", "x.csv"),
        ("\\\\host\\share\\x.csv", "x.csv"),
        ("file:///home/ada/x.csv", "x.csv"),
        ("file://host/home/ada/x.csv", "x.csv"),
        ("evaluate:/home/ada/My Metric/judge", "evaluate:judge"),
        ("data.files.train=/home/ada/My Data/x.csv", "data.files.train=x.csv"),
        ("data.files.train=[/home/ada/x.csv,/home/ada/y.csv]", "data.files.train=[x.csv,y.csv]"),
        ("{train: /home/ada/x.csv, test: '/home/ada/y.csv'}", "{train: x.csv, test: 'y.csv'}"),
        ("layers 0, 2 of /home/ada/base", "layers 0, 2 of base"),
        ("hf-distill run /home/ada/r.yaml", "hf-distill run r.yaml"),
        *((text, text) for text in (
            "recipes/quickstart.yaml", "./x.csv", "user/model", "user/data/config@main", "https://host/a/b?c=/d", "n/a",
            "s3://bucket/a/b", "arXiv:1503.02531", "/x", "/no_think {text}", "a / b", "", "/",
        )),
    ],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_cut_to_its_file(text, shown):
    assert portable(text) == shown


def test_names_of_classes_are_no_paths_and_a_server_is_named_by_nobody():
    facts = {
        "labels": ["/r/a/b", "/r/a/c"],
        "task": {"out_of_scope": "/r/a/d", "prefix": "/home/ada/x"},
        "server": {"url": "http://planted.host:8000/v1"},
        "list": [{"path": "/home/ada/x"}, "/home/ada/y", 3, None],
    }
    assert portable_facts(copy.deepcopy(facts)) == {
        "labels": facts["labels"],
        "task": {"out_of_scope": "/r/a/d", "prefix": "x"},
        "server": {"url": "http://HOST/v1"},
        "list": [{"path": "x"}, "y", 3, None],
    }


def test_results_of_an_earlier_release_make_a_card_without_folders():
    from hf_distill.report.card import model_card

    results = copy.deepcopy(RESULTS)
    results["command"] = "hf-distill run /home/ada/recipes/mini.yaml data.path=/home/ada/rows"
    results["models"]["teacher"] |= {"model": "/home/ada/My Models/big", "origin": "of /home/ada/base"}
    card = str(model_card(results, ANALYSIS, "data:\n  path: /home/ada/rows\n", []))
    assert "ada" not in card
    assert "hf-distill run mini.yaml data.path=rows" in card


@pytest.mark.slow
def test_nothing_that_is_pushed_names_the_machine_its_user_or_its_folders(finished, tmp_path, monkeypatch):
    """Nor do the results; but the recipe beside them runs again here."""
    home = tmp_path / "planted-user" / "My Planted Models"
    shutil.copytree(next((finished.parent / "teachers").iterdir()) / "student", home / "teacher")
    for name in ("USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "planted-name")
    monkeypatch.setattr("socket.gethostname", lambda: "planted-host")
    monkeypatch.setattr("platform.node", lambda: "planted-host")
    for name, seed in FILES.items():
        rows = tiny.rows(48, len(seed))
        texts = {"text": rows["text"], "label": [rows.features["label"].int2str(i) for i in rows["label"]]}
        type(rows).from_dict(texts).to_csv(home / f"planted {name}.csv")
    recipe = tiny.recipe(name="kept", teacher={"model": str(home / "teacher")}, student={"layers": 1})
    recipe["data"] = {"files": {name: str(home / f"planted {name}.csv") for name in FILES}, "validation_size": 8}
    recipe["objectives"] = [{"kind": "labels"}, {"kind": "logits"}]
    recipe["training"] |= {"num_train_epochs": 1, "save_strategy": "no", "eval_strategy": "no"}
    recipe["evaluate"] = {"resamples": 100}
    dump_recipe(load_recipe(recipe), home / "recipe.yaml")
    override = f"data.files.test={home / 'planted test.csv'}"
    run(home / "recipe.yaml", [override], runs=home / "runs", report=lambda line: None)
    folder = home / "runs" / "kept"
    for path in [folder / "results.json", *(path for path in (folder / "student").rglob("*") if path.is_file())]:
        content = path.read_bytes().lower()
        assert b"planted-" not in content, path
        assert b"my planted" not in content, path
        assert str(tmp_path).encode().lower() not in content, path
        assert path.suffix not in (".bin", ".pt", ".pkl")
    again = run(folder / "recipe.yaml", runs=home / "runs", report=lambda line: None)
    assert again.folder == folder
