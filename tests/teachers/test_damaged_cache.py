"""A damaged cache is never believed: its shards are written again where a teacher is there, else refused in a line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from hf_distill import CausalLanguageModeling, Hidden, Logits, ModelTeacher
from hf_distill.artifacts import files_digest
from hf_distill.errors import CacheError
from hf_distill.pipeline.teacher_cache import Source, cached
from hf_distill.recipe import CacheConfig
from tests.helpers import tiny
from tests.helpers.damage import DAMAGE, damage
from tests.helpers.damaged_shards import SCHEMES, fuzz, plan_of, read, write


def test_damaged_shards_whose_checksum_fits_are_refused_or_read_and_nothing_else(tmp_path):
    told, faults = fuzz(250, 1, tmp_path)
    assert faults == []
    assert told["refused"] > 150


CHANGES = {
    "NaN among hidden states": ("tokens.1", lambda array: array * np.float32("nan")),
    "an infinite hidden state in bfloat16": ("tokens.2", lambda array: array | 0x7F80),
    "hidden states of another width": ("tokens.1", lambda array: np.ascontiguousarray(array[:, :4])),
    "hidden states of another dtype": ("tokens.1", lambda array: array.astype(np.float16)),
    "too few hidden states": ("tokens.1", lambda array: array[1:]),
    "rows that start nowhere": ("bounds.tokens", lambda array: array[::-1].copy()),
    "a row too few": ("bounds.tokens", lambda array: array[:-1]),
    "a token that is in no vocabulary": ("entries.tokens", lambda array: array | 255),
    "logits of another dtype": ("positions.logits", lambda array: array.astype(np.float64)),
    "NaN among logits": ("positions.logits", lambda array: array * np.float32("nan")),
    "numbers of tokens that do not add up": ("positions.distinct", lambda array: array[::-1].copy()),
    "no entropy": ("positions.entropy", lambda array: array * np.float16("nan")),
    "probabilities above 1": ("entries.log_probabilities", lambda array: -array),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_tensor_is_looked_at_when_a_shard_is_opened(what, tmp_path):
    name, change = CHANGES[what]
    seen = 0
    for scheme in SCHEMES:
        plan = plan_of(scheme, tmp_path / scheme)
        path = write(plan)
        read(plan)
        arrays = load_file(path)
        if name in arrays and arrays[name].size:
            save_file({**arrays, name: change(arrays[name])}, path)
            path.with_suffix(".sha256").write_text(files_digest([path]))
            with pytest.raises(CacheError, match=r"shard-00000\.safetensors is damaged: .*; delete this file"):
                read(plan)
            seen += 1
    assert seen


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache of three shards, and what asks for it again."""
    folder = tmp_path_factory.mktemp("cache")
    task, tokenizer = CausalLanguageModeling(max_length=16, packing=False), tiny.chat_tokenizer()
    source = Source(
        teacher=ModelTeacher(tiny.decoder(3, seed=5)),
        task=task,
        tokenizer=tokenizer,
        student=tiny.decoder(2).config,
        data_fingerprint="none",
        seed=0,
    )
    rows = task.encode(Dataset.from_dict({"text": tiny.rows(12)["text"]}), tokenizer)
    objectives = {"logits": Logits(temperature=1.0), "hidden": Hidden()}

    def ask(place, path=None):
        config = CacheConfig(path=None if path is None else str(path))
        return cached(source, rows, rows, objectives, config, place, 4)[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_distill.teachers.cache_store.SHARD_ROWS", 8)
        yield ask, ask(folder / "caches").plan.folder


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".damaged"}


def refit(path) -> None:
    path.with_suffix(".sha256").write_text(files_digest([path]))


def _nan(path) -> None:
    arrays = load_file(path)
    save_file({**arrays, "tokens.3": arrays["tokens.3"] * np.float32("nan")}, path)
    refit(path)


def _narrow(path) -> None:
    arrays = load_file(path)
    save_file({name: array[:, :7].copy() if "tokens.3" in name else array for name, array in arrays.items()}, path)
    refit(path)


def _without_states(path) -> None:
    save_file({name: array for name, array in load_file(path).items() if name != "tokens.3"}, path)
    refit(path)


SHARDS = {
    "a byte flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x99"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "emptied": lambda path: path.write_bytes(b""),
    "emptied, with a checksum": lambda path: (path.write_bytes(b""), refit(path)),
    "its checksum emptied": lambda path: path.with_suffix(".sha256").write_bytes(b""),
    "its checksum no text": lambda path: path.with_suffix(".sha256").write_bytes(b"\xff\xfe"),
    "NaN, with a checksum": _nan,
    "another width, with a checksum": _narrow,
    "a layer missing, with a checksum": _without_states,
}


@pytest.mark.parametrize("what", SHARDS)
def test_a_damaged_shard_is_renamed_and_taken_again_and_told(what, made, tmp_path, caplog):
    ask, whole = made
    shutil.copytree(whole, tmp_path / "caches" / whole.name)
    path = tmp_path / "caches" / whole.name / "shard-00001.safetensors"
    SHARDS[what](path)
    caplog.set_level("INFO")
    teacher = ask(tmp_path / "caches")
    assert content(teacher.plan.folder) == content(whole)
    told = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert len(told) == 1
    assert "shard-00001.safetensors" in told[0]
    assert (path.parent / f"{path.name}.damaged").is_file()
    assert len(teacher._reader.rows(range(24))) == 24


@pytest.mark.parametrize("way", DAMAGE)
def test_a_damaged_manifest_is_written_again_where_the_folders_name_says_what_stood_in_it(way, made, tmp_path):
    ask, whole = made
    shutil.copytree(whole, tmp_path / "caches" / whole.name)
    manifest = tmp_path / "caches" / whole.name / "manifest.json"
    damage(manifest, way)
    if way in ("wrong types", "other types", "missing keys"):  # Readable, but of something else.
        with pytest.raises(CacheError, match="made of something else"):
            ask(tmp_path / "caches")
        return
    assert content(ask(tmp_path / "caches").plan.folder) == content(whole)


@pytest.mark.parametrize("way", DAMAGE)
def test_a_damaged_manifest_in_a_folder_of_any_name_is_refused_in_a_line(way, made, tmp_path):
    ask, whole = made
    shutil.copytree(whole, tmp_path / "mine")
    damage(tmp_path / "mine" / "manifest.json", way)
    with pytest.raises(CacheError, match=r"manifest\.json: expected .*delete|made of something else") as raised:
        ask(tmp_path / "caches", tmp_path / "mine")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("way", DAMAGE)
def test_a_damaged_manifest_of_another_cache_changes_nothing(way, made, tmp_path):
    ask, whole = made
    shutil.copytree(whole, tmp_path / "caches" / whole.name)
    shutil.copytree(whole, tmp_path / "caches" / "000000000000")
    damage(tmp_path / "caches" / "000000000000" / "manifest.json", way)
    manifest = json.loads((whole / "manifest.json").read_text())
    other = tmp_path / "caches" / "111111111111"
    shutil.copytree(whole, other)
    (other / "manifest.json").write_text(json.dumps({**manifest, "hidden_states": [[1], "x", None]}))
    assert ask(tmp_path / "caches").plan.folder.name == whole.name
