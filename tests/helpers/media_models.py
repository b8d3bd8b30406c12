"""Tiny models of many families that read images or sounds, with random weights and no dropout, and what they read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    ASTFeatureExtractor,
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSpeechSeq2Seq,
    PreTrainedModel,
    Speech2TextFeatureExtractor,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

LAYERS = 4
NAMES = ("cat", "dog", "owl")
SIDE = 16  # Pixels of an image.
SAMPLES = 400  # Of a sound, 25 ms.
MEL_BINS = 8
FRAMES = 32  # Of a spectrogram.
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefg")  # What models for CTC and those that write tell apart.

_NARROW = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
_SIZES = {**_NARROW, "num_hidden_layers": LAYERS}
_VIT = {**_SIZES, "image_size": SIDE, "patch_size": 8}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXTS = {**_NARROW, "num_hidden_layers": 1, "vocab_size": 8, "max_position_embeddings": 8, **_IDS}
_TOWERS = {"vision_config": _VIT, "text_config": _TEXTS}
IMAGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("vit", "deit"), _VIT),
    "dinov2": {**{name: value for name, value in _VIT.items() if name != "intermediate_size"}, "mlp_ratio": 2},
    "beit": {**_VIT, "use_relative_position_bias": True},
    **dict.fromkeys(("clip", "siglip"), _TOWERS),
    "swin": {
        "image_size": SIDE,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 2],
        "num_heads": [2, 2],
        "window_size": 4,
        "encoder_stride": 4,
    },
    "convnext": {"image_size": SIDE, "patch_size": 2, "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 2]},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    "mobilenet_v2": {"image_size": SIDE, "depth_multiplier": 0.1, "finegrained_output": False},
}
"""By ``model_type``: classifiers of images."""

STAGED = ("swin", "convnext", "resnet", "mobilenet_v2")
"""Those of :data:`IMAGES` whose layers stand in stages of different widths."""

_WAVES = {
    **_SIZES,
    "vocab_size": len(LETTERS),
    "conv_dim": [16, 16],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 4],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    **_IDS,
}
_UNMASKED = {**_WAVES, "apply_spec_augment": False}
WAVES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("wav2vec2", "hubert", "unispeech", "unispeech-sat"), _UNMASKED),
    "wavlm": {**_UNMASKED, "num_buckets": 8, "max_bucket_distance": 16},
    "data2vec-audio": {**_WAVES, "mask_time_prob": 0.0, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2},
    "sew": {**_UNMASKED, "squeeze_factor": 2},
}
"""Encoders of waves (``input_values``), which classify sounds or write letters by CTC."""

_SIDES = {
    "d_model": 16,
    **{f"{side}_layers": LAYERS for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")},
    "vocab_size": len(LETTERS),
    "max_target_positions": 12,
    **_IDS,
    "decoder_start_token_id": 1,
}
WRITERS: dict[str, dict[str, Any]] = {
    "whisper": {
        **_SIDES,
        "num_mel_bins": MEL_BINS,
        "max_source_positions": FRAMES // 2,
        "classifier_proj_size": 8,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    },
    "speech_to_text": {
        **_SIDES,
        "input_feat_per_channel": MEL_BINS,
        "max_source_positions": FRAMES,
        "conv_channels": 16,
        "scale_embedding": False,
    },
}
"""Encoder-decoders that write what they hear (``input_features``)."""

SOUNDS: dict[str, dict[str, Any]] = {
    **WAVES,
    "audio-spectrogram-transformer": {
        **_SIZES,
        "patch_size": 4,
        "frequency_stride": 4,
        "time_stride": 4,
        "max_length": FRAMES,
        "num_mel_bins": MEL_BINS,
    },
    "whisper": WRITERS["whisper"],
}
"""Classifiers of sounds; of Whisper only the encoder."""

TABLES: dict[Any, dict[str, dict[str, Any]]] = {
    AutoModelForImageClassification: IMAGES,
    AutoModelForAudioClassification: SOUNDS,
    AutoModelForCTC: WAVES,
    AutoModelForSpeechSeq2Seq: WRITERS,
}
"""By the class that loads them."""

ALL = [(auto_model, kind) for auto_model, table in TABLES.items() for kind in table]
"""Every pair of a class that loads a model and a ``model_type``."""

_RATES = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "dropout")
_MORE_RATES = ("layerdrop", "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
_LAST_RATES = ("classifier_dropout_prob", "classifier_dropout")
_NO_DROPOUT = dict.fromkeys((*_RATES, *_MORE_RATES, *_LAST_RATES), 0.0)


def model(auto_model: Any, kind: str, seed: int = 0, names: tuple[str, ...] = NAMES, **options: Any) -> PreTrainedModel:
    """A tiny model whose weights all differ; ``names`` are the labels of classifiers."""
    classifies = auto_model in (AutoModelForImageClassification, AutoModelForAudioClassification)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    known = AutoConfig.for_model(kind)
    rates = {name: rate for name, rate in _NO_DROPOUT.items() if hasattr(known, name)}
    settings = {**rates, **TABLES[auto_model][kind], **(labels if classifies else {}), **options}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, architectures=[], **settings)  # DeiT has two classes, chosen by this.
    made = auto_model.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in filter(lambda each: each.requires_grad, made.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.1)
        if any(isinstance(module, nn.BatchNorm2d) for module in made.modules()):
            made.train()(**inputs(made, 16, seed))  # Nothing is left of an image where statistics are not its own.
    return made.eval()


def inputs(made: PreTrainedModel, count: int = 2, seed: int = 1) -> dict[str, Tensor]:
    """What a model reads: images, waves or spectrograms of noise, and letters for one that writes."""
    generator = torch.Generator().manual_seed(seed)
    config, name = made.config, made.main_input_name
    if name == "pixel_values":
        return {name: torch.randn(count, 3, SIDE, SIDE, generator=generator)}
    if config.model_type == "whisper":
        found = {name: torch.randn(count, MEL_BINS, FRAMES, generator=generator)}
    elif config.model_type in ("speech_to_text", "audio-spectrogram-transformer"):
        found = {name: torch.randn(count, FRAMES, MEL_BINS, generator=generator)}
    else:
        found = {name: torch.randn(count, SAMPLES, generator=generator)}
    if config.is_encoder_decoder and made.can_generate():
        found["decoder_input_ids"] = torch.randint(4, len(LETTERS), (count, 6), generator=generator)
    return found


def processor(kind: str, side: int = SIDE) -> Any:
    """What prepares rows for a classifier: images of a size and with a mean of their own, waves, or spectrograms."""
    if kind in IMAGES:
        size = {"height": side, "width": side}
        return ViTImageProcessor(size=size, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    if kind == "audio-spectrogram-transformer":
        return ASTFeatureExtractor(num_mel_bins=MEL_BINS, max_length=FRAMES)
    if kind == "whisper":
        return WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=1)
    if kind == "speech_to_text":
        return Speech2TextFeatureExtractor(feature_size=MEL_BINS, num_mel_bins=MEL_BINS)
    return Wav2Vec2FeatureExtractor()


def logits(made: PreTrainedModel, **more: Any) -> Tensor:
    """What a model makes of :func:`inputs`."""
    with torch.no_grad():
        found: Tensor = made.eval()(**{**inputs(made), **more}).logits
    return found
