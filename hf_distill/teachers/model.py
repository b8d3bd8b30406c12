"""A live teacher: a frozen model that looks at every batch the student sees."""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from hf_distill.evaluation.predict import predict, set_generation
from hf_distill.evaluation.scores import Evaluation, Scores
from hf_distill.generation.frame_writer import FrameWriter
from hf_distill.generation.hypotheses import ModelWriter, own_generation
from hf_distill.generation.writer import Writer
from hf_distill.models.attention import caught_projections, eager_attention
from hf_distill.models.fingerprints import license_of
from hf_distill.models.forward import ENCODED, STATES, accepted_inputs, compared_attentions, run_model
from hf_distill.models.hardware import place
from hf_distill.models.loading import load_config, load_model, model_folder
from hf_distill.models.pooling import head_of, vector_size
from hf_distill.models.precision import runnable_dtype
from hf_distill.recipe import LabelConfig, LocalTeacher, TrainedTeacher
from hf_distill.students import share_an_encoder
from hf_distill.tasks import Task
from hf_distill.teachers.base import Layers, Loading, States, Teacher
from hf_distill.tokenizers.compare import fitted, reads_alike
from hf_distill.tokenizers.processors import load_processor
from hf_distill.types import Batch, LogitSource, Need, Targets, Tokenizer


class RunningTeacher(Teacher):
    """A teacher whose models are here: it is scored and timed as a student is."""

    provides: frozenset[Need] = frozenset({"logits"})

    @override
    def score(self, evaluation: Evaluation) -> Scores:
        return predict(self, evaluation)

    @override
    def beside(self, tokenizer: Tokenizer) -> Self:
        """Itself, reading the student's tokens, or its own where these differ and then no more than it can read."""
        teacher, reads = copy.copy(self), None
        if self.tokenizer is not None and not reads_alike(tokenizer, self.tokenizer):
            reads = functools.reduce(fitted, self.models, self.tokenizer)
        teacher.tokenizer = reads
        return teacher

    @override
    def to(self, device: torch.device) -> None:
        for model in self.models:
            place(model, device)


