"""A student of a given size, with fresh weights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.models.forward import compared_layers
from hf_distill.models.sizes import is_staged, sizes_of, tell_sides
from hf_distill.names import nearest
from hf_distill.recipe import FromConfig
from hf_distill.students.layers import generation_of
from hf_distill.students.preparation import prepared_by
from hf_distill.students.request import (
    Student,
    StudentRequest,
    dtype_of_files,
    per_layer_lists,
    refused_as,
    renew,
    set_options,
)
from hf_distill.tokenizers.compare import same_tokenizer
from hf_distill.tokenizers.processors import vocabulary_of
from hf_distill.tokenizers.trained import choose_tokenizer

# Special tokens that configs name, and which other one stands in where the tokenizer has none.
_SPECIAL = {"pad": "pad", "bos": "cls", "eos": "sep", "cls": "bos", "sep": "eos", "mask": "mask"}

_TOKENS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")


def from_config(request: StudentRequest[FromConfig]) -> Student:
    """A model from the teacher's config with changes, or, with ``model_type``, from a new one."""
    changes = dict(request.config.config)
    model_type = changes.pop("model_type", None)
    reads_text = request.auto_processor is AutoTokenizer
    if reads_text and request.config.processor is not None:
        raise StudentError("student.processor: is for models that read images or sounds; remove it")
    kind = _kind(request, model_type)
    preparation = None if reads_text else prepared_by(request, kind)
    read = {} if preparation is None else preparation.sizes(kind, of_kind=model_type is not None)
    if model_type is not None:
        config, dtype = _new_config(kind, changes, read), torch.float32
    else:
        assert request.teacher is not None
        config, dtype = _changed_config(kind, changes, read), dtype_of_files(request.teacher)
    processor = (
        choose_tokenizer(request.config.tokenizer, request.teacher_tokenizer, request.texts)
        if preparation is None
        else preparation.fitted(config, changes)
    )
    vocabulary, of_teacher = vocabulary_of(processor), vocabulary_of(request.teacher_tokenizer)
    if vocabulary is not None and (model_type is not None or vocabulary is not of_teacher):
        _follow_tokenizer(config, vocabulary)
    alike = vocabulary is not None and same_tokenizer(vocabulary, of_teacher)
    pattern = request.teacher if alike else None
    if pattern is not None:
        _write_as(config, pattern.config, () if reads_text else _TOKENS)
    _check_sizes(config)
    set_options(config, request.model_options)
    with refused_as("student.config"):
        config.validate()
        model = request.auto_model.from_config(config, dtype=torch.float32)
    tell_sides(model)
    if pattern is not None and model.can_generate():
        model.generation_config = generation_of(pattern, ())
    return Student(model=model, tokenizer=processor, origin=f"fresh {_described(model.config)}", dtype=dtype)


def _kind(request: StudentRequest[FromConfig], model_type: str | None) -> PretrainedConfig:
    """A config of the kind of model that is asked for: its teacher's, or one as Transformers makes it."""
    if model_type is None:
        if request.teacher is None:
            raise StudentError(
                "student.config: without a teacher it must say what to build; add model_type, such as bert"
            )
        return request.teacher.config
    if model_type not in CONFIG_MAPPING:
        near = nearest(model_type, CONFIG_MAPPING)
        raise StudentError(f"student.config.model_type: Transformers knows no {model_type!r}{near}")
    with refused_as("student.config"):
        config = AutoConfig.for_model(model_type)
    if (sizes := sizes_of(config)) is not config and not _reads_images(config):
        raise StudentError(
            f"student.config.model_type: {model_type} nests the sizes of several models; name the one that reads text, "
            f"{sizes.model_type}"
        )
    return config


def _reads_images(config: PretrainedConfig) -> bool:
    """Whether it is the config of two models, of which the one is meant that reads images."""
    return sizes_of(config) is getattr(config, "vision_config", None)


def _new_config(kind: PretrainedConfig, changes: dict[str, Any], read: dict[str, Any]) -> PretrainedConfig:
    """A config of a kind; ``read`` are sizes of what is prepared for it, where the changes say no others."""
    sizes = {**read, **_checked(sizes_of(kind), changes)}
    given = {"vision_config": sizes} if _reads_images(kind) else sizes
    with refused_as("student.config"):
        # Some kinds have two classes for a task, and Transformers looks among none for the one to take.
        return AutoConfig.for_model(kind.model_type, architectures=[], **given)


