"""DistillationTrainer: the order of things, and no mathematics.

One step: count what every term averages over in the whole accumulation window and all processes; let the teacher look
at the batch; run the student and all objectives inside the (possibly wrapped) student's forward; divide each term by
its own global count; weigh and add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments, enable_full_determinism, set_seed
from transformers.trainer_utils import default_compute_objective

from hf_distill.errors import RecipeError
from hf_distill.generation.ends import keep_ends
from hf_distill.generation.rollout import Rollout
from hf_distill.models.attention import show_attention
from hf_distill.objectives import Objective
from hf_distill.tasks import Task
from hf_distill.teachers import Teacher
from hf_distill.training.data_loading import DataLoading, SamplerEpoch
from hf_distill.training.demands import (
    check_arguments,
    check_best_metric,
    check_learner,
    check_predictions,
    labels_of_training,
)
from hf_distill.training.guard import Guard, GuardedTraining
from hf_distill.training.loss import Means
from hf_distill.training.predictions import Predictions, own_outputs
from hf_distill.training.saving import StudentSaving, attach
from hf_distill.training.setup import connect, set_up
from hf_distill.training.step import Counts
from hf_distill.types import UNITS, Batch, Tokenizer


class DistillationTrainer(GuardedTraining, DataLoading, StudentSaving, Predictions):
    """A ``transformers.Trainer`` whose loss is a weighted sum of objectives, most of which ask a teacher.

    Everything that Trainer does keeps working: callbacks, reports, resume, early stopping, mixed precision,
    compilation, several processes. Any split of a batch over accumulation steps and processes gives the same gradients,
    the load-balancing loss of routers aside: it is a mean over micro-batches, in training and in evaluations, where the
    student's config has ``output_router_logits``. Objectives that look into layers keep layers that it would drop.

    The first arguments are those of Trainer, in its order; those that follow ``compute_metrics`` are given by name.

    Args:
        model: The student, with the task's head.
        args: As for Trainer; ``Seq2SeqTrainingArguments`` let an encoder-decoder write texts that are evaluated.
        data_collator: By default the task's. What a batch of another lacks (labels of a language model, masks, decoder
            inputs) is made of what it has.
        train_dataset: Rows with the task's columns (``text`` and ``label``, say), or rows tokenised already.
        eval_dataset: The same, or a dictionary of such data sets; so is what ``evaluate`` and ``predict`` are given.
        processing_class: The student's tokenizer.
        model_init: As for Trainer: makes the student, and a new one for each ``train``.
        compute_loss_func: Refused: the objectives are the loss.
        compute_metrics: As for Trainer; over a vocabulary beside ``preprocess_logits_for_metrics``, or for texts.
        teacher: A model, a Hub id or folder, any :class:`hf_distill.teachers.Teacher`; None where none is asked.
        task: A task or its name; told by the model's class unless given, ``translation`` of an encoder-decoder. A task
            that was not bound to data takes its labels from the student's config.
        objectives: Objectives, or their names. Without any: ``labels``, and ``logits`` where there is a teacher.
        teacher_processing_class: The teacher's tokenizer, where it is another one; of an id it is loaded.
        rollout: How the student writes batches itself, on which a live teacher judges it, if it does.
        training_guard: Whether a loss or a gradient that is not finite, or a loss that grows a hundredfold, stops the
            training before a save; else it is reported once.
        **kwargs: All else that Trainer takes (callbacks, optimizers, preprocess_logits_for_metrics, ...).

    Raises:
        HfDistillError: Where teacher, objectives, task, labels and tokenizers do not fit each other.
        TrainingError: By ``train`` and ``evaluate``, where the guard stops them.

    Example:
        >>> trainer = DistillationTrainer(model=student, teacher="textattack/bert-base-uncased-SST-2",
        ...     objectives=[Logits(temperature=2.0), Hidden()], args=args, train_dataset=rows,
        ...     processing_class=tokenizer)
    """

    loss_is_scaled_for_ga = True

    def __init__(  # noqa: PLR0913  # Trainer's own parameters, in its order, and those of the pair.
        self,
        model: PreTrainedModel | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Tokenizer | None = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        *,
        teacher: PreTrainedModel | Teacher | str | None = None,
        task: Task | str | None = None,
        objectives: Sequence[Objective | str] | None = None,
        teacher_processing_class: Tokenizer | None = None,
        rollout: Rollout | None = None,
        training_guard: bool = True,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else TrainingArguments("trainer_output")
        check_arguments(args, model, model_init, compute_loss_func)
        check_learner(model, teacher, trains=train_dataset is not None)
        args.logging_nan_inf_filter = False  # It would wait for each step, to show a loss that is no number as 0.
        student = model if model is not None else self._first_student(args, model_init)
        self.step = set_up(student, teacher, task, objectives, args, processing_class, teacher_processing_class)
        self.task, self.teacher, self.objectives = self.step.task, self.step.teacher, self.step.objectives
        self.extra_weights, self.connection_notes = self.step.weights, self.step.notes
        self.training_guard, self.guard, self._is_reported = training_guard, Guard(self.objectives), False
        self.use_cache_when_saved = getattr(student.config, "use_cache", None)
        check_predictions(self.task, student, args, compute_metrics, kwargs.get("preprocess_logits_for_metrics"))
        if compute_metrics is None and type(self).evaluate is DistillationTrainer.evaluate:
            check_best_metric(args, self.step, eval_dataset)
        other = self.teacher.tokenizer if self.teacher is not None else None
        data_collator = self._prepare_data(data_collator, (processing_class, other), student, args)
        self._rollout = rollout if rollout is not None and rollout.config.share else None
        self._reads_prompts = self._rollout is not None and self._rollout.config.share == 1.0
        self.connection_notes += labels_of_training(self.step, train_dataset, answered=not self._reads_prompts)
        train_dataset = self.encoded(train_dataset, "train_dataset")
        if self._rollout is not None:
            train_dataset, notes = self._rollout.prepare(
                train_dataset, self.task, processing_class, student, self.teacher, self.objectives
            )
            self.connection_notes += notes
        if model_init is None:
            self._prepare_student(student)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=self.encoded(eval_dataset, "eval_dataset"),
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=compute_metrics,
            **kwargs,
        )
        self._finish_set_up()

    def _finish_set_up(self) -> None:
        if self.args.n_gpu > 1:
            self.args._n_gpu = 1  # nn.DataParallel would copy the student without its hooks; torchrun does not.
        if self._rollout is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise RecipeError("rollout: a student that is split over processes cannot write; use plain torchrun")
        if self.teacher is not None:
            self.teacher.to(self.args.device)
        self.current_gradient_accumulation_steps = 1  # Trainer sets it in train; a loss may be asked for before.
        self._train_means = Means()
        self._window: Counts | None = None
        self._begin_evaluation()  # A step of one may be asked for alone.
        self.add_callback(SamplerEpoch(self))

    def _first_student(self, args: TrainingArguments, model_init: Any) -> PreTrainedModel:
        """What ``model_init`` makes: looked at in the set-up, then taken by Trainer, which draws it from this seed."""
        enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
        self.model_init, self._first = model_init, None
        self._first = cast(PreTrainedModel, super().call_model_init())
        return self._first

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """A new student, perhaps of another shape, with the objectives' own weights as new as itself."""
        student, self._first = self._first, None
        if student is None:
            student = cast(PreTrainedModel, super().call_model_init(trial))
            self.step.task.check_model(student)
            connect(self.step, student, self.args.seed)
            self.extra_weights = self.step.weights
        self._prepare_student(student)
        return student

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As Trainer's; what is searched for is the loss, or the sum of all metrics, without the terms of the loss."""
        terms = tuple(f"_loss_{name}" for name in self.objectives)

        def without_terms(metrics: dict[str, float]) -> float:
            return default_compute_objective({k: v for k, v in metrics.items() if not k.endswith(terms)})

        return super().hyperparameter_search(hp_space, compute_objective or without_terms, *args, **kwargs)

    def _prepare_student(self, student: PreTrainedModel) -> None:
        """Let it carry the objectives' weights, and show what they look at; neither is part of what is saved.

        What ends a turn in chats is: whoever loads the student stops there.
        """
        self.connection_notes += keep_ends(student, self._tokenizers[0], self.task)
        attach(student, self.extra_weights)
        if "attentions" in self.step.needs:
            show_attention(student)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        """The weighted sum of all terms, each divided by its count over the accumulation window and all processes."""
        inputs = self._completed(inputs)
        if "labels" in self.step.needs:
            with self._named(inputs):
                inputs["labels"]
        counts = num_items_in_batch
        if not isinstance(counts, Mapping):  # A subclass may give Trainer's own count, which is that of no unit here.
            is_step = counts is not None and self.is_in_train
            counts = self._window if is_step else self._get_num_items_in_batch([inputs], self.args.device)
        self.step.follow_schedules(self.state.global_step / max(self.state.max_steps, 1))
        loss, terms, outputs = self._forward(model, inputs, counts, return_outputs)
        means = {name: total / counts[self.objectives[name].unit].clamp(min=1) for name, total in terms.items()}
        self.guard.add(means)
        weighted = {f"weighted_loss_{name}": mean * self.objectives[name].weight for name, mean in means.items()}
        logged = {**{f"loss_{name}": mean for name, mean in means.items()}, **weighted}
        for name, value in logged.items():
            self._train_means.add(name, value, 1 / self.current_gradient_accumulation_steps)
        if (mask := inputs.get("attention_mask")) is not None:
            self._train_means.add("real", mask.sum(), mask.new_tensor(mask.numel()))
        # The wrapped model averages gradients over the processes; the division was by the count of all of them.
        loss = loss * self.accelerator.num_processes
        if not return_outputs:
            return loss
        config = cast(PreTrainedModel, self.accelerator.unwrap_model(model, keep_torch_compile=False)).config
        return loss, type(outputs)(**{"loss": loss, **own_outputs(outputs, config, [])})

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Trainer's; where the student writes the batches of a step, it does so before anything is counted."""
        rollout, step = self._rollout, self.state.global_step
        if rollout is not None and rollout.writes(self.args.seed, step):
            batches = [self._completed(self._prepare_inputs(batch)) for batch in islice(epoch_iterator, num_batches)]
            student = cast(PreTrainedModel, self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
            with self.accelerator.autocast():
                written = rollout.write(batches, student, self.args.seed, step, self.args.process_index)
            epoch_iterator = iter(written)
        samples, counts = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._window = counts if isinstance(counts, Mapping) else self._counts(samples, device)
        return samples, counts

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Any:
        return self._counts(batch_samples, device)

    def _counts(self, batch_samples: list[Batch], device: torch.device) -> Counts:
        """How many units of each kind the accumulation window holds, over all processes."""
        masks = [self._masks(self._completed(batch)) for batch in batch_samples]
        none = torch.zeros((), dtype=torch.long)
        local = [sum((mask[unit].sum() for mask in masks if unit in mask), none) for unit in UNITS]
        counts = torch.stack([count.to(device) for count in local])
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return dict(zip(UNITS, counts, strict=True))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add every term, as it is and weighted, and the share of padding, to what is logged in training."""
        if "loss" in logs:
            means = self._train_means.result(self._reduce)
            self._train_means = Means()
            real = means.pop("real", 1.0)
            logs |= {**means, "padding": 1.0 - real}
            for each in (*self.objectives.values(), *([self._rollout] if self._rollout is not None else ())):
                logs |= each.logs(self._reduce)
        super().log(logs, start_time)