class ModelTeacher(RunningTeacher):
    """Targets from a forward pass of a model: frozen, in eval mode, under inference_mode, in its own dtype.

    Args:
        model: A Transformers model with the task's head; it is frozen here, and moved by :meth:`to` unless it was
            already spread over devices.
        tokenizer: Its tokenizer, or None where it reads the student's.
        label_order: For each label of the data the index of the model's output, see ``Task.align``; None: aligned by
            name when it is told the task.
        folder: Where its weights lie, if anywhere.
        facts: What the card says of it.
    """

    provides: frozenset[Need] = frozenset({"logits", *STATES, "projections", "attentions"})
    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        label_order: list[int] | None = None,
        *,
        folder: Path | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.label_order = tokenizer, label_order
        self.folders, self.facts = (folder,) if folder is not None else (), facts or {}

    @classmethod
    @override
    def load(cls, config: Any, loading: Loading) -> ModelTeacher:
        task = loading.task

        def trained(config: TrainedTeacher) -> LocalTeacher:
            made = loading.train(config.recipe)
            return LocalTeacher(model=str(made), dtype=config.dtype, device_map=config.device_map)

        local = config.match(lambda local: local, trained)
        source, labels = local.model, local.labels
        loaded = load_config(source, local.revision)
        order = task.align(loaded, labels)
        tokenizer = load_processor(task.auto_processor, source, local.revision)
        more: dict[str, Any] = {"device_map": local.device_map} if local.device_map else {}
        dtype = runnable_dtype(local.dtype, PartialState().device, task.tried, loaded)
        model = load_model(task.auto_model, source, revision=local.revision, dtype=dtype, **more)
        if labels is not None:
            model.config.id2label = dict(enumerate(labels))
            model.config.label2id = {name: i for i, name in enumerate(labels)}
        task.check_model(model)
        set_generation(model, loading.generation)  # As its students are set, also where speed is measured.
        folder, is_folder = model_folder(source, local.revision), Path(source).is_dir()
        facts = {
            "model": config.match(lambda _: Path(source).name if is_folder else source, lambda made: made.recipe.name),
            "hub_id": None if is_folder else source,
            "revision": None if is_folder else folder.name,
            **license_of(folder),
            "origin": config.match(lambda _: "pretrained", lambda _: "made by its own recipe"),
        }
        return cls(model, tokenizer, order, folder=folder, facts=facts)

    @property
    def config(self) -> PretrainedConfig:  # type: ignore[override]  # noqa: D102
        return self.model.config

    @property
    @override
    def name(self) -> str:
        return str(self.model.config._name_or_path)

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # noqa: D102
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]  # noqa: D102
        return self.model.dtype

    @property
    @override
    def outputs(self) -> int:
        if head_of(self.model) is not None:
            return vector_size(self.model)
        head, config = self.model.get_output_embeddings(), self.model.config
        if head is not None:
            return head.weight.shape[0]
        # Models for CTC do not tell their head.
        is_of_letters = any(hasattr(self.model, name) for name in ("lm_head", "ctc_head"))
        return int((config.vocab_size if is_of_letters else config.num_labels) or 0)

    @override
    def follow(self, task: Task) -> None:
        if self.label_order is None:
            self.label_order = task.align(self.config)

    @override
    def shares_encoder(self, student: PreTrainedModel) -> bool:
        return self.tokenizer is None and share_an_encoder(student, self.model)

    @override
    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "labels": self.label_order}

    @override
    def writer(self, config: LabelConfig, task: Task, options: Mapping[str, Any]) -> Writer:
        assert self.tokenizer is not None
        if not self.model.can_generate():
            return FrameWriter(self.model, self.tokenizer, config, task)
        own = own_generation(self.folders[0], self.model)
        return ModelWriter(self.model, self.tokenizer, config, own=own, task=task, options=options)

    @override
    def run(self, inputs: Batch, has_vocabulary: bool) -> Tensor | LogitSource:
        return self._outputs(inputs, has_vocabulary)[1]

    @override
    def targets(
        self, task: Task, batch: Batch, needs: frozenset[Need], layers: Layers = (), states: States | None = None
    ) -> Targets:
        hidden, attention = not needs.isdisjoint(STATES), "attentions" in needs
        self.model.eval()
        shown = eager_attention(self.model) if attention else nullcontext()
        with torch.inference_mode(), shown, caught_projections(self.model, layers) as projections:
            outputs, logits = self._outputs(task.teacher_inputs(batch), not task.keeps_logits, hidden, attention)
            looked = {need: (states or {}).get(need) for need in STATES if need in needs}
            found = {need: _needed(STATES[need](outputs), layers) for need, layers in looked.items()}
            logits = task.teacher_logits(logits, found.get("hidden_states"), batch)
            if isinstance(logits, Tensor):
                logits = task.reduced(logits)
        maps = compared_attentions(outputs, self.model) if attention else None
        cloned = {need: tuple(map(torch.clone, each)) for need, each in found.items()}
        caught = {layer: {name: x.clone() for name, x in parts.items()} for layer, parts in projections.items()}
        attentions = None if maps is None else tuple(map(torch.clone, maps))
        return Targets(logits=usable(logits), **cloned, projections=caught or None, attentions=attentions)

    def _outputs(
        self, inputs: Batch, has_vocabulary: bool, hidden: bool = False, attention: bool = False
    ) -> tuple[Any, Tensor | LogitSource]:
        """A forward pass, with logits in the order of the task's labels: the one place where they are put into it."""
        inputs = accepted_inputs(self.model, inputs)
        if ENCODED in inputs:
            inputs[ENCODED] = BaseModelOutput(last_hidden_state=inputs[ENCODED][0].to(self.model.dtype))
        outputs, logits = run_model(self.model, self.model, inputs, has_vocabulary, hidden, attention)
        if isinstance(logits, Tensor) and self.label_order is not None:
            logits = logits[..., self.label_order]
        return outputs, logits


def _needed(states: tuple[Tensor, ...], needed: Collection[int] | None) -> tuple[Tensor, ...]:
    if needed is None:
        return states
    return tuple(state if i in needed else state.new_empty(0) for i, state in enumerate(states))


def usable(logits: Tensor | LogitSource) -> Tensor | LogitSource:
    """A copy that autograd may keep: tensors made under inference_mode must not be saved for a backward pass."""
    return logits.clone() if isinstance(logits, Tensor) else logits.map(torch.clone)
