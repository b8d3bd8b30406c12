"""The teacher cache: what is kept, that it is what the live teacher says, and that nothing else is taken for it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_distill import CausalLanguageModeling, Hidden, Logits, ModelTeacher, cache, run
from hf_distill.errors import CacheError, TeacherError
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.pipeline.teacher_cache import Source, cached
from hf_distill.recipe import CacheConfig
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from hf_distill.teachers.cache_schemes import Dense, NaiveTopK, Sampled, TopK
from hf_distill.teachers.cache_shards import Shard, write_shard
from tests.helpers import tiny
from tests.helpers.recipes import language_recipe
from tests.helpers.seams import accept_any_teacher

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 300


def logits(positions: int = 40, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(positions, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def uniform(positions: int, draws: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((positions, draws))


def dense_of(sparse, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """``[n, V]`` probabilities of the kept tokens."""
    return torch.zeros(len(sparse.ids), vocabulary).scatter_add_(1, sparse.ids, sparse.probabilities)


def test_drawn_tokens_come_as_often_as_the_teacher_says():
    scheme, teacher = Sampled(2.0, VOCABULARY, 50), logits(3)
    expected = torch.softmax(teacher / 2.0, -1)
    mean = torch.stack([dense_of(scheme.give(*scheme.keep(teacher, uniform(3, 50, i)))) for i in range(400)]).mean(0)
    error = (expected * (1 - expected) / (400 * 50)).sqrt()
    assert ((mean - expected).abs() < 5 * error + 1e-6).all()


def test_drawn_tokens_are_distinct_and_their_shares_add_up_to_one():
    scheme, teacher = Sampled(1.0, VOCABULARY, 50), logits()
    positions, entries = scheme.keep(teacher, uniform(40, 50))
    given = scheme.give(positions, entries)
    assert torch.allclose(given.probabilities.sum(1), torch.ones(40))
    for ids, shares in zip(given.ids, given.probabilities, strict=True):
        assert len(set(ids[shares > 0].tolist())) == (shares > 0).sum()
    log = torch.log_softmax(teacher, -1)
    assert torch.allclose(given.entropy, -(log.exp() * log).sum(-1), rtol=2e-3)


@pytest.mark.parametrize(("vocabulary", "width"), [(300, 2), (49_152, 3), (262_144, 3), (300_000, 4)])
def test_a_token_and_its_count_take_as_few_bytes_as_hold_both(vocabulary, width):
    scheme = Sampled(1.0, vocabulary, 50)
    peaked = torch.full((1, vocabulary), -50.0)
    peaked[0, vocabulary - 1] = 50.0
    positions, entries = scheme.keep(peaked, uniform(1, 50))
    assert entries["tokens"].shape == (1, width)
    given = scheme.give(positions, entries)
    assert given.ids.tolist() == [[vocabulary - 1]]
    assert given.probabilities.tolist() == [[1.0]]


def test_top_k_keeps_the_mass_of_the_rest_and_naive_top_k_does_not():
    teacher = logits()
    expected = torch.softmax(teacher, -1).topk(5)
    whole, naive = (kind(1.0, VOCABULARY, 5) for kind in (TopK, NaiveTopK))
    given = whole.give(*whole.keep(teacher, uniform(40, 0)))
    assert torch.equal(given.ids, expected.indices)
    assert torch.allclose(given.probabilities, expected.values, rtol=5e-3)
    assert torch.allclose(given.rest, 1 - given.probabilities.sum(1), atol=1e-6)
    given = naive.give(*naive.keep(teacher, uniform(40, 0)))
    assert given.rest is None
    assert torch.allclose(given.probabilities.sum(1), torch.ones(40))
    assert "sampled" in naive.warning


def test_dense_keeps_every_bit():
    scheme, teacher = Dense(), logits()
    assert torch.equal(scheme.give(*scheme.keep(teacher, uniform(40, 0))), teacher)


def arrays(seed: int, positions: int, tokens: int) -> dict:
    generator = np.random.default_rng(seed)
    return {
        "positions": {"entropy": generator.random(positions).astype(np.float16)},
        "tokens": {"3": generator.random((tokens, 4)).astype(np.float32)},
        "entries": {"tokens": generator.integers(0, 255, (2 * positions, 3)).astype(np.uint8)},
    }


def test_a_shard_gives_back_what_was_written_row_by_row(tmp_path):
    rows = [arrays(i, positions, tokens) for i, (positions, tokens) in enumerate([(3, 4), (0, 2), (5, 1)])]
    write_shard(tmp_path / "shard.safetensors", rows)
    shard = Shard(tmp_path / "shard.safetensors")
    for number, row in enumerate(rows):
        for length, named in row.items():
            for name, values in named.items():
                assert np.array_equal(shard.row(number)[length][name], values)


def test_a_broken_or_missing_shard_is_refused(tmp_path):
    path = tmp_path / "shard.safetensors"
    with pytest.raises(CacheError, match="lacks shard"):
        Shard(path)
    write_shard(path, [arrays(0, 3, 4)])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="checksum differs"):
        Shard(path)


def silent(line: str) -> None:
    pass


def losses(folder: Path) -> list[float]:
    history = json.loads(RunFolder(folder).history("student").read_text())["log_history"]
    return [value for entry in history for key, value in entry.items() if key.startswith(("loss", "eval_loss"))]


@pytest.mark.slow
def test_where_the_cache_keeps_everything_the_losses_are_those_with_the_live_teacher(finished, tmp_path):
    shutil.copytree(finished.parent / "teachers", tmp_path / "teachers")
    recipe = tiny.recipe(name="cached")
    recipe["teacher"]["kind"] = "cached"
    recipe["teacher"]["cache"] = {"verify": 5}
    lines: list[str] = []
    result = run(recipe, runs=tmp_path, report=lines.append)
    assert len(losses(finished)) > 20
    # Not to the last bit: the teacher saw the rows in other batches.
    assert losses(result.folder) == pytest.approx(losses(finished), rel=1e-3)
    assert any("compared with the live teacher: the same" in line for line in lines)


@pytest.mark.parametrize("settings", [{"scheme": "sampled"}, {"scheme": "top_k", "k": 4}])
@pytest.mark.parametrize("emptied", [[1], [0, 1, 2]])
def test_rows_that_are_repeated_and_emptied_to_fill_a_batch_ask_for_nothing(settings, emptied, tmp_path):
    task, made = CausalLanguageModeling(max_length=16, packing=False), tiny.chat_tokenizer()
    model = tiny.decoder(3, seed=5)
    source = Source(
        teacher=ModelTeacher(model),
        task=task,
        tokenizer=made,
        student=tiny.decoder(2).config,
        data_fingerprint="none",
        seed=0,
    )
    rows = task.encode(Dataset.from_dict({"text": tiny.rows(6)["text"]}), made)
    objectives = {"logits": Logits(temperature=1.0), "hidden": Hidden()}
    teacher, train, _ = cached(source, rows, rows, objectives, CacheConfig(**settings), tmp_path, 4)
    chosen = [train[i] for i in (4, 0, 2)]
    batch = {**task.collator(made)(chosen), "row_id": torch.tensor([row["row_id"] for row in chosen])}
    whole = teacher.targets(task, batch, frozenset({"logits", "hidden_states"}))
    batch["attention_mask"][emptied] = 0
    left = teacher.targets(task, batch, frozenset({"logits", "hidden_states"}))
    mask, tokens = (task.masks(batch)[unit] for unit in ("positions", "tokens"))
    assert mask.any() == (len(emptied) < 3)
    probabilities = [dense_of(each, len(tiny.CHAT_WORDS)) for each in (whole.logits, left.logits)]
    assert torch.equal(probabilities[0][mask], probabilities[1][mask])
    assert (left.logits.probabilities[~mask] == 0).all()
    assert torch.equal(whole.hidden_states[3][tokens], left.hidden_states[3][tokens])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_a_language_model_learns_from_drawn_tokens_and_hidden_states_on_disk(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    recipe, lines = language_recipe(tmp_path, verify=3), []
    result = run(recipe, runs=tmp_path / "runs", report=lines.append)
    assert result.results["training"]["student"]["steps"] == 4
    (folder,) = (tmp_path / "runs" / "caches").glob("[!.]*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["scheme"] == {"name": "sampled", "temperature": 1.0, "draws": 50}
    assert manifest["hidden_states"] == [2, 3]
    # A second run, of another learning rate, finds it.
    recipe["training"]["learning_rate"], recipe["name"] = 1e-4, "again"
    run(recipe, runs=tmp_path / "runs", report=lines.append)
    assert any("fits and is complete" in line for line in lines)
    assert len(list((tmp_path / "runs" / "caches").glob("[!.]*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 3}, "seed"),
        ({"task": {"name": "causal-lm", "max_length": 12, "packing": False}}, "task"),
        ({"objectives": [{"kind": "logits", "temperature": 2.0}, {"kind": "hidden"}]}, "scheme"),
        ({"objectives": [{"kind": "hidden", "layers": {0: 0}}]}, "hidden_states"),
    ],
    ids=["seed", "task", "temperature", "objectives"],
)
def test_a_cache_of_something_else_is_refused_by_name(change, told, tmp_path):
    recipe = language_recipe(tmp_path, path=str(tmp_path / "kept"))
    cache(recipe, runs=tmp_path / "runs", report=silent)
    with pytest.raises(CacheError, match=f"made of something else: .*{told}"):
        cache({**recipe, **change}, runs=tmp_path / "runs", report=silent)


@pytest.mark.slow
@pytest.mark.parametrize("place", [{}, {"path": "kept"}], ids=["found by itself", "named"])
@pytest.mark.parametrize(
    "objectives",
    [[{"kind": "logits", "temperature": 1.0}], [{"kind": "labels"}, {"kind": "hidden", "layers": {0: 1}}]],
    ids=["no hidden states", "one layer, no logits"],
)
def test_a_cache_that_holds_more_than_is_asked_serves(objectives, place, tmp_path):
    place = {name: str(tmp_path / path) for name, path in place.items()}
    recipe = language_recipe(tmp_path, **place)
    whole = cache(recipe, runs=tmp_path / "runs", report=silent)
    recipe["teacher"]["cache"]["verify"] = 3
    assert cache({**recipe, "objectives": objectives}, runs=tmp_path / "runs", report=silent) == whole
    # One that is not finished does not: what is missing would be written without the rest.
    (whole / "shard-00002.sha256").unlink()
    if not place:
        assert cache({**recipe, "objectives": objectives}, runs=tmp_path / "runs", report=silent) != whole


@pytest.mark.slow
def test_a_cache_of_another_teacher_or_template_is_refused(tmp_path):
    recipe = language_recipe(tmp_path, path=str(tmp_path / "kept"))
    cache(recipe, runs=tmp_path / "runs", report=silent)
    tiny.decoder(3, seed=6, initializer_range=0.05).save_pretrained(tmp_path / "decoder")
    with pytest.raises(CacheError, match="weights"):
        cache(recipe, runs=tmp_path / "runs", report=silent)
    tiny.decoder(3, seed=5, initializer_range=0.05).save_pretrained(tmp_path / "decoder")
    tiny.chat_tokenizer(tiny.CHAT_TEMPLATE).save_pretrained(tmp_path / "decoder")
    with pytest.raises(CacheError, match="tokenizer"):
        cache(recipe, runs=tmp_path / "runs", report=silent)


def test_rows_that_the_teacher_now_says_otherwise_of_are_found(tmp_path):
    recipe = language_recipe(tmp_path, path=str(tmp_path / "kept"), verify=4)
    folder = cache(recipe, runs=tmp_path / "runs", report=silent)
    first, second = (folder / f"shard-{number:05d}" for number in (0, 1))
    for ending in (".safetensors", ".sha256"):  # Rows of another shard, whole and with their right checksum.
        shutil.copy(second.with_suffix(ending), first.with_suffix(ending))
    with pytest.raises(CacheError, match="not what the teacher says of it now"):
        cache(recipe, runs=tmp_path / "runs", report=silent)


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"kind": "logits", "divergence": "reverse_kl"}, "needs the probability of every token"),
        ({"kind": "logits", "divergence": "jsd"}, "needs the probability of every token"),
    ],
)
def test_what_drawn_tokens_cannot_serve_is_refused_before_anything_is_loaded(objective, told, tmp_path):
    recipe = language_recipe(tmp_path)
    (tmp_path / "decoder" / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match=told):
        cache({**recipe, "objectives": [objective]}, runs=tmp_path / "runs", report=silent)
    several = [{"kind": "logits", "temperature": 1.0}, {"kind": "logits", "temperature": 2.0}]
    with pytest.raises(TeacherError, match="one temperature"):
        cache({**recipe, "objectives": several}, runs=tmp_path / "runs", report=silent)


SMALL_SHARDS = (
    "import sys; from hf_distill.teachers import cache_store; cache_store.SHARD_ROWS = 128; "
    "from hf_distill.cli import app; app(sys.argv[1:])"
)


def wait_for_shards(process: subprocess.Popen, caches: Path, count: int) -> None:
    """Until so many shards are written, or the process has ended."""
    while process.poll() is None and len(list(caches.glob("*/*.sha256"))) < count:
        time.sleep(0.01)


def test_draws_are_refused_for_classes_of_which_all_logits_are_kept(tmp_path):
    recipe = tiny.recipe()
    recipe["teacher"] |= {"kind": "cached", "cache": {"draws": 20}}
    with pytest.raises(TeacherError, match=r"cache\.draws: does nothing for classes"):
        run(recipe, runs=tmp_path, report=silent)


def test_all_logits_over_a_vocabulary_are_refused(tmp_path):
    recipe = language_recipe(tmp_path)
    recipe["teacher"] |= {"kind": "cached", "cache": {"scheme": "dense"}}
    with pytest.raises(TeacherError, match="never held whole; use sampled"):
        cache(recipe, runs=tmp_path / "runs", report=silent)


@pytest.mark.slow
def test_a_cache_killed_five_times_holds_what_an_unbroken_one_holds_byte_for_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.teachers.cache_store.SHARD_ROWS", 128)
    recipe = load_recipe(language_recipe(tmp_path))
    whole = cache(recipe, runs=tmp_path / "whole", report=silent)
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["cache", str(tmp_path / "recipe.yaml"), "--allow-code", "--runs", str(tmp_path / "broken")]
    small = [sys.executable, "-c", SMALL_SHARDS, *arguments]
    chance, caches = random.Random(0), tmp_path / "broken" / "caches"
    for _ in range(5):
        process = subprocess.Popen(small, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_shards(process, caches, len(list(caches.glob("*/*.sha256"))) + chance.randint(1, 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(small, env=environment, check=True, capture_output=True)
    (broken,) = caches.glob("[!.]*")
    assert content(broken) == content(whole)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path):
    recipe = load_recipe(language_recipe(tmp_path))
    one = cache(recipe, runs=tmp_path / "one", report=silent)
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [
        "-m",
        "hf_distill",
        "cache",
        str(tmp_path / "recipe.yaml"),
        "--allow-code",
        "--runs",
        str(tmp_path / "two"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run([*torchrun, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (two,) = (tmp_path / "two" / "caches").glob("[!.]*")
    assert content(two) == content(one)
