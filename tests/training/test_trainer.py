"""DistillationTrainer: the same gradients however a batch is split, and all that Trainer does still works."""

from __future__ import annotations

import copy
import json
from typing import ClassVar

import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from hf_distill import DistillationTrainer, Hidden, Labels, Logits, ModelTeacher
from hf_distill.errors import LabelError, ObjectiveError, TeacherError
from hf_distill.tasks import TextClassification
from hf_distill.training.sampler import LengthGroupedSampler
from tests.helpers import tiny
from tests.helpers.thinned import thinned
from tests.helpers.trainers import TOKENIZER, arguments, assert_same, trained, trainer

OBJECTIVES = {
    "labels": lambda: [Labels()],
    "logits": lambda: [Logits(temperature=3.0)],
    "reverse_kl": lambda: [Logits(divergence="reverse_kl")],
    "jsd": lambda: [Logits(divergence="jsd")],
    "logits-mse": lambda: [Logits(divergence="mse")],
    "hidden-mse": lambda: [Hidden()],
    "hidden-cosine": lambda: [Hidden(loss="cosine")],
    "all": lambda: [Labels(weight=0.3), Logits(weight=0.7), Hidden(weight=2.0)],
}


def unlabelled_in_part(count: int = 64) -> Dataset:
    rows = tiny.rows(count)
    labels = [None if i % 5 == 0 else label for i, label in enumerate(rows["label"])]
    return rows.remove_columns("label").add_column("label", labels)


