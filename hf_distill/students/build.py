"""The ways of building a student."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.models.precision import dtype_to_save
from hf_distill.models.sizes import tell_sides
from hf_distill.names import look_up
from hf_distill.students.adapters import add_adapters
from hf_distill.students.freezing import freeze
from hf_distill.students.from_config import from_config
from hf_distill.students.from_parts import from_parts
from hf_distill.students.pretrained import from_pretrained
from hf_distill.students.request import Student, StudentRequest
from hf_distill.tokenizers.compare import fitted
from hf_distill.tokenizers.readers import Reader, check_tokens_fit

if TYPE_CHECKING:
    from hf_distill.recipe import StudentConfig

STUDENTS: dict[str, Callable[..., Student]] = {
    "parts": from_parts,
    "config": from_config,
    "pretrained": from_pretrained,
}


def build_student(
    config: StudentConfig,
    *,
    auto_model: Any,
    teacher: PreTrainedModel | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
    texts: Callable[[], Iterable[str]],
    model_options: dict[str, Any],
    auto_processor: Any = AutoTokenizer,
) -> Student:
    """A student as the recipe asks for it, in float32, on the CPU; what ``lora.quantize`` says of it aside.

    Random weights come from torch's global generator: seed it before.
    """
    request = StudentRequest(
        config=config,
        auto_model=auto_model,
        teacher=teacher,
        teacher_tokenizer=teacher_tokenizer,
        texts=texts,
        model_options=model_options,
        auto_processor=auto_processor,
    )
    student = look_up(config.kind_name, STUDENTS, "recipe.student.kind", StudentError)(request)
    model, tokenizer = student.model, student.tokenizer
    tell_sides(model)
    dtype = dtype_to_save(config.dtype, student.dtype or model.dtype)
    if not getattr(model, "is_loaded_in_4bit", False):
        model = model.float()
    check_tokens_fit([Reader(name="the student", model=model, tokenizer=tokenizer)], StudentError)
    limit_learning(model, config)
    return dataclasses.replace(student, model=model, tokenizer=fitted(tokenizer, model), dtype=dtype)


def limit_learning(model: PreTrainedModel, config: StudentConfig) -> None:
    """Freeze what a recipe freezes, and put in the adapters that it lets learn instead."""
    if config.freeze is not None:
        freeze(model, config.freeze)
    if config.adapters is not None:
        add_adapters(model, config.adapters, config.start.revision if config.start is not None else None)


def learning(model: PreTrainedModel) -> int:
    """How many parameters learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
