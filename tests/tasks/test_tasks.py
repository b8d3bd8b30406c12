"""Text classification: one text and pairs; one class, several, a score; rows without labels."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import TrainingArguments

from hf_distill import DistillationTrainer, Labels, Logits
from hf_distill.errors import DataError, LabelError, RecipeError
from hf_distill.tasks import TextClassification, make_task
from tests.helpers import tiny

TOKENIZER = tiny.tokenizer()


def bound(rows: Dataset, **options) -> TextClassification:
    task = TextClassification(**options)
    task.read_labels(rows)
    return task


def of(labels, texts=None, **more) -> Dataset:
    return Dataset.from_dict({"text": texts or ["the good card"] * len(labels), "label": labels, **more})


def test_names_of_labels_are_taken_from_features_and_else_from_values():
    assert bound(tiny.rows(8)).label_set.names == ("bad", "good")
    assert bound(of(["b", "a", "b"])).label_set.names == ("a", "b")
    assert bound(of([10, 2, 10])).label_set.names == ("2", "10")
    assert bound(of([True, False])).label_set.names == ("False", "True")


def test_floats_are_a_score_lists_are_several_labels_and_whole_numbers_may_be_a_score():
    assert bound(of([0.5, 3.0])).label_set.problem_type == "regression"
    assert bound(of([["a"], ["a", "b"], []])).label_set.problem_type == "multi_label_classification"
    assert bound(of([1, 5, 3]), problem_type="regression").label_set.problem_type == "regression"
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["x", "y"]))})
    assert bound(Dataset.from_dict({"text": ["a"], "label": [[1]]}, features=features)).label_set.names == ("x", "y")


def test_several_labels_become_a_row_of_zeros_and_ones():
    rows = of([["a"], ["a", "b"], []])
    assert bound(rows).encode(rows, TOKENIZER)["labels"] == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


def test_named_features_are_encoded_by_name_whatever_their_order():
    task = bound(tiny.rows(8))
    features = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    assert task.encode(rows, TOKENIZER)["labels"] == [1, 0]


def test_features_of_other_names_are_refused():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["yes", "no"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    with pytest.raises(LabelError, match="yes, no"):
        bound(tiny.rows(8)).encode(rows, TOKENIZER)


def test_a_label_that_training_never_saw_is_refused():
    with pytest.raises(DataError, match="'c' is none of the 2 labels"):
        bound(of(["a", "b"])).encode(of(["c"]), TOKENIZER)


def test_one_class_is_refused():
    with pytest.raises(DataError, match="at least two"):
        bound(of(["a", "a"]))


def test_pairs_are_encoded_with_a_separator_and_shown_with_a_bar():
    rows = of(["a", "b"], texts=["good card", "bad bank"], text_pair=["the house", "the river"])
    task = bound(rows)
    encoded = task.encode(rows, TOKENIZER)
    assert TOKENIZER.decode(encoded["input_ids"][0]) == "[CLS] good card [SEP] the house [SEP]"
    assert list(task.texts(rows))[1] == "bad bank | the river"


def test_long_texts_are_cut_at_max_length_and_at_what_the_model_can_read():
    rows = of(["a", "b"], texts=["good " * 200] * 2)
    assert bound(rows, max_length=10).encode(rows, TOKENIZER)["length"] == [10, 10]
    assert bound(rows, max_length=512).encode(rows, TOKENIZER)["length"] == [64, 64]


@pytest.mark.parametrize("kind", ["one", "several", "score"])
def test_rows_without_a_label_count_as_positions_but_not_as_labels(kind):
    values = {"one": ["a", "b", None], "several": [["a"], ["b"], None], "score": [0.5, 1.5, None]}[kind]
    rows = of(values)
    task = bound(rows)
    batch = task.collator(TOKENIZER)(list(task.encode(rows, TOKENIZER)))
    masks = task.masks(batch)
    assert masks["labels"].tolist() == [True, True, False]
    assert masks["positions"].tolist() == [True, True, True]


@pytest.mark.parametrize("kind", ["several", "score", "pairs"])
def test_every_kind_of_label_trains_against_a_teacher_and_alone(kind, tmp_path):
    texts = tiny.rows(32)["text"]
    labels = tiny.rows(32)["label"]
    values = {
        "several": [["good"] if label else ["bad", "other"] for label in labels],
        "score": [label + 0.5 for label in labels],
        "pairs": ["good" if label else "bad" for label in labels],
    }[kind]
    rows = of(values, texts=texts, **({"text_pair": texts} if kind == "pairs" else {}))
    task = bound(rows)
    objective = Logits(divergence="mse") if kind == "score" else Logits()
    trainer = DistillationTrainer(
        model=tiny.bert(2, 32, seed=1, **task.model_options() | {"labels": task.label_set.names}),
        teacher=tiny.bert(2, 32, seed=2, **task.model_options() | {"labels": task.label_set.names}),
        task=task,
        objectives=[Labels(), objective],
        args=TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            max_steps=8,
            learning_rate=5e-3,
            logging_steps=2,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=TOKENIZER,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert all(math.isfinite(after[f"eval_loss_{name}"]) for name in ("labels", "logits"))


def test_the_teachers_outputs_are_put_into_the_order_of_the_data():
    task = bound(tiny.rows(8))
    assert task.align(tiny.bert(labels=("bad", "good")).config) is None
    assert task.align(tiny.bert(labels=("GOOD", " bad")).config) == [1, 0]
    assert task.align(tiny.bert(labels=("LABEL_0", "LABEL_1")).config) is None
    assert task.align(tiny.bert(labels=("LABEL_0", "LABEL_1")).config, ["good", "bad"]) == [1, 0]


@pytest.mark.parametrize(
    ("labels", "names", "part"),
    [
        (("yes", "no"), None, "teacher.labels"),
        (("bad", "good", "so-so"), None, "3 outputs"),
        (("LABEL_0", "LABEL_1"), ["bad"], "teacher.labels names 1"),
        (("LABEL_0", "LABEL_1"), ["bad", "bad"], "does not know"),
    ],
)
def test_labels_that_are_not_shared_are_refused(labels, names, part):
    with pytest.raises(LabelError, match=part):
        bound(tiny.rows(8)).align(tiny.bert(labels=labels).config, names)


def test_unknown_tasks_and_options_are_refused_by_name():
    with pytest.raises(RecipeError, match="text-classification"):
        make_task("text-clasification")
    with pytest.raises(RecipeError, match=r"task\.max_len: no such option"):
        make_task("text-classification", {"max_len": 3})
    with pytest.raises(RecipeError, match="at least 4"):
        make_task("text-classification", {"max_length": 1})
    with pytest.raises(RecipeError, match="problem_type"):
        make_task("text-classification", {"problem_type": "classification"})


def test_padding_reaches_only_the_longest_row_of_a_batch():
    rows = of(["a", "b"], texts=["good", "the good card is very warm"])
    task = bound(rows)
    batch = task.collator(TOKENIZER)(list(task.encode(rows, TOKENIZER)))
    assert batch["input_ids"].shape == (2, 8)
    assert torch.equal(batch["attention_mask"].sum(-1), torch.tensor([3, 8]))
