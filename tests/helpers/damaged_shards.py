"""Shards of a teacher cache that are damaged in every way, with checksums that fit.

    python -m tests.helpers.damaged_shards --count 2000 --seed 0

prints how many are refused, and how many are read as other numbers or as the same; anything else than a CacheError is
shown and ends with 1.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from hf_distill.artifacts import files_digest
from hf_distill.errors import CacheError
from hf_distill.teachers.cache_schemes import Dense, NaiveTopK, Sampled, Scheme, TopK
from hf_distill.teachers.cache_shards import write_shard
from hf_distill.teachers.cache_store import Plan, Reader
from hf_distill.teachers.cached import _joined

VOCABULARY, ROWS, LAYERS = 300, 12, (1, 2)
SCHEMES: dict[str, Scheme | None] = {
    "dense": Dense(VOCABULARY),
    "sampled": Sampled(1.0, VOCABULARY, 20),
    "top_k": TopK(1.0, VOCABULARY, 5),
    "naive_top_k": NaiveTopK(1.0, VOCABULARY, 5),
    "states alone": None,
}


def plan_of(name: str, folder: Path) -> Plan:
    states = {1: ("F32", 8), 2: ("U16", 8)}
    return Plan(folder=folder, identity={}, scheme=SCHEMES[name], layers=LAYERS, rows=ROWS, seed=0, states=states)


def write(plan: Plan, seed: int = 0) -> Path:
    """A whole shard of random numbers, with rows of which nothing is kept."""
    random_ones, rows = np.random.default_rng(seed), []
    for number in range(ROWS):
        positions, tokens = number % 4, number % 3
        row: dict[str, dict[str, np.ndarray]] = {}
        if plan.scheme is not None:
            logits = torch.from_numpy(3 * random_ones.standard_normal((positions, VOCABULARY), dtype=np.float32))
            kept = plan.scheme.keep(logits, random_ones.random((positions, plan.scheme.draws)))
            row |= dict(zip(("positions", "entries"), kept, strict=True))
        states = random_ones.standard_normal((2, tokens, 8), dtype=np.float32)
        row["tokens"] = {"1": states[0], "2": (states[1].view(np.uint32) >> 16).astype(np.uint16)}
        rows.append(row)
    plan.folder.mkdir(parents=True, exist_ok=True)
    path = plan.shards.path(0)
    write_shard(path, rows)
    return path


def read(plan: Plan) -> list[np.ndarray]:
    """All that a training reads of a shard: targets of batches of rows."""
    reader, found = Reader(plan), []
    for start in range(0, ROWS, 4):
        rows = reader.rows(range(start, start + 4))
        if plan.scheme is not None:
            given = plan.scheme.give(_joined(rows, "positions"), _joined(rows, "entries"))
            found += [given] if isinstance(given, torch.Tensor) else [given.ids, given.probabilities, given.entropy]
        found += [torch.from_numpy(states.astype(np.float32)) for states in _joined(rows, "tokens").values()]
    return [each.numpy() for each in found]


def damage(path: Path, chance: random.Random) -> str:
    """Change a shard in one way, and let its checksum fit; the way's name."""
    ways = [_flips, _cut, _header_bytes, _header_values, _tensors, _values, _mark]
    way = chance.choice(ways)
    way(path, chance)
    if way is not _mark:
        path.with_suffix(".sha256").write_text(files_digest([path]))
    return way.__name__.strip("_")


def _flips(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 2, 8, 64))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    length = chance.choice((0, 1, 8, chance.randrange(len(content)), len(content) - 1))
    path.write_bytes(content[:length] if chance.random() < 0.7 else content + bytes(chance.randrange(1, 64)))


