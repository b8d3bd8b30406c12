"""Every recipe, and every command of README, against a Hub on loopback that holds tiny stand-ins of those names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_distill.recipe_file import load_recipe
from tests import tiny
from tests.hub_server import hub_server

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
MEASURED = sorted((ROOT / "model_cards").glob("*/results.json"))
SMALL = [
    "training.max_steps=2",
    "training.use_cpu=true",
    "training.per_device_train_batch_size=8",
    "evaluate.resamples=100",
]
TEACHER = [
    "teacher.recipe.training={num_train_epochs: 3, learning_rate: 1.0e-3, per_device_train_batch_size: 32, "
    "warmup_steps: 0.1, use_cpu: true, eval_strategy: 'no', save_strategy: 'no'}"
]


def named(names: list[str], count: int, seed: int, **columns: str) -> Dataset:
    """Rows of the tiny task under other names of columns and labels."""
    rows = tiny.rows(count, seed)
    label = columns.pop("label", "label")
    features = Features({**{name: Value("string") for name in columns}, label: ClassLabel(names=names)})
    texts = dict.fromkeys(columns, rows["text"])
    return Dataset.from_dict({**texts, label: [value % len(names) for value in rows["label"]]}, features=features)


def folder_of(model, path: Path) -> Path:
    model.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def parquet(splits: DatasetDict, path: Path) -> Path:
    """A data set as the Hub holds it."""
    (path / "data").mkdir(parents=True)
    for name, rows in splits.items():
        rows.to_parquet(path / "data" / f"{name}-00000-of-00001.parquet")
    return path


def fill(hub, folder: Path) -> None:
    """Tiny stand-ins under the names that recipes and README use."""
    plain = folder_of(tiny.bert(12, 32, initializer_range=0.08), folder / "bert")
    for name in (
        "google-bert/bert-base-uncased",
        "distilbert/distilbert-base-uncased",
        "distilbert/distilroberta-base",
    ):
        hub.add(name, plain)
    hub.add(
        "sentence-transformers/all-MiniLM-L6-v2", folder_of(tiny.bert(6, 32, initializer_range=0.08), folder / "minilm")
    )
    nli = tiny.bert(4, 32, labels=("CONTRADICTION", "NEUTRAL", "ENTAILMENT"))
    hub.add("FacebookAI/roberta-large-mnli", folder_of(nli, folder / "mnli"))
    hub.add("my-name/bert-base-sst2", folder_of(tiny.bert(2, 32, labels=("negative", "positive")), folder / "sst2"))
    sets = {
        "stanfordnlp/sst2": DatasetDict(
            train=named(["negative", "positive"], 3000, 0, sentence=""),
            validation=named(["negative", "positive"], 96, 1, sentence=""),
        ),
        "nyu-mll/multi_nli": DatasetDict(
            train=named(["entailment", "neutral", "contradiction"], 2400, 0, premise="", hypothesis=""),
            validation_matched=named(["entailment", "neutral", "contradiction"], 32, 1, premise="", hypothesis=""),
        ),
        "mteb/banking77": DatasetDict(train=tiny.rows(600, 0), test=tiny.rows(96, 1)).map(
            lambda row: {"label_text": ["bad", "good"][row["label"]]}
        ),
    }
    scores = DatasetDict(
        {
            name: Dataset.from_dict(
                {"sentence1": rows["text"], "sentence2": rows["text"], "label": [2.5 * v for v in rows["label"]]}
            )
            for name, rows in (("train", tiny.rows(640, 0)), ("validation", tiny.rows(64, 1)))
        }
    )
    for name, splits in sets.items():
        hub.add(name, parquet(splits, folder / name.replace("/", "-")), kind="dataset")
    fill_language_models(hub, folder)
    glue = parquet(scores, folder / "glue")
    (glue / "data").rename(glue / "stsb")
    (glue / "README.md").write_text(
        "---\nconfigs:\n- config_name: stsb\n  data_files:\n  - {split: train, path: stsb/train-*}\n"
        "  - {split: validation, path: stsb/validation-*}\n---\n"
    )
    hub.add("nyu-mll/glue", glue, kind="dataset")


def fill_language_models(hub, folder: Path) -> None:
    """Decoders whose vocabularies differ by padding rows, and texts, chats and questions."""
    made = tiny.chat_tokenizer(tiny.CHAT_TEMPLATE)
    for name, layers, padding in (
        ("HuggingFaceTB/SmolLM2-360M", 32, 0),
        ("Qwen/Qwen2.5-1.5B-Instruct", 4, 8),
        ("Qwen/Qwen2.5-0.5B-Instruct", 2, 0),
        ("Qwen/Qwen2.5-1.5B", 4, 8),
        ("Qwen/Qwen2.5-0.5B", 2, 0),
    ):
        path = folder / name.replace("/", "-")
        tiny.decoder(layers, vocab_size=len(tiny.CHAT_WORDS) + padding).save_pretrained(path)
        made.save_pretrained(path)
        hub.add(name, path)
    texts = {name: tiny.rows(count, seed)["text"] for name, count, seed in (("train", 900, 0), ("test", 48, 1))}

    def splits(make, train: str, test: str) -> DatasetDict:
        return DatasetDict(
            {
                train: Dataset.from_list(list(map(make, texts["train"]))),
                test: Dataset.from_list(list(map(make, texts["test"]))),
            }
        )

    def chat(text: str) -> dict:
        first, last = text.rsplit(" ", 1)
        turns = [{"role": "user", "content": first}, {"role": "assistant", "content": last}]
        return {"prompt": first, "messages": turns}

    stories = splits(lambda text: {"text": text}, "train", "validation")
    hub.add("roneneldan/TinyStories", parquet(stories, folder / "stories"), kind="dataset")
    hub.add(
        "HuggingFaceH4/ultrachat_200k", parquet(splits(chat, "train_sft", "test_sft"), folder / "chat"), kind="dataset"
    )
    questions = parquet(
        splits(lambda text: dict(zip(("question", "answer"), text.rsplit(" ", 1), strict=True)), "train", "test"),
        folder / "gsm8k",
    )
    (questions / "data").rename(questions / "main")
    (questions / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train-*}\n"
        "  - {split: test, path: main/test-*}\n---\n"
    )
    hub.add("openai/gsm8k", questions, kind="dataset")


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs a command line where a person would: beside the recipes, with that Hub."""
    folder = tmp_path_factory.mktemp("person")
    os.symlink(ROOT / "recipes", folder / "recipes")
    with hub_server() as hub:
        fill(hub, folder / "hub")
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_me",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

        def run(*arguments: str) -> str:
            done = subprocess.run(
                list(arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=400
            )
            assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}"
            return done.stdout

        hub.folder = folder
        run.hub = hub
        yield run


