"""Vectors of texts: how they are made of a model's last hidden states, in the layout of sentence-transformers.

A model that gives vectors carries a :class:`VectorHead` beside its own modules. It lies next to the Transformers
checkpoint, so that a folder loads in sentence-transformers with the same vectors, in Transformers as the plain model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from hf_distill.errors import ModelError

Pooling = Literal["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"]
"""How the states of a text's tokens become one, in the names of sentence-transformers."""

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

ATTRIBUTE = "vector_head"  # The submodule of a model that holds its head.

_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

_ACTIVATIONS = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid)}


class Dense(nn.Module):
    """A layer above the pooled vector, as sentence-transformers' Dense; its activation is a class of ``torch.nn``."""

    def __init__(self, width: int, outputs: int, bias: bool = False, activation: str = "Identity") -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ModelError(f"the activation {activation} of a Dense layer is none of {', '.join(_ACTIVATIONS)}")
        self.linear = nn.Linear(width, outputs, bias=bias)
        self.activation = activation

    def forward(self, vectors: Tensor) -> Tensor:
        """``[N, outputs]`` from ``[N, width]``."""
        return _ACTIVATIONS[self.activation]()(self.linear(vectors.to(self.linear.weight.dtype)))


class VectorHead(nn.Module):
    """Makes a vector of each text: pools its last hidden states, applies layers, and gives it the length 1 if asked."""

    def __init__(self, pooling: str = "mean", normalize: bool = True, layers: Sequence[Dense] = ()) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ModelError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.pooling, self.normalize = pooling, normalize
        self.layers = nn.ModuleList(layers)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """``[N, D]`` float32 from ``[N, T, H]`` and which tokens are real, ``[N, T]``; 0 where none is."""
        vectors = pooled(states.float(), mask.bool(), self.pooling)
        for layer in self.layers:
            vectors = layer(vectors)
        return functional.normalize(vectors.float(), dim=-1) if self.normalize else vectors.float()

    def dimensions(self, width: int) -> int:
        """The dimensions of a vector for a model of hidden size ``width``."""
        outputs = [layer.linear.out_features for layer in self.layers if isinstance(layer, Dense)]
        return int(outputs[-1]) if outputs else width


def pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool ``[N, T, H]`` to ``[N, H]``; masked tokens change neither value nor gradient."""
    real = mask[..., None]
    if pooling == "max":
        highest = states.masked_fill(~real, -torch.inf).amax(1)
        return highest.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    shown = states.masked_fill(~real, 0.0)
    if pooling in ("cls", "lasttoken"):
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(-1)
        place = mask.int().argmax(-1) if pooling == "cls" else last
        return shown[torch.arange(len(states), device=states.device), place]
    if pooling == "weightedmean":
        weights = mask.cumsum(-1)[..., None] * real
        return (shown * weights).sum(1) / weights.sum(1).clamp(min=1)
    count = real.sum(1).clamp(min=1)
    return shown.sum(1) / (count if pooling == "mean" else count.sqrt())


def head_of(model: nn.Module) -> VectorHead | None:
    """The head that a model carries, or None."""
    return getattr(model, ATTRIBUTE, None)


def attach_head(model: PreTrainedModel, head: VectorHead) -> None:
    """Put a head into a model: it is trained and wrapped with the model, and left out of its checkpoint."""
    model.add_module(ATTRIBUTE, head.to(model.device))
    names = {f"{ATTRIBUTE}.{name}" for name in head.state_dict()}
    model._keys_to_ignore_on_save = set(model._keys_to_ignore_on_save or ()) | names


def vector_size(model: PreTrainedModel) -> int:
    """The dimensions of a model's vectors."""
    return (head_of(model) or VectorHead()).dimensions(int(model.config.get_text_config().hidden_size))


def read_head(folder: Path) -> VectorHead | None:
    """The head that lies in a model's folder, or None where there is none."""
    path = folder / "modules.json"
    if not path.is_file():
        return None
    pooling, normalize, layers = "mean", False, []
    for module in json.loads(path.read_text())[1:]:
        kind, place = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Pooling":
            pooling = _read_pooling(json.loads((place / "config.json").read_text()))
        elif kind == "Dense":
            layers.append(_read_dense(place))
        elif kind == "Normalize":
            normalize = True
        else:
            raise ModelError(f"{folder} has a module {kind}, which is not known here; Pooling, Dense and Normalize are")
    return VectorHead(pooling, normalize, layers)


def save_head(model: PreTrainedModel, folder: Path, max_length: int, state: Mapping[str, Tensor] | None = None) -> None:
    """Write a model's head beside its checkpoint."""
    head = copy.deepcopy(head_of(model))
    assert head is not None
    if state is not None:
        head.load_state_dict({name: state[f"{ATTRIBUTE}.{name}"] for name in head.state_dict()})
    width = int(model.config.get_text_config().hidden_size)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    flags = {flag: name == head.pooling for name, flag in _FLAGS.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    for layer in head.layers:
        assert isinstance(layer, Dense)
        place = f"{len(modules)}_Dense"
        modules.append(("Dense", place))
        _write_dense(folder / place, layer)
    if head.normalize:
        place = f"{len(modules)}_Normalize"
        modules.append(("Normalize", place))
        _write(folder / place / "config.json", {})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    kinds = "sentence_transformers.models."  # What all its releases know.
    listed = [{"idx": i, "name": str(i), "path": p, "type": kinds + kind} for i, (kind, p) in enumerate(modules)]
    _write(folder / "modules.json", listed)


def _read_pooling(config: dict[str, Any]) -> str:
    named = config.get("pooling_mode")
    chosen = [named] if isinstance(named, str) else [name for name, flag in _FLAGS.items() if config.get(flag)]
    if len(chosen) != 1:
        raise ModelError(
            f"its vectors are pooled in {len(chosen)} ways at once ({', '.join(chosen) or 'none is known'}); one of "
            f"{', '.join(POOLINGS)} is needed: name it in task.pooling"
        )
    return str(chosen[0])


def _read_dense(folder: Path) -> Dense:
    config = json.loads((folder / "config.json").read_text())
    if config.get("use_residual"):
        raise ModelError(f"{folder} adds what comes in to what goes out (use_residual), which is not known here")
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            f"{folder} holds no model.safetensors; weights that are pickled (*.bin) can run code when loaded: convert "
            "them once, where you trust them, by saving the model with a newer sentence-transformers"
        )
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh").rsplit(".", 1)[-1]
    dense = Dense(config["in_features"], config["out_features"], config.get("bias", True), activation)
    dense.load_state_dict(load_file(folder / "model.safetensors"))
    return dense


def _write_dense(folder: Path, layer: Dense) -> None:
    kind = _ACTIVATIONS[layer.activation]
    config = {
        "in_features": layer.linear.in_features,
        "out_features": layer.linear.out_features,
        "bias": layer.linear.bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__name__}",
    }
    _write(folder / "config.json", config)
    state = {name: value.detach().float().cpu().contiguous() for name, value in layer.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
