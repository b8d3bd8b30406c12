"""What people do with a Trainer, case by case: each asserts what it expects, of whichever class makes the trainer.

``python -m tests.helpers.trainer_cases`` runs all of them with Transformers' Trainer and with ours, and counts.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from hf_distill import DistillationTrainer
from tests.helpers import tiny

TOKENIZER = tiny.tokenizer()
Make = Callable[..., Any]


def rows(count: int = 24, seed: int = 0) -> Dataset:
    """Tokenised rows of several lengths, with labels."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        ids = torch.randint(5, len(tiny.WORDS), (4 + i % 5,), generator=generator).tolist()
        made.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": i % 2})
    return Dataset.from_list(made)


def student(seed: int = 1, **options: Any) -> Any:
    return tiny.bert(1, 16, seed=seed, **options)


ARGUMENTS = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}


def maker(cls: type[Trainer]) -> Make:
    """Makes trainers of a class of a tiny classifier, from options of both the arguments and the trainer."""

    def make(folder: Path, **options: Any) -> Any:
        settings = {
            "output_dir": str(folder),
            "use_cpu": True,
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            **{name: value for name, value in options.items() if name in ARGUMENTS},
        }
        kind = Seq2SeqTrainingArguments if "predict_with_generate" in options else TrainingArguments
        given = {"train_dataset": rows(), "eval_dataset": rows(10, 1), "processing_class": TOKENIZER}
        given |= {name: value for name, value in options.items() if name not in ARGUMENTS}
        made_by = given.pop("cls", lambda of: of)(cls)
        if "model_init" not in given:
            given.setdefault("model", student())
        if cls is DistillationTrainer:
            given |= {"objectives": ["labels"]}
        elif kind is Seq2SeqTrainingArguments:
            made_by = Seq2SeqTrainer
        return made_by(args=kind(**settings), **given)

    return make


def losses(one: Any) -> list[float]:
    return [entry["loss"] for entry in one.state.log_history if "loss" in entry]


def weights(one: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in one.model.state_dict().items() if "distillation" not in name}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return all(torch.allclose(value, second[name], atol=tolerance, rtol=0) for name, value in first.items())


def trained(one: Any) -> Any:
    one.train()
    return one


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def logits_of(model: Any, data: Dataset) -> torch.Tensor:
    batch = DataCollatorWithPadding(TOKENIZER)([dict(row) for row in data])
    batch.pop("labels")
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


CASES: dict[str, Callable[[Make, Path], None]] = {}


def case(function: Callable[[Make, Path], None]) -> Callable[[Make, Path], None]:
    CASES[function.__name__] = function
    return function


@case
def a_seed_decides_what_is_trained(make: Make, folder: Path) -> None:
    first, again, other = (weights(trained(make(folder, seed=seed))) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@case
def a_data_seed_decides_the_order_alone(make: Make, folder: Path) -> None:
    first, again, other = (losses(trained(make(folder, seed=1, data_seed=seed))) for seed in (1, 1, 2))
    assert first == again != other


@case
def epochs_and_batch_size_give_the_steps(make: Make, folder: Path) -> None:
    one = trained(make(folder, max_steps=-1, num_train_epochs=1.5))
    assert (one.state.global_step, one.state.max_steps) == (5, 5)
    assert trained(make(folder, num_train_epochs=9, max_steps=2)).state.global_step == 2


@case
def accumulation_gives_the_same_training(make: Make, folder: Path) -> None:
    whole = trained(make(folder, optim="sgd"))
    split = trained(make(folder, optim="sgd", per_device_train_batch_size=2, gradient_accumulation_steps=4))
    assert losses(whole) == pytest.approx(losses(split), abs=1e-5)
    assert same(weights(whole), weights(split), 1e-5)


@case
def the_loss_is_the_cross_entropy(make: Make, folder: Path) -> None:
    data, model = rows(8), student()
    wanted = torch.nn.functional.cross_entropy(logits_of(model, data), torch.tensor(data["labels"]))
    assert losses(trained(make(folder, model=model, train_dataset=data, max_steps=1))) == [pytest.approx(wanted.item())]


@case
def an_optimizer_and_a_scheduler_are_taken(make: Make, folder: Path) -> None:
    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    one = trained(make(folder, model=model, optimizers=(optimizer, scheduler)))
    assert [entry["learning_rate"] for entry in one.state.log_history if "learning_rate" in entry] == [1.0, 0.5, 0.25]


@case
def a_class_of_optimizers_is_taken(make: Make, folder: Path) -> None:
    one = trained(make(folder, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.3}), max_steps=1))
    assert isinstance(getattr(one.optimizer, "optimizer", one.optimizer), torch.optim.SGD)
    assert one.optimizer.param_groups[0]["lr"] <= 0.3


