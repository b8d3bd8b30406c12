"""Words with labels: which tokens count, which entities are found, and whether the student learns them."""

from __future__ import annotations

import copy
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from transformers import BertForTokenClassification, TrainingArguments

from hf_distill import DistillationTrainer, Hidden, Labels, Logits, run
from hf_distill.data.rows import load_data
from hf_distill.errors import DataError, LabelError, ObjectiveError, TeacherError
from hf_distill.evaluation.bootstrap import bootstrap, resample_counts
from hf_distill.evaluation.classification import ClassScores
from hf_distill.evaluation.metrics import MEASURED
from hf_distill.evaluation.predict import Candidate
from hf_distill.evaluation.scores import Evaluation
from hf_distill.evaluation.tags import TagScores, score_tags
from hf_distill.recipe import DataConfig
from hf_distill.tasks import TokenClassification
from hf_distill.teachers import ModelTeacher
from hf_distill.types import IGNORED
from tests.helpers import one_step, tiny
from tests.helpers.data import TAGS, tagged_words
from tests.helpers.one_step import assert_same


def bound(data: Dataset | None = None, **options) -> TokenClassification:
    task = TokenClassification(**options)
    task.read_labels(tagged_words() if data is None else data)
    return task


def of(words: list[str], labels: list | None) -> Dataset:
    return Dataset.from_dict({"tokens": [words], "labels": [labels]})


def tagger(seed: int = 0, labels: tuple[str, ...] = TAGS, **options):
    options = {"vocab_size": len(tiny.PIECES), **options}
    made = tiny.bert(labels=labels, seed=seed, kind=BertForTokenClassification, **options)
    # So that a row may begin anywhere.
    made.bert.embeddings.position_embeddings.weight.requires_grad_(False).zero_()
    return made


def batch_of(task: TokenClassification, side: str = "right", data: Dataset | None = None) -> dict:
    made = tiny.wordpiece(side)
    return task.collator(made)(list(task.encode(tagged_words() if data is None else data, made)))


