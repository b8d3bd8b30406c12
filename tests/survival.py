"""Runs that are killed anywhere, checkpoints and runs that are damaged in every way: the student is always the same.

    python -m tests.survival --kills 40 --damages 10

kills: SIGKILL at a random moment of every stage of a run in turn (teacher recipe, cache, texts of the teacher, two
    stages, control, evaluation, card, push to a Hub on loopback); the same call then has to end with the weights of
    the unbroken run.
damages: of a run that was killed in training, the newest checkpoint is damaged; the same call has to end with the
    student of the unbroken run and to name what is damaged. It is ended when the student is scored.
finished: the same of any file of a complete run, to the end of the call, which may refuse.

Every call is a process of its own, forked from one that has imported everything.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_me"}
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import argparse
import gc
import itertools
import multiprocessing
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.helpers.damages import CHECKPOINT, FINISHED, Damage
from tests.helpers.forked_runs import Runs
from tests.helpers.hub_server import hub_server

STAGES = {
    "the teacher's recipe": r"  |teacher: classes-teacher",
    "the teacher's scores": r"teacher: (accuracy|bleu)",
    "cache": r"stage first: cache",
    "texts of the teacher": r"labels: t5 writes",
    "first stage": r"stage first: student: hidden",
    "student": r"(stage second: )?student: (fresh|encoder)",
    "control": r"(stage first: )?control: (fresh|encoder)",
    "evaluation": r"student after|student: (accuracy|bleu)",
    "card": r"control: (accuracy|bleu)",
    "push": r"checkpoints: ",
}
"""With which line the stages of a run begin; before them are its checks."""


def stages_of(lines: list[str]) -> list[str]:
    """In which stage a run is at its start and after each of its lines."""
    found = ["checks"]
    for line in lines:
        found.append(next((name for name, pattern in STAGES.items() if re.match(pattern, line)), found[-1]))
    return found


def translations(place: Path) -> dict[str, Any]:
    """A recipe whose teacher writes the texts, with the teacher's folder."""
    from tests.helpers import tiny

    rows = {"path": "tests.helpers.data:translations", "arguments": {"train": 24}}
    teacher = tiny.encoder_decoder("t5", 2, 2, seed=2, vocab_size=len(tiny.CHAT_WORDS))
    teacher.save_pretrained(place / "t5")
    tiny.chat_tokenizer().save_pretrained(place / "t5")
    return {
        "version": 1,
        "name": "texts",
        "task": {"name": "translation", "max_length": 32, "max_target_length": 12},
        "data": rows,
        "teacher": {"model": str(place / "t5"), "dtype": "float32"},
        "label": {
            "generation": {"num_beams": 3, "max_new_tokens": 6, "suppress_tokens": [0, 1, 2, 4], "min_new_tokens": 2}
        },
        "student": {"layers": {"decoder": [0]}},
        "objectives": [{"kind": "labels"}, {"kind": "logits"}],
        "training": {
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
            "eval_strategy": "no",
            "save_strategy": "steps",
            "save_steps": 2,
            "logging_steps": 1,
        },
        "evaluate": {"resamples": 100, "generation": {"max_new_tokens": 4}},
    }


def classes(name: str) -> dict[str, Any]:
    """A recipe of two stages with a teacher that is trained and cached, and a best model that is loaded in the end."""
    from tests.helpers import tiny

    made = tiny.recipe(name=name, evaluate={"resamples": 100})
    made["data"]["arguments"] = {"train": 64, "test": 24}
    made["teacher"]["kind"] = "cached"
    teacher = made["teacher"]["recipe"]["training"]
    teacher |= {"save_strategy": "steps", "save_steps": 5, "logging_steps": 5, "max_steps": 15}
    objectives = made.pop("objectives")
    del teacher["num_train_epochs"], made["training"]["num_train_epochs"], made["training"]["save_total_limit"]
    made["training"] |= {"save_steps": 2, "eval_steps": 2, "load_best_model_at_end": True, "logging_steps": 1}
    made["stages"] = [
        {"name": "first", "objectives": objectives[1:], "training": {"max_steps": 2}},
        {"name": "second", "objectives": objectives, "training": {"max_steps": 8}},
    ]
    return made


def small(place: Path) -> dict[str, Any]:
    """A recipe that does little but train, with weights beside the student's and a best model."""
    from tests.helpers import tiny

    tiny.bert(3, 48, seed=3).save_pretrained(place / "bert")
    tiny.tokenizer().save_pretrained(place / "bert")
    made = tiny.recipe(name="small", evaluate={"resamples": 100, "control": False, "floor": False})
    made["data"]["arguments"] = {"train": 32, "test": 8}
    made["teacher"] = {"model": str(place / "bert")}
    del made["training"]["num_train_epochs"], made["training"]["save_total_limit"]
    made["training"] |= {"save_steps": 2, "eval_steps": 2, "load_best_model_at_end": True, "max_steps": 8}
    made["training"]["per_device_train_batch_size"] = 4
    return made


