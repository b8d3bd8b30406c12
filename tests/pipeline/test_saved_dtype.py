"""A student is saved, and scored, in the dtype of what it is made of, or in the one that its recipe names."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_distill import check, evaluate, run
from hf_distill.errors import RecipeError, StudentError
from hf_distill.evaluation.speed import disk_bytes
from hf_distill.models.loading import load_model, stored_dtype
from hf_distill.models.pooling import attach_head, head_of, read_head
from hf_distill.models.precision import cast_saved
from tests.helpers import tiny, vectors
from tests.helpers.seams import accept_any_teacher


def saved(folder, dtype=torch.bfloat16, layers: int = 2, **options):
    tiny.bert(layers, **options).to(dtype).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def recipe(teacher, **changes) -> dict:
    return {
        "version": 1,
        "name": "saved",
        "task": {"name": "text-classification", "max_length": 32},
        "data": {"path": "tests.helpers.tiny:splits", "arguments": {"train": 32, "test": 16}},
        "teacher": {"model": str(teacher), "dtype": "float32"},
        "student": {"layers": 1},
        "objectives": [{"kind": "labels"}, {"kind": "logits"}],
        "training": {
            "max_steps": 3, "per_device_train_batch_size": 8, "use_cpu": True, "eval_strategy": "no",
            "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "learning_rate": 1e-2,
        },
        "evaluate": {"resamples": 100, "control": False},
        **changes,
    }  # fmt: skip


def dtypes(folder) -> set[torch.dtype]:
    return {tensor.dtype for path in folder.glob("*.safetensors") for tensor in load_file(path).values()}


@pytest.fixture
def any_teacher(monkeypatch):
    accept_any_teacher(monkeypatch)


SMALLER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WAYS = {
    "of a bfloat16 teacher": (torch.bfloat16, {"layers": 1}, torch.bfloat16),
    "of a float16 teacher": (torch.float16, {"layers": 1}, torch.float16),
    "of a float32 teacher": (torch.float32, {"layers": 1}, torch.float32),
    "float32 by name": (torch.bfloat16, {"layers": 1, "dtype": "float32"}, torch.float32),
    "float16 by name": (torch.float32, {"layers": 1, "dtype": "float16"}, torch.float16),
    "narrower": (torch.bfloat16, {"width": {"target": 0.8, "importance": "random"}}, torch.bfloat16),
    "fewer tokens": (torch.bfloat16, {"vocabulary": {"keep": "used"}}, torch.bfloat16),
    "the teacher's config changed": (torch.bfloat16, {"config": SMALLER}, torch.bfloat16),
    "a config of its own": (torch.bfloat16, {"config": {"model_type": "bert", **SMALLER}}, torch.float32),
}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "student", "expected"), WAYS.values(), ids=WAYS)
def test_it_is_saved_as_its_source_is_or_as_the_recipe_says(source, student, expected, tmp_path, any_teacher):
    teacher = saved(tmp_path / "teacher", source)
    told: list[str] = []
    given = recipe(teacher, student=student)
    check(given, report=told.append)
    shown = str(expected).removeprefix("torch.")
    assert any(f"is saved in {shown}" in line for line in told) == (expected != torch.float32)
    result = run(given, runs=tmp_path / "runs", report=told.append)
    assert dtypes(result.student) == {expected}
    assert AutoModelForSequenceClassification.from_pretrained(result.student).dtype == expected
    checkpoint = result.folder / "checkpoints" / "student" / "checkpoint-3"
    assert dtypes(checkpoint) == {torch.float32}
    results = json.loads((result.folder / "results.json").read_text())
    assert results["training"]["student"]["dtype"] == shown
    assert results["models"]["student"]["disk_dtype"] == shown
    assert results["models"]["student"]["disk_bytes"] == disk_bytes(result.student)
    trained = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(x, trained[name].to(x.dtype)) for name, x in _weights(result.student).items())
    assert f"student {shown}" in _card(result) or f"Weights on disk: {shown}." in _card(result)


def _weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _card(result) -> str:
    return (result.student / "README.md").read_text()


@pytest.mark.slow
def test_what_is_scored_is_what_lies_on_disk_again_and_after_a_kill(tmp_path, any_teacher, monkeypatch):
    teacher = saved(tmp_path / "teacher")
    first = run(recipe(teacher), runs=tmp_path / "runs", report=lambda line: None)
    model = load_model(AutoModelForSequenceClassification, str(first.student)).eval()
    rows, tokenizer = tiny.splits(32, 16)["test"], AutoTokenizer.from_pretrained(first.student)
    with torch.no_grad():
        logits = model(**tokenizer(list(rows["text"]), padding=True, return_tensors="pt")).logits
    accuracy = (logits.argmax(-1) == torch.tensor(rows["label"])).float().mean().item()
    assert first.metrics["accuracy"] == pytest.approx(accuracy)
    assert evaluate(first.folder, report=lambda line: None).metrics == first.metrics

    # Killed when it was trained and not yet saved: what is gone on from is float32, and the end the same.
    def killed(*_):
        raise KeyboardInterrupt

    other = recipe(teacher, name="other")
    with monkeypatch.context() as patch:
        patch.setattr("hf_distill.pipeline.train.cast_saved", killed)
        with pytest.raises(KeyboardInterrupt):
            run(other, runs=tmp_path / "runs", report=lambda line: None)
    assert not (tmp_path / "runs" / "other" / "student").exists()
    again = run(other, runs=tmp_path / "runs", report=lambda line: None)
    assert all(torch.equal(x, _weights(first.student)[name]) for name, x in _weights(again.student).items())


@pytest.mark.slow
def test_a_stage_goes_on_in_float32_and_the_last_one_alone_is_cast(tmp_path, any_teacher):
    lessons = {"first": [{"kind": "logits"}], "second": [{"kind": "labels"}]}
    stages = [{"name": name, "objectives": objectives} for name, objectives in lessons.items()]
    given = {**recipe(saved(tmp_path / "teacher")), "stages": stages}
    del given["objectives"]
    result = run(given, runs=tmp_path / "runs", report=lambda line: None)
    assert dtypes(result.folder / "stages" / "first" / "student") == {torch.float32}
    assert dtypes(result.student) == {torch.bfloat16}
    assert json.loads((result.folder / "results.json").read_text())["training"]["student"]["dtype"] == "bfloat16"


@pytest.mark.slow
def test_merged_adapters_are_saved_as_their_model_was_and_adapters_as_they_learn(tmp_path, any_teacher):
    folder = saved(tmp_path / "teacher")
    for merge, expected in ((True, torch.bfloat16), (False, torch.float32)):
        student = {"pretrained": str(folder), "lora": {"r": 2, "merge": merge}}
        given = recipe(folder, name=f"merge-{merge}".lower(), student=student)
        result = run(given, runs=tmp_path / "runs", report=lambda line: None)
        assert dtypes(result.student) == {expected}


@pytest.mark.slow
def test_vectors_lie_beside_their_model_in_its_dtype_and_sentence_transformers_makes_the_same(tmp_path, any_teacher):
    teacher = vectors.saved(vectors.with_head("mean", True, seed=4), tmp_path / "teacher")
    given = vectors.vector_recipe(teacher)
    result = run(
        {**given, "student": {**given["student"], "dtype": "bfloat16"}}, runs=tmp_path, report=lambda line: None
    )
    assert dtypes(result.student) == dtypes(result.student / "2_Dense") == {torch.bfloat16}
    made = SentenceTransformer(str(result.student), device="cpu", model_kwargs={"dtype": "float32"})
    own = load_model(AutoModel, str(result.student))
    attach_head(own, read_head(result.student))
    read = AutoTokenizer.from_pretrained(result.student)(["the card is good"], return_tensors="pt")
    with torch.no_grad():
        expected = head_of(own)(own(**read).last_hidden_state, read["attention_mask"])
    assert torch.allclose(torch.tensor(made.encode(["the card is good"])), expected, atol=1e-5)


def test_a_dtype_of_adapters_alone_and_one_that_is_none_are_refused(tmp_path):
    folder = saved(tmp_path / "teacher")
    with pytest.raises(RecipeError, match=r"student\.dtype: adapters are saved as they learn"):
        check(recipe(folder, student={"pretrained": str(folder), "lora": {}, "dtype": "bfloat16"}))
    with pytest.raises(StudentError, match=r"student\.config\.dtype: .*set student\.dtype"):
        check(recipe(folder, student={"config": {**SMALLER, "dtype": "bfloat16"}}))
    with pytest.raises(RecipeError, match=r"student\.dtype.*float64"):
        check(recipe(folder, student={"layers": 1, "dtype": "float64"}))


def test_the_dtype_of_files_is_that_of_most_weights_also_of_shards(tmp_path):
    model = tiny.decoder(2).bfloat16()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name in ("one", "shards"):
        config = tmp_path / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": None}))
        assert stored_dtype(str(tmp_path / name)) == torch.bfloat16
        assert load_model(AutoModelForCausalLM, str(tmp_path / name)).stored_dtype == torch.bfloat16


@pytest.mark.parametrize("size", ["30KB", "1GB"])
def test_what_is_cast_loads_in_the_new_dtype_with_the_same_numbers(tmp_path, size):
    model = tiny.decoder(2)
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert cast_saved(tmp_path, torch.bfloat16) == torch.bfloat16
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == loaded.config.dtype == torch.bfloat16
    assert all(torch.equal(x, model.state_dict()[name].bfloat16()) for name, x in loaded.state_dict().items())


def test_numbers_that_a_half_cannot_hold_leave_the_model_as_it_is(tmp_path, caplog):
    model = tiny.decoder(1)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e6
    model.save_pretrained(tmp_path)
    assert cast_saved(tmp_path, torch.float16) == torch.float32
    assert "too large for float16" in caplog.text
    assert dtypes(tmp_path) == {torch.float32}
