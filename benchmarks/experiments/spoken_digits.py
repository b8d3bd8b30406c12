"""What the students of spoken digits in model_cards were trained on: strings of digits, and models to start from.

    python -m benchmarks.experiments.spoken_digits RECORDINGS FOLDER

RECORDINGS holds the clips of the Free Spoken Digit Dataset, ``DIGIT_SPEAKER_INDEX.wav``. FOLDER gets

    data/fsdd/            single digits: train.csv and test.csv beside the clips; the test split is the official one
    data/digit_strings/   3 to 6 clips of one speaker in a row, 3 s at most; clips of train, validation and test apart
    data/more_digit_strings/    the same, 12,000 to train on: a Whisper learns 3,000 by heart
    start-ctc/            a Wav2Vec2-BERT with random weights and the letters of the digits
    start-whisper/        a small Whisper whose encoder has learned to tell single digits, wherever they stand; its
                          decoder is random: trained from random weights it learns which digits there are long before
                          it listens

The recipes and commands of the students are in their results.json.
"""

from __future__ import annotations

import argparse
import collections
import copy
import csv
import io
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    SeamlessM4TFeatureExtractor,
    TrainingArguments,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from hf_distill import AudioClassification, DistillationTrainer, Labels
from tests.helpers import whispers

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE, SECONDS = 8000, 3.0
OFFICIAL, HELD_OUT = 5, 8
"""Clips of a speaker and a digit below the first are the test split's, below the second the validation split's."""

Clips = Mapping[tuple[str, str], Sequence[tuple[int, np.ndarray]]]
"""Digits and samples by split and speaker."""


def read(recordings: Path) -> Clips:
    clips: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = collections.defaultdict(list)
    for path in sorted(recordings.glob("*.wav")):
        digit, speaker, index = path.stem.split("_")
        split = "test" if int(index) < OFFICIAL else "validation" if int(index) < HELD_OUT else "train"
        clips[split, speaker].append((int(digit), soundfile.read(path, dtype="float32")[0]))
    return clips


def singles(recordings: Path, folder: Path) -> None:
    rows: dict[str, list[tuple[str, str, str]]] = {"train": [], "test": []}
    for path in sorted(recordings.glob("*.wav")):
        digit, speaker, index = path.stem.split("_")
        split = "test" if int(index) < OFFICIAL else "train"
        (folder / split).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / split)
        rows[split].append((f"{split}/{path.name}", digit, speaker))
    for split, listed in rows.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("audio", "label", "speaker"), *listed])


def wav(samples: np.ndarray, name: str) -> dict[str, Any]:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return {"bytes": file.getvalue(), "path": name}


def strings(clips: Clips, split: str, count: int, seed: int) -> Dataset:
    draw, rows = random.Random(seed), list[dict[str, Any]]()
    speakers = sorted({speaker for _, speaker in clips})
    while len(rows) < count:
        speaker = draw.choice(speakers)
        chosen = [draw.choice(clips[split, speaker]) for _ in range(draw.randint(3, 6))]
        samples = np.concatenate([part for _, part in chosen])
        if len(samples) <= SECONDS * RATE:
            cell = wav(samples, f"{split}-{len(rows):05d}-{speaker}.wav")
            text = " ".join(WORDS[digit] for digit, _ in chosen)
            rows.append({"audio": cell, "text": text, "speaker": speaker})
    return Dataset.from_list(rows)


def start_ctc(folder: Path) -> None:
    letters = sorted(set("".join(WORDS)))
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: number for number, token in enumerate(("<pad>", "<unk>", "|", *letters))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None)
    rates = ("hidden", "attention", "activation", "feat_proj", "final", "conformer_conv")
    shape = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192}
    shape |= {f"{name}_dropout": 0.0 for name in rates}
    shape |= {"layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0}
    more = {"feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 15}
    torch.manual_seed(0)
    config = AutoConfig.for_model("wav2vec2-bert", vocab_size=len(tokenizer), pad_token_id=0, **shape, **more)
    AutoModelForCTC.from_config(config).save_pretrained(folder)
    Wav2Vec2BertProcessor(SeamlessM4TFeatureExtractor(), tokenizer).save_pretrained(folder)


def start_whisper(clips: Clips, folder: Path) -> None:
    processor: WhisperProcessor = whispers.processor(int(SECONDS), mels=40, longest=32)
    sizes = {"d_model": 128, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "init_std": 0.02}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    model: WhisperForConditionalGeneration = whispers.whisper(3, 4, made=processor, **sizes)
    encoder = model.model.encoder
    with (
        torch.no_grad()
    ):  # As Transformers draws them, the sound is far weaker than the positions that are added to it.
        encoder.conv1.weight.mul_(6)
        encoder.conv2.weight.mul_(8)
    encoder.load_state_dict(taught(model, processor, clips).encoder.state_dict())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def taught(model: Any, processor: Any, clips: Clips) -> Any:
    """A classifier of single digits, each somewhere in a row of silence, with this Whisper's encoder."""
    draw, rows = random.Random(0), list[dict[str, Any]]()
    for (split, speaker), found in clips.items():
        for number, (digit, samples) in enumerate(found if split == "train" else ()):
            before = int(draw.uniform(0, max(0.0, SECONDS - len(samples) / RATE)) * RATE)
            row = np.concatenate([np.full(before, 1e-5, np.float32), samples])
            rows.append({"audio": wav(row, f"{speaker}-{number}.wav"), "label": str(digit)})
    data = Dataset.from_list(rows)
    task = AudioClassification(max_seconds=SECONDS, keep_features=True)
    task.read_labels(data)
    config = copy.deepcopy(model.config)
    for name, value in {**task.model_options(), "classifier_proj_size": 64}.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    listener = WhisperForAudioClassification(config)
    listener.encoder.load_state_dict(model.model.encoder.state_dict())
    args = TrainingArguments(
        output_dir="spoken-digits", max_steps=500, per_device_train_batch_size=32, learning_rate=5e-4, warmup_steps=70,
        lr_scheduler_type="cosine", logging_steps=50, use_cpu=True, save_strategy="no", report_to="none",
    )  # fmt: skip
    extractor = processor.feature_extractor
    DistillationTrainer(
        model=listener, task=task, objectives=[Labels()], args=args, train_dataset=data, processing_class=extractor
    ).train()
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    clips = read(given.recordings)
    singles(given.recordings, given.folder / "data" / "fsdd")
    held_out = {"validation": strings(clips, "validation", 100, 1), "test": strings(clips, "test", 300, 2)}
    for name, count in (("digit_strings", 3000), ("more_digit_strings", 12_000)):
        made = {"train": strings(clips, "train", count, 0), **held_out}
        DatasetDict(made).save_to_disk(given.folder / "data" / name)
    start_ctc(given.folder / "start-ctc")
    start_whisper(clips, given.folder / "start-whisper")


if __name__ == "__main__":
    main()