@case
def optimizers_by_name_train(make: Make, folder: Path) -> None:
    for name in ("adafactor", "sgd", "adamw_torch"):
        assert trained(make(folder, optim=name, max_steps=1)).state.global_step == 1


@case
def schedules_and_warm_up_move_the_learning_rate(make: Make, folder: Path) -> None:
    one = trained(make(folder, lr_scheduler_type="cosine", warmup_steps=2, max_steps=4))
    rates = [entry["learning_rate"] for entry in one.state.log_history if "learning_rate" in entry]
    assert rates[0] < rates[1] <= 1e-2
    assert rates[-1] < rates[2]


@case
def weights_decay_but_for_biases_and_norms(make: Make, folder: Path) -> None:
    one = make(folder, weight_decay=0.1)
    names = one.get_decay_parameter_names(one.model)
    assert names
    assert not [name for name in names if "bias" in name or "LayerNorm" in name]


@case
def gradients_are_clipped_and_their_norm_logged(make: Make, folder: Path) -> None:
    free, bound = (trained(make(folder, optim="sgd", max_grad_norm=norm, max_steps=1)) for norm in (1e9, 1e-6))
    assert next(entry["grad_norm"] for entry in bound.state.log_history if "grad_norm" in entry) > 1e-6
    assert same(weights(bound), student().state_dict(), 1e-6)
    assert not same(weights(free), student().state_dict(), 1e-6)


@case
def loaders_have_their_lengths_and_may_drop_the_rest(make: Make, folder: Path) -> None:
    for drop, wanted in ((False, (4, 3)), (True, (3, 2))):
        one = make(folder, train_dataset=rows(26), dataloader_drop_last=drop, per_device_eval_batch_size=4)
        assert (len(one.get_train_dataloader()), len(one.get_eval_dataloader())) == wanted
        assert len(one.get_eval_dataloader(rows(16))) == 4


@case
def a_loader_without_a_data_set_is_taken(make: Make, folder: Path) -> None:
    def twice(of: Any) -> Any:
        class Twice(of):
            def get_train_dataloader(self) -> Any:
                loader = super().get_train_dataloader()
                return [*loader, *loader]

        return Twice

    assert trained(make(folder, cls=twice, max_steps=-1, num_train_epochs=1)).state.global_step == 6


@case
def evaluation_gives_loss_and_metrics(make: Make, folder: Path) -> None:
    model, data = student(), rows(10, 1)
    logits, labels = logits_of(model, data), torch.tensor(data["labels"])
    for size in (4, 5):
        one = make(folder, model=model, compute_metrics=accuracy, per_device_eval_batch_size=size)
        found = one.evaluate()
        assert found["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
        wanted = torch.nn.functional.cross_entropy(logits, labels).item()
        assert found["eval_loss"] == pytest.approx(wanted, abs=1e-5)


@case
def logits_are_made_small_before_metrics(make: Make, folder: Path) -> None:
    seen = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction.predictions.shape)
        return {"share": float((prediction.predictions == prediction.label_ids).mean())}

    one = make(folder, compute_metrics=metrics, preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1))
    assert 0 <= one.evaluate()["eval_share"] <= 1
    assert seen == [(10,)]


@case
def metrics_are_computed_batch_by_batch(make: Make, folder: Path) -> None:
    right: list[bool] = []

    def metrics(prediction: Any, compute_result: bool) -> dict[str, float] | None:
        right.extend((prediction.predictions.argmax(-1) == prediction.label_ids).tolist())
        return {"accuracy": sum(right) / len(right)} if compute_result else None

    model = student()
    one = make(folder, model=model, compute_metrics=metrics, batch_eval_metrics=True, per_device_eval_batch_size=4)
    wanted = accuracy(make(folder, model=model).predict(rows(10, 1)))
    assert one.evaluate()["eval_accuracy"] == pytest.approx(wanted["accuracy"])