def blocks(language: str) -> list[str]:
    """README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_how_it_is_run_what_it_needs_and_whether_it_was_measured(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Run:", "Needs:", "Source:", "Measured:"):
        assert any(word in line for line in head), word
    assert f"hf-distill run {path.relative_to(ROOT)}" in "\n".join(head)
    assert load_recipe(path).name == path.stem


@pytest.mark.slow
def test_every_recipe_is_accepted_by_check(shell):
    code = "import sys; from hf_distill import check; [check(path) for path in sys.argv[1:]]"
    told = shell(sys.executable, "-c", code, *(str(path.relative_to(ROOT)) for path in RECIPES))
    assert told.count("everything that can be checked before training is in order") == len(RECIPES) >= 4
    assert "another order; aligned by name" in told


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs_two_steps_on_tiny_models(path, shell, monkeypatch):
    teacher = TEACHER if load_recipe(path).teacher.recipe else []
    code = (
        "import sys; from hf_distill import flow; flow.check_above_chance = lambda *_: None; "
        "print(sorted(flow.run(sys.argv[1], sys.argv[2:], report=lambda line: None).results['models']))"
    )
    told = shell(sys.executable, "-c", code, str(path.relative_to(ROOT)), *SMALL, *teacher, f"name={path.stem}-small")
    assert told.strip().endswith("['control', 'student', 'teacher']")
    start = load_recipe(path).student.pretrained
    card = (Path(shell.hub.folder) / "runs" / f"{path.stem}-small" / "student" / "README.md").read_text()
    assert start is None or f"base_model: {start}" in card


@pytest.mark.slow
def test_every_command_of_readme_does_what_it_says(shell):
    commands = [line for block in blocks("bash")[1:] for line in block.strip().splitlines()]
    assert len(commands) >= 6
    for command in commands:
        words = [word.replace("'", "") for word in re.sub(r"nproc_per_node \d+", "nproc_per_node 2", command).split()]
        if " run " in command:
            words += [*SMALL, *TEACHER]
        if words[0] == "torchrun":
            shutil.rmtree(Path(shell.hub.folder) / "runs" / "sst2-bert-base-6l", ignore_errors=True)
        shell(*words)
    assert shell.hub.repos["model", "me/sst2-bert-base-6l"].private


@pytest.mark.slow
def test_the_python_script_of_readme_runs_and_is_short(shell):
    (script,) = blocks("python")
    assert len(script.strip().splitlines()) <= 15
    shell(sys.executable, "-c", script.replace("num_train_epochs=1", "max_steps=2, use_cpu=True"))


def test_readmes_first_block_holds_the_two_commands_alone():
    assert blocks("bash")[0].strip().splitlines() == [
        "pip install -c constraints.txt -e . && hf-distill run recipes/quickstart.yaml",
        "pip install -c constraints.txt -e '.[dev]' && pytest",
    ]


def rows_of(results: dict) -> list[str]:
    """The rows that README shows of a results.json."""
    metric = results["comparison"]["primary_metric"]
    rows = []
    for name, model in results["models"].items():
        score = model["metrics"][metric]
        cells = [
            name,
            f"{score['value']:.4f}",
            f"{score['low']:.4f} to {score['high']:.4f}",
            f"{model['parameters'] / 1e6:.1f} M",
            f"{model['disk_bytes'] / 1e6:.1f} MB",
            f"{model['latency_ms']:.1f} ms",
            f"{model['samples_per_second']:.0f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.parent.name)
def test_what_readme_shows_of_a_measured_student_is_in_its_results(path):
    readme, results = (ROOT / "README.md").read_text(), json.loads(path.read_text())
    assert f"model_cards/{path.parent.name}/results.json" in readme
    assert all(row in readme for row in rows_of(results))
    gain = results["comparison"]["student_minus_control"]
    assert f"{gain['value']:+.4f} (95%: {gain['low']:+.4f} to {gain['high']:+.4f})" in readme


def ablation_row(run: dict) -> str:
    """The row that README shows of a run of an ablation."""
    terms = " + ".join(
        each["kind"] + ("" if each["weight"] == 1 else f" x{each['weight']:g}") for each in run["objectives"]
    )
    cells = [f"{run['labelled_rows']:,}", run["start"], f"{run['steps']:,}", terms, f"{run['student']['value']:.4f}"]
    if run["control"]:
        gain = run["student_minus_control"]
        shown = f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
        return f"| {' | '.join([*cells, format(run['control']['value'], '.4f'), shown])} |"
    return f"| {' | '.join(cells)} | | |"


def test_readme_shows_every_run_of_the_ablation_with_the_command_in_its_file():
    runs = json.loads((ROOT / "model_cards" / "banking77-minilm-3l" / "ablation.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert all(ablation_row(run) in readme for run in runs)
    assert all(run["command"].startswith("hf-distill run recipes/") for run in runs)


def test_every_card_that_is_shown_has_its_figures():
    cards = sorted((ROOT / "model_cards").glob("*/README.md"))
    assert [card.parent for card in cards] == [path.parent for path in MEASURED] != []
    for card in cards:
        figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", card.read_text())
        assert len(figures) == 2
        assert all((card.parent / figure).is_file() for figure in figures)


def test_the_recipe_of_readme_loads(tmp_path):
    (recipe,) = blocks("yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "recipe.yaml").student.layers == 6
