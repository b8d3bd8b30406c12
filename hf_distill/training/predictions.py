"""Forward passes, and what evaluations give: a loss of what was counted, logits and labels as Trainer's, texts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    EvalPrediction,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainingArguments,
    Trainer,
)
from transformers.trainer_pt_utils import nested_detach
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from hf_distill.errors import DataError
from hf_distill.generation.room import position_room
from hf_distill.models.forward import accepted_inputs
from hf_distill.students import frozen_encoder
from hf_distill.tasks.encoding import pad_token
from hf_distill.training.loss import Means
from hf_distill.training.step import Counts, Step, Terms
from hf_distill.types import Batch, Masks

logger = logging.getLogger(__name__)

_USUAL_LENGTH = 20
"""Tokens that ``generate`` writes at most where neither the model nor the caller says how many."""


class Predictions(Trainer):
    """The part of a ``Trainer`` that runs its models, evaluates and predicts."""

    step: Step

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **generation: Any,
    ) -> dict[str, float]:
        """As Trainer's; ``generation`` goes to ``generate`` where the arguments say ``predict_with_generate``."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if generation and isinstance(rows, dict):
            found: dict[str, float] = {}
            for name, each in rows.items():
                given = name if eval_dataset is None else each
                found |= self.evaluate(given, ignore_keys, f"{metric_key_prefix}_{name}", **generation)
            return found
        self._set_generation(generation)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **generation: Any,
    ) -> PredictionOutput:
        """As Trainer's; ``generation`` as for :meth:`evaluate`."""
        self._set_generation(generation)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """Loss, logits and labels of one batch; the terms are summed over the whole evaluation set, then divided."""
        inputs = self._without_repeats(self._completed(self._prepare_inputs(inputs)))
        student = cast(PreTrainedModel, self.accelerator.unwrap_model(model, keep_torch_compile=False))
        labels = nested_detach(self.step.task.label_ids(inputs))
        written = None
        if self._writes and not prediction_loss_only:
            written = self._written(student, inputs)
            if labels is None:
                return None, written, None
            labels = self._as_long(labels, student)
        with_logits = not prediction_loss_only and written is None
        loss, outputs = self._evaluated(model, inputs, with_logits)
        if prediction_loss_only:
            return loss, None, None
        if written is not None:
            return loss, written, labels
        return loss, _single(nested_detach(tuple(own_outputs(outputs, student.config, ignore_keys).values()))), labels

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Trainer's loop, with a loss that weighs every row alike however the set was batched.

        There is no loss where nothing of it was counted, and there are no labels where no row has one: a mean of
        nothing would be the best that there is.
        """
        self._begin_evaluation()
        given, self.compute_metrics = self.compute_metrics, self._metrics_of_labels(self.compute_metrics)
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        finally:
            self.compute_metrics = given
        assert output.metrics is not None
        output.metrics.pop(f"{metric_key_prefix}_loss", None)
        terms = self._eval_means.result(self._reduce, empty=False)
        if terms:
            cast(Any, self).check_evaluation(terms)  # Of the guard.
        weighted = [self.step.objectives[name].weight * value for name, value in terms.items()]
        if any(self.step.objectives[name].weight for name in terms):
            output.metrics[f"{metric_key_prefix}_loss"] = sum(weighted)
            output.metrics.update({f"{metric_key_prefix}_loss_{name}": value for name, value in terms.items()})
        return output if self._any_labels() else output._replace(label_ids=None)

    def _begin_evaluation(self) -> None:
        self._eval_means, self._eval_labels = Means(), torch.zeros((), dtype=torch.long, device=self.args.device)

    def _evaluated(self, model: nn.Module, inputs: Batch, with_logits: bool) -> tuple[Tensor, Any]:
        """The loss of a batch and the student's outputs; adds the terms to those of the whole set."""
        counts = {unit: mask.sum() for unit, mask in self._masks(inputs).items()}
        self._eval_labels += counts["labels"]
        self.step.follow_schedules(1.0)  # Evaluations would not compare by weights that move.
        with torch.no_grad():
            loss, terms, outputs = self._forward(model, inputs, counts, with_logits)
        for name, total in terms.items():
            self._eval_means.add(name, total.double(), counts[self.step.objectives[name].unit])
        return loss.detach(), outputs

    def _without_repeats(self, inputs: Batch) -> Batch:
        """Empty the rows that accelerate repeats to give every process a full last batch: they count nowhere."""
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return inputs
        mask = inputs["attention_mask"].clone()
        mask[max(state.remainder - self.accelerator.process_index * len(mask), 0) :] = 0
        return {**inputs, "attention_mask": mask}

    def _metrics_of_labels(self, metrics: Any) -> Any:
        """``compute_metrics`` where there are labels; it is not asked about others."""
        if metrics is None:
            return None

        def of_labels(prediction: EvalPrediction, **more: Any) -> dict[str, float]:
            return (metrics(prediction, **more) or {}) if self._any_labels() else {}

        return of_labels

    def _any_labels(self) -> bool:
        return bool(self._reduce(self._eval_labels))

    def _completed(self, batch: Mapping[str, Any]) -> Batch:
        """A batch with all that the task reads, whoever collated it."""
        names = self.args.label_names or []
        if len(names) == 1 and names[0] in batch and "labels" not in batch:
            batch = {**batch, "labels": batch[names[0]]}
        reads: Any = self.processing_class if self.processing_class is not None else self.data_collator
        tokenizer = reads if isinstance(reads, PreTrainedTokenizerBase) else getattr(reads, "tokenizer", None)
        with self._named(batch):
            return self.step.task.completed(batch, tokenizer)

    def _masks(self, batch: Batch) -> Masks:
        with self._named(batch):
            masks = self.step.task.masks(batch)
            return {**masks, "batches": batch["attention_mask"].any()} if "routers" in self.step.needs else masks

    @contextmanager
    def _named(self, batch: Mapping[str, Any]) -> Iterator[None]:
        """Name the key that a batch lacks, and who collated it (DataError)."""
        try:
            yield
        except KeyError as error:
            collator = getattr(self.data_collator, "__name__", type(self.data_collator).__name__)
            raise DataError(
                f"a batch of {collator} has no {error.args[0]!r}, which {self.step.task.name} reads; it has "
                f"{', '.join(batch)}: add it to the rows and to what the data_collator keeps, or leave that out"
            ) from error

    def _forward(self, model: nn.Module, batch: Batch, counts: Counts, with_logits: bool = False) -> Terms:
        """Run the teacher, then the student and the objectives."""
        student = cast(PreTrainedModel, self.accelerator.unwrap_model(model, keep_torch_compile=False))
        encoder, read = frozen_encoder(student), batch
        if encoder is not None:
            encoder.eval()
            if not self.is_fsdp_enabled:  # Else its weights are there within the wrapped forward only.
                read = self.step.encoded(student, batch, self.accelerator.autocast)
        targets = self.step.targets(read if self.step.shares_encoder else batch)
        return self.step.terms(model, student, read, targets, counts, with_logits)

    def _reduce(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value.to(self.args.device), "sum")

    @property
    def _writes(self) -> bool:
        return bool(getattr(self.args, "predict_with_generate", False))

    def _set_generation(self, given: dict[str, Any]) -> None:
        if given and not self._writes:
            told = ", ".join(given)
            raise TypeError(f"{told}: texts are written with Seq2SeqTrainingArguments(predict_with_generate=True)")
        self._generation = {name: value for name, value in given.items() if value is not None}
        if not self._writes:
            return
        # Repeats are left in: several texts may be written for a row.
        self.gather_function = self.accelerator.gather
        args = cast(Seq2SeqTrainingArguments, self.args)
        if not {"max_length", "max_new_tokens"} & self._generation.keys() and args.generation_max_length:
            self._generation["max_length"] = args.generation_max_length
        room = position_room(cast(PreTrainedModel, self.model))
        for name in ("max_length", "max_new_tokens"):
            if room is not None and self._generation.get(name, 0) > room:
                logger.info(f"{name}: {room} in place of {self._generation[name]}: the student has no more positions")
                self._generation[name] = room
        if args.generation_num_beams is not None:
            self._generation.setdefault("num_beams", args.generation_num_beams)

    def _written(self, student: PreTrainedModel, inputs: Batch) -> Tensor:
        """What the student writes after the sources, ``[B, T]``."""
        read = accepted_inputs(student, self.step.task.student_inputs(inputs))
        read = {name: value for name, value in read.items() if not name.startswith("decoder_")}
        with torch.no_grad(), self.accelerator.autocast():
            return self._as_long(cast(Any, student).generate(**read, **self._generation), student)

    def _as_long(self, tokens: Tensor, student: PreTrainedModel) -> Tensor:
        """Filled up to what may be written at most, as Seq2SeqTrainer does, so that batches have one length."""
        config: Any = student.generation_config
        length = config.max_length or _USUAL_LENGTH
        if tokens.shape[-1] >= length and config.max_new_tokens is not None:
            length = config.max_new_tokens + 1
        tokenizer: Any = self.processing_class
        pad = pad_token(tokenizer) if tokenizer is not None else student.config.pad_token_id or 0
        return functional.pad(tokens, (0, max(length - tokens.shape[-1], 0)), value=pad)


def own_outputs(outputs: Any, config: PretrainedConfig, ignored: list[str] | None = None) -> Mapping[str, Any]:
    """What a model gives by itself, without its loss: layers that objectives looked into are left out."""
    ignored = getattr(config, "keys_to_ignore_at_inference", ["past_key_values"]) if ignored is None else ignored
    asked = {"hidden_states": config.output_hidden_states, "attentions": config.output_attentions}
    looked_into = tuple(name for name, is_asked in asked.items() if not is_asked)
    return {k: v for k, v in outputs.items() if k not in (*ignored, "loss") and not k.endswith(looked_into)}


def _single(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values