@case
def metrics_are_given_inputs_and_losses(make: Make, folder: Path) -> None:
    def metrics(prediction: Any) -> dict[str, float]:
        return {"shapes": float(len(prediction.inputs) == len(prediction.losses) == 10)}

    one = make(folder, compute_metrics=metrics, include_for_metrics=["inputs", "loss"])
    assert one.evaluate()["eval_shapes"] == 1.0


@case
def predictions_are_logits_and_labels(make: Make, folder: Path) -> None:
    model, data = student(), rows(10, 1)
    found = make(folder, model=model, per_device_eval_batch_size=4).predict(data)
    assert np.allclose(found.predictions, logits_of(model, data), atol=1e-5)
    assert found.label_ids.tolist() == data["labels"]
    assert "test_loss" in found.metrics


@case
def predictions_are_collected_in_steps_and_in_lists(make: Make, folder: Path) -> None:
    model = student()
    plain = make(folder, model=model).predict(rows(10, 1)).predictions
    steps = make(folder, model=model, eval_accumulation_steps=1, per_device_eval_batch_size=3).predict(rows(10, 1))
    parts = make(folder, model=model, eval_do_concat_batches=False, per_device_eval_batch_size=5).predict(rows(10, 1))
    assert np.allclose(plain, steps.predictions, atol=1e-5)
    assert np.allclose(plain, np.concatenate(parts.predictions), atol=1e-5)


@case
def rows_without_labels_are_predicted(make: Make, folder: Path) -> None:
    found = make(folder, compute_metrics=accuracy).predict(rows(10).remove_columns("labels"))
    assert found.predictions.shape == (10, 2)
    assert found.label_ids is None
    assert not {"test_loss", "test_accuracy"} & found.metrics.keys()


@case
def an_evaluation_without_labels_has_no_loss(make: Make, folder: Path) -> None:
    found = make(folder, compute_metrics=accuracy).evaluate(rows(10).remove_columns("labels"))
    assert not {"eval_loss", "eval_accuracy"} & found.keys()


@case
def only_the_loss_is_computed(make: Make, folder: Path) -> None:
    one = make(folder, prediction_loss_only=True)
    assert one.predict(rows(10)).predictions is None
    assert "eval_loss" in one.evaluate()


@case
def several_sets_are_evaluated_by_name(make: Make, folder: Path) -> None:
    one = make(folder, eval_dataset={"a": rows(8), "b": rows(6, 2)}, eval_strategy="steps", eval_steps=3)
    trained(one)
    logged = {key for entry in one.state.log_history for key in entry}
    assert {"eval_a_loss", "eval_b_loss"} <= logged
    assert {"eval_c_loss"} <= one.evaluate({"c": rows(4)}).keys()


@case
def evaluations_come_when_they_are_asked_for(make: Make, folder: Path) -> None:
    one = trained(make(folder, eval_strategy="steps", eval_steps=2, eval_on_start=True, max_steps=4))
    assert [entry["step"] for entry in one.state.log_history if "eval_loss" in entry] == [0, 2, 4]
    one = trained(make(folder, eval_strategy="epoch", max_steps=-1, num_train_epochs=2, eval_delay=2))
    assert [entry["step"] for entry in one.state.log_history if "eval_loss" in entry] == [6]


@case
def logs_come_when_they_are_asked_for(make: Make, folder: Path) -> None:
    one = trained(make(folder, logging_steps=2, logging_first_step=True, max_steps=4))
    assert [entry["step"] for entry in one.state.log_history if "loss" in entry] == [1, 2, 4]
    one = trained(make(folder, logging_strategy="epoch", max_steps=-1, num_train_epochs=2))
    assert [entry["step"] for entry in one.state.log_history if "loss" in entry] == [3, 6]


@case
def checkpoints_are_saved_and_the_oldest_removed(make: Make, folder: Path) -> None:
    trained(make(folder, save_strategy="steps", save_steps=1, save_total_limit=2, max_steps=4))
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    names = {path.name for path in (folder / "checkpoint-4").iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "tokenizer.json"} <= names


@case
def a_checkpoint_may_be_the_model_alone(make: Make, folder: Path) -> None:
    trained(make(folder, save_strategy="steps", save_steps=3, save_only_model=True))
    names = {path.name for path in (folder / "checkpoint-3").iterdir()}
    assert "model.safetensors" in names
    assert not {"optimizer.pt", "scheduler.pt"} & names


