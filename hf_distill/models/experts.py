"""The load-balancing term of models of several experts, which Transformers adds to its loss where a config asks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill.errors import ModelError
from hf_distill.models.forward import ROUTER_LOGITS, arguments_of

_COEFFICIENTS = {"aux_loss": ("router_aux_loss_coef", "aux_loss_coef"), "z_loss": ("router_z_loss_coef",)}
"""By the end of an output's name: what a model, or its config, calls the factor of it."""

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def balances_experts(model: PreTrainedModel) -> bool:
    """Whether a model's config asks for the term (``output_router_logits``) and its class has one."""
    asked = (getattr(config, ROUTER_LOGITS, False) for config in (model.config, model.config.get_text_config()))
    return ROUTER_LOGITS in arguments_of(model) and any(asked)


def balance_note(model: PreTrainedModel) -> str | None:
    """A line that tells whether experts are balanced; None of a model without several."""
    config: Any = model.config.get_text_config()
    if balances_experts(model):
        return "the load-balancing loss of its routers is a part of the loss, as its config asks"
    if ROUTER_LOGITS not in arguments_of(model) or not any((getattr(config, name, 0) or 0) > 1 for name in _COUNTS):
        return None
    return (
        "its experts are not balanced: output_router_logits is off in its config, as is usual in Transformers; set it "
        "to true there to make the load-balancing loss a part of the loss"
    )


def balance(model: PreTrainedModel, outputs: Any) -> Tensor:
    """What Transformers adds to the loss of a batch for the routers, a float32 scalar: each term by its coefficient.

    Load balancing is that of Fedus et al. 2021, Switch Transformers, (4) to (6), of all layers at once; the z-loss that
    of Zoph et al. 2022, ST-MoE, (5). They leave out what the attention mask does.

    Raises:
        ModelError: Where a class gives no such term, or no coefficient is known.
    """
    found = {name: term for name, term in outputs.items() if name.endswith(tuple(_COEFFICIENTS)) and term is not None}
    if not found:
        raise ModelError(
            f"{type(model).__name__} gives no load-balancing loss, although its config has output_router_logits: true; "
            "set it to false"
        )
    total = torch.zeros((), device=model.device)
    for name, term in found.items():
        total = total + _coefficient(model, name) * torch.as_tensor(term, dtype=torch.float32, device=model.device)
    return total


def _coefficient(model: PreTrainedModel, name: str) -> float:
    for ending, names in _COEFFICIENTS.items():
        for owner in (model, model.config.get_text_config(), model.config):
            for each in names if name.endswith(ending) else ():
                if (value := getattr(owner, each, None)) is not None:
                    return float(value)
    raise ModelError(f"{type(model).__name__} gives a {name}, but its config has no factor of it; add it there")
