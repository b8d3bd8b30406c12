"""Classification of pictures and sounds: rows, views, batches, and that a batch changes nothing."""

from __future__ import annotations

import copy
import io
import random

import numpy as np
import pytest
import torch
from datasets import Image as ImageFeature
from PIL import Image
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    TrainingArguments,
    Wav2Vec2FeatureExtractor,
)

from hf_distill import DKD, DistillationTrainer, Hidden, Labels, Logits, Relation
from hf_distill.data.media.read_audio import audio_facts
from hf_distill.errors import DataError, ModelError, ObjectiveError, RecipeError
from hf_distill.tasks import AudioClassification, ImageClassification, make_task
from hf_distill.tasks.media.augmentation import view_of
from hf_distill.tokenizers.compare import reads_alike
from hf_distill.tokenizers.readers import Reader
from tests.helpers import media_models, media_rows
from tests.helpers.media_models import NAMES, SAMPLES, SIDE

SECONDS = SAMPLES / media_rows.RATE
IMAGES = sorted(media_models.IMAGES)
SOUNDS = sorted(set(media_models.SOUNDS) - {"whisper", "sew"})
"""Whisper's extractor gives 30 s; SEW needs lengths that are a multiple of its pooling."""


def processor_of(kind: str):
    if kind in media_models.IMAGES:
        return media_rows.image_processor()
    return media_rows.spectrograms() if kind.startswith("audio-") else media_rows.waves()


def task_of(kind: str, **options):
    if kind in media_models.IMAGES:
        return ImageClassification(**options)
    return AudioClassification(max_seconds=SECONDS, **options)


def model_of(kind: str, seed: int = 0, **options):
    loader = AutoModelForImageClassification if kind in media_models.IMAGES else AutoModelForAudioClassification
    return media_models.model(loader, kind, seed, **options)


def rows_of(kind: str, count: int = 24):
    return (media_rows.pictures if kind in media_models.IMAGES else media_rows.sounds)(count)


def bound(kind: str, **options):
    task = task_of(kind, **options)
    task.read_labels(rows_of(kind))
    return task


def batch_of(task, processor, rows, teacher=None):
    return task.collator(processor, teacher)(list(task.encode(rows, processor, teacher)))


@pytest.mark.parametrize("kind", ["vit", "wav2vec2"])
def test_rows_keep_their_files_and_labels_and_are_decoded_where_batches_are_made(kind):
    task, rows = bound(kind), rows_of(kind)
    encoded = task.encode(rows, processor_of(kind))
    assert encoded[0]["media"] == rows[0][task.column]
    assert encoded["labels"] == [i % 3 for i in range(len(rows))]
    batch = batch_of(task, processor_of(kind), rows)
    assert len(next(iter(batch.values()))) == len(rows)
    assert batch["labels"].tolist() == encoded["labels"]


@pytest.mark.parametrize("kind", [*IMAGES, *SOUNDS])
def test_a_row_gives_the_same_alone_and_in_a_batch(kind):
    task, model = bound(kind), model_of(kind)
    batch = batch_of(task, processor_of(kind), rows_of(kind, 4))
    with torch.no_grad():
        together = model(**task.student_inputs(batch)).logits
        for number in range(4):
            alone = batch_of(task, processor_of(kind), rows_of(kind, 4).select([number]))
            assert torch.allclose(model(**task.student_inputs(alone)).logits[0], together[number], atol=1e-5)


def test_pictures_that_datasets_would_decode_are_read_as_files_of_any_kind():
    task = bound("vit")
    rows = media_rows.pictures(6).cast_column("image", ImageFeature())
    assert isinstance(rows[0]["image"], Image.Image)
    read = batch_of(task, processor_of("vit"), rows)
    assert torch.equal(
        read["pixel_values"], batch_of(task, processor_of("vit"), media_rows.pictures(6))["pixel_values"]
    )