@case
def the_best_model_is_loaded_at_the_end(make: Make, folder: Path) -> None:
    one = make(
        folder,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        compute_metrics=accuracy,
        learning_rate=0.1,
    )
    trained(one)
    found = {e["step"]: e["eval_accuracy"] for e in one.state.log_history if "eval_accuracy" in e}
    best = min(found, key=lambda step: (-found[step], step))
    assert one.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert same(load_file(folder / f"checkpoint-{best}" / "model.safetensors"), weights(one))


@case
def the_best_is_saved_alone(make: Make, folder: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "metric_for_best_model": "loss"}
    one = trained(make(folder, greater_is_better=False, **options))
    assert (folder / f"checkpoint-{one.state.best_global_step}").is_dir()


@case
def training_stops_early(make: Make, folder: Path) -> None:
    one = make(
        folder,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        learning_rate=0.0,
        max_steps=9,
    )
    assert trained(one).state.global_step == 2


@case
def callbacks_hear_of_everything_and_may_stop(make: Make, folder: Path) -> None:
    heard: list[str] = []

    class Listens(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            heard.append("begin")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            heard.append("step")
            control.should_training_stop = state.global_step == 2

        def on_evaluate(self, *_: Any, metrics: Any = None, **__: Any) -> None:
            heard.append("evaluate" * ("eval_loss" in metrics))

        def on_train_end(self, *_: Any, **__: Any) -> None:
            heard.append("end")

    one = make(folder, callbacks=[Listens()], eval_strategy="steps", eval_steps=1)
    trained(one)
    assert heard == ["begin", "step", "evaluate", "step", "evaluate", "end"]
    assert isinstance(one.pop_callback(Listens), Listens)
    one.add_callback(Listens)
    one.remove_callback(Listens)
    assert one.pop_callback(Listens) is None


@case
def a_run_goes_on_from_a_checkpoint(make: Make, folder: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5}
    whole = trained(make(folder, **options))
    again = make(folder, **options)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert same(weights(whole), weights(again), 1e-7)
    assert losses(whole)[-3:] == pytest.approx(losses(again)[-3:], abs=1e-6)


@case
def a_run_goes_on_with_frozen_weights_and_another_batch(make: Make, folder: Path) -> None:
    def frozen() -> Any:
        model = student()
        model.bert.embeddings.requires_grad_(False)
        return model

    trained(make(folder, model=frozen(), save_strategy="steps", save_steps=2))
    again = make(folder, model=frozen(), per_device_train_batch_size=4, max_steps=4)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert (again.state.global_step, again._train_batch_size) == (4, 4)
    assert same(frozen().bert.embeddings.state_dict(), again.model.bert.embeddings.state_dict())


@case
def data_that_were_seen_may_come_again(make: Make, folder: Path) -> None:
    trained(make(folder, save_strategy="steps", save_steps=2))
    again = make(folder, ignore_data_skip=True, max_steps=4)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert again.state.global_step == 4


@case
def the_last_checkpoint_is_found(make: Make, folder: Path) -> None:
    trained(make(folder, save_strategy="steps", save_steps=2, max_steps=2))
    again = make(folder, max_steps=3)
    again.train(resume_from_checkpoint=True)
    assert (again.state.global_step, len(losses(again))) == (3, 3)


@case
def a_checkpoint_that_is_not_there_is_refused(make: Make, folder: Path) -> None:
    with pytest.raises(Exception, match=r"valid checkpoint|trainer_state.json is missing"):
        make(folder).train(resume_from_checkpoint=str(folder / "checkpoint-9"))


@case
def the_state_of_callbacks_comes_back(make: Make, folder: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    options |= {"load_best_model_at_end": True, "restore_callback_states_from_checkpoint": True}
    trained(make(folder, callbacks=[EarlyStoppingCallback(7, 0.2)], max_steps=2, **options))
    again = make(folder, callbacks=[EarlyStoppingCallback()], max_steps=3, **options)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    (kept,) = [each for each in again.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    assert (kept.early_stopping_patience, kept.early_stopping_threshold) == (7, 0.2)


class Stream(torch.utils.data.IterableDataset):
    """A stream of torch's."""

    def __init__(self, count: int) -> None:
        self.rows = list(rows(count))

    def __iter__(self) -> Any:
        return iter(self.rows)


@case
def streams_are_trained_on_and_evaluated(make: Make, folder: Path) -> None:
    for stream in (Stream(24), rows().to_iterable_dataset()):
        assert trained(make(folder, train_dataset=stream)).state.global_step == 3
    assert trained(make(folder, train_dataset=Stream(16), max_steps=5)).state.global_step == 5
    one = make(folder, eval_dataset=Stream(10), per_device_eval_batch_size=4)
    assert one.evaluate()["eval_loss"] > 0
    assert one.predict(Stream(10)).predictions.shape == (10, 2)


@case
def data_sets_of_torch_are_taken(make: Make, folder: Path) -> None:
    for data in (list(rows()), rows().with_format("torch"), torch.utils.data.Subset(rows(), range(16))):
        one = trained(make(folder, train_dataset=data, eval_dataset=data, max_steps=1))
        assert one.evaluate()["eval_loss"] > 0


@case
def rows_of_like_length_come_together(make: Make, folder: Path) -> None:
    data = rows(40).map(lambda row: {"length": len(row["input_ids"])})
    one = make(folder, train_dataset=data, train_sampling_strategy="group_by_length", per_device_train_batch_size=4)
    spread = [batch["attention_mask"].sum(1) for batch in one.get_train_dataloader()]
    assert sum(int(each.max() - each.min()) for each in spread) < 20
    assert trained(one).state.global_step == 3


@case
def columns_that_no_model_reads_are_left_out(make: Make, folder: Path) -> None:
    data = rows().map(lambda row: {"number": 1.0, "note": "a card"})
    assert trained(make(folder, train_dataset=data, max_steps=1)).state.global_step == 1


@case
def a_collator_may_read_raw_rows(make: Make, folder: Path) -> None:
    def collate(texts: list[dict[str, Any]]) -> Any:
        read = TOKENIZER([row["text"] for row in texts], padding=True, return_tensors="pt")
        return {**read, "labels": torch.tensor([row["label"] for row in texts])}

    one = make(folder, train_dataset=tiny.rows(16), data_collator=collate, remove_unused_columns=False, max_steps=2)
    assert trained(one).state.global_step == 2


@case
def the_label_may_be_called_label(make: Make, folder: Path) -> None:
    data = rows(8)
    plain, renamed = (
        losses(trained(make(folder, train_dataset=each, max_steps=1)))
        for each in (data, data.rename_column("labels", "label"))
    )
    assert plain == renamed
    assert trained(make(folder, label_names=["labels"], max_steps=1)).state.global_step == 1


@case
def noise_on_embeddings_is_for_training_alone(make: Make, folder: Path) -> None:
    plain, noisy = (trained(make(folder, neftune_noise_alpha=alpha)) for alpha in (None, 5.0))
    assert losses(plain) != losses(noisy)
    assert noisy.evaluate() is not None
    assert not noisy.model.get_input_embeddings()._forward_hooks


@case
def a_batch_that_does_not_fit_is_halved(make: Make, folder: Path) -> None:
    class Full(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.train_batch_size >= 8:
                raise RuntimeError("CUDA out of memory.")

    one = trained(make(folder, auto_find_batch_size=True, callbacks=[Full()], max_steps=2))
    assert one._train_batch_size < 8


@case
def half_precision_trains_and_evaluates(make: Make, folder: Path) -> None:
    full, half = (trained(make(folder, bf16=bf16)) for bf16 in (False, True))
    assert losses(full) == pytest.approx(losses(half), rel=0.1)
    model = student()
    full, half = (make(folder, model=copy.deepcopy(model), bf16_full_eval=bf16).evaluate() for bf16 in (False, True))
    assert full["eval_loss"] == pytest.approx(half["eval_loss"], rel=0.1)


@case
def activations_may_be_made_again(make: Make, folder: Path) -> None:
    plain, again = (losses(trained(make(folder, activation_checkpointing=each))) for each in (False, True))
    assert plain == pytest.approx(again, abs=1e-5)


@case
def the_cache_is_emptied_and_tokens_are_counted(make: Make, folder: Path) -> None:
    one = trained(make(folder, torch_empty_cache_steps=1, include_num_input_tokens_seen="all", train_dataset=rows(8)))
    assert one.state.num_input_tokens_seen > 0
    assert one.state.total_flos > 0


@case
def training_tells_its_metrics(make: Make, folder: Path) -> None:
    output = make(folder).train()
    assert output.global_step == 3
    assert {"train_loss", "train_runtime", "train_samples_per_second", "epoch"} <= output.metrics.keys()
    assert output.training_loss == pytest.approx(output.metrics["train_loss"])


@case
def the_model_is_saved_with_its_tokenizer_and_state(make: Make, folder: Path) -> None:
    one = trained(make(folder))
    one.save_model(str(folder / "model"))
    one.save_state()
    again = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert same(weights(one), again.state_dict())
    assert (folder / "model" / "tokenizer.json").is_file()
    assert TrainerState.load_from_json(str(folder / "trainer_state.json")).global_step == 3


@case
def the_tokenizer_of_a_collator_is_saved(make: Make, folder: Path) -> None:
    one = make(folder, processing_class=None, data_collator=DataCollatorWithPadding(TOKENIZER), max_steps=1)
    trained(one).save_model(str(folder / "model"))
    assert (folder / "model" / "tokenizer.json").is_file()


@case
def a_model_is_made_anew_for_each_training(make: Make, folder: Path) -> None:
    for model_init in (lambda: student(), lambda trial: student()):
        one = make(folder, model_init=model_init)
        first, again = (weights(trained(one)) for _ in range(2))
        assert same(first, again)


@case
def neither_a_model_nor_its_maker_is_refused(make: Make, folder: Path) -> None:
    with pytest.raises(Exception, match="model_init"):
        make(folder, model=None)
    with pytest.raises(Exception, match="both"):
        make(folder, model=student(), model_init=student)


@case
def a_subclass_changes_the_loss(make: Make, folder: Path) -> None:
    def tenfold(of: Any) -> Any:
        class Tenfold(of):
            def compute_loss(
                self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
            ) -> Any:
                count = torch.tensor(len(inputs["labels"]))
                loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch=count)
                assert outputs["logits"].shape == (8, 2)
                return (10 * loss, outputs) if return_outputs else 10 * loss

        return Tenfold

    options = {"train_dataset": rows(8), "max_steps": 1}
    plain, more = (losses(trained(make(folder, cls=cls, **options))) for cls in (lambda of: of, tenfold))
    assert more == pytest.approx([10 * value for value in plain], rel=1e-4)


@case
def training_and_prediction_see_the_same_loss(make: Make, folder: Path) -> None:
    one = make(folder)
    batch = DataCollatorWithPadding(TOKENIZER)([dict(row) for row in rows(8)])
    predicted = one.prediction_step(one.model, dict(batch), prediction_loss_only=True)[0]
    assert one.training_step(one.model, dict(batch), 8).item() == pytest.approx(predicted.item(), abs=1e-6)


FAILS_WITH_TRANSFORMERS = {
    "accumulation_gives_the_same_training": "heads with a loss of their own are not divided by the accumulation steps",
}
"""Cases that Transformers' Trainer of the installed version does not pass, and why."""


REFUSED = {
    "compute_loss_func": "the objectives are the loss",
    "label_smoothing_factor": "the objectives are the loss; a teacher's logits are soft labels",
    "a model that is no Transformers model": "a config tells what outputs mean; also several labels or outputs",
    "compute_metrics over a vocabulary alone": "logits are not held; preprocess_logits_for_metrics makes them small",
    "predict_with_generate of a decoder": "its inputs hold the answers",
    "a loss that is no number, filtered from the logs": "the guard stops the training",
}
"""What Transformers' own tests do with a Trainer and ours refuses, by a message that says so."""


def main() -> int:
    """Run all cases with both classes and count."""
    passed: dict[str, list[str]] = {}
    for cls in (Trainer, DistillationTrainer):
        make = maker(cls)
        passed[cls.__name__] = []
        for name, run in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    run(make, Path(folder))
                    passed[cls.__name__].append(name)
                except Exception as error:
                    reason = " ".join(str(error).split())[:200]
                    sys.stderr.write(f"{cls.__name__}: {name}: {type(error).__name__}: {reason}\n")
    counts = ", ".join(f"{name} {len(each)} of {len(CASES)}" for name, each in passed.items())
    sys.stdout.write(f"{counts}, refused {len(REFUSED)}:\n")
    sys.stdout.writelines(f"  {what}: {why}\n" for what, why in REFUSED.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())
