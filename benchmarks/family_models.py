"""Tiny models with fresh weights of the families that ``families.py`` tries, and what they read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "bad", "bank", "card", "cold", "good", "is", "kind", "letter", "my", "not", "the", "very")
VOCABULARY = 64
LAYERS = 4

_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    **_IDS,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_HEADED = {**_GROUPED, "head_dim": 8}
_GEMMA = {
    **_HEADED,
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SHARED = {"shared_expert_intermediate_size": 16}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
_TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    **_IDS,
    "decoder_start_token_id": 0,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "max_position_embeddings": 64,
    **{f"{side}_layers": LAYERS for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    **_IDS,
    "decoder_start_token_id": 3,
}


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    Attributes:
        title: As people call it.
        kind: Its ``model_type``.
        options: Of a tiny config.
        auto_model: The class of Transformers that loads it.
    """

    title: str
    kind: str
    options: dict[str, Any] = field(repr=False)
    auto_model: Any = field(repr=False)

    @property
    def pairs(self) -> bool:
        """Whether it is an encoder-decoder."""
        return self.auto_model is AutoModelForSeq2SeqLM

    @property
    def classifies(self) -> bool:
        """Whether it is an encoder."""
        return self.auto_model is AutoModelForSequenceClassification

    def config(self, **more: Any) -> PretrainedConfig:
        """A tiny config."""
        labels = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}} if self.classifies else {}
        return AutoConfig.for_model(self.kind, **{**self.options, **labels, **more})

    def model(self, seed: int = 0, **more: Any) -> PreTrainedModel:
        """A tiny model with fresh weights, all of which differ: zeros and ones would hide what is mixed up."""
        torch.manual_seed(seed)
        model: PreTrainedModel = self.auto_model.from_config(self.config(**more))
        with torch.no_grad():
            for parameter in filter(lambda each: each.requires_grad, model.parameters()):
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return model.eval()


def _families(auto_model: Any, families: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Family]:
    return {title: Family(title, kind, options, auto_model) for title, (kind, options) in families.items()}


DECODERS = _families(
    AutoModelForCausalLM,
    {
        "Llama": ("llama", _HEADED),
        "Qwen2": ("qwen2", _GROUPED),
        "Qwen3": ("qwen3", _HEADED),
        "Qwen3-MoE": ("qwen3_moe", {**_HEADED, **_EXPERTS}),
        "Mixtral": ("mixtral", {**_HEADED, "num_local_experts": 4}),
        "Gemma 2": ("gemma2", _GEMMA),
        "Gemma 3 text": ("gemma3_text", _GEMMA),
        "Gemma 3 multimodal": (
            "gemma3",
            {
                "text_config": _GEMMA,
                "vision_config": _TOWER,
                "mm_tokens_per_image": 4,
                "image_token_index": 60,
                "boi_token_index": 61,
                "eoi_token_index": 62,
            },
        ),
        "Gemma 3n text": (
            "gemma3n_text",
            {
                **_GEMMA,
                "vocab_size_per_layer_input": VOCABULARY,
                "hidden_size_per_layer_input": 8,
                "num_kv_shared_layers": 0,
                "laurel_rank": 4,
                "activation_sparsity_pattern": [0.0] * LAYERS,
                "intermediate_size": [48] * LAYERS,
            },
        ),
        "Gemma 4 multimodal": (
            "gemma4",
            {
                "text_config": {
                    **_GEMMA,
                    "global_head_dim": 8,
                    "num_global_key_value_heads": 2,
                    "hidden_size_per_layer_input": 8,
                    "vocab_size_per_layer_input": VOCABULARY,
                    "num_kv_shared_layers": 0,
                },
                "vision_config": {**_TOWER, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 64},
                "audio_config": None,
            },
        ),
        "Mistral": ("mistral", _HEADED),
        "Phi-3": ("phi3", _GROUPED),
        "Phi": ("phi", _SIZES),
        "OLMo 2": ("olmo2", _GROUPED),
        "SmolLM3": ("smollm3", _GROUPED),
        "Granite": ("granite", {**_GROUPED, "logits_scaling": 2.0}),
        "Cohere": ("cohere", _GROUPED),
        "DeepSeek-V3": (
            "deepseek_v3",
            {
                **_SIZES,
                "num_key_value_heads": 4,
                "q_lora_rank": 16,
                "kv_lora_rank": 16,
                "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 8,
                "v_head_dim": 8,
                "n_routed_experts": 4,
                "n_group": 2,
                "topk_group": 1,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
                "first_k_dense_replace": 1,
            },
        ),
        "Llama 4": (
            "llama4",
            {
                "text_config": {
                    **_HEADED,
                    "intermediate_size_mlp": 48,
                    "num_local_experts": 4,
                    "attention_chunk_size": 16,
                    "layer_types": ["chunked_attention", "full_attention"] * 2,
                    "no_rope_layers": [1, 0] * 2,
                    "interleave_moe_layer_step": 1,
                },
                "vision_config": {
                    **_TOWER,
                    "vision_output_dim": 32,
                    "projector_input_dim": 16,
                    "projector_output_dim": 16,
                },
            },
        ),
        "GPT-NeoX": ("gpt_neox", _SIZES),
        "GPT-2": (
            "gpt2",
            {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, **_IDS},
        ),
        "Falcon": ("falcon", _SIZES),
        "OPT": (
            "opt",
            {
                **{name: size for name, size in _SIZES.items() if name != "intermediate_size"},
                "ffn_dim": 48,
                "word_embed_proj_dim": 32,
            },
        ),
        "Bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": LAYERS, "n_head": 4, **_IDS}),
        "GPT-OSS": (
            "gpt_oss",
            {
                **_HEADED,
                "layer_types": _GEMMA["layer_types"],
                "sliding_window": 8,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
            },
        ),
        "Mamba2": (
            "mamba2",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "num_hidden_layers": LAYERS,
                "num_heads": 8,
                "head_dim": 8,
                "state_size": 8,
                "n_groups": 1,
                "chunk_size": 8,
                **_IDS,
            },
        ),
        "Bamba": ("bamba", {**_HEADED, **_MAMBA, "attn_layer_indices": [1, 3]}),
        "Jamba": (
            "jamba",
            {
                **_GROUPED,
                **{f"{what}_layer_period": 2 for what in ("attn", "expert")},
                **{f"{what}_layer_offset": 1 for what in ("attn", "expert")},
                "num_experts": 4,
                "mamba_d_state": 8,
                "mamba_dt_rank": 4,
                "use_mamba_kernels": False,
            },
        ),
        "Qwen3-Next": ("qwen3_next", {**_HEADED, **_EXPERTS, **_SHARED, **_LINEAR}),
        "Qwen3.5": (
            "qwen3_5",
            {
                "text_config": {**_HEADED, **_LINEAR},
                "vision_config": {
                    "depth": 2,
                    "hidden_size": 16,
                    "num_heads": 2,
                    "intermediate_size": 24,
                    "out_hidden_size": 32,
                },
            },
        ),
        "LFM2": (
            "lfm2",
            {**_GROUPED, "layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
        ),
        "Falcon-H1": ("falcon_h1", {**_HEADED, **_MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5}),
    },
)