def test_rows_that_somebody_prepared_are_stacked():
    task = bound("vit")
    prepared = [{"pixel_values": np.full((3, SIDE, SIDE), i, dtype=np.float32), "labels": i} for i in range(3)]
    batch = task.collator(processor_of("vit"))(prepared)
    assert batch["pixel_values"].mean((1, 2, 3)).tolist() == [0, 1, 2]
    assert batch["labels"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["vit", "wav2vec2", "audio-spectrogram-transformer"])
@pytest.mark.parametrize("has_teacher", [False, True])
def test_features_that_are_kept_are_those_that_are_made_for_each_batch(kind, has_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    task, rows, processor = bound(kind, keep_features=True), rows_of(kind, 40), processor_of(kind)
    other = (
        media_rows.image_processor(2 * SIDE) if has_teacher and kind == "vit" else processor if has_teacher else None
    )
    kept = batch_of(task, processor, rows, other)
    made = batch_of(bound(kind), processor, rows, other)
    assert kept.keys() == made.keys()
    assert all(torch.equal(value, kept[name]) for name, value in made.items())
    (file,) = (tmp_path / "hf_distill").iterdir()
    before = file.stat().st_mtime_ns
    assert batch_of(bound(kind, keep_features=True), processor, rows, other).keys() == made.keys()
    assert file.stat().st_mtime_ns == before


def test_other_features_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    task, rows = bound("vit", keep_features=True), media_rows.pictures(4)
    for processor, given in [
        (media_rows.image_processor(), rows),
        (media_rows.image_processor(8), rows),
        (media_rows.image_processor(), media_rows.pictures(4, seed=9)),
    ]:
        task.encode(given, processor)
    assert len(list((tmp_path / "hf_distill").iterdir())) == 3


def masked(kind: str, processor, seconds: float = 0.2):
    """A batch of sounds of several lengths, bound to a student that is told where rows are filled up."""
    task = AudioClassification(max_seconds=seconds)
    task.read_labels(media_rows.sounds())
    model = model_of(kind, feat_extract_norm="layer", num_hidden_layers=2)
    list(task.fit_lengths([Reader(name="the student", model=model, tokenizer=processor)]))
    return task, model, batch_of(task, processor, media_rows.sounds(6))


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_silence_that_fills_a_sound_up_is_no_position_that_is_compared(kind):
    task, model, batch = masked(kind, Wav2Vec2FeatureExtractor(return_attention_mask=True))
    tokens = task.masks(batch)["tokens"]
    states = model(**task.student_inputs(batch), output_hidden_states=True).hidden_states[-1]
    assert tokens.shape == states.shape[:2]
    expected = model._get_feat_extract_output_lengths(batch["attention_mask"].sum(1))
    assert tokens.sum(1).tolist() == expected.tolist()
    assert 0 < expected.min() < expected.max() < tokens.shape[1]
    del batch["attention_mask"]
    assert task.masks(batch)["tokens"].all()


def test_a_spectrogram_that_ends_before_max_seconds_is_told():
    task = AudioClassification(max_seconds=2.0)
    task.read_labels(media_rows.sounds())
    student = model_of("audio-spectrogram-transformer")
    lines = list(task.fit_lengths([Reader(name="the student", model=student, tokenizer=media_rows.spectrograms())]))
    assert task.max_seconds == media_models.FRAMES / 100
    assert "cut at 0.32 s: the student" in lines[0]


def test_sounds_that_will_be_cut_are_counted():
    task = AudioClassification(max_seconds=SECONDS)
    longer = [facts.seconds > SECONDS for facts in map(audio_facts, media_rows.sounds()["audio"])]
    assert 0 < sum(longer) < len(longer)
    (line,) = task.check_rows(media_rows.sounds(), media_rows.waves())
    assert line.startswith(f"{sum(longer)} of 24 rows will be cut: they are longer than task.max_seconds")


def test_a_picture_is_decoded_once_for_a_student_and_a_teacher_of_another_size(monkeypatch):
    task, count = bound("vit"), []
    decoded = type(task).decoded
    monkeypatch.setattr(type(task), "decoded", lambda *given: count.append(1) or decoded(*given))
    batch_of(task, processor_of("vit"), media_rows.pictures(4), media_rows.image_processor(2 * SIDE))
    assert len(count) == 4


# --- views -----------------------------------------------------------------------------------------------------------


def views(task, rows, epoch, processor=None, teacher=None):
    collate = task.training_collator(processor or processor_of("vit"), teacher, lambda: epoch)
    return collate(list(task.encode(rows, processor_of("vit"))))


def test_each_epoch_sees_other_views_which_no_batch_decides():
    task, rows = bound("vit", crop=0.3, flip=True), media_rows.pictures(8)
    whole = views(task, rows, (7, 0))["pixel_values"]
    alone = [views(task, rows.select([number]), (7, 0))["pixel_values"][0] for number in range(8)]
    assert torch.equal(whole, torch.stack(alone))
    for other in ((7, 1), (8, 0)):
        changed = (views(task, rows, other)["pixel_values"] != whole).flatten(1).any(1)
        assert changed.all()
    assert torch.equal(
        batch_of(task, processor_of("vit"), rows)["pixel_values"],
        batch_of(bound("vit"), processor_of("vit"), rows)["pixel_values"],
    )


def test_a_teacher_of_another_size_sees_the_same_view():
    task, rows = bound("vit", crop=0.3, flip=True), media_rows.pictures(4)
    alike = views(task, rows, (0, 0), teacher=processor_of("vit"))
    assert torch.equal(alike["pixel_values"], alike["teacher_pixel_values"])
    larger = views(task, rows, (0, 0), teacher=media_rows.image_processor(2 * SIDE))
    assert torch.equal(larger["pixel_values"], alike["pixel_values"])
    assert larger["teacher_pixel_values"].shape[-2:] == (2 * SIDE, 2 * SIDE)
    small = torch.nn.functional.interpolate(larger["teacher_pixel_values"], (SIDE, SIDE), mode="area")
    assert torch.corrcoef(torch.stack([small.flatten(), alike["pixel_values"].flatten()]))[0, 1] > 0.9
    assert task.teacher_inputs(larger)["pixel_values"] is larger["teacher_pixel_values"]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (640, 480)])
