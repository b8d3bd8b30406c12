"""Runs that are killed anywhere, checkpoints and runs that are damaged in every way: the student is always the same.

    python -m tests.survival --kills 40 --damages 10

kills: SIGKILL after a random line of a run of every stage (teacher recipe, cache, texts of the teacher, two stages,
    student, control, evaluation, card, push to a Hub on loopback); the same call then has to end with the weights of
    the unbroken run.
damages: of a run that was killed in training, the newest checkpoint is damaged; of a complete one, any of its files.
    The same call has to end with the weights of the unbroken run and has to name what is damaged, or to refuse.

Every call is a process of its own, forked from one that has imported everything.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_me"}
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import argparse
import hashlib
import itertools
import multiprocessing
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.damages import CHECKPOINT, FINISHED, Damage
from tests.helpers.hub_server import hub_server

NUMBERS = itertools.count()


@dataclass
class Outcome:
    """What a call did: its exit code, its lines, and when they came."""

    code: int
    lines: list[str]
    times: list[float]


class Runs:
    """Starts calls of one recipe, and knows the weights that all of them must end with."""

    def __init__(self, recipe: dict[str, Any], place: Path) -> None:
        self.recipe, self.place = recipe, place
        self.unbroken = self.fresh()
        self.outcome = self.call(self.unbroken)
        assert self.outcome.code == 0, self.outcome.lines[-1]
        self.expected = self.weights(self.unbroken)
        name, lines = recipe["name"], len(self.outcome.lines)
        print(f"{name}: unbroken, {lines} lines, {len(self.expected)} files of weights", flush=True)

    def fresh(self, copy_of: Path | None = None) -> Path:
        """A folder of runs that is not there yet, or a copy."""
        folder = Path(tempfile.mkdtemp(prefix=self.recipe["name"] + "-", dir=self.place)) / f"runs-{next(NUMBERS)}"
        if copy_of is not None:
            shutil.copytree(copy_of, folder)
        return folder

    def call(
        self,
        runs: Path,
        kill: Callable[[int], float | None] = lambda count: None,
        before: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run the recipe; ``kill`` says after how many seconds from a line on it is killed, if it is."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._child(runs, writer, before)
        os.close(writer)
        outcome, rest, deadline = Outcome(0, [], []), b"", None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([reader], [], [], left)[0]:
                os.kill(child, signal.SIGKILL)
                deadline = None
                continue
            read = os.read(reader, 65536)
            if not read:
                break
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                outcome.lines.append(line.decode())
                outcome.times.append(time.monotonic())
                delay = kill(len(outcome.lines))
                deadline = time.monotonic() + delay if delay is not None else deadline
        os.close(reader)
        outcome.code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return outcome

    def _child(self, runs: Path, writer: int, before: Callable[[], None]) -> None:
        from hf_distill import run
        from hf_distill.errors import HfDistillError

        def report(line: str) -> None:
            os.write(writer, line.replace("\n", " ").encode() + b"\n")

        code = 0
        try:
            before()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run(self.recipe, {"hub.push": True, "hub.model_id": f"me/{runs.name}"}, runs=runs, report=report)
        except HfDistillError as error:
            report(f"error: {error}")
            code = error.exit_code
        except BaseException:
            report(f"TRACEBACK: {traceback.format_exc()}")
            code = 70
        os._exit(code)

    def weights(self, runs: Path) -> dict[str, str]:
        """The digest of all weights that a run leaves, and of those that it pushed."""
        folder = runs / self.recipe["name"]
        paths = [
            *folder.glob("student/model.safetensors"),
            *folder.glob("control/model.safetensors"),
            *folder.glob("stages/*/student/model.safetensors"),
            *folder.glob("stages/*/control/model.safetensors"),
            *runs.glob("teachers/*/student/model.safetensors"),
        ]
        found = {str(path.relative_to(runs)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        address = f"{os.environ['HF_ENDPOINT']}/me/{runs.name}/resolve/main/model.safetensors"
        request = urllib.request.Request(address, headers={"Authorization": "Bearer hf_me"})
        with urllib.request.urlopen(request) as answer:
            found["pushed"] = hashlib.sha256(answer.read()).hexdigest()
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


def classes(name: str, **evaluate: Any) -> dict[str, Any]:
    """A recipe of two stages with a teacher that is trained and cached, and a best model that is loaded in the end."""
    from tests.helpers import tiny

    made = tiny.recipe(name=name, evaluate={"resamples": 100, **evaluate})
    made["teacher"]["kind"] = "cached"
    made["teacher"]["recipe"]["training"] |= {"save_strategy": "steps", "save_steps": 20, "logging_steps": 10}
    objectives = made.pop("objectives")
    del made["training"]["num_train_epochs"], made["training"]["save_total_limit"]
    made["training"] |= {"save_steps": 2, "eval_steps": 2, "load_best_model_at_end": True, "logging_steps": 1}
    made["stages"] = [
        {"name": "first", "objectives": objectives[1:], "training": {"max_steps": 2}},
        {"name": "second", "objectives": objectives, "training": {"max_steps": 8}},
    ]
    return made


def killed(runs: Runs, times: int, draw: random.Random) -> list[str]:
    """Kill the run at random moments and call it again; what went wrong."""
    wrong = []
    gaps = [after - before for before, after in itertools.pairwise(runs.outcome.times)] + [0.5]
    for number in range(times):
        place, line = runs.fresh(), draw.randrange(len(gaps))
        delay = draw.uniform(0, gaps[line])
        first = runs.call(place, lambda count, line=line, delay=delay: delay if count == line + 1 else None)
        second = runs.call(place)
        last = first.lines[-1] if first.lines else "before the first line"
        faults = compared(runs, place, second)
        if list(place.rglob("*.partial")):
            faults.append("something partial is left")
        said = f"kill {number + 1} of {runs.recipe['name']} ({first.code}) after {last[:70]!r}"
        print(f"{said}: {'; '.join(faults) or 'the same'}", flush=True)
        wrong += [said] if faults else []
        shutil.rmtree(place)
    return wrong


def compared(runs: Runs, place: Path, outcome: Outcome) -> list[str]:
    """How a call that must end well ended otherwise."""
    if outcome.code:
        return [f"exit code {outcome.code}: {outcome.lines[-1][-600:]}"]
    found = runs.weights(place)
    names = runs.expected.keys() | found.keys()
    return [f"{name} is another" for name in sorted(names) if runs.expected.get(name) != found.get(name)]


def damaged(runs: Runs, state: Path, damages: dict[str, Damage], times: int, draw: random.Random) -> list[str]:
    """Damage copies of a state in every way and call the recipe again; what went wrong."""
    wrong = []
    for kind, damage in damages.items():
        faults = []
        for _ in range(times):
            place = runs.fresh(state)
            part = damage.apply(place / runs.recipe["name"], draw)
            outcome = runs.call(place)
            if damage.refused:
                bad = [] if outcome.code == 2 else [f"exit code {outcome.code}"]
            else:
                bad = compared(runs, place, outcome)
            if not any(part in line for line in outcome.lines):
                bad.append(f"no line names {part!r}")
            faults += bad
            told = next((line for line in outcome.lines if part and part in line), "")
            shutil.rmtree(place)
        print(
            f"{times} x {kind}: {'; '.join(faults[:3]) or 'refused' * damage.refused or 'the same'}: {told}", flush=True
        )
        wrong += [kind] if faults else []
    return wrong


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

    hf_distill.evaluation.speed.ROUNDS = 1
    Scores.check_above_chance = lambda *_: None  # type: ignore[method-assign]  # Of the texts, the teacher is random.
    draw, wrong = random.Random(given.seed), []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if given.kills:
            kills = round(0.7 * given.kills)
            wrong += killed(Runs(classes("classes"), place), kills, draw)
            wrong += killed(Runs(translations(place), place), given.kills - kills, draw)
        if given.damages:
            runs = Runs(classes("classes", control=False), place)
            wrong += damaged(runs, in_training(runs, 3), CHECKPOINT, given.damages, draw)
        if given.finished:
            runs = Runs(classes("classes"), place)
            wrong += damaged(runs, runs.unbroken, FINISHED, given.finished, draw)
    print(f"{len(wrong)} went wrong{': ' * bool(wrong)}{', '.join(wrong)}")
    here.send(None)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
