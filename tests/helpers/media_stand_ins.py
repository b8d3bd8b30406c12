"""Tiny models that see and hear, and their data sets, under the names that recipes and templates use."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Audio, ClassLabel, Dataset, DatasetDict, Image
from transformers import AutoModelForAudioClassification, AutoModelForImageClassification

from tests.helpers import media_models, media_rows, speech, whispers
from tests.helpers.media import image_folder, sound_bytes
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
    fill_listeners(hub, folder)
    fill_whispers(hub, folder)


def fill_listeners(hub: Any, folder: Path) -> None:
    """Models that write letters by CTC, and clips with what is said in them, in capital letters."""
    path = folder / "listener"
    speech.listener(num_hidden_layers=24).save_pretrained(path)
    speech.processor().save_pretrained(path)
    hub.add("facebook/wav2vec2-large-960h", path)
    books = _splits({"train.100": 96, "train.360": 96, "validation": 24, "test": 24}, _read_aloud)
    hub.add("openslr/librispeech_asr", configured(books, folder / "librispeech", "clean"), kind="dataset")


def _read_aloud(count: int, seed: int) -> Dataset:
    made = speech.rows(speech.TEXTS[seed:] + speech.TEXTS[:seed], count // len(speech.TEXTS))
    capitals = [text.upper() for text in made["text"]]
    made = made.remove_columns("text").cast_column("audio", Audio(sampling_rate=speech.RATE))
    return made.add_column("text", capitals)


def fill_whispers(hub: Any, folder: Path) -> None:
    """Whispers of several depths, with one vocabulary."""
    made = whispers.processor()
    for name, layers in (("small", 12), ("medium", 24), ("large-v3", 32)):
        path = folder / f"whisper-{name}"
        whispers.whisper(2, layers, made=made).save_pretrained(path)
        made.save_pretrained(path)
        hub.add(f"openai/whisper-{name}", path)


def write_common_voice(folder: Path) -> None:
    """Common Voice as it is downloaded, but with its tables beside the recordings that they name."""
    for language, count in (("en", 48), ("zh-CN", 48)):
        clips = folder / "common-voice" / language / "clips"
        clips.mkdir(parents=True)
        for seed, (split, rows) in enumerate({"train": count, "dev": 24, "test": 24}.items()):
            made = whispers.rows(rows, seed=seed)
            names = [f"common_voice_{language}_{split}_{number}.mp3" for number in range(rows)]
            for number, name in enumerate(names):
                (clips / name).write_bytes(sound_bytes(whispers.samples(number, 0.4), kind="MP3"))
            with (clips / f"{split}.tsv").open("w", newline="") as file:
                table = csv.writer(file, delimiter="\t")
                table.writerow(["client_id", "path", "sentence", "up_votes", "locale"])
                table.writerows(["a1", name, text, 2, language] for name, text in zip(names, made["text"], strict=True))


def write_folders(folder: Path) -> None:
    """The folders and tables of files that the page on speech and images names."""
    image_folder(folder / "leaves", each=24)
    for place, table, header in (
        ("recordings/train", "metadata.csv", "file_name,text"),
        ("recordings/test", "metadata.csv", "file_name,text"),
        ("clips", "train.csv", "path,sentence"),
        ("clips", "test.csv", "path,sentence"),
    ):
        rows, lines = speech.rows(repeats=4), [header]
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number, (cell, text) in enumerate(zip(rows["audio"], rows["text"], strict=True)):
            (folder / place / f"{number}.wav").write_bytes(cell["bytes"])
            lines.append(f"{number}.wav,{text}")
        (folder / place / table).write_text("\n".join(lines) + "\n")


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