def test_a_view_lies_within_its_picture_and_keeps_the_share_that_was_asked_for(size):
    picture = Image.new("RGB", size)
    for seed in range(50):
        width, height = view_of(picture, random.Random(seed), 0.5, True).size
        assert 0 < width <= size[0]
        assert 0 < height <= size[1]
        assert width * height >= 0.45 * size[0] * size[1]


NOTHING = [{"crop": 0}, {"crop": 1.5}, {"crop": True}, {"flip": 1}, {"max_length": 3}]
NOTHING += [{"mixup": 2}, {"mixup": True}, {"cutmix": 0.6, "mixup": 0.6}, {"keep_features": True, "mixup": 0.1}]
NOTHING += [{"keep_features": 2}, {"keep_features": True, "crop": 0.5}]


@pytest.mark.parametrize("options", NOTHING)
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(RecipeError, match=next(iter(options))):
        make_task("image-classification", options)


@pytest.mark.parametrize("task", ["audio-classification", "speech-recognition-ctc", "speech-recognition"])
@pytest.mark.parametrize("seconds", [0, -1, True, "2", float("inf"), float("nan")])
def test_a_length_of_sounds_that_is_none_is_refused(task, seconds):
    with pytest.raises(RecipeError, match="max_seconds"):
        make_task(task, {"max_seconds": seconds})


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixture_holds_as_much_of_two_pictures_as_its_label_says(kind):
    task, rows = bound("vit", **{kind: 1.0}), media_rows.pictures(6)
    plain, found = batch_of(task, processor_of("vit"), rows), views(task, rows, (3, 1))
    pixels, other = plain["pixel_values"], plain["pixel_values"].roll(-1, 0)
    own = torch.nn.functional.one_hot(plain["labels"], 3).float()
    kept = found["labels"].gather(1, plain["labels"][:, None])
    assert torch.allclose(found["labels"], kept * own + (1 - kept) * own.roll(-1, 0))
    assert kept.min() < kept.max()
    if kind == "mixup":
        share = kept[:, :, None, None]
        assert torch.allclose(found["pixel_values"], share * pixels + (1 - share) * other, atol=1e-6)
    else:
        is_own, is_other = ((found["pixel_values"] == each).all(1) for each in (pixels, other))
        assert (is_own | is_other).all()
        assert torch.allclose(is_own.float().mean((1, 2)), kept[:, 0], atol=0.02)
    assert torch.equal(views(task, rows, (3, 1))["pixel_values"], found["pixel_values"])
    assert not torch.equal(views(task, rows, (3, 2))["pixel_values"], found["pixel_values"])


