"""Every recipe, and every command of README, against a Hub on loopback that holds tiny stand-ins of those names."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_distill.errors import RecipeError
from hf_distill.names import plug_in
from hf_distill.recipe import TrainedTeacher
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.report.card import shown_share
from hf_distill.tasks import TASKS
from tests.helpers import tiny
from tests.helpers.benchmark_rows import (
    angle_row,
    cache_row,
    cells_of,
    default_row,
    encoder_row,
    label_row,
    loss_row,
    paired_row,
    sequence_row,
    shown_angles,
    step_row,
    written_row,
)
from tests.helpers.hub_server import hub_server
from tests.helpers.media_stand_ins import fill_media, write_common_voice, write_folders
from tests.helpers.serving import serving
from tests.helpers.stand_ins import fill

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
TEMPLATES = sorted((ROOT / "hf_distill" / "recipe" / "templates").glob("*.yaml"))
MEASURED = sorted((ROOT / "model_cards").glob("*/results.json"))
SCHEMES = sorted((ROOT / "model_cards").glob("stories-260k-*/results.json"))
VECTORS = sorted((ROOT / "model_cards").glob("minilm-*/results.json"))
SMALL = [
    "training.max_steps=2",
    "training.use_cpu=true",
    "training.per_device_train_batch_size=8",
    "evaluate.resamples=100",
    "data.test_limit=12",
]
FEW = ["data.validation_size=24", "data.test_size=48"]
TRAINING = (
    "recipe.training={num_train_epochs: 3, learning_rate: 1.0e-3, per_device_train_batch_size: 32, "
    "warmup_steps: 0.1, use_cpu: true, eval_strategy: 'no', save_strategy: 'no'}"
)
TEACHER = [f"teacher.{TRAINING}"]


def made_by_recipes(recipe) -> list[str]:
    """Where a recipe's teachers have recipes of their own."""
    places = [f"teacher.ensemble.{number}." for number, _ in enumerate(recipe.teacher.members)] or ["teacher."]
    made = [isinstance(model, TrainedTeacher) for model in recipe.teacher.models]
    return [place for place, is_made in zip(places, made, strict=bool(made)) if is_made]


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs a command line where a person would: beside the recipes, with that Hub."""
    folder = tmp_path_factory.mktemp("person")
    os.symlink(ROOT / "recipes", folder / "recipes")
    words = tiny.chat_tokenizer(tiny.CHAT_TEMPLATE)
    with hub_server() as hub, serving(tiny.decoder(4), words, name="meta-llama/Llama-3.3-70B-Instruct") as teacher:
        fill(hub, folder / "hub")
        fill_media(hub, folder / "hub")
        write_common_voice(folder)
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
        run.hub, run.teacher = hub, teacher
        run.worker = functools.partial(
            subprocess.Popen,
            [sys.executable, "-c", WORKER],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        yield run


WORKER = """
import json, sys, traceback
from hf_distill.pipeline import run as flow
from hf_distill.evaluation import scores, speed
scores.Scores.check_above_chance = scores.Scores.check_order = lambda *_: None
speed.ROUNDS = 1  # What is measured here tells nothing.
for line in sys.stdin:
    recipe, *overrides = json.loads(line)
    told = []
    try:
        answer = [sorted(flow.run(recipe, overrides, report=told.append).results["models"]), told]
    except Exception:
        answer = [traceback.format_exc(), told]
    print("answer", json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def run_recipe(shell):
    """Runs recipes one after the other in one process, which imports everything once."""
    with shell.worker() as worker:

        def run(*arguments: str) -> tuple[list[str] | str, list[str]]:
            worker.stdin.write(json.dumps(arguments) + "\n")
            worker.stdin.flush()
            answer = next(line for line in worker.stdout if line.startswith("answer "))
            return json.loads(answer.removeprefix("answer "))

        yield run
        worker.stdin.close()


def blocks(language: str, page: str = "README.md") -> list[str]:
    """A page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_how_it_is_run_what_it_needs_and_whether_it_was_measured(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Run:", "Needs:", "Source:", "Measured:"):
        assert any(word in line for line in head), word
    assert f"hf-distill run {path.relative_to(ROOT)}" in "\n".join(head)
    assert load_recipe(path).name == path.stem


def test_every_task_has_a_template_that_is_a_recipe_of_it():
    assert {path.stem: load_recipe(path).task.name for path in TEMPLATES} == {task: task for task in TASKS}


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs_two_steps_on_tiny_models(path, shell, run_recipe):
    recipe = load_recipe(path)
    more = [f"name={path.stem}-small", *(f"{place}{TRAINING}" for place in made_by_recipes(recipe))]
    if recipe.task.name == "translation" and made_by_recipes(recipe):
        narrow = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 32)
        more += [f"teacher.recipe.student.config.{name}={size}" for name, size in narrow.items()]
    if recipe.task.name == "embeddings":
        more += ["data.train_limit=64", "data.validation_limit=16"]
    if "dataloader_num_workers" in recipe.training:
        more += ["training.dataloader_num_workers=1"]
    if "dimensions" in recipe.task.options:
        more += ["task.dimensions=16"]
    width = recipe.student.cut and recipe.student.cut.width
    if width and width.hidden_size is not None:
        more += ["student.width={hidden_size: 16, heads: 2, intermediate_size: 32}"]
    if recipe.task.name == "masked-lm":
        more += FEW
    if path.stem.endswith("-relations"):
        narrow = {"hidden_size": 48, "intermediate_size": 96}
        more += ["objectives.0.relation_heads=4", *(f"student.config.{name}={size}" for name, size in narrow.items())]
    if recipe.teacher.endpoint is not None:
        more += [f"teacher.server.url={shell.teacher.url}", "teacher.server.top_k=12"]
    if recipe.rollout is not None:
        more += ["rollout.max_new_tokens=6"]
    for i, stage in enumerate(recipe.stages):
        more += [f"stages.{i}.training.max_steps=2"]
        more += [f"stages.{i}.rollout.max_new_tokens=6"] if stage.rollout is not None else []
    if recipe.label is not None:
        more += ["label.generation={num_beams: 2, max_new_tokens: 4}", "label.filters={}", "data.train_limit=24"]
    if recipe.evaluate.generation:
        more += ["evaluate.generation={num_beams: 2, max_new_tokens: 4}"]
    small = SMALL[1:] if recipe.stages else SMALL  # Each stage has a length of its own.
    models, told = run_recipe(str(path.relative_to(ROOT)), *small, *more)
    assert models == ["control", "student", "teacher"], models
    orders = {"another order; aligned by name", "the same order"}
    expected = {"another order; aligned by name" if path.stem.startswith("mnli-") else "the same order"}
    if made_by_recipes(recipe) or recipe.teacher.endpoint or not recipe.task.name.endswith("-classification"):
        expected = set()
    assert {order for order in orders if any(order in line for line in told)} == expected
    start = load_recipe(path).student.start
    card = (Path(shell.hub.folder) / "runs" / f"{path.stem}-small" / "student" / "README.md").read_text()
    assert start is None or f"base_model: {start.pretrained}" in card


LESS = {r"^2$": "0.1", r"^8$": "2", r"=1,2,4,8$": "=1,2", r"=0.5,1,2$": "=1", r"=100000$": "=32", r"=512$": "=8"}
"""What is less work: fewer processes, a speed that tiny students reach, a smaller grid, fewer rows, less to write."""


@pytest.mark.slow
def test_every_command_of_readme_does_what_it_says(shell):
    commands = [line for block in blocks("bash")[1:] for line in block.strip().splitlines()]
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command)
        for pattern, less in LESS.items():
            words = [re.sub(pattern, less, word) for word in words]
        words = [word.replace("http://localhost:8000/v1", shell.teacher.url) for word in words]
        if "/masked-lm/" in command:
            words += FEW
        if "label" in words:
            words += ["label.generation={num_beams: 2, max_new_tokens: 4}", "label.filters={}"]
        if {"run", "sweep", "plan"} & set(words):
            # Of 12 rows of one class for the most part, no teacher would be better than chance.
            words += [*SMALL[:-1], *TEACHER, "data.test_limit=48"]
        if words[0] == "torchrun":
            shutil.rmtree(Path(shell.hub.folder) / "runs" / "sst2-bert-base-6l", ignore_errors=True)
        shell(*words)
    assert shell.hub.repos["model", "me/sst2-bert-base-6l"].private


CHECK = """
import sys
from hf_distill import check
for recipe in sys.argv[1:]:
    check(recipe, report=lambda line: None, allow_code=True)
"""
MEDIA_PAGE = "docs/speech_and_images.md"


@pytest.mark.slow
def test_every_command_of_the_page_on_speech_and_images_does_what_it_says(shell):
    commands = [line for block in blocks("bash", MEDIA_PAGE) for line in block.strip().splitlines()]
    assert {"run", "init", "check"} == {shlex.split(command)[1] for command in commands}
    for command in commands:
        few = {"run": [*SMALL[:-1], *TEACHER], "check": ["training.use_cpu=true"]}
        shell(*shlex.split(command), *few.get(shlex.split(command)[1], []))


@pytest.mark.slow
def test_every_recipe_of_the_page_on_speech_and_images_checks_and_so_does_each_form_of_data(shell):
    folder = Path(shell.hub.folder)
    write_folders(folder)
    for code in blocks("python", MEDIA_PAGE):
        (folder / code.splitlines()[0].lstrip("# ")).write_text(code)
    written = blocks("yaml", MEDIA_PAGE)
    recipes = {text.splitlines()[1].removeprefix("name: "): text for text in written if text.startswith("version: 1")}
    forms = [text for text in written if text.startswith("data:")]
    assert len(recipes) == 4
    assert len(written) == len(recipes) + len(forms)
    for number, (name, data) in enumerate(zip(["leaves", "leaves", "letters", "letters", "tones"], forms, strict=True)):
        recipes[f"form-{number}"] = re.sub(r"^data:.*\n", lambda _, data=data: data, recipes[name], flags=re.M)
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text.replace("training: {", "training: {use_cpu: true, "))
    shell(sys.executable, "-c", CHECK, *(f"{name}.yaml" for name in recipes))


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


def scheme_row(results: dict) -> str:
    """The row that README shows of one way to keep a teacher."""
    student, gain = results["models"]["student"]["metrics"], results["comparison"]["student_minus_control"]
    cells = [f"{student[name]['value']:.4f}" for name in ("loss", "kl_to_teacher", "agreement", "calibration_error")]
    shown = f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
    return f"| [{results['name']}](model_cards/{results['name']}/results.json) | {' | '.join(cells)} | {shown} |"


@pytest.mark.parametrize("path", SCHEMES, ids=lambda path: path.parent.name)
def test_readme_shows_what_each_way_to_keep_a_teacher_gave(path):
    assert scheme_row(json.loads(path.read_text())) in (ROOT / "README.md").read_text()


def vector_row(results: dict) -> str:
    """The row that README shows of a student of sentence vectors."""
    scores = {name: model["metrics"]["spearman"]["value"] for name, model in results["models"].items()}
    student, comparison = results["models"]["student"], results["comparison"]
    gain = comparison["student_minus_control"]
    cells = [
        f"{scores['student']:.4f}",
        shown_share(comparison["retention"]),
        f"{results['start']['spearman']:.4f}",
        f"{scores['control']:.4f}" if "control" in scores else "",
        f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})" if gain else "",
        f"{student['parameters'] / 1e6:.1f} M",
        f"{student['latency_ms']:.1f} ms",
        f"{comparison['speedup']:.1f}",
    ]
    return f"| [{results['name']}](model_cards/{results['name']}/results.json) | {' | '.join(cells)} |"


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.parent.name)
def test_readme_shows_what_each_student_of_sentence_vectors_gave(path):
    assert vector_row(json.loads(path.read_text())) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted({*MEASURED} - {*SCHEMES, *VECTORS}), ids=lambda path: path.parent.name)
def test_what_readme_shows_of_a_measured_student_is_in_its_results(path):
    readme, results = (ROOT / "README.md").read_text(), json.loads(path.read_text())
    assert f"model_cards/{path.parent.name}/results.json" in readme
    assert all(row in readme for row in rows_of(results))
    gain = results["comparison"]["student_minus_control"]
    assert f"{gain['value']:+.4f} (95%: {gain['low']:+.4f} to {gain['high']:+.4f})" in readme


def benchmark_rows() -> list[str]:
    """Every row of README's tables of benchmarks."""

    def rows(name: str) -> list[dict]:
        return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["rows"]

    angles, losses, defaults = map(rows, ("gradient_angles", "fused_loss", "defaults"))
    return [
        *(step_row(*pair) for pair in zip(rows("lm_step"), rows("lm_step_bf16"), strict=True)),
        *map(written_row, rows("on_policy")),
        *map(label_row, rows("label")),
        *map(encoder_row, rows("encoders")),
        *filter(None, map(cache_row, rows("cache"))),
        *(angle_row(angles, scheme, kept) for scheme, kept in shown_angles(angles)),
        *(loss_row(losses, cell) for cell in cells_of(losses)),
        *(default_row(defaults, name) for name in dict.fromkeys(row["name"] for row in defaults)),
    ]


def test_readme_shows_what_was_measured_beside_other_tools():
    readme = (ROOT / "README.md").read_text()
    assert [row for row in benchmark_rows() if row not in readme] == []


def test_readme_shows_a_plan_beside_the_student_that_was_trained_by_it():
    plan = json.loads((ROOT / "model_cards" / "banking77-minilm-3l" / "plan.json").read_text())
    predicted, measured = plan["predicted"], plan["measured"]
    for name, shown in (("latency_ms", ".2f"), ("samples_per_second", ".0f"), ("speedup", ".2f")):
        assert abs(predicted[name] / measured[name] - 1) < 0.15
        assert f"{predicted[name]:{shown}} and {measured[name]:{shown}}" in (ROOT / "README.md").read_text()


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


def shape_row(run: dict) -> str:
    """The row that README shows of a depth or a width."""
    score = run["accuracy"]
    cells = [
        run["shape"],
        f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})",
        f"{run['parameters'] / 1e6:.1f} M",
        f"{run['latency_ms']:.1f} ms",
        f"{run['samples_per_second']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def test_readme_shows_depth_beside_width():
    runs = json.loads((ROOT / "model_cards" / "banking77-minilm-3l" / "width_and_depth.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert all(shape_row(run) in readme for run in runs)
    assert all(run["command"].startswith("hf-distill run recipes/") for run in runs)


@pytest.mark.parametrize(
    ("card", "file", "row"),
    [
        ("multi30k-de-en-sequence", "sequence.json", sequence_row),
        ("banking77-ensemble", "one_teacher.json", paired_row),
    ],
)
def test_readme_shows_what_stands_beside_a_card(card, file, row):
    runs, readme = json.loads((ROOT / "model_cards" / card / file).read_text()), (ROOT / "README.md").read_text()
    assert [shown for shown in map(row, runs) if shown not in readme] == []
    assert len({*map(row, runs)}) == len(runs) > 1
    assert all(run["command"].startswith("hf-distill run recipes/") for run in runs)


def test_what_readme_says_of_the_teachers_texts_is_so():
    runs = json.loads((ROOT / "model_cards" / "multi30k-de-en-sequence" / "sequence.json").read_text())
    students = [run for run in runs if run["model"] == "student"]
    best = max(students, key=lambda run: run["greedy"]["bleu"]["value"])
    assert (best["texts"], best["objectives"], best["filters"]) == ("teacher", ["labels"], {})
    for run in students:
        surely_better = all(run[how]["minus_control"]["bleu"]["low"] > 0 for how in ("greedy", "beams"))
        assert surely_better == (run["texts"] == "teacher")
    assert len({run["steps"] for run in runs if "steps" in run}) == 1


DIVERGENCES = {"forward_kl": "forward KL", "reverse_kl": "reverse KL", "jsd": "JSD"}
SHARES = {0.0: "off-policy", 0.5: "half on-policy", 1.0: "on-policy"}


def on_policy_row(run: dict) -> str:
    """The row that README shows of a way to learn from texts of one's own."""
    parts = [
        f"{SHARES[each['share']]}, {DIVERGENCES[each['divergence']]}" if each["divergence"] else "labels alone"
        for each in run["learned_from"]
    ]
    if run["model"] == "control":
        parts = ["labels alone, in two stages" if len(parts) == 2 else "labels alone"]
    written = run["written"]
    likely = written["teacher_log_likelihood"]
    cells = [
        "; then ".join(parts) or "(the teacher)",
        f"{run['tokens']:,}" if "tokens" in run else "",
        *(f"{run[metric]['value']:.4f}" for metric in ("loss", "kl_to_teacher", "agreement")),
        f"{likely['value']:.3f} ({likely['low']:.3f} to {likely['high']:.3f})",
        f"{written['repetition']:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def on_policy_runs() -> list[dict]:
    return json.loads((ROOT / "model_cards" / "stories-on-policy" / "on_policy.json").read_text())


def test_readme_shows_every_way_to_learn_from_texts_of_ones_own():
    readme, runs = (ROOT / "README.md").read_text(), on_policy_runs()
    assert [row for row in map(on_policy_row, runs) if row not in readme] == []
    assert len({*map(on_policy_row, runs)}) == len(runs) == 8
    assert all(run["command"].startswith("hf-distill run recipes/") for run in runs)


def test_what_readme_says_won_on_the_stories_did():
    students = [run for run in on_policy_runs() if run["model"] == "student"]
    by_loss = min(students, key=lambda run: run["loss"]["value"])
    assert by_loss is min(students, key=lambda run: run["kl_to_teacher"]["value"])
    assert by_loss is max(students, key=lambda run: run["agreement"]["value"])
    by_likelihood = max(students, key=lambda run: run["written"]["teacher_log_likelihood"]["value"])
    assert by_loss["run"] == "stories-off-policy"
    assert by_likelihood["run"] == "stories-on-policy"
    tokens = [run["tokens"] for run in students]
    assert max(tokens) < 1.01 * min(tokens)


def test_every_card_that_is_shown_has_its_figures():
    cards = sorted((ROOT / "model_cards").glob("*/README.md"))
    assert [card.parent for card in cards] == [path.parent for path in MEASURED] != []
    for card in cards:
        figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", card.read_text())
        assert len(figures) == 2
        assert all((card.parent / figure).is_file() for figure in figures)


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.parent.name)
def test_the_recipe_beside_a_card_loads_and_what_it_names_exists(path):
    recipe = path.with_name("recipe.yaml")
    assert load_recipe(recipe)
    for named in set(
        re.findall(r"\bhf_distill[\w.]*:\w+", recipe.read_text() + path.with_name("README.md").read_text())
    ):
        plug_in(named, "model card", RecipeError)


def test_the_recipes_of_readme_load(tmp_path):
    recipe, stages = blocks("yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "recipe.yaml").student.layers == 6
    whole = re.sub(r"^(student|objectives):(.*\n)(  .*\n)*", "", recipe, flags=re.M)
    (tmp_path / "recipe.yaml").write_text(whole.replace("num_train_epochs: 4, ", "") + stages)
    assert list(load_recipe(tmp_path / "recipe.yaml").by_stage()) == ["off-policy", "on-policy"]
