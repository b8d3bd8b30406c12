"""A student of a given size, with fresh weights."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.models.forward import compared_layers
from hf_distill.models.sizes import sizes_of
from hf_distill.names import nearest
from hf_distill.recipe import FromConfig
from hf_distill.students.preparation import fresh_processor
from hf_distill.students.request import (
    Student,
    StudentRequest,
    dtype_of_files,
    per_layer_lists,
    refused_as,
    set_options,
)
from hf_distill.tokenizers.compare import same_tokenizer
from hf_distill.tokenizers.processors import vocabulary_of
from hf_distill.tokenizers.trained import choose_tokenizer

# Special tokens that configs name, and which other one stands in where the tokenizer has none.
_SPECIAL = {"pad": "pad", "bos": "cls", "eos": "sep", "cls": "bos", "sep": "eos", "mask": "mask"}


def from_config(request: StudentRequest[FromConfig]) -> Student:
    """A model from the teacher's config with changes, or, with ``model_type``, from a new one."""
    changes = dict(request.config.config)
    model_type = changes.pop("model_type", None)
    if model_type is not None:
        config, dtype = _new_config(model_type, changes), torch.float32
    elif request.teacher is not None:
        config, dtype = _changed_config(request.teacher.config, changes), dtype_of_files(request.teacher)
    else:
        raise StudentError("student.config: without a teacher it must say what to build; add model_type, such as bert")
    tokenizer = _tokenizer(request, config)
    vocabulary = vocabulary_of(tokenizer)
    if vocabulary is not None and (model_type is not None or tokenizer is not request.teacher_tokenizer):
        _follow_tokenizer(config, vocabulary)
    alike = same_tokenizer(vocabulary, vocabulary_of(request.teacher_tokenizer))
    pattern = request.teacher if alike else None
    if pattern is not None and config.is_encoder_decoder:
        _start_as(config, pattern.config)
    _check_heads(config)
    set_options(config, request.model_options)
    with refused_as("student.config"):
        config.validate()
        model = request.auto_model.from_config(config, dtype=torch.float32)
    if pattern is not None and model.can_generate():
        model.generation_config = copy.deepcopy(pattern.generation_config)
    decoder = f" and {compared_layers(config)}" if config.is_encoder_decoder else ""
    sizes = sizes_of(config, "encoder")
    layers = getattr(sizes, "num_hidden_layers", None)
    shape = f", {layers}{decoder} layers, hidden size {sizes.hidden_size}" if layers is not None else ""
    origin = f"fresh {config.model_type}{shape}"
    return Student(model=model, tokenizer=tokenizer, origin=origin, dtype=dtype)


def _tokenizer(request: StudentRequest[FromConfig], config: PretrainedConfig) -> Any:
    """What makes rows readable for it: a tokenizer, or what prepares pictures or sounds."""
    if request.auto_processor is not AutoTokenizer:
        if request.config.tokenizer is not None:
            raise StudentError(
                "student.tokenizer: a student that reads pictures or sounds takes its teacher's; remove it, or name a "
                "student.pretrained that has another"
            )
        return fresh_processor(request, config)
    if request.config.processor is not None:
        raise StudentError("student.processor: is for models that read pictures or sounds; remove it")
    return choose_tokenizer(request.config.tokenizer, request.teacher_tokenizer, request.texts)


def _new_config(model_type: str, changes: dict[str, Any]) -> PretrainedConfig:
    if model_type not in CONFIG_MAPPING:
        near = nearest(model_type, CONFIG_MAPPING)
        raise StudentError(f"student.config.model_type: Transformers knows no {model_type!r}{near}")
    with refused_as("student.config"):
        config = AutoConfig.for_model(model_type)
        if (sizes := sizes_of(config)) is not config:
            raise StudentError(
                f"student.config.model_type: {model_type} nests the sizes of several models; name the one that reads "
                f"text, {sizes.model_type}"
            )
        return AutoConfig.for_model(model_type, **_checked(config, changes))


def _changed_config(teacher: PretrainedConfig, changes: dict[str, Any]) -> PretrainedConfig:
    """The teacher's config with changes; lists with one entry a layer follow its depth."""
    config = copy.deepcopy(teacher)
    set_options(config, {"name_or_path": ""})
    sizes = sizes_of(config)
    lists = per_layer_lists(sizes)
    changes = _checked(sizes, changes)
    if getattr(sizes, "pooler_hidden_size", None) == sizes.hidden_size:  # DeBERTa's other name of the same size.
        changes = {"pooler_hidden_size": changes.get("hidden_size", sizes.hidden_size), **changes}
    with refused_as("student.config"):
        set_options(sizes, changes)
    for name, values in lists.items():
        if name not in changes:
            setattr(sizes, name, [values[i % len(values)] for i in range(sizes.num_hidden_layers)])
    return config


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


def _start_as(config: PretrainedConfig, teacher: PretrainedConfig) -> None:
    """Let a decoder begin and end as its teacher's, which reads the same inputs: BART's begins with the end token."""
    for name in ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"):
        if hasattr(config, name) and (given := getattr(teacher, name, None)) is not None:
            setattr(config, name, given)


def _check_heads(config: PretrainedConfig) -> None:
    sizes = sizes_of(config)
    hidden, heads = getattr(sizes, "hidden_size", None), getattr(sizes, "num_attention_heads", None)
    if hidden and heads and not getattr(sizes, "head_dim", None) and hidden % heads:
        divisor = next(fewer for fewer in range(heads, 0, -1) if hidden % fewer == 0)
        raise StudentError(
            f"student.config: hidden_size {hidden} cannot be shared by {heads} attention heads; set "
            f"num_attention_heads to a divisor of it, {divisor} for instance"
        )