def test_student_and_teacher_see_the_same_mixture_and_rows_without_labels_stay_so():
    task, rows = bound("vit", mixup=0.5, cutmix=0.5, crop=0.5), media_rows.pictures(6)
    rows = rows.remove_columns("label").add_column("label", [None, *rows["label"][1:]])
    found = views(task, rows, (3, 1), teacher=processor_of("vit"))
    assert torch.equal(found["pixel_values"], found["teacher_pixel_values"])
    assert task.masks(found)["labels"].tolist() == [False, True, True, True, True, False]
    alone = views(task, rows.select([1]), (3, 1))
    assert alone["labels"].tolist() == [[0, 1, 0]]


def test_labels_that_are_shares_give_the_cross_entropy_with_them(tmp_path):
    made = trainer(tmp_path, "vit", [Labels()], 8, mixup=1.0)
    batch = next(iter(made.get_train_dataloader()))
    logits = made.model(pixel_values=batch["pixel_values"]).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"])
    assert made.compute_loss(made.model, batch).item() == pytest.approx(expected.item(), abs=1e-6)
    with pytest.raises(ObjectiveError, match="mixtures"):
        trainer(tmp_path, "vit", [DKD()], 8, mixup=1.0).train()


# --- training --------------------------------------------------------------------------------------------------------


def trainer(folder, kind, objectives, batch, processors=None, teacher=None, **options):
    own, other = processors or (processor_of(kind), None)
    return DistillationTrainer(
        model=model_of(kind, 1, num_hidden_layers=2) if kind not in media_models.STAGED else model_of(kind, 1),
        teacher=teacher if teacher is not None else model_of(kind, 2),
        task=bound(kind, **options),
        objectives=objectives,
        train_dataset=rows_of(kind, 16),
        processing_class=own,
        teacher_processing_class=other,
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=8 // batch,
            max_steps=3,
            learning_rate=0.05,
            optim="sgd",
            logging_steps=1,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
    )


@pytest.mark.parametrize("kind", ["vit", "convnext", "wav2vec2", "audio-spectrogram-transformer"])
def test_any_split_of_a_batch_trains_the_same_student(kind, tmp_path):
    objectives = [Labels(), Logits(temperature=2.0)]
    if kind not in media_models.STAGED:
        objectives += [Hidden(), Relation(relation_heads=2)] if kind == "vit" else [Hidden()]
    options = {"crop": 0.4} if kind in media_models.IMAGES else {}
    found = []
    for batch in (8, 2, 1):
        made = trainer(tmp_path, kind, copy.deepcopy(objectives), batch, **options)
        made.train()
        losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
        found.append((losses, {name: value.clone() for name, value in made.model.state_dict().items()}))
    for losses, weights in found[1:]:
        assert losses == pytest.approx(found[0][0], abs=2e-6)
        assert all(torch.allclose(weights[name], value, atol=2e-6) for name, value in found[0][1].items())


def test_a_student_that_is_its_teacher_learns_nothing_of_it(tmp_path):
    made = trainer(tmp_path, "vit", [Logits(temperature=3.0), Hidden(layers={0: 0, 1: 1})], 8)
    made = trainer(
        tmp_path, "vit", [Logits(temperature=3.0), Hidden(layers={0: 0, 1: 1})], 8, teacher=copy.deepcopy(made.model)
    )
    made.train()
    assert max(abs(entry["loss"]) for entry in made.state.log_history if "loss" in entry) < 1e-6


