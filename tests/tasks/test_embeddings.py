"""Vectors of texts: how they are made, what counts among the texts of a row, and students that others can load."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as stock
from torch import nn
from transformers import AutoModel, BertModel, TrainerCallback, TrainingArguments

from hf_distill import DistillationTrainer, Hidden, ModelTeacher, evaluate, run
from hf_distill.errors import DataError, HfDistillError, ModelError, ObjectiveError, RecipeError
from hf_distill.evaluation.predict import Candidate
from hf_distill.evaluation.retrieval import score_vectors
from hf_distill.evaluation.scores import Evaluation
from hf_distill.models.forward import accepted_inputs, run_model
from hf_distill.models.loading import load_model, save_adapted_config
from hf_distill.models.pooling import POOLINGS, Dense, VectorHead, attach_head, head_of, pooled, read_head
from hf_distill.models.projections import principal_components, vectors_of
from hf_distill.objectives import Contrastive, Similarity
from hf_distill.pipeline.preflight import check
from hf_distill.pipeline.teacher_cache import Source, cached
from hf_distill.recipe import CacheConfig, LoraConfig
from hf_distill.students.adapters import add_adapters
from hf_distill.tasks import Embeddings
from hf_distill.tasks.encoding import with_row_ids
from tests.helpers import tiny
from tests.helpers.data import similar_pairs
from tests.helpers.one_step import assert_same, terms
from tests.helpers.vectors import bert, saved, vector_recipe, with_head

TOKENIZER = tiny.tokenizer()
LOSSES = ("cosine", "mse", "in_batch", "in_batch_kl", "margin_mse", "listwise_kl")
"""Those of ``similarity`` that are 0 where student and teacher are one."""


def texts(count: int = 8, seed: int = 0) -> list[str]:
    return list(tiny.rows(count, seed)["text"])


def rows(count: int = 8, least: int = 1) -> Dataset:
    """Rows of three texts and more, never as many as their neighbours."""
    candidates = [texts(least + i % 4, 10 + i) for i in range(count)]
    return Dataset.from_dict({"text": texts(count), "text_pair": texts(count, 1), "candidates": candidates})


def batch_of(data: Dataset, side: str = "right", task: Embeddings | None = None, **more) -> dict:
    reader, task = tiny.tokenizer(), task or Embeddings()
    reader.padding_side = side
    return with_row_ids(task.collator(reader))(list(task.encode(data, reader)))


def parts_of(data: Dataset, size: int) -> list[dict]:
    encoded, collate = list(Embeddings().encode(data, TOKENIZER)), Embeddings().collator(TOKENIZER)
    return [collate(encoded[i : i + size]) for i in range(0, len(data), size)]


def step(objective, batches, student=None):
    """Loss and gradients of one step, from the same start each time."""
    teacher = None if isinstance(objective, Contrastive) else bert(2)
    return terms(Embeddings(), batches, student or bert(1), teacher, [objective])


def vectors(model, listed: list[str], side: str = "right", task: Embeddings | None = None) -> torch.Tensor:
    """``[N, D]``, as they are trained and evaluated."""
    task = task or Embeddings()
    task.check_model(model)
    batch = batch_of(Dataset.from_dict({"text": listed}), side, task)
    with torch.no_grad():
        return run_model(model.eval(), model, accepted_inputs(model, task.student_inputs(batch)), False, False)[1]


# --- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(loss):
    value, gradients = step(Similarity(loss=loss), batch_of(rows()), bert(2))
    assert value == pytest.approx(0.0, abs=1e-6)
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients.values())


def test_a_student_that_says_of_every_text_what_the_teacher_says_of_the_first_has_nothing_to_learn():
    same = Dataset.from_dict({"text": texts(), "text_pair": texts()})
    value, gradients = step(Similarity(target="first"), batch_of(same), bert(2))
    assert value == pytest.approx(0.0, abs=1e-6)
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients.values())


def test_parallel_texts_both_learn_the_teachers_vector_of_the_first():
    data = Dataset.from_dict({"text": texts(), "text_pair": texts(8, 1)})
    student, teacher = bert(1), bert(2)
    wanted = vectors(teacher, data["text"])
    losses = [1 - (vectors(student, data[name]) * wanted).sum(-1) for name in ("text", "text_pair")]
    value, _ = step(Similarity(target="first"), batch_of(data), bert(1))
    assert value == pytest.approx(torch.cat(losses).mean().item(), abs=1e-6)


OBJECTIVES = {
    **{loss: Similarity(loss=loss) for loss in (*LOSSES, "contrastive")},
    "pairs": Contrastive(),
    "hidden": Hidden(),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_its_side_and_what_stands_there_never_matter(name):
    objective, whole = OBJECTIVES[name], batch_of(rows())
    wider = {name: nn.functional.pad(value, (0, 5)) for name, value in whole.items()}
    wider["input_ids"][wider["attention_mask"] == 0] = 17
    expected = step(objective, whole)
    for other in (wider, batch_of(rows(), "left")):
        assert_same(expected, step(objective, other))


@pytest.mark.parametrize("loss", ["cosine", "mse", "margin_mse", "listwise_kl"])
def test_8x1_4x2_and_1x8_are_the_same_step_though_rows_hold_unlike_numbers_of_texts(loss):
    data = rows(8, least=2)
    expected = step(Similarity(loss=loss), batch_of(data))
    for size in (4, 1):
        assert_same(expected, step(Similarity(loss=loss), parts_of(data, size)))


@pytest.mark.parametrize("loss", ["in_batch", "in_batch_kl", "contrastive"])
def test_texts_that_fill_up_a_row_are_compared_with_none(loss):
    data = rows()
    flat = [text for row in data for text in (row["text"], row["text_pair"], *row["candidates"])]
    alone = batch_of(Dataset.from_dict({"text": flat}))
    assert_same(step(Similarity(loss=loss), batch_of(data)), step(Similarity(loss=loss), alone))


def test_a_control_reads_a_text_that_stands_alone_twice_and_a_pair_as_it_is():
    task = Embeddings().with_pairs()
    alone = batch_of(Dataset.from_dict({"text": texts()}), task=task)
    assert alone["attention_mask"].shape[1] == 2
    assert torch.equal(alone["input_ids"][:, 0], alone["input_ids"][:, 1])
    assert task.masks(alone)["positions"].all()
    # Two views of one text are the same without dropout: each is told from all others alone.
    found = vectors(bert(1), texts())
    expected = nn.functional.cross_entropy(found @ found.T * 20, torch.arange(8))
    assert step(Contrastive(), alone)[0] == pytest.approx(expected.item(), abs=1e-5)
    pairs = Dataset.from_dict({"text": texts(), "text_pair": texts(8, 1)})
    cosines = found @ vectors(bert(1), pairs["text_pair"]).T
    expected = nn.functional.cross_entropy(cosines * 20, torch.arange(8))
    assert step(Contrastive(), batch_of(pairs, task=task))[0] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("data", "objectives"),
    [
        (Dataset.from_dict({"text": texts(12)}), [Similarity(), Similarity(loss="in_batch")]),
        (rows(12), [Similarity(loss="margin_mse"), Hidden()]),
        (Dataset.from_dict({"text": texts(12)}), [Similarity(), Contrastive()]),
        (rows(12), [Similarity(), Contrastive(), Hidden()]),
    ],
    ids=["one text", "several texts", "two views", "all at once"],
)
@pytest.mark.parametrize("dimensions", [None, 8])
def test_a_cached_teacher_says_what_the_live_one_says(data, objectives, dimensions, tmp_path):
    task = Embeddings(dimensions=dimensions)
    task = task.with_pairs() if any("pairs" in each.needs for each in objectives) else task
    teacher, student = ModelTeacher(bert(2, layers=4)), bert(1)
    task.check_model(teacher.model)
    task.prepare_student(student, TOKENIZER, teacher.model, TOKENIZER, lambda: texts(64))
    for each in objectives:
        each.connect(student.config, teacher.config)
    source = Source(
        teacher=teacher,
        task=task,
        tokenizer=TOKENIZER,
        student=student.config,
        data_fingerprint="none",
        seed=0,
    )
    encoded = task.encode(data, TOKENIZER)
    named = {str(i): each for i, each in enumerate(objectives)}
    reader, train, _ = cached(source, encoded, encoded, named, CacheConfig(verify=3), tmp_path, 4)
    collate = with_row_ids(task.collator(TOKENIZER))
    batches = [collate([train[i] for i in part]) for part in ([7, 0, 3, 11, 2], [1, 4], [9])]
    live, kept = (terms(task, batches, copy.deepcopy(student), each, objectives) for each in (teacher, reader))
    assert_same(live, kept)


# --- how vectors are made ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_sentence_transformers_before_and_after_both_have_saved(pooling, tmp_path):
    torch.manual_seed(3)
    layers = {"": (), "one": (Dense(32, 12),), "two": (Dense(32, 20, True, "Tanh"), Dense(20, 8, True, "GELU"))}
    which = {"mean": "two", "cls": "one", "max": "two"}.get(pooling, "")
    normalize = pooling in ("cls", "weightedmean", "lasttoken")
    model = with_head(pooling, normalize, layers[which])
    listed = [*texts(6), "card"]
    expected = vectors(model, listed, task=Embeddings(pooling=pooling))
    loaded = SentenceTransformer(str(saved(model, tmp_path / "ours")), device="cpu")
    assert np.allclose(loaded.encode(listed), expected.numpy(), atol=1e-5)
    loaded.save(str(tmp_path / "theirs"))
    again = AutoModel.from_pretrained(tmp_path / "theirs")
    assert torch.allclose(vectors(again, listed), expected, atol=1e-5)
    assert head_of(again).normalize == normalize
    assert len(head_of(again).layers) == len(layers[which])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_side_and_width_of_padding_change_no_vector(pooling):
    states = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([6, 3, 1])
    mask = torch.arange(6) < lengths[:, None]
    expected = pooled(states, mask, pooling)
    shifted = torch.stack([states[i].roll(6 - int(n), 0) for i, n in enumerate(lengths)])
    assert torch.allclose(pooled(shifted, mask.flip(1), pooling), expected, atol=1e-6)
    wide, mask = nn.functional.pad(states, (0, 0, 2, 3), value=torch.nan), nn.functional.pad(mask, (2, 3))
    assert torch.allclose(pooled(wide.requires_grad_(), mask, pooling), expected, atol=1e-6)
    pooled(wide, mask, pooling).sum().backward()
    assert (wide.grad[~mask] == 0).all()
    assert (pooled(states, torch.zeros(3, 6, dtype=torch.bool), pooling) == 0).all()


def test_the_first_and_the_last_token_are_found_on_either_side_of_padding():
    states = torch.arange(5.0).view(1, 5, 1)
    for mask, first, last in (([1, 1, 1, 0, 0], 0, 2), ([0, 0, 1, 1, 1], 2, 4)):
        mask = torch.tensor([mask], dtype=torch.bool)
        assert (pooled(states, mask, "cls").item(), pooled(states, mask, "lasttoken").item()) == (first, last)


def head_files(folder: Path, pooling: dict, *kinds: str) -> Path:
    """What a release of sentence-transformers leaves beside a model."""
    names = ["Transformer", "Pooling", *kinds]
    listed = [
        {"idx": i, "path": f"{i}_{n}" if i else "", "type": f"sentence_transformers.models.{n}"}
        for i, n in enumerate(names)
    ]
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def test_heads_are_read_as_old_and_new_releases_write_them(tmp_path):
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    assert read_head(head_files(tmp_path / "old", flags)).pooling == "cls"
    new = read_head(head_files(tmp_path / "new", {"embedding_dimension": 32, "pooling_mode": "max"}, "Normalize"))
    assert (new.pooling, new.normalize) == ("max", True)
    assert read_head(tmp_path) is None


def test_heads_that_cannot_be_read_are_refused_with_the_reason(tmp_path):
    mean = {"pooling_mode": "mean"}
    with pytest.raises(ModelError, match="a module LSTM, which is not known here"):
        read_head(head_files(tmp_path / "unknown", mean, "LSTM"))
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    with pytest.raises(ModelError, match=r"2 ways at once \(cls, mean\)"):
        read_head(head_files(tmp_path / "both", both))
    pickled = head_files(tmp_path / "pickled", mean, "Dense")
    (pickled / "2_Dense").mkdir()
    stock.Dense(32, 8).save(str(pickled / "2_Dense"), safe_serialization=False)
    with pytest.raises(ModelError, match="pickled"):
        read_head(pickled)
    residual = head_files(tmp_path / "residual", mean, "Dense")
    (residual / "2_Dense").mkdir()
    stock.Dense(32, 8, use_residual=True).save(str(residual / "2_Dense"))
    with pytest.raises(ModelError, match="residual"):
        read_head(residual)
    with pytest.raises(ModelError, match="Softmax"):
        Dense(4, 4, activation="Softmax")


def test_a_student_of_adapters_has_the_head_that_lies_beside_them_and_not_that_of_its_base(tmp_path):
    student = load_model(AutoModel, str(saved(with_head("cls"), tmp_path / "base")))
    add_adapters(student, LoraConfig(r=2))
    attach_head(student, VectorHead("mean", True, [Dense(32, 8)]))
    expected = vectors(student, texts())
    saved(student, tmp_path / "adapters")
    save_adapted_config(student.config, tmp_path / "adapters")
    assert torch.allclose(vectors(load_model(AutoModel, str(tmp_path / "adapters")), texts()), expected, atol=1e-5)


def test_texts_longer_than_the_model_reads_are_cut_and_the_saved_student_cuts_them_too(tmp_path):
    task, long = Embeddings(max_length=500), ["good card " * 100, "my house"]
    model = with_head()
    assert vectors_of(model, TOKENIZER, lambda: long, 500).shape == (2, 32)
    saved(model, tmp_path)
    task.save_beside(model, tmp_path)
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert loaded.max_seq_length == 64
    assert np.allclose(loaded.encode(long), vectors(model, long, task=task).numpy(), atol=1e-5)


# --- students whose vectors have another size -------------------------------------------------------------------------


def made(dimensions: int | None = None, **options) -> tuple[Embeddings, BertModel, BertModel]:
    """A task, a teacher and a student of half its width that was given a head."""
    task, teacher, student = Embeddings(dimensions=dimensions), bert(2), bert(1, 1, 16, **options)
    task.check_model(teacher)
    torch.manual_seed(0)
    task.prepare_student(student, TOKENIZER, teacher, TOKENIZER, lambda: texts(64))
    return task, teacher, student


@pytest.mark.parametrize("dimensions", [None, 8])
def test_a_projection_starts_nearer_to_the_teachers_vectors_than_a_random_one(dimensions):
    task, teacher, student = made(dimensions)
    (layer,) = head_of(student).layers
    assert (layer.linear.in_features, layer.linear.out_features) == (16, dimensions or 32)
    held_out = texts(32, 5)
    wanted = task.reduced(vectors(teacher, held_out))
    near = nn.functional.cosine_similarity(vectors(student, held_out), wanted).mean()
    others = []
    for seed in range(5):
        torch.manual_seed(seed)
        attach_head(student, VectorHead("mean", True, [Dense(16, dimensions or 32)]))
        others.append(nn.functional.cosine_similarity(vectors(student, held_out), wanted).mean())
    assert near > max(others) + 0.3


def test_vectors_are_reduced_to_the_directions_in_which_they_vary_most():
    given = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 7, 5, 0.1, 0.1, 0.1])
    components = principal_components(given, 3)
    assert torch.allclose(components @ components.T, torch.eye(3), atol=1e-5)
    assert (given - given @ components.T @ components).norm() < 0.05 * given.norm()
    with pytest.raises(RecipeError, match=r"task\.dimensions: expected at most 6"):
        principal_components(given, 7)


class StopAt(TrainerCallback):
    """A power failure."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