def _changed_config(teacher: PretrainedConfig, changes: dict[str, Any], read: dict[str, Any]) -> PretrainedConfig:
    """The teacher's config with changes; lists with one entry a layer follow its depth."""
    config = copy.deepcopy(teacher)
    set_options(config, {"name_or_path": ""})
    sizes = sizes_of(config)
    lists = per_layer_lists(sizes)
    changes = {**read, **_checked(sizes, changes)}
    for name in ("pooler_hidden_size", "output_hidden_size"):  # Other names of the same size, of DeBERTa and wav2vec2.
        if getattr(sizes, name, None) == getattr(sizes, "hidden_size", 0):
            changes = {name: changes.get("hidden_size", sizes.hidden_size), **changes}
    with refused_as("student.config"):
        set_options(sizes, changes)
        renew(sizes)
    for name, values in lists.items():
        if name not in changes:
            setattr(sizes, name, [values[i % len(values)] for i in range(sizes.num_hidden_layers)])
    return config


def _follow_tokenizer(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        raise StudentError("student.tokenizer: it has no padding token, so texts cannot be batched; use another")
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL}
    for each in (config, sizes_of(config)):
        for name in ("vocab_size", "decoder_vocab_size"):
            if hasattr(each, name):
                setattr(each, name, len(tokenizer))
        for name, other in _SPECIAL.items():
            if hasattr(each, f"{name}_token_id"):
                setattr(each, f"{name}_token_id", ids[other] if ids[name] is None else ids[name])
    if config.is_encoder_decoder:
        # What tokenizers put before a text, so that it is not predicted; T5 and Marian have no such token and use pad.
        start = getattr(config, "bos_token_id", None)
        config.decoder_start_token_id = config.pad_token_id if start is None else start
        if hasattr(config, "forced_eos_token_id"):
            config.forced_eos_token_id = config.eos_token_id


def _write_as(config: PretrainedConfig, teacher: PretrainedConfig, tokens: Sequence[str]) -> None:
    """Let a model write as its teacher, with which it shares a vocabulary.

    A decoder begins and ends as its teacher's, which reads the same inputs: BART's begins with the end token. The
    ``tokens`` of a model that reads sounds stand at the same outputs: its tokenizer need not tell how many there are.
    """
    starts = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
    for name in (*tokens, *(starts if config.is_encoder_decoder else ())):
        if hasattr(config, name) and (given := getattr(teacher, name, None)) is not None:
            setattr(config, name, given)


def _check_sizes(config: PretrainedConfig) -> None:
    """Refuse sizes that do not fit each other (StudentError)."""
    sizes = sizes_of(config)
    hidden, heads = getattr(sizes, "hidden_size", None), getattr(sizes, "num_attention_heads", None)
    lists = {name: getattr(sizes, name, None) for name in ("depths", "hidden_sizes", "num_heads")}
    counts = {name: len(value) for name, value in lists.items() if isinstance(value, (list, tuple))}
    if isinstance(stages := getattr(sizes, "num_stages", None), int):
        counts["num_stages"] = stages
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} of {count}" for name, count in counts.items())
        raise StudentError(f"student.config: its stages are told apart by several keys that must agree, got {told}")
    if (
        isinstance(hidden, int)
        and isinstance(heads, int)
        and heads
        and not getattr(sizes, "head_dim", None)
        and hidden % heads
    ):
        divisor = next(fewer for fewer in range(heads, 0, -1) if hidden % fewer == 0)
        raise StudentError(
            f"student.config: hidden_size {hidden} cannot be shared by {heads} attention heads; set "
            f"num_attention_heads to a divisor of it, {divisor} for instance"
        )


def _described(config: PretrainedConfig) -> str:
    """Its kind and sizes, for people."""
    sizes = sizes_of(config, "encoder")
    if is_staged(config):
        named = {"stages of": "depths", "widths": "hidden_sizes"}
        lists = {title: getattr(sizes, name, None) for title, name in named.items()}
        told = [f"{title} {'-'.join(map(str, values))}" for title, values in lists.items() if values]
        return ", ".join([config.model_type, *told])
    decoder = f" and {compared_layers(config)}" if config.is_encoder_decoder else ""
    return f"{config.model_type}, {sizes.num_hidden_layers}{decoder} layers, hidden size {sizes.hidden_size}"


def _checked(config: PretrainedConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes under the config's own names (DistilBERT calls its hidden size ``dim``)."""
    general = {field.name for field in dataclasses.fields(PretrainedConfig)}
    own = {field.name for field in dataclasses.fields(config)} - general
    for key in changes:
        if key in ("dtype", "torch_dtype"):
            raise StudentError(
                f"student.config.{key}: fresh weights are float32; set student.dtype to what they are saved in"
            )
        if key in general or key in ("num_labels", "vocab_size", "name_or_path") or key.endswith("_token_id"):
            raise StudentError(
                f"student.config.{key}: is set from the data and the tokenizer; leave it out "
                "(student.tokenizer.vocab_size sizes a vocabulary)"
            )
        if key not in own and key not in config.attribute_map:
            near = nearest(key, [*own, *config.attribute_map])
            if key.endswith("_config"):
                near = "; what reads text is meant already: give the keys within it without it"
            raise StudentError(f"student.config.{key}: {type(config).__name__} has no such key{near}")
    return {config.attribute_map.get(key, key): value for key, value in changes.items()}
