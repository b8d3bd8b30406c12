"""Tiny models of many families that write, with random weights and no dropout."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from tests.helpers import tiny

POSITIONS = 24

_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": POSITIONS}
_BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": POSITIONS,
    "decoder_start_token_id": 2,
}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gpt_neo": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": POSITIONS,
    },
    "gpt_bigcode": _GPT,
    "openai-gpt": _GPT,
    "xglm": {"d_model": 16, "num_layers": 2, "attention_heads": 2, "ffn_dim": 16, "max_position_embeddings": POSITIONS},
    "ctrl": {**_GPT, "dff": 16},
    "biogpt": {**_BERT, "intermediate_size": 16},
    "llama": {**_BERT, "intermediate_size": 16},
    "gpt_neox": {**_BERT, "intermediate_size": 16},
    "opt": {**_BERT, "ffn_dim": 16, "word_embed_proj_dim": 16},
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "marian": {**_BART, "decoder_vocab_size": len(tiny.CHAT_WORDS)},
    **dict.fromkeys(("bart", "mbart", "pegasus", "blenderbot"), _BART),
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": 2, "decoder_start_token_id": 2},
}
_RATES = ("dropout", "attention_dropout", "activation_dropout", "dropout_rate", "attn_pdrop", "embd_pdrop")
_MORE_RATES = ("resid_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob", "layerdrop", "embed_dropout")
NO_DROPOUT = dict.fromkeys((*_RATES, *_MORE_RATES, "resid_dropout", "attention_dropout_prob"), 0.0)


def family(kind: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A model of a kind of :data:`DECODERS` or :data:`ENCODER_DECODERS` that tells positions and tokens apart."""
    tokens = {"vocab_size": len(tiny.CHAT_WORDS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    shape = DECODERS.get(kind) or ENCODER_DECODERS[kind]
    config = AutoConfig.for_model(kind, **{**tokens, **shape, **NO_DROPOUT, **options})
    torch.manual_seed(seed)
    model = (AutoModelForCausalLM if kind in DECODERS else AutoModelForSeq2SeqLM).from_config(config)
    with torch.no_grad():
        for parameter in filter(lambda each: each.requires_grad, model.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()