def trainer(folder: Path, **options) -> DistillationTrainer:
    task, teacher, student = made(8, hidden_dropout_prob=0.1)
    callbacks = options.pop("callbacks", [])
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 3,
        "learning_rate": 5e-3,
        **options,
    }
    return DistillationTrainer(
        model=student,
        teacher=teacher,
        task=task,
        objectives=[Similarity(loss="mse"), Contrastive(), Hidden()],
        args=TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **settings),
        train_dataset=Dataset.from_dict({"text": texts(24)}),
        eval_dataset=Dataset.from_dict({"text": texts(8, 1)}),
        processing_class=TOKENIZER,
        callbacks=callbacks,
    )


def test_a_broken_off_run_goes_on_bit_for_bit_with_its_projection(tmp_path):
    unbroken = trainer(tmp_path / "a")
    start = head_of(unbroken.model).layers[0].linear.weight.detach().clone()
    unbroken.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "b", callbacks=[StopAt()]).train()
    resumed = trainer(tmp_path / "b")
    resumed.train(resume_from_checkpoint=True)
    expected = unbroken.model.state_dict()
    assert not torch.equal(expected["vector_head.layers.0.linear.weight"], start)
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_the_best_models_projection_is_taken_back_and_is_no_part_of_the_checkpoint(tmp_path):
    one = trainer(
        tmp_path,
        max_steps=3,
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # The first is best, so that it must be taken back.
    )
    one.train()
    assert one.state.best_model_checkpoint.endswith("checkpoint-1")
    found = head_of(one.model).layers[0].linear.weight
    first, last = (load_file(tmp_path / f"checkpoint-{i}" / "2_Dense" / "model.safetensors") for i in (1, 3))
    assert torch.equal(found, first["linear.weight"])
    assert not torch.equal(found, last["linear.weight"])
    assert not any("vector_head" in name for name in load_file(tmp_path / "checkpoint-3" / "model.safetensors"))


