"""How much the heads, units and channels of a model matter, measured on a sample of texts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.models.capacity import position_limit
from hf_distill.models.forward import evaluated
from hf_distill.students.layer_choice import layer_stack
from hf_distill.students.pruning.families import Shape, family_of, shape_of

_BATCH = 16
_TOKENS = 512  # How much of a text is read at most.
_POOL = 20_000  # The sample is drawn from the first texts, so that a long corpus need not be read to its end.


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much each channel of a model, and each head and unit of each layer, matters; the larger, the more."""

    hidden: Tensor
    heads: list[Tensor]
    units: list[Tensor]


def random_importance(shape: Shape, layers: int) -> Importance:
    """Importance by chance, from torch's global generator: the baseline for any other."""
    draw = partial(torch.rand, device="cpu")
    hidden = draw(shape.hidden_size)
    heads, units = ([draw(size) for _ in range(layers)] for size in (shape.heads, shape.intermediate_size))
    return Importance(hidden=hidden, heads=heads, units=units)


def activation_importance(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], layers: Sequence[int]
) -> Importance:
    """Importance by activations (Minitron; Muralidharan et al. 2024), means over the tokens of texts.

    Of a head the L2 norm of its output before the output projection, of a unit the absolute value that enters the down
    projection, of a hidden channel the absolute output of the norms, summed over them.
    """
    shape, family = shape_of(model.config), family_of(model.config)
    stack, total = layer_stack(model, model, "num_hidden_layers")
    dropped = tuple(f"{stack}.{i}." for i in range(total) if i not in layers)
    sums = _Sums()
    norms = _hidden_norms(model, shape.hidden_size)
    hooks = [m.register_forward_hook(sums.add_hidden) for name, m in norms if not name.startswith(dropped)]
    for i in layers:
        layer = model.get_submodule(f"{stack}.{i}")
        attention, down = layer.get_submodule(family.attention_output), layer.get_submodule(family.down)
        hooks += [
            attention.register_forward_pre_hook(partial(sums.add_heads, f"heads {i}", shape.heads)),
            down.register_forward_pre_hook(partial(sums.add_units, f"units {i}")),
        ]
    try:
        _read(model, tokenizer, texts, sums)
    finally:
        for hook in hooks:
            hook.remove()
    means = {name: total / sums.tokens for name, total in sums.totals.items()}
    heads, units = ([means[f"{what} {i}"] for i in layers] for what in ("heads", "units"))
    return Importance(hidden=means["hidden"], heads=heads, units=units)


def sample(texts: Iterable[str], rows: int) -> list[str]:
    """Draw texts evenly from the first ones of a corpus, the same in every process."""
    if not (pool := list(islice((text for text in texts if text.strip()), max(rows, _POOL)))):
        raise StudentError("student.width: no training text tells what matters; add rows, or set importance: random")
    return random.Random(0).sample(pool, min(rows, len(pool)))


class _Sums:
    """Sums over the tokens of all batches, without padding."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.tokens = 0
        self.mask = torch.empty(0)

    def add(self, name: str, values: Tensor) -> None:
        total = values.float()[self.mask].sum(0).cpu()
        self.totals[name] = self.totals[name] + total if name in self.totals else total

    def add_heads(self, name: str, heads: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.add(name, inputs[0].float().unflatten(-1, (heads, -1)).norm(dim=-1))

    def add_units(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.add(name, inputs[0].abs())

    def add_hidden(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.shape[:2] == self.mask.shape:  # Not the table of relative positions, which DeBERTa norms, too.
            self.add("hidden", output.abs())


def _hidden_norms(model: PreTrainedModel, size: int) -> Iterator[tuple[str, nn.Module]]:
    body = {id(module) for module in model.base_model.modules()}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        is_norm = "Norm" in type(module).__name__ and isinstance(weight, Tensor) and weight.shape == (size,)
        if is_norm and id(module) in body and not name.endswith(("q_norm", "k_norm")):
            yield name, module


def _read(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], sums: _Sums) -> None:
    limit = min(_TOKENS, tokenizer.model_max_length, position_limit(model) or _TOKENS)
    rows: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    rows = sorted(filter(len, rows), key=len)
    with evaluated(model):
        for start in range(0, len(rows), _BATCH):
            batch = [torch.tensor(row, device=model.device) for row in rows[start : start + _BATCH]]
            ids = pad_sequence(batch, batch_first=True, padding_value=tokenizer.pad_token_id or 0)
            mask = pad_sequence([torch.ones_like(row) for row in batch], batch_first=True).bool()
            sums.mask, sums.tokens = mask, sums.tokens + int(mask.sum())
            model.base_model(input_ids=ids, attention_mask=mask.long())