ENCODER_DECODERS = _families(
    AutoModelForSeq2SeqLM,
    {
        "T5": ("t5", _T5),
        "mT5": ("mt5", _T5),
        "Marian": ("marian", {**_BART, "decoder_vocab_size": VOCABULARY, "decoder_start_token_id": 0}),
        "Pegasus": ("pegasus", {**_BART, "decoder_start_token_id": 0}),
        "Blenderbot": ("blenderbot", {**_BART, "decoder_start_token_id": 2}),
        "BART": ("bart", _BART),
        "mBART": ("mbart", _BART),
        "M2M100, NLLB": ("m2m_100", _BART),
        "T5Gemma": (
            "t5gemma",
            {"encoder": _GEMMA, "decoder": _GEMMA, "vocab_size": VOCABULARY, **_IDS, "decoder_start_token_id": 2},
        ),
    },
)

ENCODERS = _families(
    AutoModelForSequenceClassification,
    {
        **{kind: (kind, _SIZES) for kind in ("bert", "roberta", "xlm-roberta", "camembert")},
        "distilbert": (
            "distilbert",
            {
                "vocab_size": VOCABULARY,
                "dim": 32,
                "n_heads": 4,
                "hidden_dim": 48,
                "n_layers": LAYERS,
                "max_position_embeddings": 64,
                "pad_token_id": 0,
            },
        ),
        "electra": ("electra", {**_SIZES, "embedding_size": 16}),
        "deberta-v2": (
            "deberta-v2",
            {
                **_SIZES,
                "relative_attention": True,
                "pos_att_type": ["c2p", "p2c"],
                "position_buckets": 8,
                "type_vocab_size": 0,
            },
        ),
        "modernbert": ("modernbert", {**_SIZES, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 16}),
        **{kind: (kind, _SIZES) for kind in ("mpnet", "nomic_bert")},
        "rembert": ("rembert", {**_SIZES, "input_embedding_size": 16, "output_embedding_size": 16}),
        "roformer": ("roformer", {**_SIZES, "embedding_size": 32}),
        "big_bird": ("big_bird", {**_SIZES, "attention_type": "original_full"}),
        "ernie": ("ernie", _SIZES),
        "convbert": ("convbert", {**_SIZES, "embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3}),
        "nystromformer": ("nystromformer", {**_SIZES, "num_landmarks": 64, "segment_means_seq_len": 64}),
        "xlm-roberta-xl": ("xlm-roberta-xl", _SIZES),
        "longformer": ("longformer", {**_SIZES, "attention_window": 8}),
        "ibert": ("ibert", _SIZES),
        "esm": ("esm", {**_SIZES, "mask_token_id": 4}),
        "albert": ("albert", {**_SIZES, "embedding_size": 16}),
        "funnel": (
            "funnel",
            {
                "vocab_size": VOCABULARY,
                "d_model": 32,
                "n_head": 4,
                "d_head": 8,
                "d_inner": 48,
                "block_sizes": [2, 2],
                "pad_token_id": 0,
            },
        ),
        "deberta": (
            "deberta",
            {**_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
        ),
        "xlnet": (
            "xlnet",
            {
                "vocab_size": VOCABULARY,
                "d_model": 32,
                "n_head": 4,
                "d_head": 8,
                "d_inner": 48,
                "n_layer": LAYERS,
                **_IDS,
            },
        ),
        "fnet": ("fnet", _SIZES),
    },
)


def tokenizer() -> PreTrainedTokenizerBase:
    """Whole words, [CLS] and [SEP] around them."""
    words = [*SPECIAL, *WORDS]
    words += [f"unused{i}" for i in range(VOCABULARY - len(words))]
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.normalizer, fast.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="[SEP]", **special, model_max_length=64)


def texts(count: int) -> list[str]:
    """Sentences of three to eleven words."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (count,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=generator)) for n in lengths]


def rows(family: Family, count: int = 16) -> Dataset:
    """What a family learns from: sentences, pairs of them, or sentences with a class."""
    listed = texts(count)
    if family.pairs:
        return Dataset.from_dict({"source": listed, "target": listed[::-1]})
    if not family.classifies:
        return Dataset.from_dict({"text": listed})
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    return Dataset.from_dict({"text": listed, "label": [i % 2 for i in range(count)]}, features=features)
