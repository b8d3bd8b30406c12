"""DistillationTrainer: the order of things, and no mathematics.

One step: count what every term averages over in the whole accumulation window and all processes; let the teacher look
at the batch; run the student and all objectives inside the (possibly wrapped) student's forward; divide each term by
its own global count; weigh and add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.trainer_utils import EvalLoopOutput

from hf_distill.errors import ObjectiveError, RecipeError, TeacherError
from hf_distill.generation.rollout import Rollout
from hf_distill.models.attention import caught_projections, check_learning, show_attention
from hf_distill.models.forward import STATES, accepted_inputs, compared_attentions, members_of, output_logits, run_model
from hf_distill.objectives import Objective, named_objectives
from hf_distill.students import frozen_encoder, share_an_encoder
from hf_distill.tasks import Task
from hf_distill.teachers import ENCODED, ModelTeacher, Teacher
from hf_distill.training.accumulators import EvaluationSums, TrainingSums
from hf_distill.training.loss import weighted_loss
from hf_distill.training.sampler import LengthGroupedSampler
from hf_distill.training.saving import StudentSaving, attach
from hf_distill.training.setup import (
    Encoder,
    as_teacher,
    bound_task,
    check_encoder_learns,
    check_objectives,
    chosen_objectives,
    connect_tokenizers,
    looked_at,
    states_looked_at,
    with_row_ids,
)
from hf_distill.types import OF_THE_DATA, UNITS, Batch, Need, Targets, Unit

Counts = dict[Unit, Tensor]
"""How many units a term is divided by; scalars."""


class DistillationTrainer(StudentSaving):
    """A ``transformers.Trainer`` whose loss is a weighted sum of objectives, most of which ask a teacher.

    Everything that Trainer does keeps working: callbacks, reports, resume, early stopping, mixed precision,
    compilation, several processes. Any split of a batch over accumulation steps and processes gives the same gradients.

    Args:
        model: The student, with the task's head.
        teacher: A model, a Hub id or folder, a :class:`ModelTeacher`, :class:`CachedTeacher` or
            :class:`ServerTeacher`, or None where no objective asks for one.
        task: A task or its name. A task that was not bound to data takes its labels from the student's config.
        objectives: Objectives, or their names. Without any: ``labels``, and ``logits`` where there is a teacher.
        args: As for Trainer.
        data_collator: By default the task's.
        train_dataset: Rows with the task's columns (``text`` and ``label``, say), or rows tokenised already.
        eval_dataset: The same, or a dictionary of such data sets.
        processing_class: The student's tokenizer.
        teacher_processing_class: The teacher's tokenizer, where it is another one; loaded with the teacher where
            ``teacher`` is an id.
        rollout: How the student writes batches itself, on which a live teacher judges it; None: it learns from the data
            alone.
        **kwargs: All else that Trainer takes (compute_metrics, callbacks, optimizers, model_init, ...).

    Raises:
        TeacherError: Where an objective asks for what the teacher, or the absence of one, cannot give.
        ObjectiveError: Where an objective does not fit the task's outputs or the two tokenizers.
        LabelError: Where the labels of teacher and student differ.

    Example:
        >>> trainer = DistillationTrainer(model=student, teacher="textattack/bert-base-uncased-SST-2",
        ...     objectives=[Logits(temperature=2.0), Hidden()], args=args, train_dataset=rows,
        ...     processing_class=tokenizer)
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        teacher: PreTrainedModel | Teacher | str | None = None,
        task: Task | str = "text-classification",
        objectives: Sequence[Objective | str] | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[..., Batch] | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        rollout: Rollout | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else TrainingArguments("trainer_output")
        if args.label_smoothing_factor:
            raise ObjectiveError(
                "args.label_smoothing_factor would do nothing: the objectives are the loss; set it to 0, the teacher's "
                "logits are the soft labels"
            )
        student = model if model is not None else kwargs["model_init"]()
        self.task = bound_task(task, student)
        self.teacher = as_teacher(teacher, self.task, args, processing_class, teacher_processing_class)
        self.objectives = named_objectives(chosen_objectives(objectives, self.teacher))
        self.needs: frozenset[Need] = frozenset().union(*(o.needs for o in self.objectives.values()))
        if "pairs" in self.needs:
            self.task = self.task.with_pairs()
        self._check_objectives(args)
        self.connection_notes = self._connect_tokenizers(processing_class)
        live = self.teacher.model if self.teacher is not None else None
        for each in (student, *(members_of(live) if live is not None else ())):
            self.task.check_model(each)
        self.extra_weights = self._connect(student, args.seed)
        check_encoder_learns(self.objectives, student)
        self._share_encoder = self._find_encoder(student)
        self.use_cache_when_saved = getattr(student.config, "use_cache", None)
        other = self.teacher.tokenizer if self.teacher is not None else None
        # In shared memory: workers of a loader that persist hold a collator of their own.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._train_collator: Callable[..., Batch] | None = None
        if processing_class is not None:
            encode = Encoder(self.task, processing_class, other)
            train_dataset, eval_dataset = encode(train_dataset), encode(eval_dataset)
            if data_collator is None:
                data_collator = with_row_ids(self.task.collator(processing_class, other))
                learned = self.task.training_collator(processing_class, other, lambda: (args.seed, int(self._epoch)))
                self._train_collator = with_row_ids(learned)
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
            # nn.DataParallel would copy the student without its hooks; several GPUs are for torchrun.
            self.args._n_gpu = 1
        if self._rollout is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise RecipeError(
                "rollout: a student whose weights are split over processes cannot write; use plain torchrun"
            )
        if self.teacher is not None:
            self.teacher.to(self.args.device)
        self.current_gradient_accumulation_steps = 1  # Trainer sets it in train; a loss may be asked for before.
        self._train_sums = TrainingSums()
        self._eval_sums = EvaluationSums()
        self._sampler: LengthGroupedSampler | None = None
        self.add_callback(_SamplerEpoch(self))

    # --- what is paired -----------------------------------------------------------------------------------------------

    def _check_objectives(self, args: TrainingArguments) -> None:
        check_objectives(self.objectives, self.task, args)
        for name, objective in self.objectives.items():
            missing = objective.needs - OF_THE_DATA - (self.teacher.provides if self.teacher else frozenset())
            if missing:
                whose = "the teacher cannot give them" if self.teacher else "there is no teacher"
                raise TeacherError(
                    f"objective {name} needs {' and '.join(sorted(missing))} of a teacher, but {whose}; name a teacher "
                    "that can, or remove the objective"
                )

    def _connect_tokenizers(self, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
        if self.teacher is None or self.teacher.tokenizer is None:
            return []
        return connect_tokenizers(self.objectives, self.task, tokenizer, self.teacher.tokenizer)

    def _connect(self, student: PreTrainedModel, seed: int) -> nn.ModuleDict:
        """Fit the objectives to the pair, and gather the weights that they bring, drawn from the seed alone."""
        teacher = self.teacher.config if self.teacher is not None else None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.connection_notes += [
                line for o in self.objectives.values() for line in o.connect(student.config, teacher)
            ]
        live = self.teacher.model if self.teacher is not None else None
        if live is not None:
            for objective in self.objectives.values():
                objective.check_models(student, live)
        self._layers = looked_at(self.objectives)
        self._states = states_looked_at(self.objectives.values(), student.config, teacher) if teacher else {}
        modules = {name: o.module for name, o in self.objectives.items() if o.module is not None}
        return nn.ModuleDict(modules)

    def _find_encoder(self, student: PreTrainedModel) -> bool:
        """Whether the teacher can read what the student's encoder makes of a batch; told where that is frozen."""
        if frozen_encoder(student) is None:
            return False
        live = self.teacher if isinstance(self.teacher, ModelTeacher) and self.teacher.tokenizer is None else None
        shared = live is not None and share_an_encoder(student, live.model)
        whose = "student's and teacher's alike" if shared else "the student's"
        self.connection_notes.append(f"encoder: {whose}, frozen: run once a step, without dropout")
        return shared

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """A new student, with the objectives' own weights attached."""
        student = cast(PreTrainedModel, super().call_model_init(trial))
        self._prepare_student(student)
        return student

    def _prepare_student(self, student: PreTrainedModel) -> None:
        """Let it carry the objectives' weights, and show what they look at; neither is part of what is saved."""
        attach(student, self.extra_weights)
        if "attentions" in self.needs:
            show_attention(student)

    # --- the loss -----------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The weighted sum of all terms, each divided by its count over the accumulation window and all processes."""
        counts: Counts = num_items_in_batch or self._get_num_items_in_batch([inputs], self.args.device)
        self._follow_schedules(self.state.global_step / max(self.state.max_steps, 1))
        loss, terms, outputs = self._forward(model, inputs, counts)
        means = {name: total / counts[self.objectives[name].unit].clamp(min=1) for name, total in terms.items()}
        weighted = {f"weighted_loss_{name}": mean * self.objectives[name].weight for name, mean in means.items()}
        logged = {**{f"loss_{name}": mean for name, mean in means.items()}, **weighted}
        self._train_sums.add(logged, inputs.get("attention_mask"), 1 / self.current_gradient_accumulation_steps)
        # The wrapped model averages gradients over the processes; the division was by the count of all of them.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _follow_schedules(self, fraction: float) -> None:
        for objective in self.objectives.values():
            objective.at(fraction)

    def _forward(self, model: nn.Module, batch: Batch, counts: Counts) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Run the teacher, then the student and the objectives inside the outermost wrapper's forward.

        Returns:
            The loss; every term's total, detached; the student's outputs.
        """
        student = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        encoded = self._encoded(student, batch)
        read = encoded if self._share_encoder else batch
        targets = self._targets(read)
        if model is student or isinstance(model, torch._dynamo.OptimizedModule):
            return self._terms(model, student, encoded, targets, counts)
        # DDP and FSDP must see everything that has weights run inside their own forward, projections included.
        original = student.forward

        def whole(*_: Any, **__: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
            student.forward = original
            return self._terms(student, student, encoded, targets, counts)

        student.forward = whole
        try:
            result: tuple[Tensor, dict[str, Tensor], Any] = model()
        finally:
            student.forward = original
        return result

    def _targets(self, batch: Batch) -> Targets:
        needs = self.needs - OF_THE_DATA
        if self.teacher is None or not needs:
            return Targets()
        if isinstance(self.teacher, ModelTeacher):
            return self.teacher.targets(self.task, batch, needs, self._layers[1], self._states)
        return self.teacher.targets(self.task, batch, needs)

    def _encoded(self, student: PreTrainedModel, batch: Batch) -> Batch:
        """The batch with what a frozen encoder makes of it: the same in every epoch, so without dropout."""
        encoder = frozen_encoder(student)
        if encoder is None:
            return batch
        encoder.eval()
        if self.is_fsdp_enabled:  # Its weights are there within the wrapped forward only.
            return batch
        inputs = accepted_inputs(cast(PreTrainedModel, encoder), self.task.student_inputs(batch))
        with torch.no_grad(), self.accelerator.autocast():
            return {**batch, ENCODED: BaseModelOutput(last_hidden_state=encoder(**inputs)[0])}

    def _terms(
        self, forward: nn.Module, student: PreTrainedModel, batch: Batch, targets: Targets, counts: Counts
    ) -> tuple[Tensor, dict[str, Tensor], Any]:
        inputs = accepted_inputs(student, self.task.student_inputs(batch))
        hidden, attention = not self.needs.isdisjoint(STATES), "attentions" in self.needs
        with caught_projections(student, self._layers[0]) as projections:
            outputs, logits = run_model(forward, student, inputs, not self.task.keeps_logits, hidden, attention)
        states = {need: find(outputs) for need, find in STATES.items() if need in self.needs}
        view = self.task.view(logits, states.get("hidden_states"), batch)
        view = replace(view, encoder_states=states.get("encoder_states"))
        if projections:
            check_learning(vector for layer in projections.values() for vector in layer.values())
            view = replace(view, projections=projections)
        if attention:
            view = replace(view, attentions=compared_attentions(outputs, student))
            check_learning(view.attentions or ())
        loss, totals = weighted_loss(self.objectives, view, targets, counts)
        return loss, totals, outputs

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

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits and labels of one batch; the terms are summed over the whole evaluation set, then divided."""
        inputs = self._without_repeats(self._prepare_inputs(inputs))
        masks = self.task.masks(inputs)
        counts: Counts = {unit: mask.sum() for unit, mask in masks.items()}
        self._follow_schedules(1.0)  # Evaluations would not compare by weights that move.
        with torch.no_grad():
            loss, terms, outputs = self._forward(model, inputs, counts)
        self._eval_sums.add(terms, {name: counts[o.unit] for name, o in self.objectives.items()})
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
        self._eval_sums = EvaluationSums()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        terms = self._eval_sums.result(self._reduce)
        if terms:
            loss = sum(self.objectives[name].weight * value for name, value in terms.items())
            assert output.metrics is not None
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            output.metrics.update({f"{metric_key_prefix}_loss_{name}": value for name, value in terms.items()})
        return output

    # --- logs ---------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add every term, as it is and weighted, and the share of padding, to what is logged in training."""
        if "loss" in logs:
            means, padding = self._train_sums.result(self._reduce)
            logs |= {**means, "padding": padding}
            for objective in self.objectives.values():
                logs |= objective.logs(self._reduce)
            self._train_sums = TrainingSums()
            if self._rollout is not None:
                logs |= self._rollout.logs(self._reduce)
        super().log(logs, start_time)

    def _reduce(self, value: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(value.to(self.args.device), "sum")
        return summed

    # --- data ---------------------------------------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known: Any = self._signature_columns
        extra = (*self.task.extra_columns, self.args.length_column_name)
        self._signature_columns: Any = list(dict.fromkeys([*known, *extra]))

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Trainer's; a task may make rows anew in each epoch, but never those that are evaluated."""
        kept = self.data_collator
        self.data_collator = self._train_collator or kept
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = kept

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> torch.utils.data.Sampler[int] | None:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        column = self.args.length_column_name
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if not grouped or not isinstance(rows, Dataset) or column not in rows.column_names:
            sampler: torch.utils.data.Sampler[int] | None = super()._get_train_sampler(train_dataset)
            return sampler
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        self._sampler = LengthGroupedSampler(list(rows[column]), step, seed)
        return self._sampler


class _SamplerEpoch(TrainerCallback):
    """Tells sampler and collator the epoch: accelerate does not reach them through a skipped and sharded loader."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer, self.begun = trainer, 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epoch = int(state.epoch or 0)
        if self.trainer._sampler is not None:
            self.trainer._sampler.set_epoch(epoch)
        # A stream that begins again is not told by Trainer, which does not know its length.
        self.begun += 1
        self.trainer._epoch.fill_(max(epoch, self.begun - 1))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun = 0
