"""How the small model is born. A new way is one file here and one line in ``STUDENTS``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.students.adapters import add_adapters, has_adapters, load_adapters, merge_adapters, quantized
from hf_distill.students.base import Order, Student
from hf_distill.students.freezing import freeze, frozen_encoder, share_an_encoder
from hf_distill.students.from_config import from_config
from hf_distill.students.from_parts import PARTS, from_parts, parts_of
from hf_distill.students.layer_choice import Cut, choose_layers, chosen_cuts
from hf_distill.students.layers import cut
from hf_distill.students.pretrained import from_pretrained
from hf_distill.students.pruning.families import Shape, family_of_shapes, pruned_config, shape_of
from hf_distill.students.pruning.target_shape import count_parameters, explicit_shape, largest_shape
from hf_distill.tokenizers.train import fitted, train_tokenizer

if TYPE_CHECKING:
    from hf_distill.recipe import StudentConfig

__all__ = [
    "PARTS",
    "STUDENTS",
    "Cut",
    "Order",
    "Shape",
    "Student",
    "add_adapters",
    "build_student",
    "choose_layers",
    "chosen_cuts",
    "count_parameters",
    "cut",
    "explicit_shape",
    "family_of_shapes",
    "freeze",
    "frozen_encoder",
    "has_adapters",
    "largest_shape",
    "learning",
    "limit_learning",
    "load_adapters",
    "merge_adapters",
    "parts_of",
    "pruned_config",
    "quantized",
    "shape_of",
    "share_an_encoder",
    "train_tokenizer",
]

STUDENTS: dict[str, Callable[[Order], Student]] = {
    **dict.fromkeys(PARTS, from_parts),
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
) -> Student:
    """A student as the recipe asks for it, in float32, on the CPU; what ``lora.quantize`` says of it aside.

    Random weights come from torch's global generator: seed it before.

    Args:
        config: ``student`` of a recipe; the first key of ``STUDENTS`` that is set decides.
        auto_model: The Transformers class that makes a model with the task's head.
        teacher: Whose layers or config are taken; None where there is no teacher. It is left as it is.
        teacher_tokenizer: The teacher's tokenizer.
        texts: Gives the training texts, again at each call; read where a tokenizer is trained, importance is measured
            or tokens are counted.
        model_options: Config attributes of the task: ``num_labels``, ``id2label``, ``label2id``, ``problem_type``.

    Raises:
        StudentError: Where it cannot be built as asked.
        LabelError: Where the teacher's head does not know the data's labels.
        ModelError: Where a model or tokenizer cannot be loaded.
    """
    way = next((name for name in STUDENTS if getattr(config, name) is not None), None)
    if way is None:
        raise StudentError(f"student: expected one of {', '.join(STUDENTS)}, got none")
    student = STUDENTS[way](
        Order(
            config=config,
            auto_model=auto_model,
            teacher=teacher,
            teacher_tokenizer=teacher_tokenizer,
            texts=texts,
            model_options=model_options,
        )
    )
    model, tokenizer = _in_float32(student.model), student.tokenizer
    embeddings: Any = model.get_input_embeddings()
    rows = len(embeddings.weight)
    if len(tokenizer) > rows:
        raise StudentError(
            f"student.tokenizer: it has {len(tokenizer)} tokens, but the model only knows {rows}; "
            "use the tokenizer that belongs to the model"
        )
    limit_learning(model, config)
    return Student(
        model=model,
        tokenizer=fitted(tokenizer, model),
        origin=student.origin,
        layer_map=student.layer_map,
        report=student.report,
    )


def limit_learning(model: PreTrainedModel, config: StudentConfig) -> None:
    """Freeze what a recipe freezes, and put in the adapters that it lets learn instead.

    Raises:
        StudentError: Where the model has no such parts.
    """
    if config.freeze is not None:
        freeze(model, config.freeze)
    if config.lora is not None:
        add_adapters(model, config.lora, config.revision)


def learning(model: PreTrainedModel) -> int:
    """How many parameters learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _in_float32(model: PreTrainedModel) -> PreTrainedModel:
    return model if getattr(model, "is_loaded_in_4bit", False) else model.float()
