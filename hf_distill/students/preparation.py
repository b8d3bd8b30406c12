"""What prepares images or sounds for a student with fresh weights: its teacher's, where it reads the same."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoImageProcessor, AutoProcessor, PretrainedConfig, SequenceFeatureExtractor
from transformers.image_utils import SizeDict
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from hf_distill.errors import StudentError
from hf_distill.models.sizes import sizes_of
from hf_distill.names import nearest
from hf_distill.recipe import FromConfig
from hf_distill.students.request import StudentRequest, refused_as

_PARTS = ("image_processor", "feature_extractor")
_BINS = ("num_mel_bins", "input_feat_per_channel")
"""What configs call the frequencies of a spectrogram."""
_SIZES = frozenset({"size", "crop_size", "feature_size", "num_mel_bins", "max_length", "chunk_length"})
"""Settings of preprocessors that a model must be made for."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What prepares rows for a student whose config is not made yet.

    Attributes:
        whole: The teacher's; None without one.
        part: What prepares images or sounds, with the settings of ``student.processor``.
        asked: The names of these settings.
        is_new: Whether the part is the usual one of the student's kind, and knows nothing of its sizes yet.
    """

    whole: Any | None
    part: Any
    asked: Collection[str]
    is_new: bool

    def sizes(self, config: PretrainedConfig, *, of_kind: bool) -> dict[str, Any]:
        """The sizes of what it gives, under their names in a config that does not say others.

        ``of_kind``: whether the config begins with the sizes of its kind, and not with the teacher's.
        """
        if not _SIZES.intersection(self.asked) and (self.is_new or not of_kind):
            return {}
        if not isinstance(self.part, SequenceFeatureExtractor):
            found: dict[str, Any] = {"image_size": _side(self.part)}
        else:
            found = dict.fromkeys(_BINS, _bins(self.part)) | {"max_length": getattr(self.part, "max_length", None)}
            if hasattr(self.part, "nb_max_frames"):
                found["max_source_positions"] = self.part.nb_max_frames // 2  # Whisper's encoder halves them.
        return {name: value for name, value in found.items() if value is not None and hasattr(sizes_of(config), name)}

    def fitted(self, config: PretrainedConfig, changes: Collection[str]) -> Any:
        """What prepares rows for a student of a config, of which a recipe has made those ``changes``."""
        sizes = sizes_of(config)
        settings = _settings(self.part, sizes, set(vars(sizes)) if self.is_new else set(changes))
        settings = {name: value for name, value in settings.items() if name not in self.asked}
        part = _with(self.part, settings)
        if part is _part(self.whole):
            return self.whole
        if self.whole is None or (name := _place(self.whole)) is None:
            return part
        whole = copy.copy(self.whole)
        setattr(whole, name, part)
        return whole


def prepared_by(request: StudentRequest[FromConfig], config: PretrainedConfig) -> Preparation:
    """The teacher's, or the usual one of the student's kind where there is no teacher, or it prepares otherwise.

    Args:
        request: What the recipe asks for.
        config: Of the student's kind.
    """
    if request.config.tokenizer is not None:
        raise StudentError(
            "student.tokenizer: a student that reads images or sounds takes its teacher's; remove it, or name a "
            "student.pretrained that has another"
        )
    settings = dict(request.config.processor or {})
    given, kind = _part(request.teacher_tokenizer), _usual(request, config)
    if given is None and (kind is None or request.auto_processor is AutoProcessor):
        raise StudentError(
            f"student.config: without a teacher nothing prepares rows for {config.model_type}; take a teacher, whose "
            "processor is used, or student.pretrained"
        )
    part = given
    # Transformers names another class for Wav2Vec2-BERT than what its models are trained with.
    is_of_its_kind = request.teacher is not None and request.teacher.config.model_type == config.model_type
    fits = is_of_its_kind or kind is None or isinstance(given, kind)
    if given is None:
        part = kind()
    elif isinstance(given, SequenceFeatureExtractor) and not fits:
        # What is a wave for one kind is a spectrogram for another.
        part = kind(sampling_rate=given.sampling_rate)
    return Preparation(
        whole=request.teacher_tokenizer,
        part=_with(part, settings),
        asked=settings.keys(),
        is_new=part is not given,
    )


def _usual(request: StudentRequest[FromConfig], config: PretrainedConfig) -> Any:
    """The class of what prepares rows for models of a kind; None where there is none."""
    is_of_images = request.auto_processor is AutoImageProcessor
    mapping: Any = IMAGE_PROCESSOR_MAPPING if is_of_images else FEATURE_EXTRACTOR_MAPPING
    if type(config) not in mapping:
        return None
    found = mapping[type(config)]
    # By the library that computes it; Pillow alone is always there.
    return (found.get("torchvision") or found["pil"]) if isinstance(found, Mapping) else found


def _with(part: Any, settings: Mapping[str, Any]) -> Any:
    """A preprocessor with other settings; those that it does not know are refused (StudentError)."""
    known = part.to_dict()
    for name in settings:
        if name not in known:
            raise StudentError(
                f"student.processor.{name}: {type(part).__name__} has no such setting{nearest(name, known)}"
            )
    if all(_plain(getattr(part, name, None)) == value for name, value in settings.items()):
        return part
    with refused_as("student.processor"):
        return type(part).from_dict({**known, **settings})


def _settings(part: Any, sizes: PretrainedConfig, changed: set[str]) -> dict[str, Any]:
    """How a preprocessor must be set where a student reads other sizes."""
    if not isinstance(part, SequenceFeatureExtractor):
        asked = getattr(sizes, "image_size", None) if "image_size" in changed else None
        return {} if asked is None or _side(part) in (asked, None) else _of_side(part, asked)
    found: dict[str, Any] = {}
    for name in changed.intersection(_BINS):
        own = ["num_mel_bins"] * hasattr(part, "num_mel_bins")
        own += ["feature_size"] * (getattr(part, "num_mel_bins", part.feature_size) == part.feature_size)
        found |= dict.fromkeys(own, getattr(sizes, name))
    if "max_length" in changed and hasattr(part, "max_length"):
        found["max_length"] = sizes.max_length
    if "max_source_positions" in changed and hasattr(part, "chunk_length"):
        found["chunk_length"] = _seconds(part, sizes.max_source_positions)
    if "feat_extract_norm" in changed:
        # A model whose first layer is normalized over a whole sound has learned from silence at its end, unmasked.
        found["return_attention_mask"] = sizes.feat_extract_norm == "layer"
    return found


def _seconds(part: Any, positions: int) -> int:
    a_second = part.sampling_rate // part.hop_length // 2  # Whisper's encoder halves the frames.
    if positions % a_second:
        raise StudentError(
            f"student.config.max_source_positions: expected a multiple of {a_second}, which is a second, since "
            f"sounds are cut at whole seconds, got {positions}"
        )
    return positions // a_second


def _side(part: Any) -> Any:
    """How large images are that a preprocessor gives, as configs say it; None where it does not tell."""
    crops = getattr(part, "do_center_crop", False)
    size = _plain(getattr(part, "crop_size" if crops else "size", None)) or {}
    if "height" in size:
        return size["height"] if size["height"] == size["width"] else [size["height"], size["width"]]
    return size.get("shortest_edge")


def _of_side(part: Any, side: Any) -> dict[str, Any]:
    """The settings by which a preprocessor gives images of that size, cut at the edges as before."""
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    size, crop = _plain(part.size), {"height": height, "width": width}
    if not getattr(part, "do_center_crop", False):
        return {"size": crop if "height" in size else {"shortest_edge": min(height, width)}}
    before = _side(part)
    before = min(before) if isinstance(before, list) else before
    return {"crop_size": crop, "size": {name: round(v * min(height, width) / before) for name, v in size.items()}}


def _bins(part: Any) -> int | None:
    bins: int = getattr(part, "num_mel_bins", part.feature_size)
    return bins if bins > 1 else None


def _part(processor: Any) -> Any:
    """What prepares images or sounds: the processor itself, or the part of it beside the tokenizer."""
    name = _place(processor)
    return processor if name is None else getattr(processor, name)


def _place(processor: Any) -> str | None:
    return next((name for name in _PARTS if hasattr(processor, name)), None)


def _plain(value: Any) -> Any:
    """Sizes are kept in a class of their own."""
    return {k: v for k, v in dict(value).items() if v is not None} if isinstance(value, (Mapping, SizeDict)) else value
