"""What prepares pictures or sounds for a student with fresh weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from transformers import AutoImageProcessor, PretrainedConfig
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from hf_distill.errors import StudentError
from hf_distill.names import nearest
from hf_distill.recipe import FromConfig
from hf_distill.students.request import StudentRequest, refused_as

_PARTS = ("image_processor", "feature_extractor")


def fresh_processor(request: StudentRequest[FromConfig], config: PretrainedConfig) -> Any:
    """The teacher's processor, or the usual one of the student's kind, fitted to its config and ``student.processor``.

    A student that reads pictures of another size than its teacher has a processor of its own; so the same picture, or
    the same view of it, is prepared for each.
    """
    asked = dict(request.config.processor or {})
    if request.teacher_tokenizer is None:
        return _with(_usual(request, config), {**_of_config(_usual(request, config), config), **asked})
    processor = copy.deepcopy(request.teacher_tokenizer)
    name = next((name for name in _PARTS if hasattr(processor, name)), None)
    part = getattr(processor, name) if name is not None else processor
    teacher = request.teacher.config if request.teacher is not None else None
    changed = _of_config(part, config) if teacher is None or _sizes(teacher) != _sizes(config) else {}
    fitted = _with(part, {**changed, **asked})
    if name is None:
        return fitted
    setattr(processor, name, fitted)
    return processor


def _usual(request: StudentRequest[FromConfig], config: PretrainedConfig) -> Any:
    """A processor of a model's kind with the settings of its class."""
    mapping: Any = (
        IMAGE_PROCESSOR_MAPPING if request.auto_processor is AutoImageProcessor else FEATURE_EXTRACTOR_MAPPING
    )
    if type(config) not in mapping:
        raise StudentError(
            f"student.config: {config.model_type} has no processor of its own for this task; take a teacher, whose "
            "processor is used, or student.pretrained"
        )
    found = mapping[type(config)]
    # By the library that computes it; Pillow alone is always there.
    kind = (found.get("torchvision") or found["pil"]) if isinstance(found, Mapping) else found
    return kind()


def _sizes(config: PretrainedConfig) -> dict[str, Any]:
    """What a config says of the pictures or spectrograms that a model reads."""
    names = ("image_size", "num_channels", "num_mel_bins", "max_length")
    return {name: value for name in names if (value := getattr(config, name, None)) is not None}


def _of_config(part: Any, config: PretrainedConfig) -> dict[str, Any]:
    """Settings that make a processor give what a model of a config reads."""
    sizes, known, found = _sizes(config), part.to_dict(), dict[str, Any]()
    if (side := sizes.get("image_size")) is not None and "size" in known:
        height, width = (side, side) if isinstance(side, int) else side
        square = {"height": height, "width": width}
        found["size"] = {"shortest_edge": max(height, width)} if "shortest_edge" in known["size"] else square
        if "crop_size" in known and known["crop_size"] is not None:
            found["crop_size"] = square
    if (bins := sizes.get("num_mel_bins")) is not None:
        found |= {name: bins for name in ("num_mel_bins", "feature_size") if known.get(name, 1) != 1}
        if "max_length" in sizes and "max_length" in known:
            found["max_length"] = sizes["max_length"]
    return found


def _with(part: Any, settings: Mapping[str, Any]) -> Any:
    """A processor with other settings; those that it does not know are refused (StudentError)."""
    known = part.to_dict()
    for name in settings:
        if name not in known:
            raise StudentError(
                f"student.processor.{name}: {type(part).__name__} has no such setting{nearest(name, known)}"
            )
    if not settings:
        return part
    with refused_as("student.processor"):
        return type(part).from_dict({**known, **settings})
