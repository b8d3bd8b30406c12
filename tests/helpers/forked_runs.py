"""Calls of a recipe, each a process of its own, forked from one that has imported everything."""

from __future__ import annotations

import faulthandler
import hashlib
import itertools
import os
import select
import shutil
import signal
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUMBERS = itertools.count()
SECONDS = 120
"""After which a call, which takes a few, shows where it stands and ends."""


@dataclass
class Outcome:
    """What a call did: its exit code, its lines, and after how many seconds they came."""

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
        until: str | None = None,
    ) -> Outcome:
        """Run the recipe, which ends well.

        Args:
            runs: The folder of runs.
            kill: After how many seconds from a line on it is killed, if it is; 0 is the start.
            before: What the process does first.
            until: How the line begins with which it has done what it was called for, if that is not its last.
        """
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._child(runs, writer, before, until)
        os.close(writer)
        outcome, rest, start = Outcome(0, [], []), b"", time.monotonic()
        delay = kill(0)
        deadline = start + delay if delay is not None else None
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
                outcome.times.append(time.monotonic() - start)
                delay = kill(len(outcome.lines))
                deadline = time.monotonic() + delay if delay is not None else deadline
        os.close(reader)
        outcome.code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return outcome

    def _child(self, runs: Path, writer: int, before: Callable[[], None], until: str | None) -> None:
        from hf_distill import run
        from hf_distill.errors import HfDistillError

        def report(line: str) -> None:
            os.write(writer, line.replace("\n", " ").encode() + b"\n")
            if until is not None and line.startswith(until):
                os._exit(0)

        code, target = 0, {"hub.push": True, "hub.model_id": f"me/{runs.name}"}
        try:
            before()
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=os.dup(2))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run(self.recipe, target, runs=runs, report=report, allow_code=True)
        except HfDistillError as error:
            report(f"error: {error}")
            code = error.exit_code
        except BaseException:
            report(f"TRACEBACK: {traceback.format_exc()}")
            code = 70
        os._exit(code)

    def weights(self, runs: Path, *, pushed: bool = True) -> dict[str, str]:
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
        if pushed:
            address = f"{os.environ['HF_ENDPOINT']}/me/{runs.name}/resolve/main/model.safetensors"
            request = urllib.request.Request(address, headers={"Authorization": "Bearer hf_me"})
            with urllib.request.urlopen(request) as answer:
                found["pushed"] = hashlib.sha256(answer.read()).hexdigest()
        return found

    def differences(self, runs: Path, outcome: Outcome, *, pushed: bool = True) -> list[str]:
        """How a call that must end well ended otherwise."""
        if outcome.code:
            return [f"exit code {outcome.code}: {outcome.lines[-1][-600:]}"]
        found = self.weights(runs, pushed=pushed)
        expected = {name: digest for name, digest in self.expected.items() if pushed or name != "pushed"}
        names = sorted(expected.keys() | found.keys())
        return [f"{name} is another" for name in names if expected.get(name) != found.get(name)]
