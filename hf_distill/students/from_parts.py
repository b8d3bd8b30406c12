"""A student made of parts of a model: some of its layers, heads, units, channels and tokens; each if asked for."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from torch import Tensor

from hf_distill.errors import StudentError
from hf_distill.students.base import Order, Student, set_options
from hf_distill.students.label_heads import kept_label_order, reorder_outputs
from hf_distill.students.layer_choice import chosen_cuts, layer_stack
from hf_distill.students.layers import cut
from hf_distill.students.pretrained import from_pretrained
from hf_distill.students.pruning.families import Shape, shape_of
from hf_distill.students.pruning.importance import Importance, activation_importance, random_importance, sample
from hf_distill.students.pruning.slicing import Kept, first_ones, most_important, prune
from hf_distill.students.pruning.target_shape import chosen_shape
from hf_distill.students.vocabulary import cut_vocabulary

PARTS = ("layers", "width", "vocabulary")
"""Keys of ``student`` that take parts, in the order in which they do."""


def from_parts(order: Order) -> Student:
    """The teacher, or a pretrained model, without some of its layers, its width or its tokens.

    Raises:
        StudentError: For parts that are not there, or a model that cannot be cut.
        LabelError: Where the source's head does not know the data's labels.
    """
    return parts_of(whole(order), order)


def whole(order: Order) -> Student:
    """What parts are taken of: a pretrained model where one is named, else the teacher itself.

    Raises:
        StudentError: Where there is no teacher, or a tokenizer that its embeddings do not belong to.
    """
    if order.config.pretrained is not None:
        return from_pretrained(order)
    key = next(name for name in PARTS if getattr(order.config, name) is not None)
    if order.teacher is None or order.teacher_tokenizer is None:
        raise StudentError(f"student.{key}: needs a teacher to take {key} from; name one, or use student.config")
    if order.config.tokenizer is not None:
        raise StudentError(
            f"student.tokenizer: a student of the teacher's {key} keeps its embeddings, so its tokenizer too; "
            "leave it out"
        )
    return Student(model=order.teacher, tokenizer=order.teacher_tokenizer, origin="the teacher")


def parts_of(source: Student, order: Order) -> Student:
    """A new student of those parts of a model that a recipe asks for; the model is left as it is.

    Args:
        source: The whole model. On the meta device nothing is measured, and the student has its shape alone.
        order: What is asked for.

    Raises:
        StudentError: See :func:`from_parts`.
        LabelError: See :func:`from_parts`.
    """
    config = order.config
    outputs = kept_label_order(source.model.config, order.model_options)
    student = dataclasses.replace(source, origin=f"of {source.origin}")
    if config.layers is not None:
        student = _with_layers(student, order)
    if config.width is not None:
        student = _narrowed(student, source, order)
    if source.model.can_generate():
        student.model.generation_config = copy.deepcopy(source.model.generation_config)
    if config.vocabulary is not None:
        student = cut_vocabulary(student, config.vocabulary, order.texts)
    reorder_outputs(student.model, outputs)
    set_options(student.model.config, order.model_options)
    return dataclasses.replace(student, origin=student.origin.removeprefix("of "))


def _with_layers(student: Student, order: Order) -> Student:
    assert order.config.layers is not None
    cuts = chosen_cuts(student.model, order.config.layers)
    return dataclasses.replace(
        student,
        model=cut(student.model, cuts),
        origin=f"of {' and '.join(map(str, cuts))} {student.origin}",
        layer_map={each.side: each.layer_map for each in cuts},
    )


def _narrowed(student: Student, source: Student, order: Order) -> Student:
    """Importance is measured on the whole source, whose layers say most about what each of them is good for."""
    width = order.config.width
    assert width is not None
    model = student.model
    if model.config.is_encoder_decoder:
        raise StudentError(
            f"student.width: {type(model).__name__} is an encoder-decoder, which cannot be narrowed; use "
            "student.layers, or student.config for fresh weights of that size"
        )
    before, shape = shape_of(model.config), chosen_shape(model, width, source.model.num_parameters())
    _, depth = layer_stack(model, model, "num_hidden_layers")
    report: dict[str, Any] = {"from": dataclasses.asdict(before), "to": dataclasses.asdict(shape)}
    by = "at random"
    if model.device.type == "meta":
        kept = first_ones(shape, depth)
    else:
        layers = student.layer_map[""] if student.layer_map else range(depth)
        if width.importance == "random":
            importance = random_importance(before, depth)
        else:
            texts = sample(order.texts(), width.calibration_rows)
            importance = activation_importance(source.model, source.tokenizer, texts, layers)
            by = f"by activation on {len(texts)} texts"
        kept = most_important(importance, before, shape)
        report |= {"importance": by, **_shares(importance, kept, list(layers))}
    return dataclasses.replace(
        student,
        model=prune(model, shape, kept),
        origin=f"of {_told(before, shape)}, {by}, {student.origin}",
        report={**(student.report or {}), "width": report},
    )


def _told(before: Shape, after: Shape) -> str:
    return (
        f"width {after.hidden_size} of {before.hidden_size}, {after.heads} of {before.heads} heads, "
        f"{after.intermediate_size} of {before.intermediate_size} units a layer"
    )


def _shares(importance: Importance, kept: Kept, layers: list[int]) -> dict[str, Any]:
    """Which heads are kept, and what share of the importance of all is kept, of channels and in each layer."""

    def share(values: Tensor, indices: list[int]) -> float:
        return round(float(values[indices].sum() / values.sum().clamp(min=1e-30)), 4)

    return {
        "hidden_share": share(importance.hidden, kept.hidden),
        "layers": [
            {
                "source_layer": layer,
                "heads": kept.heads[i],
                "heads_share": share(importance.heads[i], kept.heads[i]),
                "units_share": share(importance.units[i], kept.units[i]),
            }
            for i, layer in enumerate(layers)
        ],
    }