def _header_bytes(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    size = struct.unpack("<Q", content[:8])[0]
    for _ in range(chance.choice((1, 2, 4))):
        content[chance.randrange(8 + size)] = chance.choice((0, 34, 44, 48, 57, 91, 123, 255, chance.randrange(256)))
    path.write_bytes(content)


def _header_values(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    name = chance.choice(sorted(header))
    entry, kind = header[name], chance.randrange(6)
    if kind == 0:
        entry["dtype"] = chance.choice(("F16", "BF16", "F64", "I8", "U8", "U16", "I64", "BOOL", "F8_E4M3", 3, None))
    elif kind == 1:
        count = int(np.prod(entry["shape"]))
        shapes: tuple[Any, ...] = ([], [count], [1, count], [count, 1], [count, 1, 1], [-1], [0], ["a"], None, [2**63])
        entry["shape"] = chance.choice(shapes)
    elif kind == 2:
        entry["data_offsets"] = [chance.randrange(-1, 4096) for _ in range(chance.choice((1, 2, 3)))]
    elif kind == 3:
        del header[name]
    elif kind == 4:
        header[chance.choice(("x", "tokens", "bounds.x", "entries.", ".", "tokens.9", "\u00e9"))] = header.pop(name)
    else:
        other = chance.choice(sorted(header))
        header[name], header[other] = header[other], header[name]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def _tensors(path: Path, chance: random.Random) -> None:
    arrays: dict[str, Any] = load_file(path)
    name, other = chance.choice(sorted(arrays)), chance.choice(sorted(arrays))
    kind, array = chance.randrange(6), arrays[name]
    if kind == 0:
        arrays[name], arrays[other] = arrays[other], array
    elif kind == 1:
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(chance.choice(("f2", "f4", "f8", "u1", "u2", "i8", "i4", "?")))
    elif kind == 2:
        arrays[name] = array[: chance.randrange(len(array) + 1)]
    elif kind == 3:
        arrays[name] = np.concatenate([array, array])
    elif kind == 4:
        arrays[name] = np.ascontiguousarray(array.reshape(len(array), -1)[:, : chance.randrange(3)])
    else:
        arrays[name] = np.zeros((), array.dtype)
    save_file(arrays, path)


def _values(path: Path, chance: random.Random) -> None:
    arrays: dict[str, Any] = load_file(path)
    name = chance.choice(sorted(name for name, array in arrays.items() if array.size))
    array = arrays[name].copy()
    for _ in range(chance.choice((1, 3))):
        value: Any = chance.choice((0, 1, 255, 60000, -1, 2**40, -(2**62), float("nan"), float("inf"), -float("inf")))
        if array.dtype.kind != "f":
            value = 1 if value != value or abs(value) == float("inf") else value % (np.iinfo(array.dtype).max + 1)
        with np.errstate(all="ignore"):
            array.reshape(-1)[chance.randrange(array.size)] = value
    arrays[name] = array
    save_file(arrays, path)


def _mark(path: Path, chance: random.Random) -> None:
    mark = path.with_suffix(".sha256")
    text = mark.read_bytes()
    mark.write_bytes(chance.choice((b"", b"{}", b"\xff\xfe", text[:-1], text + b"\n", text.upper(), bytes(64))))


def fuzz(count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """How many damaged shards were refused and read, by scheme, and the tracebacks of those that did neither."""
    told: Counter[str] = Counter()
    faults: list[str] = []
    plans = [plan_of(name, folder / name) for name in SCHEMES]
    whole = [(write(plan).read_bytes(), read(plan)) for plan in plans]
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        plan, (content, expected) = plans[number % len(plans)], whole[number % len(plans)]
        path = plan.shards.path(0)
        path.write_bytes(content)
        path.with_suffix(".sha256").write_text(files_digest([path]))
        way = damage(path, chance)
        try:
            found = read(plan)
            same = all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
            told["read as the same" if same else "read as other numbers"] += 1
        except CacheError as error:
            told["refused"] += 1
            if "\n" in str(error) or "shard-00000" not in str(error) or "delete" not in str(error):
                faults.append(f"{number}, {way}: {error}")
        except Exception:
            faults.append(f"{number}, {way}: {traceback.format_exc()}")
    return told, faults


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told, faults = fuzz(arguments.count, arguments.seed, Path(folder))
    for fault in faults[:5]:
        print(fault)
    print(f"{arguments.count} damaged shards, seed {arguments.seed}: {dict(told)}, {len(faults)} neither")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