@pytest.mark.parametrize("name", thinned(OBJECTIVES, 4))
def test_8x1_4x2_and_1x8_give_the_same_losses_and_weights(name, tmp_path):
    make, rows = OBJECTIVES[name], unlabelled_in_part()
    # SGD: Adam turns rounding of near-zero gradients into whole steps.
    options = {"rows": rows, "optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.5}
    whole = trained(tmp_path, make(), per_device_train_batch_size=8, **options)
    for batch, accumulation in ((4, 2), (1, 8)):
        split = trained(
            tmp_path,
            make(),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            **options,
        )
        assert_same(whole, split)


def test_the_last_short_window_of_an_epoch_is_divided_by_its_own_count(tmp_path):
    options = {"rows": tiny.rows(12), "max_steps": -1, "num_train_epochs": 1, "optim": "sgd", "learning_rate": 0.05}
    whole = trained(tmp_path, [Labels(), Logits()], per_device_train_batch_size=8, **options)
    split = trained(
        tmp_path, [Labels(), Logits()], per_device_train_batch_size=2, gradient_accumulation_steps=4, **options
    )
    assert len(whole[0]) == 2
    assert_same(whole, split)


def test_with_teacher_weight_0_the_losses_are_those_of_the_stock_trainer(tmp_path):
    task = TextClassification()
    student = tiny.bert(2, 32, seed=1)
    task.follow(student.config)
    rows = tiny.rows(64)
    ours = trainer(
        tmp_path,
        [Labels(), Logits(weight=0.0), Hidden(weight=0.0)],
        rows=rows,
        student=copy.deepcopy(student),
        train_sampling_strategy="random",
        max_steps=8,
    )
    ours.train()
    encoded = task.encode(rows, TOKENIZER).remove_columns("length")
    stock = Trainer(
        model=copy.deepcopy(student),
        args=arguments(tmp_path, train_sampling_strategy="random", max_steps=8),
        train_dataset=encoded,
        data_collator=task.collator(TOKENIZER),
    )
    stock.train()
    mine, theirs = ([entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (ours, stock))
    assert len(mine) == 8
    assert mine == pytest.approx(theirs, abs=1e-6)


def test_every_term_is_logged_as_it_is_and_weighted_and_adds_up_to_the_loss(tmp_path):
    one = trainer(tmp_path, [Labels(weight=0.5), Logits(weight=2.0), Hidden()], logging_steps=2)
    one.train()
    entries = [entry for entry in one.state.log_history if "loss" in entry]
    assert len(entries) == 2
    for entry in entries:
        terms = {name: entry[f"loss_{name}"] for name in ("labels", "logits", "hidden")}
        assert all(value > 0 for value in terms.values())
        assert entry["weighted_loss_logits"] == pytest.approx(2 * terms["logits"])
        assert sum(entry[f"weighted_loss_{name}"] for name in terms) == pytest.approx(entry["loss"], abs=1e-5)


def test_length_grouping_keeps_padding_small_and_its_share_is_logged(tmp_path):
    def padding(strategy):
        one = trainer(
            tmp_path, [Labels()], rows=tiny.rows(512), train_sampling_strategy=strategy, logging_steps=16, max_steps=64
        )
        one.train()
        return [entry["padding"] for entry in one.state.log_history if "padding" in entry][-1]

    assert padding("group_by_length") < 0.05 < padding("random")


def test_rows_with_a_long_tail_are_padded_less_than_by_transformers_own_grouping():
    lengths = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).mul(0.5).exp().mul(12).int() + 1

    def padding(order):
        batches = lengths[torch.tensor(order)].split(32)
        return 1 - lengths.sum().item() / sum(len(batch) * batch.max().item() for batch in batches)

    ours = list(LengthGroupedSampler(lengths.tolist(), 32, seed=0))
    theirs = get_length_grouped_indices(lengths.tolist(), 32, generator=torch.Generator().manual_seed(0))
    assert sorted(ours) == list(range(10_000))
    assert padding(ours) < 0.05 < padding(theirs)


def test_the_evaluation_loss_weighs_every_row_alike_however_it_is_batched(tmp_path):
    def loss(batch):
        one = trainer(tmp_path, [Labels(), Logits()], eval_dataset=tiny.rows(30, 1), per_device_eval_batch_size=batch)
        return one.evaluate()

    first, second = loss(4), loss(13)
    for name in ("eval_loss", "eval_loss_labels", "eval_loss_logits"):
        assert first[name] == pytest.approx(second[name], abs=1e-6)
    assert first["eval_loss"] == pytest.approx(first["eval_loss_labels"] + first["eval_loss_logits"], abs=1e-6)


def test_evaluate_before_train_works_and_early_stopping_stops(tmp_path):
    one = trainer(
        tmp_path,
        [Labels()],
        eval_dataset=tiny.rows(16, 1),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
        learning_rate=0.0,
        max_steps=20,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    assert one.evaluate()["eval_loss"] > 0
    one.train()
    assert one.state.global_step == 4


def test_the_teacher_stays_frozen_in_eval_mode_and_out_of_what_is_saved(tmp_path):
    teacher = tiny.bert(4, 48, seed=2, hidden_dropout_prob=0.5)
    teacher.train()
    before = copy.deepcopy(teacher.state_dict())
    one = trainer(tmp_path / "run", [Labels(), Logits(), Hidden()], teacher=teacher)
    one.train()
    one.save_model(str(tmp_path / "student"))
    assert not teacher.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    from safetensors import safe_open

    with safe_open(tmp_path / "student" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == set(tiny.bert(2, 32).state_dict())


def test_hidden_states_of_the_teacher_that_nobody_looks_at_are_let_go(tmp_path):
    one = trainer(tmp_path, [Hidden(layers={0: 1, -1: -1})])
    batch = one.data_collator([one.train_dataset[i] for i in range(4)])
    kept = [i for i, state in enumerate(one.step.targets(batch).hidden_states) if state.numel()]
    assert kept == [2, 4]


def test_projections_train_with_the_student_and_come_back_on_resume(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    one = trainer(tmp_path, [Labels(), Hidden()], **options)
    start = {name: value.clone() for name, value in one.extra_weights.state_dict().items()}
    one.train()
    end = one.extra_weights.state_dict()
    assert start
    assert all(not torch.equal(start[name], end[name]) for name in start)
    again = trainer(tmp_path, [Labels(), Hidden()], **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(end[name], value) for name, value in again.extra_weights.state_dict().items())


def test_a_broken_off_run_goes_on_bit_for_bit_from_its_last_complete_checkpoint(tmp_path):
    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    student = tiny.bert(2, 32, seed=1, hidden_dropout_prob=0.1)
    options = {
        "save_strategy": "steps",
        "save_steps": 3,
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "rows": tiny.rows(40),
    }
    objectives = [Labels(), Logits(), Hidden()]
    _, unbroken = trained(tmp_path / "a", objectives, student=copy.deepcopy(student), **options)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "b", objectives, student=copy.deepcopy(student), callbacks=[StopAt()], **options).train()
    # Killed in the middle of writing the next checkpoint: weights are there, in part, and the state is not.
    half = tmp_path / "b" / "checkpoint-6"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"\x00" * 100)
    one = trainer(tmp_path / "b", objectives, student=copy.deepcopy(student), **options)
    one.train(resume_from_checkpoint=True)
    assert all(torch.equal(value, unbroken[name]) for name, value in one.model.state_dict().items())


def test_no_token_reaches_a_file(tmp_path):
    one = trainer(tmp_path, [Labels()], hub_token="hf_verysecret", save_strategy="steps", save_steps=2)
    one.train()
    one.save_model(str(tmp_path / "student"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert all(b"hf_verysecret" not in path.read_bytes() for path in files)
    assert one.args.hub_token == "hf_verysecret"


def test_model_init_gives_a_new_student_with_projections_for_every_call(tmp_path):
    one = trainer(tmp_path, [Labels(), Hidden()], model_init=lambda: tiny.bert(2, 32, seed=1))
    one.train()
    assert hasattr(one.model, "distillation")
    assert one.state.global_step == 4


def test_bf16_and_gradient_checkpointing_train(tmp_path):
    losses, _ = trained(tmp_path, [Labels(), Logits(), Hidden()], bf16=True, activation_checkpointing=True)
    plain, _ = trained(tmp_path, [Labels(), Logits(), Hidden()])
    assert losses == pytest.approx(plain, rel=0.05)


def test_a_teacher_with_another_order_of_labels_is_aligned_by_name(tmp_path):
    teacher = tiny.bert(2, 32, seed=5)
    swapped = copy.deepcopy(teacher)
    swapped.config.id2label, swapped.config.label2id = {0: "good", 1: "bad"}, {"good": 0, "bad": 1}
    with torch.no_grad():
        swapped.classifier.weight.copy_(teacher.classifier.weight.flip(0))
        swapped.classifier.bias.copy_(teacher.classifier.bias.flip(0))
    first = trained(tmp_path, [Logits()], teacher=teacher)
    second = trained(tmp_path, [Logits()], teacher=swapped)
    assert_same(first, second)


def test_a_teacher_with_another_tokenizer_reads_its_own_tokens(tmp_path):
    words = [*tiny.WORDS[:5], *reversed(tiny.WORDS[5:])]
    teacher = tiny.bert(2, 32, seed=5)
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        table = teacher.bert.embeddings.word_embeddings.weight
        order = [tiny.WORDS.index(word) for word in words]
        other.bert.embeddings.word_embeddings.weight.copy_(table[order])
    same = trained(tmp_path, [Logits()], teacher=teacher)
    own = trained(tmp_path, [Logits()], teacher=other, teacher_processing_class=tiny.tokenizer(words))
    assert_same(same, own)


def test_hidden_states_of_other_tokens_are_refused(tmp_path):
    words = [*tiny.WORDS[:5], *reversed(tiny.WORDS[5:])]
    with pytest.raises(ObjectiveError, match="use logits"):
        trainer(tmp_path, [Hidden()], teacher_processing_class=tiny.tokenizer(words))


def test_an_objective_without_the_teacher_that_it_needs_is_refused(tmp_path):
    with pytest.raises(TeacherError, match="there is no teacher"):
        DistillationTrainer(model=tiny.bert(), objectives=[Logits()], args=arguments(tmp_path))


def test_a_teacher_of_other_labels_is_refused(tmp_path):
    with pytest.raises(LabelError, match="does not know"):
        trainer(tmp_path, [Logits()], teacher=tiny.bert(labels=("yes", "no")))
    with pytest.raises(LabelError, match="3 outputs"):
        trainer(tmp_path, [Logits()], teacher=tiny.bert(labels=("bad", "good", "other")))


def test_tokenised_rows_and_names_of_objectives_are_taken_as_they_are(tmp_path):
    task = TextClassification()
    task.follow(tiny.bert().config)
    one = trainer(tmp_path, ["labels", "logits"], rows=task.encode(tiny.rows(32), TOKENIZER))
    one.train()
    assert [type(o) for o in one.objectives.values()] == [Labels, Logits]


def test_a_bfloat16_teacher_gives_targets_that_train_a_float32_student(tmp_path):
    teacher = ModelTeacher(tiny.bert(4, 48, seed=2).bfloat16())
    _, weights = trained(tmp_path, [Logits(), Hidden()], teacher=teacher)
    assert all(value.dtype == torch.float32 for value in weights.values() if value.is_floating_point())


def test_the_card_of_a_trainer_without_a_recipe_carries_the_tags(tmp_path):
    one = trainer(tmp_path, [Labels()])
    one.create_model_card()
    assert "knowledge-distillation" in (tmp_path / "README.md").read_text()


def test_the_loss_of_the_log_is_the_one_that_is_differentiated(tmp_path):
    class Gradients(TrainerCallback):
        norms: ClassVar[list[float]] = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "grad_norm" in logs:
                self.norms.append(logs["grad_norm"])

    student, teacher = tiny.bert(2, 32, seed=1), tiny.bert(4, 48, seed=2)
    gradients = Gradients()
    one = trainer(
        tmp_path,
        [Labels(weight=0.4), Logits(weight=0.6)],
        student=copy.deepcopy(student),
        teacher=teacher,
        rows=tiny.rows(8),
        max_steps=1,
        callbacks=[gradients],
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
    )
    one.train()
    task = one.task
    batch = task.collator(TOKENIZER)(list(task.encode(tiny.rows(8), TOKENIZER)))
    logits = student(**task.student_inputs(batch)).logits
    with torch.no_grad():
        wanted = (teacher(**task.student_inputs(batch)).logits / 2).softmax(-1)
    soft = -(wanted * (logits / 2).log_softmax(-1)).sum(-1) + (wanted * wanted.log()).sum(-1)
    loss = 0.4 * torch.nn.functional.cross_entropy(logits, batch["labels"]) + 0.6 * 4 * soft.mean()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]).norm().item()
    history = json.loads(json.dumps(one.state.log_history))
    assert history[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert gradients.norms[0] == pytest.approx(norm, rel=1e-4)
