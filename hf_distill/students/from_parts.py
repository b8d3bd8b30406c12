"""A student made of parts of a model: some of its layers, heads, units, channels or tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from hf_distill.errors import StudentError
from hf_distill.recipe import FromParts, WidthConfig
from hf_distill.students.adapters import has_adapters, of_adapters
from hf_distill.students.label_heads import kept_label_order, reorder_outputs
from hf_distill.students.layer_choice import Cut, all_layers, chosen_cuts
from hf_distill.students.layers import cut, generation_of
from hf_distill.students.pretrained import from_pretrained
from hf_distill.students.pruning.families import shape_of
from hf_distill.students.pruning.importance import Importance, activation_importance, random_importance, sample
from hf_distill.students.pruning.slicing import Kept, first_ones, most_important, prune
from hf_distill.students.pruning.target_shape import chosen_shape
from hf_distill.students.request import Student, StudentRequest, dtype_of_files, set_options
from hf_distill.students.vocabulary import cut_vocabulary


def from_parts(request: StudentRequest[FromParts]) -> Student:
    """The teacher, or a pretrained model, without some of its layers, its width or its tokens."""
    return parts_of(whole(request), request)


def whole(request: StudentRequest[FromParts]) -> Student:
    """What parts are taken of: a pretrained model where one is named, else the teacher itself."""
    if request.config.start is not None:
        return from_pretrained(StudentRequest(**{**vars(request), "config": request.config.start}))
    key = request.config.parts[0]
    if request.teacher is None or request.teacher_tokenizer is None:
        raise StudentError(f"student.{key}: needs a teacher to take {key} from; name one, or use student.config")
    if request.config.tokenizer is not None:
        raise StudentError(f"student.tokenizer: a student of {key} keeps its embeddings and tokenizer; leave it out")
    if has_adapters(request.teacher):
        raise of_adapters(f"student.{key}", "the teacher")
    dtype = dtype_of_files(request.teacher)
    return Student(model=request.teacher, tokenizer=request.teacher_tokenizer, origin="the teacher", dtype=dtype)


def parts_of(source: Student, request: StudentRequest[FromParts]) -> Student:
    """A new student of those parts of a model that a recipe asks for; the model is left as it is.

    On the meta device nothing is measured, and the student has its shape alone.
    """
    config = request.config
    outputs = kept_label_order(source.model.config, request.model_options)
    student = dataclasses.replace(source, origin=f"of {source.origin}")
    if config.layers is not None:
        cuts = chosen_cuts(source.model, config.layers)
        student = dataclasses.replace(
            student,
            model=cut(source.model, cuts),
            origin=f"of {' and '.join(map(str, cuts))} {student.origin}",
            layer_map={each.side: each.layer_map for each in cuts},
        )
    if config.width is not None:
        student = _narrowed(student, source, config.width, request)
    if source.model.can_generate():
        student.model.generation_config = generation_of(source.model, (student.layer_map or {}).get("decoder"))
    if config.vocabulary is not None:
        student = cut_vocabulary(student, config.vocabulary, request.texts)
    reorder_outputs(student.model, outputs)
    set_options(student.model.config, request.model_options)
    return dataclasses.replace(student, origin=student.origin.removeprefix("of "))


def _narrowed(student: Student, source: Student, width: WidthConfig, request: StudentRequest[FromParts]) -> Student:
    """Importance is measured on the whole source, whose layers say most about what each of them is good for."""
    model = student.model
    before, shape = shape_of(model.config), chosen_shape(model, width, source.model.num_parameters())
    report: dict[str, Any] = {"from": dataclasses.asdict(before), "to": dataclasses.asdict(shape)}
    by = "at random"
    if model.device.type == "meta":
        kept = first_ones(shape, sum(each.total for each in all_layers(model)))
    else:
        cuts = all_layers(source.model)
        if student.layer_map is not None:
            cuts = [dataclasses.replace(each, layer_map=student.layer_map[each.side]) for each in cuts]
        if width.importance == "random":
            importance = random_importance(model)
        else:
            texts = sample(request.texts(), width.calibration_rows)
            importance = activation_importance(source.model, source.tokenizer, texts, cuts)
            by = f"by activation on {len(texts)} texts"
        kept = most_important(importance, before, shape)
        report |= {"importance": by, **_shares(importance, kept, cuts)}
    return dataclasses.replace(
        student,
        model=prune(model, shape, kept),
        origin=f"of width {shape.hidden_size} of {before.hidden_size}, {shape.heads} of {before.heads} heads, "
        f"{shape.intermediate_size} of {before.intermediate_size} units a layer, {by}, {student.origin}",
        report={**(student.report or {}), "width": report},
    )


def _shares(importance: Importance, kept: Kept, cuts: list[Cut]) -> dict[str, Any]:
    """Which heads are kept, and the share of all importance that is, of channels and in each layer."""

    def share(values: Tensor, indices: list[Any]) -> float:
        kept = values.gather(-1, torch.tensor(indices, device=values.device))
        return round(float(kept.sum() / values.sum().clamp(min=1e-30)), 4)

    sides = [({"side": each.side} if each.side else {}, i) for each in cuts for i in each.layer_map]
    of_layers = [
        {
            **side,
            "source_layer": layer,
            "heads": kept.heads[i],
            "heads_share": share(importance.heads[i], kept.heads[i]),
            "units_share": share(importance.units[i], kept.units[i]),
        }
        for i, (side, layer) in enumerate(sides)
    ]
    return {"hidden_share": share(importance.hidden, kept.hidden), "layers": of_layers}
