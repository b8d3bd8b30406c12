"""What lets a student write: Transformers' ``generate``, or vLLM."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.generation.generate import generate
from hf_distill.recipe import RolloutConfig

VLLM_DEFAULTS: dict[str, Any] = {"gpu_memory_utilization": 0.3, "skip_tokenizer_init": True}
"""Keyword arguments of ``vllm.LLM`` unless others are given: training needs the rest of the device."""


class Engine(Protocol):
    """Whatever runs a student while it writes."""

    def follow(self, student: PreTrainedModel) -> None:
        """Take the student's weights as they are now; called in each step in which it writes."""

    def write(self, input_ids: Tensor, attention_mask: Tensor, settings: Mapping[str, Any], seed: int) -> Tensor:
        """Continue prompts.

        Args:
            input_ids: ``[B, T]``; of a decoder padded on the left.
            attention_mask: ``[B, T]``.
            settings: Arguments of ``generate``: ``max_new_tokens``, ``temperature``, ``top_k``, ``top_p``,
                ``eos_token_id`` (a list), ``pad_token_id``, and others that the task asks for.
            seed: Decides what is drawn.

        Returns:
            ``[B, N]``, the tokens that follow each prompt; of an encoder-decoder all that its decoder read and wrote.
        """


class TransformersEngine(Engine):
    """``generate`` of the student itself, with a cache of keys and values."""

    def __init__(self) -> None:
        self._student: PreTrainedModel | None = None

    @override
    def follow(self, student: PreTrainedModel) -> None:
        self._student = student

    @override
    def write(self, input_ids: Tensor, attention_mask: Tensor, settings: Mapping[str, Any], seed: int) -> Tensor:
        assert self._student is not None
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        drawn = {"do_sample": True, "num_beams": 1, "use_cache": True, **settings}
        # The student's own settings (beams, penalties) are for those who use it, not for training.
        return generate(self._student, inputs, drawn, own=GenerationConfig(), seed=seed).tokens


class VllmEngine(Engine):
    """A ``vllm.LLM`` in this process, which gets the student's weights in each step in which it writes.

    Experimental: tested with a stand-in for vLLM, not measured on a GPU. Options are keyword arguments of ``vllm.LLM``.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        # Without a process of its own for the engine, functions and tensors reach the model as they are.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            import vllm
        except ImportError:
            needed = "recipe.rollout.engine: vllm needs the package vllm, which is not installed"
            raise RecipeError(f"{needed}; pip install vllm, or set it to transformers") from None
        self._vllm, self._options = vllm, {**VLLM_DEFAULTS, **(options or {})}
        self._engine: Any = None

    @override
    def follow(self, student: PreTrainedModel) -> None:
        if self._engine is None:
            with tempfile.TemporaryDirectory() as folder:
                student.save_pretrained(folder)
                self._engine = self._vllm.LLM(model=folder, **self._options)
            return
        ignored = set(student._keys_to_ignore_on_save or ())
        weights = [(name, tensor) for name, tensor in student.state_dict().items() if name not in ignored]
        self._engine.apply_model(lambda model: model.load_weights(weights))
        self._engine.reset_prefix_cache()  # It holds what the weights of before made of a prompt.

    @override
    def write(self, input_ids: Tensor, attention_mask: Tensor, settings: Mapping[str, Any], seed: int) -> Tensor:
        masks = attention_mask.bool()
        prompts = [{"prompt_token_ids": ids[mask].tolist()} for ids, mask in zip(input_ids, masks, strict=True)]
        asked = {name: settings[name] for name in ("temperature", "top_k", "top_p")}
        asked |= {"max_tokens": settings["max_new_tokens"], "stop_token_ids": settings["eos_token_id"]}
        parameters = [
            self._vllm.SamplingParams(**asked, seed=seed + number, detokenize=False) for number in range(len(prompts))
        ]
        found = self._engine.generate(prompts, parameters, use_tqdm=False)
        rows = [torch.tensor(each.outputs[0].token_ids, dtype=torch.long) for each in found]
        padded = pad_sequence(rows, batch_first=True, padding_value=settings["pad_token_id"])
        return padded.to(input_ids.device)


def make_engine(config: RolloutConfig) -> Engine:
    """The engine that a recipe names."""
    return VllmEngine(config.engine_options) if config.engine == "vllm" else TransformersEngine()
