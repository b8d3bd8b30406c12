"""Tiny models that see and hear, and data sets of pictures and sounds, under the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Audio, ClassLabel, Dataset, DatasetDict, Image
from transformers import AutoModelForAudioClassification, AutoModelForImageClassification

from tests.helpers import media_models, media_rows
from tests.helpers.stand_ins import configured, parquet

DISHES = ("apple_pie", "baklava", "ceviche")
LEAVES = ("angular_leaf_spot", "bean_rust", "healthy")
KEYWORDS = ("yes", "no", "_unknown_")
OTHERS = ("tench", "goldfish", "great white shark", "tiger shark")  # What models of ImageNet tell apart.
PICTURES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "nateraw/food": ("vit", DISHES, {}),
    "facebook/deit-tiny-patch16-224": ("deit", OTHERS, {}),
    "microsoft/resnet-50": ("resnet", OTHERS, {}),
    "google/mobilenet_v2_1.0_224": ("mobilenet_v2", OTHERS, {}),
    "google/vit-base-patch16-224-in21k": ("vit", ("LABEL_0", "LABEL_1"), {"num_hidden_layers": 12}),
}
SOUNDS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "superb/hubert-base-superb-ks": ("hubert", KEYWORDS, {"num_hidden_layers": 12}),
    "facebook/wav2vec2-base": ("wav2vec2", ("LABEL_0", "LABEL_1"), {"num_hidden_layers": 12}),
}


def fill_media(hub: Any, folder: Path) -> None:
    """Tiny stand-ins of models of pictures and sounds, and what they learn from."""
    for table, loader, processor in (
        (PICTURES, AutoModelForImageClassification, media_rows.image_processor),
        (SOUNDS, AutoModelForAudioClassification, media_rows.waves),
    ):
        for name, (kind, labels, options) in table.items():
            path = folder / name.replace("/", "-")
            media_models.model(loader, kind, names=labels, **options).save_pretrained(path)
            processor().save_pretrained(path)
            hub.add(name, path)
    dishes = shown({"train": 2100, "validation": 48}, DISHES)
    hub.add("ethz/food101", parquet(dishes, folder / "food101"), kind="dataset")
    leaves = shown({"train": 96, "validation": 24, "test": 24}, LEAVES, "labels")
    hub.add("AI-Lab-Makerere/beans", parquet(leaves, folder / "beans"), kind="dataset")
    words = heard({"train": 96, "validation": 24, "test": 24}, KEYWORDS)
    for name, config in (("s3prl/superb", "ks"), ("google/speech_commands", "v0.02")):
        hub.add(name, configured(words, folder / name.replace("/", "-"), config), kind="dataset")


def shown(sizes: dict[str, int], names: Sequence[str], label: str = "label") -> DatasetDict:
    """Pictures of classes, with the Image feature that a viewer of the Hub needs."""
    return _splits(sizes, lambda count, seed: _named(media_rows.pictures(count, seed), names, label, image=Image()))


def heard(sizes: dict[str, int], names: Sequence[str]) -> DatasetDict:
    """Sounds of classes, with the Audio feature."""
    audio = Audio(sampling_rate=media_rows.RATE)
    return _splits(sizes, lambda count, seed: _named(media_rows.sounds(count, seed), names, "label", audio=audio))


def _splits(sizes: dict[str, int], make: Callable[[int, int], Dataset]) -> DatasetDict:
    return DatasetDict({name: make(count, seed) for seed, (name, count) in enumerate(sizes.items())})


def _named(rows: Dataset, names: Sequence[str], label: str, **feature: Any) -> Dataset:
    """Rows of media as a Hub data set has them: classes by number, and the name of each file beside it."""
    ((column, kind),) = feature.items()
    classes = [media_models.NAMES.index(name) for name in rows["label"]]
    # Cast, since `datasets` encodes sounds with torchcodec alone.
    rows = rows.remove_columns("label").cast_column(column, kind)
    rows = rows.add_column("file", [f"{number}" for number in range(len(rows))])
    return rows.add_column(label, classes, feature=ClassLabel(names=list(names)))
