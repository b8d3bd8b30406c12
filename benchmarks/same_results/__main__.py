"""Proves that a change of the code changed no result: tiny recipes of every kind give the same figures and weights.

    python -m benchmarks.same_results --checkout OLD --output old.json
    python -m benchmarks.same_results --checkout NEW --output new.json --against old.json

Data, teachers and tokenizers are made without the package, so that both checkouts read the same bytes, in a folder of
the same name; run both on one machine. What depends on the machine's speed, the clock, versions, addresses and module
names is left out; all else is compared to the last digit. The case ``quickstart`` takes minutes: it runs where it is
named, or with ``--all``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from benchmarks.same_results.cases import CASES
from benchmarks.same_results.material import write_data, write_teachers

REPOSITORY = Path(__file__).resolve().parents[2]
FIGURES = ("results.json", "analysis.json", "sweep.json", "validation.json", "provenance.json", "manifest.json")
VOLATILE = {
    *("latency_ms", "samples_per_second", "speedup", "seconds", "created", "command", "recipe_sha256", "versions"),
    *("machine", "speed", "url", "source", "path"),
}
"""Keys of figures that tell of speed, the clock, versions, addresses and module names."""
SPEEDS = re.compile(r".*(_runtime|_per_second)$")
"""Keys of a training's log that do."""

# --- running ----------------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Make data and teachers anew, and remove what another checkout left."""
    for name in ("data", "teachers", "runs", "recipes", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("data", "teachers", "recipes"):
        (folder / name).mkdir(parents=True)
    torch.set_num_threads(1)
    disable_progress_bar()
    write_teachers(folder / "teachers", write_data(folder / "data"))


def environment(checkout: Path, folder: Path) -> dict[str, str]:
    """Variables with which a process imports the checkout's package; it is seen that it does."""
    variables = {**os.environ, "PYTHONPATH": str(checkout), "HF_HOME": str(folder / "cache")}
    command = [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('hf_distill').origin)"]
    found = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=True).stdout
    if not Path(found.strip()).is_relative_to(checkout):
        raise SystemExit(f"python -m hf_distill would run {found.strip()}, which is not in {checkout}")
    return variables


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Serve a teacher as vLLM does, and give its address."""
    sys.path.insert(0, str(REPOSITORY))
    from tests.helpers.serving import serving

    path = folder / "teachers" / "completer"
    made = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    with serving(*made) as found:
        yield found.url


def run(name: str, checkout: Path, folder: Path, variables: dict[str, str]) -> str | None:
    """Run a case's command; the end of what it said, where it failed."""
    recipe, arguments = folder / "recipes" / f"{name}.yaml", []
    if name == "quickstart":
        recipe = checkout / "recipes" / "quickstart.yaml"
    else:
        recipe.write_text(json.dumps({"name": name.replace("_", "-"), **CASES[name]}, indent=1))
    with server(folder) if name == "served" else contextlib.nullcontext() as url:
        if url:
            arguments = [f"teacher.server.url={url}"]
        if name == "sweep":
            arguments = ["objectives.1.temperature=1,3"]
        words = ["sweep" if name == "sweep" else "run", str(recipe), *arguments, "--runs", f"runs/{name}"]
        command = [sys.executable, "-m", "hf_distill", *words]
        done = subprocess.run(
            command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    return done.stdout[-2000:] if done.returncode else None


# --- what it left -----------------------------------------------------------------------------------------------------


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure by its dotted key, but for what may differ."""
    if isinstance(value, dict | list) and value:
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            if name not in VOLATILE and not SPEEDS.fullmatch(str(name)):
                yield from leaves(each, f"{key}.{name}")
    else:
        yield key, value


def record(folder: Path, moved: bool = False) -> dict[str, Any]:
    """Hashes of all weights and written texts, and figures of all runs below a folder.

    Args:
        folder: That holds the runs.
        moved: The data's module has another name, and so has the teacher's folder, which is the recipe's hash.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if moved:
            name = re.sub(r"^teachers/\w+", "teachers/teacher", name)
        if path.parent.name == "checkpoints" and path.name in ("student.json", "control.json"):
            found |= leaves(json.loads(path.read_text())["log_history"], f"{name}:log")
        elif "checkpoints" in path.parts:
            continue
        elif path.name in FIGURES:
            found |= leaves(json.loads(path.read_text()), f"{name}:")
        elif path.suffix == ".yaml":
            found |= leaves(yaml.safe_load(path.read_text()), f"{name}:")
        elif path.suffix in (".safetensors", ".parquet", ".jsonl") or path.name == "tokenizer.json":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    if moved:  # A teacher that its own recipe made is called as its folder.
        found = {key: re.sub(r"^[0-9a-f]{12}\b", "teacher", v) if isinstance(v, str) else v for key, v in found.items()}
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What differs of one case, a line each."""
    for key in sorted(old.keys() | new.keys()):
        one, other = (json.dumps(each[key]) if key in each else "nothing" for each in (old, new))
        if one != other:
            yield f"{key}: {one} became {other}"


def main() -> int:
    """Run the cases, write what they left, and compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="the folder that holds hf_distill/")
    parser.add_argument("--output", type=Path, required=True, help="where what was found is written, as JSON")
    parser.add_argument("--against", type=Path, help="what another checkout wrote")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "quickstart"], help="these cases alone")
    parser.add_argument("--all", action="store_true", help="quickstart, too")
    parser.add_argument("--jobs", type=int, default=2, help="cases that run at once")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "hf_distill_same_results")
    options = parser.parse_args()
    checkout, folder = options.checkout.resolve(), options.folder.resolve()
    names = options.only or [*CASES, *(["quickstart"] if options.all else [])]
    prepare(folder)
    variables = environment(checkout, folder)

    def finished(name: str) -> dict[str, Any]:
        start = time.perf_counter()
        failure = run(name, checkout, folder, variables)
        told = f"{time.perf_counter() - start:.1f} s" if failure is None else f"failed:\n{failure}"
        print(f"{name}: {told}", flush=True)
        return record(folder / "runs" / name, name == "quickstart") if failure is None else {"failed": failure}

    with ThreadPoolExecutor(options.jobs) as pool:
        found = {"teachers": record(folder / "teachers"), **dict(zip(names, pool.map(finished, names), strict=True))}
    options.output.write_text(json.dumps(found, indent=1))
    failed = any("failed" in each for each in found.values())
    if options.against is None:
        return failed
    old = json.loads(options.against.read_text())
    lines = [f"{name}: {line}" for name in found for line in differences(old.get(name, {}), found[name])]
    print("\n".join(lines) or f"{len(names)} cases the same")
    return failed or bool(lines)


if __name__ == "__main__":
    sys.exit(main())
