"""Students that listen learn the same however a batch is split, from texts, from frames and from layers."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import Trainer

from hf_distill import DistillationTrainer, Hidden, Labels, Logits
from hf_distill.errors import LabelError, ObjectiveError
from hf_distill.tasks.speech.ctc import CTCSpeechRecognition
from tests.helpers import speech
from tests.helpers.trainers import arguments, assert_same

PROCESSOR = speech.processor()
OBJECTIVES = {
    "labels": lambda: [Labels()],
    "logits": lambda: [Logits(temperature=3.0)],
    "logits-blank": lambda: [Logits(blank_weight=0.25)],
    "hidden": lambda: [Hidden()],
    "all": lambda: [Labels(weight=0.3), Logits(weight=0.7), Hidden(weight=2.0)],
}


def rows() -> Dataset:
    """Some without a text, and one whose text is too long for its clip."""
    made = speech.rows(repeats=3)
    texts = [None if i % 5 == 0 else "abcde" * 9 if i == 7 else text for i, text in enumerate(made["text"])]
    return made.remove_columns("text").add_column("text", texts)


def trainer(folder, objectives, *, student=None, teacher=None, **options) -> DistillationTrainer:
    more = {name: options.pop(name) for name in ("teacher_processing_class",) if name in options}
    return DistillationTrainer(
        model=speech.listener(seed=1) if student is None else student,
        teacher=speech.listener(seed=2, hidden_size=24, num_hidden_layers=4) if teacher is None else teacher,
        task=CTCSpeechRecognition(),
        objectives=objectives,
        args=arguments(folder, optim="sgd", learning_rate=0.05, **options),
        train_dataset=rows(),
        eval_dataset=rows(),
        processing_class=PROCESSOR,
        **more,
    )


def trained(folder, objectives, **options):
    one = trainer(folder, objectives, **options)
    one.train()
    weights = {name: value.clone() for name, value in one.model.state_dict().items()}
    return [entry["loss"] for entry in one.state.log_history if "loss" in entry], weights


@pytest.mark.parametrize("name", OBJECTIVES)
def test_8x1_4x2_and_1x8_give_the_same_losses_and_weights(name, tmp_path):
    whole = trained(tmp_path, OBJECTIVES[name](), per_device_train_batch_size=8)
    for batch, accumulation in ((4, 2), (1, 8)):
        split = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        assert_same(whole, trained(tmp_path, OBJECTIVES[name](), **split), tolerance=5e-6)


def test_labels_alone_have_the_losses_of_the_stock_trainer(tmp_path):
    task, labelled = speech.bound(), speech.rows()
    options = {"optim": "sgd", "learning_rate": 0.05, "per_device_train_batch_size": 6, "max_steps": 3}
    stock = Trainer(
        model=speech.listener(seed=1, ctc_loss_reduction="mean"),
        args=arguments(tmp_path, **options, train_sampling_strategy="sequential", remove_unused_columns=False),
        train_dataset=task.encode(labelled, PROCESSOR),
        data_collator=task.collator(PROCESSOR),
    )
    stock.train()
    own = DistillationTrainer(
        model=speech.listener(seed=1),
        objectives=[Labels()],
        args=arguments(tmp_path, **options),
        train_dataset=labelled,
        processing_class=PROCESSOR,
        task=CTCSpeechRecognition(),
    )
    own.train()
    expected, found = ([entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (stock, own))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", [Logits(), Hidden()], ids=["logits", "hidden"])
def test_a_student_that_is_a_copy_of_its_teacher_learns_nothing(objective, tmp_path):
    losses, weights = trained(
        tmp_path, [objective], student=speech.listener(seed=2), teacher=speech.listener(seed=2), max_steps=2
    )
    assert losses == pytest.approx([0, 0], abs=1e-6)
    for name, value in speech.listener(seed=2).state_dict().items():
        assert torch.allclose(weights[name], value, atol=1e-6), name


def test_the_evaluation_loss_weighs_every_row_alike_however_it_is_batched(tmp_path):
    found = [trainer(tmp_path, [Labels(), Logits()], per_device_eval_batch_size=size).evaluate() for size in (1, 5, 18)]
    for name in ("eval_loss", "eval_loss_labels", "eval_loss_logits"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5) == found[2][name]


def test_a_teacher_whose_letters_stand_in_another_order_teaches_the_same(tmp_path):
    order = [7, 3, 1, 6, 0, 2, 5, 4]
    teacher, other = speech.listener(seed=2), speech.listener(seed=2, pad_token_id=order.index(7))
    other.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(other.lm_head, name).copy_(getattr(teacher.lm_head, name)[order])
    tokens = tuple(speech.TOKENS[i] for i in order)
    plain = trained(tmp_path, [Logits()], teacher=teacher)
    turned = trained(tmp_path, [Logits()], teacher=other, teacher_processing_class=speech.processor(tokens))
    assert_same(plain, turned)


def test_a_teacher_of_other_frames_or_letters_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ObjectiveError, match="cannot be compared frame by frame"):
        trainer(tmp_path, [Logits()], teacher=speech.listener(conv_stride=(5, 8, 4)))
    letters = (*speech.LETTERS[:-1], "x", "<unk>", "<pad>")
    with pytest.raises(LabelError, match="which the teacher does not know"):
        trainer(tmp_path, [Logits()], teacher_processing_class=speech.processor(letters))
