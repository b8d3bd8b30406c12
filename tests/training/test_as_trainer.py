"""A Trainer is a Trainer: what people do with one works, or is refused when it is made."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest
import torch
import transformers.trainer
from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)
from transformers.hyperparameter_search import HyperParamSearchBackendBase
from transformers.trainer_utils import BestRun, HPSearchBackend

from hf_distill import DistillationTrainer, Hidden, Labels, Logits
from hf_distill.errors import DataError, ObjectiveError, StudentError, TeacherError
from tests.helpers import tiny
from tests.helpers.thinned import thinned
from tests.helpers.trainer_cases import CASES, FAILS_WITH_TRANSFORMERS, maker
from tests.helpers.trainers import TOKENIZER, arguments, trainer
from tests.training.test_rows_and_collators import TOKENIZER as CHATS
from tests.training.test_rows_and_collators import pairs, texts


@pytest.mark.parametrize("name", thinned(CASES))
def test_what_people_do_with_a_trainer_works(name, tmp_path):
    CASES[name](maker(DistillationTrainer), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_cases_are_those_of_the_stock_trainer(name, tmp_path):
    if name in FAILS_WITH_TRANSFORMERS:
        with pytest.raises(AssertionError):
            CASES[name](maker(Trainer), tmp_path)
    else:
        CASES[name](maker(Trainer), tmp_path)


class EveryShape(HyperParamSearchBackendBase):
    """A search that needs no package: every trial has another width and rate."""

    name = "wandb"
    trials = ({"learning_rate": 0.0, "width": 32}, {"learning_rate": 3e-3, "width": 48})

    @staticmethod
    def is_available() -> bool:
        return True

    def run(self, trainer: Any, n_trials: int, direction: str, **kwargs: Any) -> BestRun:
        runs = []
        for number, trial in enumerate(self.trials[:n_trials]):
            trainer.objective = None
            trainer.train(trial=dict(trial))
            objective = trainer.compute_objective(trainer.evaluate())
            runs.append(BestRun(str(number), objective, trial))
        return (min if direction == "minimize" else max)(runs, key=lambda run: run.objective)

    def default_hp_space(self, trial: Any) -> dict[str, Any]:
        return {}


@pytest.fixture
def search(monkeypatch):
    backends = transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS
    monkeypatch.setitem(backends, HPSearchBackend.WANDB, EveryShape)
    package = types.ModuleType("wandb")  # Trainer asks it for the name of a trial's folder.
    package.__spec__, package.run = ModuleSpec("wandb", None), types.SimpleNamespace(id="trial")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", package)


def test_a_search_makes_students_of_other_shapes_with_new_projections(search, tmp_path):
    widths = []

    def model_init(trial: Any) -> Any:
        widths.append(32 if trial is None else trial["width"])
        return tiny.bert(2, widths[-1], seed=1)

    options = {"eval_dataset": tiny.rows(16, 1), "max_steps": 6, "train_sampling_strategy": "random"}
    one = trainer(tmp_path, [Labels(weight=0.5), Hidden()], model_init=model_init, **options)
    assert widths == [32]
    best = one.hyperparameter_search(backend="wandb", n_trials=2)
    assert widths == [32, 32, 48]
    assert best.hyperparameters["learning_rate"] == 3e-3
    assert best.objective == pytest.approx(one.evaluate()["eval_loss"])
    # As wide as its teacher, it needs no projections.
    assert not len(one.extra_weights)


def test_each_training_of_a_search_draws_its_projections_anew(tmp_path):
    one = trainer(tmp_path, [Hidden()], model_init=lambda trial: tiny.bert(2, 32, seed=1), max_steps=2)
    losses = []
    for _ in range(2):
        one.train()
        losses.append([entry["loss"] for entry in one.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]


RAW = tiny.rows(16, 1)


@pytest.mark.parametrize("name", ["label", "labels"])
def test_raw_rows_are_taken_wherever_a_data_set_is(name, tmp_path):
    rows = RAW.rename_column("label", name) if name != "label" else RAW
    # Trainer gives the predictions of rows that are grouped by length in the order of the groups.
    options = {"eval_dataset": rows, "max_steps": 1, "train_sampling_strategy": "random"}
    one = trainer(tmp_path, [Labels()], rows=rows, **options)
    one.train()
    wanted = one.evaluate()["eval_loss"]
    assert one.evaluate(rows)["eval_loss"] == pytest.approx(wanted)
    assert one.evaluate({"more": rows})["eval_more_loss"] == pytest.approx(wanted)
    assert one.predict(rows).label_ids.tolist() == list(RAW["label"])
    assert len(one.get_eval_dataloader(rows)) == len(one.get_test_dataloader(rows)) == 2
    assert one.evaluate(rows.to_iterable_dataset())["eval_loss"] == pytest.approx(wanted)


def test_raw_rows_without_labels_have_neither_loss_nor_labels(tmp_path):
    one = trainer(tmp_path, [Labels()], compute_metrics=lambda _: {"accuracy": 1.0})
    for rows in (RAW.remove_columns("label"), Dataset.from_dict({"text": RAW["text"], "label": [None] * 16})):
        assert not {"eval_loss", "eval_accuracy"} & one.evaluate(rows).keys()
        assert one.predict(rows).label_ids is None
    taught = trainer(tmp_path, [Labels(), Logits(weight=2.0)])
    found = taught.evaluate(RAW.remove_columns("label"))
    assert found["eval_loss"] == pytest.approx(2 * found["eval_loss_logits"])
    assert "eval_loss_labels" not in found
    assert "eval_loss" not in trainer(tmp_path, [Labels(), Logits(weight=0.0)]).evaluate(RAW.remove_columns("label"))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (RAW.rename_column("text", "sentence"), "no column text among sentence, label"),
        (Dataset.from_dict({"text": ["a card", None], "label": [0, 1]}), "row 1 has no text in column 'text'"),
        (
            Dataset.from_dict({"text": ["a", "b"], "text_pair": [None, "c"], "label": [0, 1]}),
            "row 0 has no text in column 'text_pair'",
        ),
        (RAW.remove_columns("label"), "no column label or labels among text"),
        (RAW.add_column("labels", RAW["label"]), "columns label and labels"),
    ],
)
def test_raw_rows_that_cannot_be_read_are_refused_in_one_line(rows, told, tmp_path):
    with pytest.raises(DataError, match=told):
        trainer(tmp_path, [Labels()], rows=rows)


def test_raw_rows_without_a_tokenizer_or_without_a_pad_token_are_refused(tmp_path):
    with pytest.raises(DataError, match="processing_class"):
        DistillationTrainer(model=tiny.bert(), args=arguments(tmp_path), train_dataset=RAW)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    one = DistillationTrainer(
        model=tiny.bert(), args=arguments(tmp_path), train_dataset=RAW, processing_class=tokenizer
    )
    with pytest.raises(DataError, match="pad token"):
        one.train()


def test_the_order_of_arguments_is_that_of_trainer(tmp_path):
    one = DistillationTrainer(tiny.bert(), arguments(tmp_path), None, RAW, RAW, TOKENIZER, teacher=tiny.bert(seed=3))
    one.train()
    assert one.state.global_step == 4
    with pytest.raises(StudentError, match=r"args: expected TrainingArguments, got Bert.*teacher, task and objectives"):
        DistillationTrainer(tiny.bert(), tiny.bert(seed=3), args_of=None)


def refused(error: type[Exception], match: str, tmp_path: Any, **options: Any) -> None:
    settings = {name: options.pop(name) for name in list(options) if hasattr(TrainingArguments, name)}
    given = {"model": tiny.bert(), "processing_class": TOKENIZER, **options}
    with pytest.raises(error, match=match):
        DistillationTrainer(args=arguments(tmp_path, **settings), **given)


def test_another_loss_than_the_objectives_is_refused(tmp_path):
    refused(ObjectiveError, "compute_loss_func", tmp_path, compute_loss_func=lambda *_, **__: 0.0)
    refused(ObjectiveError, "label_smoothing_factor", tmp_path, label_smoothing_factor=0.1)


def test_what_is_no_transformers_model_is_refused(tmp_path):
    refused(StudentError, "model: expected a Transformers model, got Linear", tmp_path, model=torch.nn.Linear(1, 1))
    refused(StudentError, "got neither", tmp_path, model=None)
    refused(StudentError, "got both", tmp_path, model_init=tiny.bert)


@pytest.mark.parametrize(
    ("error", "told", "given"),
    [
        (DataError, r"expected one data set, got several \(a, b\)", {"train_dataset": {"a": RAW, "b": RAW}}),
        (DataError, "train_dataset: has no rows", {"train_dataset": RAW.select([])}),
        (DataError, "got generator; make a datasets.Dataset", {"train_dataset": (dict(row) for row in RAW)}),
        (DataError, "got DataFrame; make a datasets.Dataset", {"train_dataset": RAW.to_pandas()}),
        (DataError, "got str; make a datasets.Dataset", {"train_dataset": "glue"}),
        (TeacherError, "teacher: expected a model.*got function", {"teacher": lambda rows: rows}),
        (ObjectiveError, "objectives: expected a list, got 'labels' alone", {"objectives": "labels"}),
        (ObjectiveError, "expected names or objectives.*got <class", {"objectives": [Labels]}),
        (StudentError, "none of its parameters learns", {"model": tiny.bert().requires_grad_(False)}),
        (StudentError, "model: it is compiled", {"model": torch.compile(tiny.bert())}),
    ],
)
def test_what_cannot_be_trained_is_refused_at_construction(error, told, given, tmp_path):
    refused(error, told, tmp_path, **{"train_dataset": RAW, **given})


def test_a_student_that_is_its_own_teacher_is_refused(tmp_path):
    model = tiny.bert()
    refused(StudentError, "teacher: it is the student itself", tmp_path, model=model, teacher=model)


def test_a_list_of_raw_rows_is_a_data_set(tmp_path):
    losses = [
        trainer(tmp_path, [Labels()], rows=rows, max_steps=2).train().training_loss for rows in (RAW, [*map(dict, RAW)])
    ]
    assert losses[0] == losses[1]


BEST = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


@pytest.mark.parametrize("metric", ["accuracy", "eval_f1", "loss_hidden", "a_loss"])
def test_a_best_metric_that_no_evaluation_logs_is_refused(metric, tmp_path):
    refused(
        ObjectiveError, metric.removeprefix("eval_"), tmp_path, metric_for_best_model=metric, eval_dataset=RAW, **BEST
    )


def test_a_best_loss_of_rows_without_labels_is_refused(tmp_path):
    rows = RAW.remove_columns("label")
    refused(DataError, "without labels", tmp_path, load_best_model_at_end=True, eval_dataset=rows, **BEST)


@pytest.mark.parametrize("metric", ["loss", "eval_loss", "loss_labels", "eval_b_loss"])
def test_a_best_metric_that_is_logged_is_taken(metric, tmp_path):
    sets = {"a": RAW, "b": RAW} if "b_" in metric and "labels" not in metric else RAW
    options = {"eval_dataset": sets, "metric_for_best_model": metric, "load_best_model_at_end": True, "max_steps": 1}
    one = trainer(tmp_path, [Labels()], **options, **BEST)
    one.train()
    assert one.state.best_metric > 0


def test_metrics_over_a_vocabulary_are_computed_of_what_was_made_small(tmp_path):
    def metrics(prediction: Any) -> dict[str, float]:
        guessed, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
        return {"right": float((guessed == labels)[labels != -100].mean())}

    def make(cls: type, **more: Any) -> Any:
        return cls(
            model=tiny.decoder(),
            args=arguments(tmp_path, train_sampling_strategy="random", metric_for_best_model="right", **BEST),
            train_dataset=texts,
            eval_dataset=texts,
            processing_class=CHATS,
            data_collator=DataCollatorForSeq2Seq(CHATS) if "labels" in texts.column_names else None,
            **more,
        )

    small = {"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}
    one = make(DistillationTrainer, objectives=["labels"], compute_metrics=metrics, **small)
    one.train()
    logged = [entry["eval_right"] for entry in one.state.log_history if "eval_right" in entry]
    assert len(logged) == 4
    batch = one._completed(next(iter(one.get_eval_dataloader())))
    one.model.eval()
    with torch.no_grad():
        logits = one.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss, outputs = one.compute_loss(one.model, batch, return_outputs=True)
    assert torch.allclose(outputs.logits, logits, atol=1e-4)
    assert outputs["loss"] is loss
    assert (one.predict(texts).predictions == logits.argmax(-1).numpy()).all()
    with pytest.raises(ObjectiveError, match="preprocess_logits_for_metrics"):
        make(DistillationTrainer, objectives=["labels"], compute_metrics=metrics)


@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize("options", [{"max_length": 12}, {"max_new_tokens": 5, "num_beams": 2}])
def test_texts_are_written_and_scored_as_seq2seq_trainer_does(kind, options, tmp_path):
    def make(cls: type, **more: Any) -> Any:
        plain = arguments(tmp_path).to_dict()
        names = ("output_dir", "use_cpu", "report_to", "disable_tqdm")
        args = Seq2SeqTrainingArguments(**{name: plain[name] for name in names}, predict_with_generate=True)
        args.per_device_eval_batch_size = 8
        model = tiny.encoder_decoder(kind, 2, 2)
        model.generation_config.max_new_tokens = None
        return cls(
            model=model,
            args=args,
            eval_dataset=pairs,
            processing_class=CHATS,
            data_collator=DataCollatorForSeq2Seq(CHATS, model=model),
            compute_metrics=lambda p: {"length": float((np.asarray(p.predictions) > 0).sum())},
            **more,
        )

    ours, theirs = make(DistillationTrainer, objectives=["labels"]), make(Seq2SeqTrainer)
    mine, wanted = (each.predict(pairs, **options) for each in (ours, theirs))
    assert mine.predictions.tolist() == wanted.predictions.tolist()
    assert mine.label_ids.tolist() == wanted.label_ids.tolist()
    found, expected = (each.evaluate(**options) for each in (ours, theirs))
    assert found["eval_length"] == expected["eval_length"]
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-4)
    assert ours.evaluate({"a": pairs}, **options)["eval_a_length"] == found["eval_length"]
    assert "eval_loss" not in ours.evaluate(pairs.remove_columns("labels"))


def test_a_decoder_that_should_write_its_predictions_is_refused(tmp_path):
    args = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", predict_with_generate=True)
    with pytest.raises(ObjectiveError, match="predict_with_generate"):
        DistillationTrainer(model=tiny.decoder(), args=args, processing_class=CHATS)
    with pytest.raises(TypeError, match="predict_with_generate=True"):
        trainer(tmp_path, [Labels()], eval_dataset=RAW).evaluate(num_beams=2)


def test_a_generation_config_that_could_not_be_saved_is_refused_before_training(tmp_path):
    model = tiny.decoder()
    model.generation_config = GenerationConfig(do_sample=False, top_p=0.9)
    with pytest.raises(StudentError, match=r"model.generation_config: .*top_p"):
        DistillationTrainer(model=model, args=arguments(tmp_path), processing_class=CHATS)
    config = GenerationConfig(do_sample=False, temperature=0.3)
    args = Seq2SeqTrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", predict_with_generate=True, generation_config=config
    )
    with pytest.raises(StudentError, match=r"args.generation_config: .*temperature"):
        DistillationTrainer(model=tiny.encoder_decoder("t5", 2, 2), args=args, processing_class=CHATS)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_count_of_trainers_own_is_no_unit_of_ours(accumulation, tmp_path):
    class Counts(DistillationTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(model, inputs, num_items_in_batch=torch.tensor(64))

    def losses(cls: type) -> list[float]:
        options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulation}
        one = cls(
            model=tiny.decoder(), args=arguments(tmp_path, **options), train_dataset=texts, processing_class=CHATS
        )
        one.train()
        return [entry["loss"] for entry in one.state.log_history if "loss" in entry]

    assert losses(Counts) == pytest.approx(losses(DistillationTrainer), abs=1e-6)
