"""How much the heads, units and channels of a model matter, measured on a sample of texts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.models.forward import evaluated
from hf_distill.models.sizes import position_limit
from hf_distill.students.layer_choice import Cut, all_layers
from hf_distill.students.pruning.families import family_of, shape_of

_BATCH = 16
_TOKENS = 512  # How much of a text is read at most.
_POOL = 20_000  # The sample is drawn from the first texts, so that a long corpus need not be read to its end.


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much each channel of a model, and each head and unit of each layer, matters; the larger, the more.

    ``units`` are ``[I]`` of a layer, or ``[experts, I]``. Of an encoder-decoder the layers of the encoder come first;
    ``cross_heads`` has the heads of attention to an encoder by the number of the layer.
    """

    hidden: Tensor
    heads: list[Tensor]
    units: list[Tensor]
    cross_heads: dict[int, Tensor] = field(default_factory=dict)


def random_importance(model: PreTrainedModel) -> Importance:
    """Importance by chance, from torch's global generator: the baseline for any other."""
    shape, stacks = shape_of(model.config), all_layers(model)
    layers, draw = sum(each.total for each in stacks), partial(torch.rand, device="cpu")
    hidden = draw(shape.hidden_size)
    heads, units = ([draw(size) for _ in range(layers)] for size in (shape.heads, shape.intermediate_size))
    cross = {i: draw(shape.heads) for i in range(stacks[0].total, layers)}
    return _of_one_table(Importance(hidden=hidden, heads=heads, units=units, cross_heads=cross), model, stacks)


def activation_importance(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cuts: Sequence[Cut]
) -> Importance:
    """Importance by activations (Minitron; Muralidharan et al. 2024), means over the tokens of texts.

    Of a head the L2 norm of its output before the output projection, of a unit the absolute value that enters the down
    projection, of a hidden channel the absolute output of the norms, summed over them. A decoder beside an encoder
    reads the text that the encoder reads.

    Args:
        model: The whole source.
        tokenizer: Its own.
        texts: What it reads.
        cuts: The layers that count.
    """
    shape, family = shape_of(model.config), family_of(model.config)
    layers = [layer for each in cuts for layer in each.layers]
    every = [layer for each in all_layers(model) for layer in each.layers]
    dropped = tuple(f"{layer}." for layer in every if layer not in layers)
    sums = _Sums()
    norms = _hidden_norms(model, shape.hidden_size)
    hooks = [m.register_forward_hook(sums.add_hidden) for name, m in norms if not name.startswith(dropped)]
    modules = dict(model.named_modules())
    for i, layer in enumerate(layers):
        for name, letter in family.reads.items():
            if (module := modules.get(f"{layer}.{name}")) is not None:
                add = sums.add_units if letter == "u" else partial(sums.add_heads, shape.heads)
                hooks.append(module.register_forward_pre_hook(partial(add, f"{letter} {i}")))
        if family.experts:
            experts = modules[f"{layer}.{family.experts}"]
            hooks.append(experts.register_forward_pre_hook(partial(sums.add_experts, f"u {i}")))
    try:
        _read(model, tokenizer, texts, sums)
    finally:
        for hook in hooks:
            hook.remove()
    means = {name: total / sums.tokens for name, total in sums.totals.items()}
    heads, units = ([means[f"{letter} {i}"] for i in range(len(layers))] for letter in "qu")
    cross = {i: means[f"c {i}"] for i in range(len(layers)) if f"c {i}" in means}
    return _of_one_table(Importance(hidden=means["hidden"], heads=heads, units=units, cross_heads=cross), model, cuts)


def _of_one_table(importance: Importance, model: PreTrainedModel, cuts: Sequence[Cut]) -> Importance:
    """Where all layers of a stack share one table for their heads, a head matters as it does in all of them."""
    if not family_of(model.config).one_table:
        return importance
    heads, left = [], iter(importance.heads)
    for each in cuts:
        own = [next(left) for _ in each.layer_map]
        heads += [torch.stack(own).sum(0)] * len(own)
    return replace(importance, heads=heads)


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
        self.add_sum(name, values.float()[self.mask].sum(0))

    def add_sum(self, name: str, total: Tensor) -> None:
        self.totals[name] = self.totals[name] + total.cpu() if name in self.totals else total.cpu()

    def add_heads(self, heads: int, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.add(name, inputs[0].float().unflatten(-1, (heads, -1)).norm(dim=-1))

    def add_units(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.add(name, inputs[0].abs())

    def add_experts(self, name: str, module: Any, inputs: tuple[Tensor, ...]) -> None:
        tokens, chosen = (each[self.mask.flatten()] for each in inputs[:2])
        found = []
        for expert, weight in enumerate(module.gate_up_proj):
            gate, up = functional.linear(tokens[(chosen == expert).any(-1)], weight).chunk(2, dim=-1)
            found.append((module.act_fn(gate) * up).abs().float().sum(0))
        self.add_sum(name, torch.stack(found))

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
            inputs = {"input_ids": ids, "attention_mask": mask.long()}
            if model.config.is_encoder_decoder:
                inputs["decoder_input_ids"] = ids.roll(1, dims=1)
                inputs["decoder_input_ids"][:, 0] = model.config.decoder_start_token_id or tokenizer.pad_token_id or 0
            model.base_model(**inputs)