def terms(task, batches: list[dict], objectives, student=None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    teacher = tagger(2) if any(o.needs - {"labels"} for o in objectives) else None
    return one_step.terms(task, batches, student or tagger(1), teacher, objectives)


def test_the_first_token_of_a_word_has_its_label_and_no_other_has_one():
    data = of(["my", "slowness", "cards", "is"], ["O", "B-word", "B-thing", "O"])
    encoded = bound(data).encode(data, tiny.wordpiece())[0]
    assert tiny.wordpiece().convert_ids_to_tokens(encoded["input_ids"]) == (
        ["[CLS]", "my", "slow", "##ness", "card", "##s", "is", "[SEP]"]
    )
    assert encoded["labels"] == [
        IGNORED,
        2,
        1,
        IGNORED,
        0,
        IGNORED,
        2,
        IGNORED,
    ]  # Names are sorted: B-thing, B-word, O.
    assert encoded["first_tokens"] == [1, 2, 4, 6]


def test_further_tokens_have_the_label_too_where_that_is_asked_for_and_are_inside():
    data = of(["slowness", "cards"], ["B-word", "I-word"])
    task = bound(data, label_all_subwords=True)
    assert task.encode(data, tiny.wordpiece())["labels"][0] == [IGNORED, 0, 1, 1, 1, IGNORED]


def test_words_that_are_cut_or_that_a_tokenizer_drops_are_known_as_not_seen():
    data = of(["card", " ", "bank", "good", "bad"], ["x", "y", "x", "y", "x"])
    encoded = bound(data, max_length=5).encode(data, tiny.wordpiece())[0]
    assert encoded["first_tokens"] == [1, -1, 2, 3, -1]
    assert encoded["cut"]
    assert encoded["word_labels"] == [0, 1, 0, 1, 0]


def test_positions_are_all_tokens_but_the_special_ones_and_labels_the_first_of_each_word():
    data = of(["slowness", "is"], ["a", "b"])
    masks = bound(data).masks(batch_of(bound(data), data=data))
    assert masks["positions"].tolist() == [False, True, True, True, False]
    assert masks["labels"].tolist() == [False, True, False, True, False]
    assert masks["tokens"].all()


def test_the_labels_alone_give_the_loss_and_gradients_of_the_models_own_head():
    task, stock = bound(), tagger(1).train()
    batch = batch_of(task)
    expected = stock(**{n: batch[n] for n in ("input_ids", "attention_mask", "labels")}).loss
    expected.backward()
    gradients = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert_same(terms(task, [batch], [Labels()]), (expected.detach(), gradients))


def test_the_side_of_the_padding_what_stands_in_it_and_how_a_batch_is_split_change_nothing():
    task = bound()
    objectives = [Labels(), Logits(), Hidden()]
    whole = batch_of(task)
    garbage = copy.deepcopy(whole)
    garbage["input_ids"][whole["attention_mask"] == 0] = 7
    garbage["labels"][whole["attention_mask"] == 0] = 1
    parts = [batch_of(task, data=tagged_words().select([i])) for i in range(16)]
    expected = terms(task, [whole], objectives)
    for batches in ([batch_of(task, "left")], [garbage], parts):
        assert_same(expected, terms(task, batches, objectives))


def test_further_tokens_of_a_word_do_not_count_where_labels_do():
    task, batch = bound(), batch_of(bound())
    other = copy.deepcopy(batch)
    other["labels"][(batch["labels"] == IGNORED) & (batch["special_tokens_mask"] == 1)] = 2
    assert_same(terms(task, [batch], [Labels()]), terms(task, [other], [Labels()]))


def test_rows_without_labels_teach_by_the_teacher_alone():
    data = Dataset.from_dict({"tokens": [["good", "card"], ["bad"]], "labels": [["a", "b"], None]})
    masks = bound(data).masks(batch_of(bound(data), data=data))
    assert masks["labels"].view(2, -1).sum(1).tolist() == [2, 0]
    assert masks["positions"].view(2, -1).sum(1).tolist() == [2, 1]


def test_a_teachers_labels_are_aligned_by_name_and_other_ones_are_refused():
    assert bound().align(tagger(labels=("B-word", "O", "I-thing", "B-thing")).config) == [1, 3, 2, 0]
    with pytest.raises(LabelError, match="B-word"):
        bound().align(tagger(labels=("O", "B-thing", "I-thing", "B-place")).config)


def test_rows_without_words_and_test_rows_with_hidden_labels_are_refused(tmp_path):
    def load(**changes) -> None:
        good = {"tokens": ["a", "b"], "labels": [0, 1]}
        files = {}
        for name in ("train", "validation", "test"):
            files[name] = str(tmp_path / f"{name}.jsonl")
            Dataset.from_list([good, {**good, **(changes if name == "test" else {})}]).to_json(files[name])
        task = TokenClassification
        load_data(DataConfig(files=files), task.required, task.optional, task.text_columns, 0)

    load()
    with pytest.raises(DataError, match="no text in column 'tokens'"):
        load(tokens=[" "])
    with pytest.raises(DataError, match="have no label"):
        load(labels=[-1, -1])


def test_what_cannot_be_labelled_is_refused_with_the_reason():
    with pytest.raises(DataError, match="2 words and 1 labels"):
        bound().encode(of(["a", "b"], [0]), tiny.wordpiece())
    with pytest.raises(DataError, match="holds no lists"):
        bound(Dataset.from_dict({"tokens": [["a"], ["b"]], "labels": ["x", "y"]}))
    with pytest.raises(ObjectiveError, match="cut a text into different tokens"):
        DistillationTrainer(
            model=tagger(),
            teacher=ModelTeacher(tagger(), tiny.tokenizer()),
            task=bound(),
            objectives=[Logits()],
            args=TrainingArguments("unused", use_cpu=True, report_to="none"),
        )


# --- scores -----------------------------------------------------------------------------------------------------------


def scores(seed: int, right: float = 0.7, names: tuple[str, ...] = TAGS, count: int = 30) -> TagScores:
    """Words of random rows that are decided rightly so often; the labels are the same for every seed."""
    truth = np.random.default_rng(0)
    row_of = np.repeat(np.arange(count), truth.integers(1, 12, count))
    labels = truth.choice(len(names), len(row_of), p=[0.4, 0.2, 0.2, 0.2])
    generator = np.random.default_rng(seed)
    guesses = generator.integers(0, len(names), len(row_of))
    decided = np.where(generator.random(len(row_of)) < right, labels, guesses)
    logits = np.eye(len(names), dtype=np.float32)[decided]
    words = ClassScores(logits, labels, "single_label_classification", names)
    return TagScores(words=words, row_of=row_of, seen=np.ones(len(row_of), dtype=bool))


def named(each: TagScores, which: np.ndarray) -> list[list[str]]:
    return [[each.words.label_names[i] for i in which[each.row_of == row]] for row in range(len(each.rows))]


def test_entities_are_counted_as_seqeval_counts_them():
    found = scores(1)
    truth, decided = named(found, found.words.labels), named(found, found.words.decisions)
    expected = {
        "f1": f1_score(truth, decided),
        "precision": precision_score(truth, decided),
        "recall": recall_score(truth, decided),
        "accuracy": found.words.correct.mean(),
    }
    assert found.metrics() == pytest.approx(expected)
    assert list(expected) == list(MEASURED["token-classification"])
    report = classification_report(truth, decided, output_dict=True)
    for kind, figures in found.types.items():
        assert figures["f1"] == pytest.approx(report[kind]["f1-score"])
        assert figures["support"] == report[kind]["support"]


def test_every_resample_scores_as_seqeval_scores_the_rows_it_drew():
    found = scores(1)
    truth, decided = named(found, found.words.labels), named(found, found.words.decisions)
    draws = bootstrap({"student": found}, 20, 5)["student"]["f1"]
    (counts,) = resample_counts(len(truth), 20, 5)
    for value, count in zip(draws, counts, strict=True):
        drawn = np.repeat(np.arange(len(truth)), count)
        assert value == pytest.approx(f1_score([truth[i] for i in drawn], [decided[i] for i in drawn]))


def test_labels_that_mark_no_entities_are_counted_word_by_word():
    found = scores(1, names=("NOUN", "VERB", "ADJ", "DET"))
    assert found.metrics()["f1"] == pytest.approx(found.words.correct.mean())


def test_other_rows_are_not_compared():
    with pytest.raises(DataError, match="score all models on one split"):
        bootstrap({"a": scores(1), "b": scores(1, count=29)}, 10, 0)


def test_a_teacher_that_calls_every_word_the_same_is_stopped():
    dull = scores(1)
    logits = np.tile(np.eye(4, dtype=np.float32)[0], (len(dull.row_of), 1))
    words = ClassScores(logits, dull.words.labels, "single_label_classification", TAGS)
    with pytest.raises(TeacherError, match="no better than calling every word O"):
        dataclasses.replace(dull, words=words).check_above_chance("f1")
    dull.check_above_chance("f1")


def test_a_model_of_another_tokenizer_is_scored_on_the_same_words():
    task, data = bound(max_length=8), tagged_words(12)
    pieces, whole = tiny.wordpiece(), tiny.tokenizer()
    first, second = (
        score_tags(Candidate(model=tagger(), tokenizer=each), Evaluation(task=task, rows=data, batch_size=5))
        for each in (pieces, whole)
    )
    assert np.array_equal(first.rows, second.rows)
    assert len(first.row_of) == sum(map(len, data["tokens"]))
    assert first.agreement(first) == 1.0
    cut = [place < 0 for places in task.encode(data, pieces)["first_tokens"] for place in places]
    assert any(cut)
    assert (~first.seen).tolist() == cut
    assert len(first.confidences[0]) == cut.count(False)
    tokens = torch.tensor([task.encode(data, pieces)["input_ids"][3]])
    with torch.no_grad():
        logits = tagger().eval()(tokens).logits[0].numpy()
    places = task.encode(data, pieces)["first_tokens"][3]
    seen = [place for place in places if place >= 0]
    assert first.words.logits[first.row_of == 3][: len(seen)] == pytest.approx(logits[seen], abs=1e-5)
    assert (first.words.decisions[first.row_of == 3][len(seen) :] == 0).all()


def test_the_analysis_names_the_kind_of_entity_that_loses_most_and_shows_rows():
    found = {"teacher": scores(1, 0.95), "student": scores(2, 0.6), "control": scores(3, 0.7)}
    words = [[f"w{i}" for i in range(count)] for count in found["student"].count]
    analysis = found["student"].analysis(found, SimpleNamespace(rows={"tokens": words}))
    json.dumps(analysis)
    assert analysis["classes"][0]["difference"] == min(each["difference"] for each in analysis["classes"]) < 0
    assert {each["label"] for each in analysis["classes"]} == {"thing", "word"}
    assert any("entities)" in sentence for sentence in analysis["summary"])
    assert "The teacher did not help" in " ".join(analysis["summary"])
    assert analysis["examples"][0]["teacher"] == analysis["examples"][0]["label"]


@pytest.mark.slow
def test_a_recipe_runs_from_words_to_the_card(tmp_path):
    recipe = tiny.recipe(
        name="tags",
        task={"name": "token-classification", "max_length": 32},
        data={"path": "tests.helpers.data:tagged_splits", "unlabelled_split": "train"},
        evaluate={"resamples": 100},
    )
    result = run(recipe, runs=tmp_path, report=lambda line: None)
    assert result.metrics["f1"] > 0.3
    assert result.results["comparison"]["primary_metric"] == "f1"
    card = (result.student / "README.md").read_text()
    assert "of the words" in card
    assert 'pipeline("token-classification"' in card
    analysis = json.loads((result.folder / "analysis.json").read_text())
    assert {each["label"] for each in analysis["classes"]} == {"thing", "word"}
