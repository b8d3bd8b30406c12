"""Recipes that somebody has damaged: each loads, and is written and read again to the same, or is refused in one line.

    python -m tests.recipe.fuzz 10000 --seed 0

takes the recipes and templates that are shipped, changes their structure or their text, and loads them, with overrides
now and then; it prints how many loaded and how many were refused, and ends with 1 and the inputs where anything else
happened.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from hf_distill.errors import HfDistillError
from hf_distill.pipeline.experiment import stages_of, with_defaults
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from hf_distill.recipe.stages import check_training
from hf_distill.recipe.yaml_text import read_yaml
from hf_distill.tasks import make_task

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted([*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("hf_distill/recipe/templates/*.yaml")])
SHIPPED += sorted(ROOT.glob("model_cards/*/recipe.yaml"))

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.0, 0.5, -0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "a",
        "a/b",
        "../up",
        "a:b",
        "subprocess:run",
        "evaluate:x",
        "\0",
        "\ud800",
        "\x1b[31m",
        "é",
        "null",
        "no",
    ),
    *("1", "3e-5", "~", "a\nb", "x" * 5000, "live", "cached", "auto", "labels", "logits", "sampled", date(2026, 1, 2)),
    *([], {}, [None], [[]], {"a": 1}, {1: 2}, {"": 0}, {None: 1}, {"a.b": 1}, {"options": {}}, b"bytes", {1, 2}),
    *(["a", "a"], [0, -1], [1.5], ["bleu"], {"from": 1.0, "to": 0.1}, {"kind": "labels"}, {"model": "a/b"}),
]
PIECES = [
    *(
        "*a",
        "&a ",
        "!!set ",
        "!!python/object/apply:os.system ",
        "<<: *a",
        "? ",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
    ),
    *(
        "#",
        "|",
        ">",
        "%YAML 1.1\n---\n",
        "\n---\n",
        "...\n",
        "\t",
        "\n",
        "\r",
        "\x00",
        "\ufeff",
        "\u2028",
        "²",
        "0o9",
        "1_0",
    ),
    *(
        "2026-01-02",
        ".nan",
        "-.inf",
        "9" * 5000,
        "[" * 1000,
        "{a: " * 500,
        "\\ud800",
        '"\\0"',
        "~",
        "a: &t {b: *t}\n",
        "é",
    ),
]
KEYS = [
    "seed",
    "task",
    "name",
    "teacher",
    "student",
    "ensemble",
    "recipe",
    "options",
    "kind",
    "weight",
    "path",
    "²",
    "-1",
    "",
]


def places(value: Any, found: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys to everything in a recipe."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*found, key)
        yield from places(item, (*found, key))


def restructured(content: dict[str, Any], chance: random.Random, others: list[dict[str, Any]]) -> dict[str, Any]:
    """A recipe with some of its parts replaced, removed, renamed, doubled or taken from elsewhere."""
    changed = copy.deepcopy(content)
    for _ in range(chance.choice([1, 1, 1, 1, 2, 4])):
        known = list(places(changed))
        if not known:
            break
        *parents, last = chance.choice(known)
        here = changed
        for key in parents:
            here = here[key]
        match chance.randrange(6):
            case 0 | 1:
                here[last] = copy.deepcopy(chance.choice(ODD))
            case 2:
                del here[last]
            case 3 if isinstance(here, dict):
                here[chance.choice([*KEYS, 1, None, True, "x" * 3000, str(last).upper()])] = here.pop(last)
            case 4:
                other = chance.choice(others)
                part = other
                for key in chance.choice(list(places(other))):
                    part = part[key]
                here[last] = copy.deepcopy(part)
            case _:
                here[last] = [here[last]] if chance.random() < 0.5 else {"recipe": here[last]}
    return changed


def respelled(text: str, chance: random.Random) -> str:
    """A text with some of it cut out, doubled, moved or put in."""
    for _ in range(chance.choice([1, 1, 2, 4])):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 1, 2, 5, 40, 400]))
        piece = chance.choice([*PIECES, text[start:end] * 2, "", chr(chance.randrange(32, 0xD7FF))])
        text = text[:start] + piece + text[end:]
    return text


def overrides(content: dict[str, Any], chance: random.Random) -> list[str]:
    """Some overrides, of keys that are there and others."""
    known = [".".join(map(str, place)) for place in places(content)]
    made = []
    for _ in range(chance.choice([0, 0, 0, 0, 1, 2])):
        key = chance.choice([*known, *KEYS, "objectives.²", "objectives.99999999999999999999", "a." * 300 + "a"])
        made.append(respelled(f"{key}={chance.choice([*map(str, ODD), *PIECES])}", chance))
    return made


def cases(seed: int, count: int) -> Iterator[tuple[str, Any, list[str]]]:
    """So many recipes, each with its number, as a mapping or as a text, and overrides."""
    contents, texts = [read_yaml(path) for path in SHIPPED], [path.read_text() for path in SHIPPED]
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        index = chance.randrange(len(contents))
        made: Any = (
            restructured(contents[index], chance, contents)
            if chance.random() < 0.7
            else respelled(texts[index], chance)
        )
        yield f"{seed} {number}", made, overrides(contents[index], chance)


def outcome(source: Any, changes: list[str] | dict[str, Any], folder: Path, *, allow_code: bool = True) -> str:
    """``loaded``, or the error with which it is refused, by loading or by what a check does before it loads data."""
    try:
        if isinstance(source, str):
            path = folder / "given.yaml"
            path.write_bytes(source.encode("utf-8", "surrogatepass"))
            source = path
        recipe = load_recipe(source, changes, allow_code=allow_code)
    except HfDistillError as error:
        return told(error)
    dump_recipe(recipe, folder / "again.yaml")
    assert load_recipe(folder / "again.yaml", allow_code=True) == recipe, "is another recipe when it is read again"
    assert load_recipe(recipe.to_dict(), allow_code=True) == recipe, "is another recipe as a mapping"
    try:
        resolved = with_defaults(recipe)
        for stage in resolved.by_stage().values():
            check_training(stage.training)
        make_task(resolved.task.name, resolved.task.options)
        stages_of(resolved, RunFolder(folder / "run"))
    except HfDistillError as error:
        return f"loaded, {told(error)} in check"
    return "loaded"


def told(error: HfDistillError) -> str:
    """The type of an error that is told in one line."""
    assert len(str(error).splitlines()) == 1, str(error)
    return type(error).__name__


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, source, changes in cases(options.seed, options.count):
            try:
                counts[outcome(source, changes, Path(folder), allow_code=number.endswith(tuple("02468")))] += 1
            except Exception:
                counts["traceback"] += 1
                print(
                    f"case {number}: {str(source)[:600]!r} {changes}\n{traceback.format_exc()[-1500:]}", file=sys.stderr
                )
    print(", ".join(f"{count:,} {name}" for name, count in counts.most_common()))
    return 1 if counts["traceback"] else 0


if __name__ == "__main__":
    sys.exit(main())
