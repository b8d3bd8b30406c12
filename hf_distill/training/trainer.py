"""DistillationTrainer: the order of things, and no mathematics.

One step: count what every term averages over in the whole accumulation window and all processes; let the teacher look
at the batch; run the student and all objectives inside the (possibly wrapped) student's forward; divide each term by
its own global count; weigh and add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from hf_distill.errors import ObjectiveError, RecipeError
from hf_distill.generation.rollout import Rollout
from hf_distill.models.attention import show_attention
from hf_distill.models.forward import output_logits
from hf_distill.objectives import Objective
from hf_distill.students import frozen_encoder
from hf_distill.tasks import Task
from hf_distill.teachers import Teacher
from hf_distill.training.accumulators import Means
from hf_distill.training.data_loading import DataLoading, SamplerEpoch
from hf_distill.training.guard import Guard, GuardedTraining
from hf_distill.training.saving import StudentSaving, attach
from hf_distill.training.setup import set_up
from hf_distill.training.step import Counts, Terms
from hf_distill.types import UNITS, Batch, Tokenizer


class DistillationTrainer(GuardedTraining, DataLoading, StudentSaving):
    """A ``transformers.Trainer`` whose loss is a weighted sum of objectives, most of which ask a teacher.

    Everything that Trainer does keeps working: callbacks, reports, resume, early stopping, mixed precision,
    compilation, several processes. Any split of a batch over accumulation steps and processes gives the same gradients.

    Args:
        model: The student, with the task's head.
        teacher: A model, a Hub id or folder, any :class:`hf_distill.teachers.Teacher`; None where none is asked.
        task: A task or its name. A task that was not bound to data takes its labels from the student's config.
        objectives: Objectives, or their names. Without any: ``labels``, and ``logits`` where there is a teacher.
        args: As for Trainer.
        data_collator: By default the task's.
        train_dataset: Rows with the task's columns (``text`` and ``label``, say), or rows tokenised already.
        eval_dataset: The same, or a dictionary of such data sets.
        processing_class: The student's tokenizer.
        teacher_processing_class: The teacher's tokenizer, where it is another one; of an id it is loaded.
        rollout: How the student writes batches itself, on which a live teacher judges it, if it does.
        training_guard: Whether a loss or a gradient that is not finite, or a loss that grows a hundredfold, stops the
            training before a save; else it is reported once.
        **kwargs: All else that Trainer takes (compute_metrics, callbacks, optimizers, model_init, ...).

    Raises:
        HfDistillError: Where teacher, objectives, task, labels and tokenizers do not fit each other.
        TrainingError: By ``train`` and ``evaluate``, where the guard stops them.

    Example:
        >>> trainer = DistillationTrainer(model=student, teacher="textattack/bert-base-uncased-SST-2",
        ...     objectives=[Logits(temperature=2.0), Hidden()], args=args, train_dataset=rows,
        ...     processing_class=tokenizer)
    """

    loss_is_scaled_for_ga = True

    def __init__(  # noqa: PLR0913  # Trainer's own parameters, and those of the pair.
        self,
        model: PreTrainedModel | None = None,
        teacher: PreTrainedModel | Teacher | str | None = None,
        task: Task | str = "text-classification",
        objectives: Sequence[Objective | str] | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[..., Batch] | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None = None,
        processing_class: Tokenizer | None = None,
        teacher_processing_class: Tokenizer | None = None,
        rollout: Rollout | None = None,
        training_guard: bool = True,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else TrainingArguments("trainer_output")
        if args.label_smoothing_factor:
            raise ObjectiveError(
                "args.label_smoothing_factor would do nothing: the objectives are the loss; set it to 0, the teacher's "
                "logits are the soft labels"
            )
        args.logging_nan_inf_filter = False  # It would wait for each step, to show a loss that is no number as 0.
        student = model if model is not None else kwargs["model_init"]()
        self.step = set_up(student, teacher, task, objectives, args, processing_class, teacher_processing_class)
        self.task, self.teacher, self.objectives = self.step.task, self.step.teacher, self.step.objectives
        self.extra_weights, self.connection_notes = self.step.weights, self.step.notes
        self.training_guard, self.guard, self._is_reported = training_guard, Guard(self.objectives), False
        self.use_cache_when_saved = getattr(student.config, "use_cache", None)
        other = self.teacher.tokenizer if self.teacher is not None else None
        (train_dataset, eval_dataset), data_collator = self._prepare_data(
            [train_dataset, eval_dataset], data_collator, processing_class, other, args.seed
        )
        self._rollout = rollout if rollout is not None and rollout.config.share else None
        if self._rollout is not None:
            train_dataset, notes = self._rollout.prepare(
                train_dataset, self.task, processing_class, student, self.teacher, self.objectives
            )
            self.connection_notes += notes
        if kwargs.get("model_init") is None:
            self._prepare_student(student)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        if self.args.n_gpu > 1:
            self.args._n_gpu = 1  # nn.DataParallel would copy the student without its hooks; torchrun does not.
        if self._rollout is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise RecipeError("rollout: a student that is split over processes cannot write; use plain torchrun")
        if self.teacher is not None:
            self.teacher.to(self.args.device)
        self.current_gradient_accumulation_steps = 1  # Trainer sets it in train; a loss may be asked for before.
        self._train_means, self._eval_means = Means(), Means()
        self.add_callback(SamplerEpoch(self))

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """A new student, with the objectives' own weights attached."""
        student = cast(PreTrainedModel, super().call_model_init(trial))
        self._prepare_student(student)
        return student

    def _prepare_student(self, student: PreTrainedModel) -> None:
        """Let it carry the objectives' weights, and show what they look at; neither is part of what is saved."""
        attach(student, self.extra_weights)
        if "attentions" in self.step.needs:
            show_attention(student)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        """The weighted sum of all terms, each divided by its count over the accumulation window and all processes."""
        counts: Counts = num_items_in_batch or self._get_num_items_in_batch([inputs], self.args.device)
        self.step.follow_schedules(self.state.global_step / max(self.state.max_steps, 1))
        loss, terms, outputs = self._forward(model, inputs, counts)
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
        return (loss, outputs) if return_outputs else loss

    def _forward(self, model: nn.Module, batch: Batch, counts: Counts) -> Terms:
        """Run the teacher, then the student and the objectives."""
        student = cast(PreTrainedModel, self.accelerator.unwrap_model(model, keep_torch_compile=False))
        encoder, read = frozen_encoder(student), batch
        if encoder is not None:
            encoder.eval()
            if not self.is_fsdp_enabled:  # Else its weights are there within the wrapped forward only.
                read = self.step.encoded(student, batch, self.accelerator.autocast)
        targets = self.step.targets(read if self.step.shares_encoder else batch)
        return self.step.terms(model, student, read, targets, counts)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Trainer's; where the student writes the batches of a step, it does so before anything is counted."""
        rollout, step = self._rollout, self.state.global_step
        if rollout is not None and rollout.writes(self.args.seed, step):
            batches = [self._prepare_inputs(batch) for batch in islice(epoch_iterator, num_batches)]
            student = cast(PreTrainedModel, self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
            with self.accelerator.autocast():
                written = rollout.write(batches, student, self.args.seed, step, self.args.process_index)
            epoch_iterator = iter(written)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Any:
        """How many units of each kind the accumulation window holds, over all processes."""
        masks = [self.task.masks(batch) for batch in batch_samples]
        none = torch.zeros((), dtype=torch.long)
        local = [sum((mask[unit].sum() for mask in masks if unit in mask), none) for unit in UNITS]
        counts = torch.stack([count.to(device) for count in local])
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return dict(zip(UNITS, counts, strict=True))

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits and labels of one batch; the terms are summed over the whole evaluation set, then divided."""
        inputs = self._without_repeats(self._prepare_inputs(inputs))
        masks = self.task.masks(inputs)
        counts: Counts = {unit: mask.sum() for unit, mask in masks.items()}
        self.step.follow_schedules(1.0)  # Evaluations would not compare by weights that move.
        with torch.no_grad():
            loss, terms, outputs = self._forward(model, inputs, counts)
        for name, total in terms.items():
            self._eval_means.add(name, total.double(), counts[self.objectives[name].unit])
        if prediction_loss_only or not self.task.keeps_logits:
            return loss.detach(), None, None
        return loss.detach(), output_logits(outputs).detach(), inputs.get("labels")

    def _without_repeats(self, inputs: Batch) -> Batch:
        """Empty the rows that accelerate repeats to give every process a full last batch: they count nowhere."""
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return inputs
        mask = inputs["attention_mask"].clone()
        mask[max(state.remainder - self.accelerator.process_index * len(mask), 0) :] = 0
        return {**inputs, "attention_mask": mask}

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Trainer's loop, with a loss that weighs every row alike however the set was batched."""
        self._eval_means = Means()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        terms = self._eval_means.result(self._reduce)
        if terms:
            self.check_evaluation(terms)
            loss = sum(self.objectives[name].weight * value for name, value in terms.items())
            assert output.metrics is not None
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            output.metrics.update({f"{metric_key_prefix}_loss_{name}": value for name, value in terms.items()})
        return output

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

    def _reduce(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value.to(self.args.device), "sum")