def killed(runs: Runs, times: int, draw: random.Random) -> list[str]:
    """Kill the run at random moments of each stage in turn and call it again; what went wrong."""
    wrong, kills, names = [], Counter[str](), stages_of(runs.outcome.lines)
    starts = [0.0, *runs.outcome.times]
    lengths = [after - before for before, after in itertools.pairwise([*starts, starts[-1] + 0.2])]
    order = draw.sample(sorted(set(names)), len(set(names)))
    for number in range(times):
        stage, first, place = order[number % len(order)], None, runs.fresh()
        while first is None or first.code == 0:  # It may have been faster this time.
            shutil.rmtree(place, ignore_errors=True)
            own = [index for index, name in enumerate(names) if name == stage]
            line = draw.choices(own, [lengths[index] for index in own])[0]
            delay = draw.uniform(0, lengths[line])
            first = runs.call(place, lambda count, line=line, delay=delay: delay if count == line else None)
        second = runs.call(place)
        faults = runs.differences(place, second)
        if list(place.rglob("*.partial")):
            faults.append("something partial is left")
        stage, last = stages_of(first.lines)[-1], first.lines[-1] if first.lines else ""
        said = f"kill {number + 1} of {runs.recipe['name']} ({first.code}) in {stage}, after {last[:70]!r}"
        print(f"{said}: {'; '.join(faults) or 'the same'}", flush=True)
        kills[stage] += 1
        wrong += [said] if faults else []
        shutil.rmtree(place.parent)
    told = ", ".join(f"{stage} {count}" for stage, count in kills.items())
    print(
        f"{times} kills of {runs.recipe['name']} ({told}): {times - len(wrong)} the same, {len(wrong)} not", flush=True
    )
    return wrong


def damaged(
    runs: Runs, state: Path, damages: dict[str, Damage], times: int, draw: random.Random, until: str | None
) -> list[str]:
    """Damage copies of a state in every way and call the recipe again; what went wrong."""
    wrong, ends = [], Counter[str]()
    for kind, damage in damages.items():
        faults, how, told = [], Counter[str](), ""
        for _ in range(times):
            place = runs.fresh(state)
            part = damage.apply(place / runs.recipe["name"], draw)
            outcome = runs.call(place, until=until)
            if damage.refused:
                bad = [] if outcome.code == 2 else [f"exit code {outcome.code}"]
            else:
                bad = runs.differences(place, outcome, pushed=until is None)
            if not any(part in line for line in outcome.lines):
                bad.append(f"no line names {part!r}")
            told = next((line for line in outcome.lines if part and part in line), told)
            faults += bad
            how["wrong" if bad else "refused" if damage.refused else _end(outcome.lines)] += 1
            shutil.rmtree(place.parent)
        ends += how
        counted = ", ".join(f"{count} {each}" for each, count in how.items())
        told = told.replace(str(runs.place), "")
        print(f"{times} x {kind}: {counted}{': ' * bool(faults)}{'; '.join(faults[:3])}: {told}", flush=True)
        wrong += [kind] if faults else []
    counted = ", ".join(f"{count} {each}" for each, count in ends.items())
    print(f"{times} x {len(damages)} kinds: {counted}", flush=True)
    return wrong


def _end(lines: list[str]) -> str:
    """How a run came to the same weights."""
    ways = {"which is whole": "fell back: the same", "training starts anew": "started anew: the same"}
    return next((way for part, way in ways.items() if any(part in line for line in lines)), "the same")


def in_training(runs: Runs, sealed: int) -> Path:
    """The state of a run that was killed after so many checkpoints of its last stage were whole."""
    from hf_distill.training import saving

    place = runs.fresh()

    def before() -> None:
        seal, written = saving.seal, []

        def seal_and_die(checkpoint: Path) -> None:
            seal(checkpoint)
            if checkpoint.parent.parent.parent == place / runs.recipe["name"]:
                written.append(checkpoint)
            if len(written) == sealed:
                os.kill(os.getpid(), signal.SIGKILL)

        saving.seal = seal_and_die

    assert runs.call(place, before=before).code == -signal.SIGKILL
    return place


def serve(connection: Any) -> None:
    with hub_server() as hub:
        connection.send(hub.url)
        connection.recv()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--damages", type=int, default=10, help="of each kind, of the newest checkpoint")
    parser.add_argument("--finished", type=int, default=1, help="of each kind, of a complete run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(there,), daemon=True)
    server.start()
    os.environ |= {"HF_ENDPOINT": here.recv(), "HF_HUB_OFFLINE": "0"}

    import hf_distill.evaluation.speed
    import hf_distill.pipeline.run  # Before the processes part.
    from hf_distill.evaluation.scores import Scores

    vars(hf_distill.evaluation.speed).update(ROUNDS=1, TIMED_ROWS=2, TIMED_TEXTS=1)
    Scores.check_above_chance = lambda *_: None  # type: ignore[method-assign]  # Of the texts, the teacher is random.
    draw, wrong = random.Random(given.seed), []
    gc.freeze()  # Each process would copy all that it looks through.
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if given.kills:
            kills = round(0.7 * given.kills)
            wrong += killed(Runs(translations(place), place), given.kills - kills, draw)
            wrong += killed(Runs(classes("classes"), place), kills, draw)
        if given.damages:
            runs = Runs(small(place), place)
            wrong += damaged(runs, in_training(runs, 3), CHECKPOINT, given.damages, draw, "student: accuracy")
        if given.finished:
            runs = Runs(classes("classes"), place)
            wrong += damaged(runs, runs.unbroken, FINISHED, given.finished, draw, None)
    print(f"{len(wrong)} went wrong{': ' * bool(wrong)}{', '.join(wrong)}")
    here.send(None)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