def test_labels_of_a_teacher_in_another_order_are_aligned_by_name(tmp_path):
    order = [2, 0, 1]
    teacher = model_of("vit", 2)
    moved = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter, source in zip(moved.classifier.parameters(), teacher.classifier.parameters(), strict=True):
            parameter.copy_(source[order])
    moved.config.id2label = {i: NAMES[source] for i, source in enumerate(order)}
    moved.config.label2id = {name: i for i, name in moved.config.id2label.items()}
    losses = []
    for given in (teacher, moved):
        made = trainer(tmp_path, "vit", [Logits()], 8, teacher=given)
        made.train()
        losses.append([entry["loss"] for entry in made.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_student_and_teacher_of_other_kinds_and_sizes_learn_from_one_another(tmp_path):
    teacher = model_of("vit", 2, image_size=2 * SIDE)
    processors = (processor_of("resnet"), media_rows.image_processor(2 * SIDE))
    assert not reads_alike(*processors)
    made = trainer(tmp_path, "resnet", [Labels(), Logits()], 4, processors, teacher)
    assert made.train().metrics["train_loss"] > 0


@pytest.mark.parametrize("kind", media_models.STAGED)
def test_layers_in_stages_are_not_compared(kind, tmp_path):
    with pytest.raises(ObjectiveError, match="use logits"):
        trainer(tmp_path, kind, [Labels(), Hidden()], 8)


def test_layers_with_other_numbers_of_patches_are_not_compared(tmp_path):
    teacher = model_of("vit", 2, patch_size=4)
    with pytest.raises(ObjectiveError, match="those of the student have 5 and a teacher's 17"):
        trainer(tmp_path, "vit", [Labels(), Hidden()], 8, teacher=teacher)
    assert trainer(tmp_path, "vit", [Labels(), Logits()], 8, teacher=teacher).train().metrics["train_loss"] > 0


@pytest.mark.parametrize("kind", ["vit", "deit", "audio-spectrogram-transformer"])
def test_a_processor_that_does_not_fit_its_model_is_told(kind, tmp_path):
    small = media_rows.image_processor(8) if kind in media_models.IMAGES else media_rows.waves()
    with pytest.raises(ModelError, match=r"the student .* cannot read what its processor gives .* of \["):
        trainer(tmp_path, kind, [Labels()], 8, (small, None))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\x00" * 20])
def test_a_broken_picture_is_told_in_words(content):
    rows = media_rows.pictures(4).to_list()
    rows[2]["image"]["bytes"] = content
    task = bound("vit")
    with pytest.raises(DataError, match=r"empty|no image|not an image|cannot"):
        task.collator(processor_of("vit"))([{"media": row["image"], "labels": 0} for row in rows])


def test_grey_and_transparent_pictures_are_read_like_any_other():
    task, files = bound("vit"), []
    for mode in ("L", "RGBA", "P", "CMYK", "1"):
        file = io.BytesIO()
        Image.new("RGB", (9, 9), (128, 128, 128)).convert(mode).save(file, "TIFF")
        files.append({"media": {"bytes": file.getvalue(), "path": None}, "labels": 0})
    assert task.collator(processor_of("vit"))(files)["pixel_values"].shape == (5, 3, SIDE, SIDE)


@pytest.mark.parametrize("kind", [*IMAGES, *SOUNDS])
def test_looking_at_a_model_before_it_is_trained_changes_nothing_of_any(kind):
    model, task, processor = model_of(kind), bound(kind), processor_of(kind)
    batch = task.student_inputs(batch_of(task, processor, rows_of(kind, 2)))
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True)
        list(task.fit_lengths([Reader(name="the student", model=model_of(kind, 1), tokenizer=processor)]))
        assert torch.equal(model(**batch).logits, expected.logits)
        assert torch.equal(model_of(kind)(**batch).logits, expected.logits)
    positions = None if kind in media_models.STAGED else expected.hidden_states[-1].shape[1]
    assert task._positions == positions
