"""What a student is built from, and what building it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.recipe import StudentConfig

C = TypeVar("C", bound=StudentConfig, covariant=True)


@dataclass(frozen=True, kw_only=True)
class StudentRequest(Generic[C]):
    """Everything that a student may be made of; see ``build_student``."""

    config: C
    auto_model: Any
    teacher: PreTrainedModel | None
    teacher_tokenizer: PreTrainedTokenizerBase | None
    texts: Callable[[], Iterable[str]]
    model_options: dict[str, Any]
    auto_processor: Any = AutoTokenizer


@dataclass(frozen=True, kw_only=True)
class Student:
    """A student, ready to be trained.

    Attributes:
        model: With the task's head, its labels in the data's order.
        tokenizer: It cuts texts at the length that the model can read.
        origin: Where its weights come from, for people: ``layers 0, 2, 5 of 6 of the teacher``.
        layer_map: By side (``encoder``, ``decoder``; empty for one stack) the layers that its own were copied from.
        report: What was kept of its source where it is narrower or knows fewer tokens, as plain data.
        dtype: In which it is saved, after ``build_student``; before, of the files that its weights come from, or None.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    origin: str
    layer_map: dict[str, tuple[int, ...]] | None = None
    report: dict[str, Any] | None = None
    dtype: torch.dtype | None = None


def dtype_of_files(model: PreTrainedModel) -> torch.dtype:
    """In which dtype the files of a model are that was loaded here; else its own."""
    found: torch.dtype | None = getattr(model, "stored_dtype", None)
    return model.dtype if found is None else found


def set_options(config: PretrainedConfig, options: dict[str, Any]) -> None:
    """Set config attributes one by one, since some change others."""
    for name, value in options.items():
        setattr(config, name, value)


def renew(config: PretrainedConfig) -> None:
    """Let what a config works out of its sizes follow them, where they were changed."""
    if hasattr(config, "stage_names"):  # Layers or stages that another model could take features from.
        depth = len(depths) if (depths := getattr(config, "depths", None)) else config.num_hidden_layers
        config.stage_names = ["stem", *(f"stage{i + 1}" for i in range(depth))]
        config.set_output_features_output_indices(out_features=None, out_indices=None)
    if hasattr(config, "num_feat_extract_layers"):
        config.num_feat_extract_layers = len(config.conv_dim)
    if hasattr(config, "embed_dim") and hasattr(config, "depths"):  # Swin's widths double from stage to stage.
        config.num_layers = len(config.depths)
        config.hidden_size = int(config.embed_dim * 2 ** (len(config.depths) - 1))


_INDICES = ("moe_layers", "mlp_only_layers", "attn_layer_indices", "full_attn_idxs")
"""Config attributes that list some layers by their numbers: of Llama 4, Qwen-MoE, Bamba and LFM2."""


def of_layers(config: PretrainedConfig, layer_map: Sequence[int]) -> dict[str, Any]:
    """What a config says of single layers, for a model that only keeps those of a map."""
    lists = {name: [values[i] for i in layer_map] for name, values in per_layer_lists(config).items()}
    for name in _INDICES:
        if (chosen := getattr(config, name, None)) is not None:
            lists[name] = [i for i, source in enumerate(layer_map) if source in chosen]
    return lists


def per_layer_lists(config: PretrainedConfig) -> dict[str, list[Any]]:
    """Config attributes with one entry a layer, such as ``layer_types``.

    Length alone does not tell them: DeBERTa's ``pos_att_type`` may be as long by chance.
    """
    words = ("layer", "window", "intermediate_size", "pattern")  # The last two of Gemma 3n.
    named = {n: value for n, value in vars(config).items() if any(word in n for word in words) and n not in _INDICES}
    lists = {name: list(value) for name, value in named.items() if isinstance(value, (list, tuple))}
    return {name: value for name, value in lists.items() if len(value) == getattr(config, "num_hidden_layers", None)}


@contextmanager
def refused_as(subject: str) -> Iterator[None]:
    """Turn what Transformers refuses about a config into a StudentError about ``subject``."""
    try:
        yield
    except (StrictDataclassError, ValueError, TypeError, AssertionError, LookupError, RuntimeError) as error:
        raise StudentError(f"{subject}: Transformers cannot build it: {error}") from error
