"""Checks a served teacher before it is used: its name, its tokenizer and, if its weights are here, its numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from huggingface_hub import try_to_load_from_cache

from hf_distill.errors import ServerError
from hf_distill.evaluation.metrics import scorer_names
from hf_distill.models.hardware import best_dtype
from hf_distill.models.loading import load_model
from hf_distill.recipe import Recipe, ServerConfig
from hf_distill.tasks import Task
from hf_distill.teachers.endpoint import Client, Position, prompt_likelihoods
from hf_distill.teachers.endpoint.faults import MISSHAPEN, NotServed, Unusable, token_id
from hf_distill.types import Tokenizer

logger = logging.getLogger(__name__)

PROBE = "The quick Brown fox, it's 12.5% naïve: «déjà-vu» 東京 ok? My card is in the house, and the bank was very slow."
"""Words, numbers, accents and another script: tokenizers that differ cut some of it otherwise."""

CLOSE = 0.05
"""Nats a token by which the server's numbers may differ from the local ones, on average: precisions differ."""

LOCAL_BYTES = 8e9
"""Weights of a model that are loaded to compare it; larger ones are not."""


def check_server(client: Client, tokenizer: Tokenizer, recipe: Recipe, task: Task, *, likeliest: int | None) -> None:
    """Check that a server gives what a run will ask it for."""
    if client.has_key:
        logger.info(f"server: {client.config.url} gets the key in {client.config.key_variable}")
    name, room = client.config.model, client.check_model()
    longest, new = min(task.max_length, tokenizer.model_max_length), _new_tokens(recipe, task)
    if room is not None and longest + new > room:
        raise ServerError(
            f"the server has room for {room} tokens of {name}, but a text may have {longest} (task.max_length) and "
            f"{new} are asked for behind it; lower task.max_length or generation.max_new_tokens, or start the server "
            "with a longer context"
        )
    if likeliest is None:
        logger.info(f"server: {name} is there")
        return
    ids = tokenizer(PROBE)["input_ids"]
    positions = prompt_likelihoods(client, ids, likeliest)
    logger.info(f"server: {name} is there, and gives the {likeliest} likeliest tokens of each position")
    logger.info(f"server: {_same_tokens(client, ids)}")
    logger.info(f"server: {_same_numbers(client.config, task, ids, positions)}")


def _new_tokens(recipe: Recipe, task: Task) -> int:
    """How many tokens are asked for at most: 1 where only what is there is judged."""
    asked = [recipe.label.generation] if recipe.label is not None else []
    if scorer_names(task, recipe.evaluate.scorers):
        asked.append(recipe.evaluate.generation)
    return max([1, *(int(each.get("max_new_tokens", task.longest_text)) for each in asked)])


def _same_tokens(client: Client, ids: Sequence[int]) -> str:
    """Compare how the server cuts a text, as far as it tells."""
    found = _tokens_of_server(client)
    if found is None:
        return "how it cuts texts cannot be asked; it reads the tokens that it is sent"
    if isinstance(found, int):
        if found != len(ids):
            raise _other_tokenizer(client, f"{found} tokens", f"{len(ids)}")
        return f"cuts a probe into as many tokens as the local tokenizer ({found}); which, it does not tell"
    if found != list(ids):
        place = next((i for i, pair in enumerate(zip(found, ids, strict=False)) if pair[0] != pair[1]), len(ids))
        there, here = found[place : place + 4], list(ids[place : place + 4])
        raise _other_tokenizer(client, f"{there} at token {place}", f"{here}")
    return f"cuts a probe into the same {len(ids)} tokens as the local tokenizer"


def _other_tokenizer(client: Client, there: str, here: str) -> ServerError:
    return ServerError(
        f"the server cuts a probe into other tokens than {client.config.tokenizer_source}: {there}, here {here}; what "
        "it says of tokens would be about others: name the model's own tokenizer in teacher.server.tokenizer"
    )


def _tokens_of_server(client: Client) -> list[int] | int | None:
    """The probe's tokens: of vLLM's ``/tokenize``, else as ``/completions`` tells them, or how many they are."""
    probe = {"model": client.config.model, "prompt": PROBE}

    def tokenized(answer: Any) -> list[int]:
        try:
            return list(map(token_id, answer["tokens"]))
        except MISSHAPEN:
            raise Unusable("its answer has no tokens") from None

    def read(answer: Any) -> list[int] | int | None:
        try:
            told, usage = answer["choices"][0].get("prompt_token_ids"), answer.get("usage") or {}
            count = usage.get("prompt_tokens")
            return list(map(token_id, told)) if told else None if count is None else token_id(count)
        except MISSHAPEN:
            raise Unusable("its answer has no choices with tokens or their number") from None

    try:
        return client.ask("//tokenize", probe, tokenized)
    except NotServed:
        body = {**probe, "max_tokens": 1, "temperature": 0.0, "return_token_ids": True}
        return client.ask("/completions", body, read)


def _same_numbers(config: ServerConfig, task: Task, ids: Sequence[int], positions: Sequence[Position]) -> str:
    """Compare with a forward pass of the same model, where it is here and not large."""
    folder = _weights_here(config.tokenizer_source)
    if folder is None:
        return "its weights are not here, so its numbers are compared with nothing"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size > LOCAL_BYTES:
        return f"its weights are here, but too large to be loaded for a comparison ({size / 1e9:.0f} GB)"
    device = PartialState().device
    model: Any = load_model(task.auto_model, str(folder), dtype=best_dtype(device)).to(device).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids], device=device)).logits[0, :-1].float()
    local = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:], device=device)[:, None]).squeeze(1).cpu().numpy()
    error = float(np.abs(local - np.array([each.actual for each in positions])).mean())
    if not error <= CLOSE:
        raise ServerError(
            f"the server's log-probabilities of a probe differ from those of {config.tokenizer_source}, which is here, "
            f"by {error:.3f} nats a token on average (at most {CLOSE} may come of precision): it serves another model, "
            "or changes its logits; name the tokenizer of what is served in teacher.server.tokenizer"
        )
    return f"its log-probabilities differ from those of the model that is here by {error:.4f} nats a token"


def _weights_here(name: str) -> Path | None:
    """The folder of a model's weights, in safetensors, where nothing need be fetched."""
    folder = Path(name)
    if not folder.is_dir():
        config = try_to_load_from_cache(name, "config.json")
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
    whole = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if whole and not (folder / "adapter_config.json").is_file() else None