# --- from a recipe to a student that others load ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return saved(with_head("mean", True, seed=4), tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    return run(vector_recipe(teacher), runs=tmp_path_factory.mktemp("runs"), report=lambda line: None)


def test_a_student_loads_in_sentence_transformers_and_in_transformers_as_it_was_evaluated(finished, recwarn):
    rows = similar_pairs(40, 2)
    loaded = SentenceTransformer(str(finished.student), device="cpu")
    first, second = (loaded.encode(rows[name]) for name in ("text", "text_pair"))
    assert first.shape == (40, 8)
    plain, info = AutoModel.from_pretrained(finished.student, output_loading_info=True)
    assert not any(info.values())
    assert np.allclose(first, vectors(plain, list(rows["text"])).numpy(), atol=1e-5)
    assert loaded.max_seq_length == 32
    # Pairs whose cosines differ by rounding alone may change places.
    expected = spearmanr((first * second).sum(1), rows["score"])
    assert finished.metrics["spearman"] == pytest.approx(expected.statistic, abs=0.01)
    assert not [each for each in recwarn if "vector_head" in str(each.message)]


def test_results_and_card_tell_how_good_it_was_before_and_how_it_is_used(finished):
    assert set(finished.results["models"]) == {"teacher", "student", "control"}
    card = (finished.student / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert f'SentenceTransformer("USER/{finished.folder.name}")' in card


def test_a_run_that_is_evaluated_again_gives_the_same_figures_and_its_start_where_asked(finished):
    before = finished.results["models"]
    again = evaluate(finished.folder, ["evaluate.start=true"], report=lambda line: None).results
    for name, model in again["models"].items():
        assert model["metrics"] == before[name]["metrics"]
        assert model["parameters"] == before[name]["parameters"]
    assert again["start"].keys() == {"spearman", "pearson"}
    assert "start" not in finished.results


# --- scores -----------------------------------------------------------------------------------------------------------


def test_what_is_found_is_counted_by_hand_with_several_right_passages_and_ties(monkeypatch):
    places = {"q": [1, 0], "r": [0, 1], "a": [0.8, 0.6], "b": [0.6, 0.8], "c": [0.8, 0.6], "d": [0, 1]}
    monkeypatch.setattr(
        "hf_distill.evaluation.retrieval._vectors",
        lambda candidate, task, rows, size: [np.array([places[text]], dtype=np.float32) for text in rows["text"]],
    )
    # c is as near to q as a is, and comes first; b comes third. A pair that is there twice is one pair.
    pairs = [("q", "a"), ("q", "b"), ("r", "d"), ("s", "c"), ("q", "a")]
    places["s"] = [-1, 0]
    data = Dataset.from_list([{"text": query, "text_pair": passage} for query, passage in pairs])
    found = score_vectors(None, Evaluation(task=Embeddings(evaluation="retrieval"), rows=data))
    assert [ranks.tolist() for ranks in found.ranks] == [[1, 2], [0], [3]]
    ndcg = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert found.metrics() == pytest.approx(
        {
            "recall@1": 1 / 3,
            "recall@10": 1.0,
            "ndcg@1": 1 / 3,
            "ndcg@10": (ndcg + 1 + 1 / np.log2(5)) / 3,
            "mrr@10": (1 / 2 + 1 + 1 / 4) / 3,
        }
    )
    assert found.calibration_error is None


def test_each_text_of_a_row_is_a_text_by_itself():
    row = {"text": "a", "text_pair": "b", "candidates": ["c", "d"], "score": 1.0}
    assert list(Embeddings().texts(Dataset.from_list([row, row]))) == ["a", "b", "c", "d"] * 2


def test_scored_pairs_are_ordered_as_scipy_says():
    task, model, data = Embeddings(), bert(3), similar_pairs(30, 7)
    task.check_model(model)
    found = score_vectors(Candidate(model=model, tokenizer=TOKENIZER), Evaluation(task=task, rows=data, batch_size=7))
    cosines = (vectors(model, list(data["text"])) * vectors(model, list(data["text_pair"]))).sum(-1)
    assert np.allclose(found.logits[:, 0], cosines.numpy(), atol=1e-5)
    expected = spearmanr(found.logits[:, 0], data["score"]).statistic
    assert found.metrics()["spearman"] == pytest.approx(expected)


# --- bad input --------------------------------------------------------------------------------------------------------


REFUSED = {
    "pairs without a score": (
        {"data": {"path": "tests.helpers.data:pairs_without_scores"}},
        DataError,
        "40 of 40 evaluated rows have no score",
    ),
    "an unknown pooling": ({"task": {"name": "embeddings", "pooling": "avg"}}, RecipeError, "mean, cls, max"),
    "no dimensions": ({"task": {"name": "embeddings", "dimensions": 0}}, RecipeError, "at least 1"),
    "an unknown evaluation": ({"task": {"name": "embeddings", "evaluation": "sts"}}, RecipeError, "retrieval"),
    "labels": ({"objectives": [{"kind": "labels"}]}, ObjectiveError, "labels is defined for"),
    "logits": ({"objectives": [{"kind": "logits"}]}, ObjectiveError, "logits is defined for"),
    "an unknown loss": ({"objectives": [{"kind": "similarity", "loss": "l1"}]}, ObjectiveError, "cosine, mse"),
    "a scale that does nothing": (
        {"objectives": [{"kind": "similarity", "scale": 2.0}]},
        ObjectiveError,
        "scale does nothing for cosine",
    ),
    "a first text that nobody learns": (
        {"objectives": [{"kind": "similarity", "loss": "in_batch", "target": "first"}]},
        ObjectiveError,
        "target: first does nothing",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_is_told_before_training(name, teacher):
    changes, kind, told = REFUSED[name]
    with pytest.raises(kind, match=told):
        check(vector_recipe(teacher, **changes), report=lambda line: None)


def test_models_and_rows_that_do_not_fit_are_told_with_the_way_out():
    with pytest.raises(ModelError, match="save its encoder alone"):
        Embeddings().check_model(tiny.encoder_decoder("t5", 1, 1).base_model)
    with pytest.raises(RecipeError, match="at most 32"):
        made(33)
    with pytest.raises(ObjectiveError, match="at least two others of its row"):
        step(Similarity(loss="margin_mse"), batch_of(Dataset.from_dict({"text": texts(), "text_pair": texts()})))
    with pytest.raises(ObjectiveError, match=r"have 16 numbers .* set task\.dimensions"):
        step(Similarity(), batch_of(rows()), bert(1, hidden=16))
    with pytest.raises(HfDistillError, match="similarity is defined for vector"):
        DistillationTrainer(
            model=tiny.bert(),
            teacher=tiny.bert(),
            objectives=[Similarity()],
            args=TrainingArguments("unused", use_cpu=True, report_to="none"),
        )
