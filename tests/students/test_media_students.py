"""Students of models that read images and sounds: chosen layers, and fresh ones of a config."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    GenerationConfig,
    PreTrainedModel,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
)

from hf_distill.errors import ModelError, StudentError
from hf_distill.models.forward import compared_layers, encoder_layers
from hf_distill.models.loading import load_model
from hf_distill.models.sizes import is_bound_to_positions, position_limit, sizes_of, tell_sides, token_rows
from hf_distill.recipe import StudentConfig
from hf_distill.recipe.parse import read
from hf_distill.students import Student, build_student, chosen_cuts
from hf_distill.students.freezing import freeze
from hf_distill.students.layers import cut
from tests.helpers import media_models as media

STACKED = [(auto_model, kind) for auto_model, kind in media.ALL if kind not in media.STAGED]
CLASSIFIERS = [
    pair for pair in media.ALL if pair[0] in (AutoModelForImageClassification, AutoModelForAudioClassification)
]
ONE_STACK = [pair for pair in STACKED if pair[0] is not AutoModelForSpeechSeq2Seq]
PROCESSORS = {
    AutoModelForImageClassification: AutoImageProcessor,
    AutoModelForAudioClassification: AutoFeatureExtractor,
    AutoModelForCTC: AutoProcessor,
    AutoModelForSpeechSeq2Seq: AutoProcessor,
}


def model(auto_model: Any, kind: str, **options: Any) -> PreTrainedModel:
    made = media.model(auto_model, kind, **options)
    tell_sides(made)
    return made


def labels(*names: str) -> dict[str, Any]:
    ids = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return {"num_labels": len(names), **ids, "problem_type": "single_label_classification"}


def written(kind: str) -> Any:
    """A processor with the letters that a model writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({letter: i for i, letter in enumerate(media.LETTERS)}))
        return Wav2Vec2Processor(media.processor(kind), Wav2Vec2CTCTokenizer(str(path)))


def processor_of(auto_model: Any, kind: str) -> Any:
    return media.processor(kind) if (auto_model, kind) in CLASSIFIERS else written(kind)


def build(auto_model: Any, kind: str, teacher: PreTrainedModel | None, prepares: Any = None, **keys: Any) -> Student:
    if prepares is None and teacher is not None:
        prepares = processor_of(auto_model, kind)
    return build_student(
        read(StudentConfig, keys, "recipe.student"),
        auto_model=auto_model,
        teacher=teacher,
        teacher_tokenizer=prepares,
        texts=lambda: iter(()),
        model_options=labels(*media.NAMES) if (auto_model, kind) in CLASSIFIERS else {},
        auto_processor=PROCESSORS[auto_model],
    )


def both_sides(auto_model: Any, chosen: Any) -> Any:
    return {"encoder": chosen, "decoder": chosen} if auto_model is AutoModelForSpeechSeq2Seq else chosen


def depth(config: Any) -> int:
    return int(sizes_of(config).num_hidden_layers)


# ---- layers


@pytest.mark.parametrize(("auto_model", "kind"), STACKED)
def test_keeping_all_layers_gives_the_logits_of_the_teacher_bit_for_bit(auto_model: Any, kind: str) -> None:
    teacher = model(auto_model, kind)
    student = cut(teacher, chosen_cuts(teacher, both_sides(auto_model, media.LAYERS)))
    assert torch.equal(media.logits(student), media.logits(teacher))
    own, source = student.state_dict(), teacher.state_dict()
    assert own.keys() == source.keys()
    assert all(torch.equal(tensor, source[name]) for name, tensor in own.items())


@pytest.mark.parametrize("chosen", [[0, 3], [1, 2]])
@pytest.mark.parametrize(("auto_model", "kind"), STACKED)
def test_a_student_of_some_layers_loads_again_in_plain_transformers(
    auto_model: Any, kind: str, chosen: list[int], tmp_path: Any
) -> None:
    teacher = model(auto_model, kind)
    student = build(auto_model, kind, teacher, layers=both_sides(auto_model, chosen))
    student.model.save_pretrained(tmp_path)
    student.tokenizer.save_pretrained(tmp_path)
    loaded, info = auto_model.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not any(info.values())
    assert depth(loaded.config) == 2
    assert not torch.equal(media.logits(loaded), media.logits(teacher))
    assert torch.equal(media.logits(loaded), media.logits(student.model))
    assert type(PROCESSORS[auto_model].from_pretrained(tmp_path)) is type(student.tokenizer)


@pytest.mark.parametrize(("auto_model", "kind"), STACKED)
def test_a_student_computes_what_its_teacher_computes_without_the_dropped_layers(auto_model: Any, kind: str) -> None:
    teacher = model(auto_model, kind)
    cuts = chosen_cuts(teacher, both_sides(auto_model, [0, 2, 3]))
    shortened = copy.deepcopy(teacher)
    for each in cuts:
        parent, _, name = each.stack.rpartition(".")
        blocks = shortened.get_submodule(each.stack)
        setattr(shortened.get_submodule(parent), name, torch.nn.ModuleList(blocks[i] for i in each.layer_map))
    assert torch.equal(media.logits(cut(teacher, cuts)), media.logits(shortened))


@pytest.mark.parametrize(
    ("auto_model", "kind", "options"),
    [
        *((AutoModelForImageClassification, kind, {"drop_path_rate": 0.2}) for kind in ("beit", "dinov2")),
        *((AutoModelForAudioClassification, kind, {"use_weighted_layer_sum": True}) for kind in media.WAVES),
        (AutoModelForAudioClassification, "whisper", {"use_weighted_layer_sum": True}),
        *((AutoModelForCTC, kind, {"apply_spec_augment": True, "mask_time_prob": 0.1}) for kind in ("wav2vec2", "sew")),
        *((AutoModelForCTC, kind, {"add_adapter": True, "num_adapter_layers": 4}) for kind in ("wav2vec2", "wavlm")),
        *((AutoModelForCTC, kind, {"do_stable_layer_norm": True}) for kind in ("wav2vec2", "wavlm", "hubert")),
        *(
            (AutoModelForCTC, kind, {"conv_dim": [16] * 4, "conv_stride": [5, 2, 2, 1], "conv_kernel": [10, 2, 2, 1]})
            for kind in media.WAVES
        ),
        (AutoModelForCTC, "data2vec-audio", {"num_conv_pos_embeddings": 4}),
        (AutoModelForCTC, "wav2vec2", {"adapter_attn_dim": 4}),
    ],
)
def test_what_stands_beside_the_layers_survives(
    auto_model: Any, kind: str, options: dict[str, Any], tmp_path: Any
) -> None:
    teacher = model(auto_model, kind, **options)
    assert torch.equal(media.logits(cut(teacher, chosen_cuts(teacher, 4))), media.logits(teacher))
    student = cut(teacher, chosen_cuts(teacher, [1, 3]))
    student.save_pretrained(tmp_path)
    loaded, info = auto_model.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(media.logits(loaded), media.logits(student))
    for name, value in options.items():
        assert getattr(loaded.config, name) == value
    assert len(student.state_dict()) < len(teacher.state_dict())


def test_weights_that_mix_the_states_of_layers_are_those_of_the_embeddings_and_the_kept_layers() -> None:
    teacher = model(AutoModelForAudioClassification, "wav2vec2", use_weighted_layer_sum=True)
    student = cut(teacher, chosen_cuts(teacher, [1, 3]))
    assert torch.equal(student.layer_weights, teacher.layer_weights[[0, 2, 4]])


@pytest.mark.parametrize("kind", media.STAGED)
def test_layers_that_stand_in_stages_are_refused_with_the_way_out(kind: str) -> None:
    teacher = model(AutoModelForImageClassification, kind)
    way_out = r"use student\.config, (such as \{depths: \[1, 1\]\}, )?or student\.pretrained"
    with pytest.raises(StudentError, match=f"student.layers: .* stand in stages.*{way_out}"):
        build(AutoModelForImageClassification, kind, teacher, layers=2)


@pytest.mark.parametrize(("auto_model", "kind"), media.ALL)
def test_width_and_vocabulary_are_refused_by_name(auto_model: Any, kind: str) -> None:
    teacher = model(auto_model, kind)
    with pytest.raises(StudentError, match=r"student\.width: .* cannot be narrowed, only"):
        build(auto_model, kind, teacher, width={"target": 0.5})
    with pytest.raises(StudentError, match=r"student\.vocabulary: .* reads images or sounds"):
        build(auto_model, kind, teacher, vocabulary={"keep": "used"})


# ---- labels


@pytest.mark.parametrize(("auto_model", "kind"), [pair for pair in CLASSIFIERS if pair[1] not in media.STAGED])
def test_the_head_is_put_in_the_order_of_the_data(auto_model: Any, kind: str) -> None:
    teacher = model(auto_model, kind, names=("owl", "cat", "dog"))
    student = build(auto_model, kind, teacher, layers=media.LAYERS).model
    assert torch.equal(media.logits(student), media.logits(teacher)[:, [1, 2, 0]])
    assert [*student.config.id2label.values()] == [*media.NAMES]


def test_both_heads_of_a_distilled_deit_are_put_in_the_order_of_the_data() -> None:
    ids = {"id2label": dict(enumerate(("owl", "cat", "dog"))), "label2id": {"owl": 0, "cat": 1, "dog": 2}}
    config = transformers.DeiTConfig(
        **media.IMAGES["deit"], **ids, architectures=["DeiTForImageClassificationWithTeacher"]
    )
    torch.manual_seed(0)
    teacher = AutoModelForImageClassification.from_config(config, attn_implementation="eager").eval()
    for head in (teacher.cls_classifier, teacher.distillation_classifier):
        torch.nn.init.normal_(head.weight)
    student = build(AutoModelForImageClassification, "deit", teacher, layers=media.LAYERS).model
    assert type(student) is type(teacher)
    assert torch.equal(media.logits(student), media.logits(teacher)[:, [1, 2, 0]])


# ---- Whisper's settings of generation


def whisper() -> PreTrainedModel:
    teacher = model(AutoModelForSpeechSeq2Seq, "whisper")
    teacher.generation_config = GenerationConfig(
        alignment_heads=[[0, 1], [2, 0], [2, 1], [3, 0]],
        suppress_tokens=[5, 6],
        lang_to_id={"<|en|>": 7},
        language="en",
        decoder_start_token_id=1,
    )
    return teacher


@pytest.mark.parametrize(
    ("decoder", "heads", "line"),
    [
        ([0, 1, 2, 3], [[0, 1], [2, 0], [2, 1], [3, 0]], None),
        ([2, 3], [[0, 0], [0, 1], [1, 0]], "1 of the teacher's 4 alignment heads"),
        ([1], None, "4 of the teacher's 4 alignment heads .* cannot tell when a word is said"),
    ],
)
def test_alignment_heads_follow_the_layers_of_the_decoder(
    decoder: list[int], heads: Any, line: str | None, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hf_distill")
    student = build(AutoModelForSpeechSeq2Seq, "whisper", whisper(), layers={"encoder": 2, "decoder": decoder}).model
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path)
    settings = loaded.generation_config
    assert getattr(settings, "alignment_heads", None) == heads
    assert (settings.suppress_tokens, settings.lang_to_id, settings.language) == ([5, 6], {"<|en|>": 7}, "en")
    assert loaded.config.max_target_positions == 12
    if line is None:
        assert "alignment" not in caplog.text
    else:
        assert any(re.search(line, message) for message in caplog.messages)


def test_a_fresh_whisper_keeps_the_settings_of_generation_without_alignment_heads() -> None:
    teacher = whisper()
    student = build(
        AutoModelForSpeechSeq2Seq, "whisper", teacher, config={"d_model": 8, "decoder_layers": 2, "encoder_layers": 1}
    ).model
    assert student.generation_config.suppress_tokens == [5, 6]
    assert not hasattr(student.generation_config, "alignment_heads")
    assert hasattr(teacher.generation_config, "alignment_heads")
    assert media.logits(student).shape == (2, 6, len(media.LETTERS))
    assert student.config.decoder_start_token_id == teacher.config.decoder_start_token_id


def test_the_classifier_of_whisper_says_that_it_is_an_encoder_alone(tmp_path: Any) -> None:
    teacher = media.model(AutoModelForAudioClassification, "whisper", decoder_layers=1)
    assert teacher.config.is_encoder_decoder
    teacher.save_pretrained(tmp_path)
    loaded = load_model(AutoModelForAudioClassification, str(tmp_path))
    assert compared_layers(loaded.config) == media.LAYERS
    assert encoder_layers(loaded.config) is None


# ---- a config


SMALLER: dict[str, dict[str, Any]] = {
    "swin": {"embed_dim": 4, "depths": [1, 1]},
    "convnext": {"hidden_sizes": [4, 8], "depths": [1, 1]},
    "resnet": {"hidden_sizes": [4, 8], "depths": [1, 1]},
    "mobilenet_v2": {"depth_multiplier": 0.05},
    "whisper": {"d_model": 8, "encoder_layers": 2, "decoder_layers": 1},
    "speech_to_text": {"d_model": 8, "encoder_layers": 2, "decoder_layers": 1},
}
READS = ("image_size", "patch_size", "num_channels", "num_mel_bins", "vocab_size", "conv_dim", "pad_token_id")


@pytest.mark.parametrize(("auto_model", "kind"), media.ALL)
def test_a_fresh_student_of_its_teachers_kind_reads_and_writes_the_same(
    auto_model: Any, kind: str, tmp_path: Any
) -> None:
    teacher = model(auto_model, kind)
    sizes = SMALLER.get(kind, {"hidden_size": 8, "num_hidden_layers": 2})
    student = build(auto_model, kind, teacher, processor := processor_of(auto_model, kind), config=sizes)
    assert student.tokenizer is processor
    assert student.model.num_parameters() < teacher.num_parameters()
    assert media.logits(student.model).shape == media.logits(teacher).shape
    own, source = sizes_of(student.model.config), sizes_of(teacher.config)
    for name in READS:
        assert getattr(own, name, None) == getattr(source, name, None)
    for name, value in sizes.items():
        assert getattr(own, name) == value
    student.model.save_pretrained(tmp_path)
    loaded = auto_model.from_pretrained(tmp_path)
    assert torch.allclose(media.logits(loaded), media.logits(student.model), atol=1e-6)
    assert student.origin.startswith(f"fresh {teacher.config.model_type}")


@pytest.mark.parametrize("kind", media.IMAGES)
def test_a_fresh_student_of_another_kind_reads_images_of_the_size_that_its_teachers_preprocessor_gives(
    kind: str,
) -> None:
    teacher = model(AutoModelForImageClassification, "vit", image_size=32)
    shape = media.IMAGES[kind]
    sizes = {name: value for name, value in shape.get("vision_config", shape).items() if name != "image_size"}
    processor = media.processor("vit", 32)
    student = build(AutoModelForImageClassification, "vit", teacher, processor, config={"model_type": kind, **sizes})
    assert student.tokenizer is processor
    assert getattr(sizes_of(student.model.config), "image_size", 32) == 32
    assert student.model(pixel_values=torch.randn(2, 3, 32, 32)).logits.shape == (2, 3)
    assert student.model.config.id2label == dict(enumerate(media.NAMES))


@pytest.mark.parametrize("model_type", [None, "convnext"])
def test_a_student_of_another_image_size_gets_a_preprocessor_of_that_size_with_the_teachers_mean(
    model_type: str | None,
) -> None:
    teacher = model(AutoModelForImageClassification, "vit")
    kind = {} if model_type is None else {"model_type": model_type, **media.IMAGES[model_type]}
    processor = media.processor("vit")
    student = build(
        AutoModelForImageClassification, "vit", teacher, processor, config={**kind, "image_size": 24, "patch_size": 8}
    )
    assert (student.tokenizer.size["height"], processor.size["height"]) == (24, media.SIDE)
    assert student.tokenizer.image_mean == processor.image_mean
    assert student.model(pixel_values=torch.randn(2, 3, 24, 24)).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"size": {"height": 16, "width": 16}}, {"size": {"height": 24, "width": 24}}),
        ({"size": {"shortest_edge": 16}, "do_center_crop": False}, {"size": {"shortest_edge": 24}}),
        (
            {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True},
            {"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 24}},
        ),
    ],
)
def test_a_preprocessor_of_another_size_cuts_images_as_before(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    teacher = model(AutoModelForImageClassification, "vit")
    known = transformers.BitImageProcessor if "shortest_edge" in given["size"] else transformers.ViTImageProcessor
    student = build(AutoModelForImageClassification, "vit", teacher, known(**given), config={"image_size": 24})
    made = student.tokenizer.to_dict()
    assert {name: {k: v for k, v in dict(made[name]).items() if v is not None} for name in wanted} == wanted


@pytest.mark.parametrize(("auto_model", "kind"), CLASSIFIERS)
def test_a_classifier_without_a_teacher_gets_the_preprocessor_of_its_kind(auto_model: Any, kind: str) -> None:
    shape = media.TABLES[auto_model][kind]
    sizes = {name: v for name, v in shape.get("vision_config", shape).items() if not name.endswith("_token_id")}
    sizes.pop("vocab_size", None)
    more = {"max_source_positions": 50} if kind == "whisper" else {}
    student = build(auto_model, kind, None, config={"model_type": kind, **sizes, **more})
    rows: dict[str, Any] = (
        {"images": [torch.zeros(3, 20, 20, dtype=torch.uint8)]}
        if auto_model is AutoModelForImageClassification
        else {"raw_speech": [torch.randn(16_000).numpy()], "sampling_rate": 16_000}
    )
    batch = student.tokenizer(**rows, return_tensors="pt")
    made = student.model.eval()
    assert made(**{made.main_input_name: batch[made.main_input_name]}).logits.shape == (1, 3)


@pytest.mark.parametrize("kind", ["whisper", "audio-spectrogram-transformer"])
def test_a_student_that_reads_spectrograms_learns_from_a_teacher_that_reads_waves(kind: str) -> None:
    teacher = model(AutoModelForAudioClassification, "wav2vec2")
    processor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8_000)
    sizes = {**media.SOUNDS[kind]}
    if kind == "whisper":
        sizes = {"d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "num_mel_bins": 8}
    student = build(
        AutoModelForAudioClassification, "wav2vec2", teacher, processor, config={"model_type": kind, **sizes}
    )
    assert type(student.tokenizer) is type(media.processor(kind))
    assert student.tokenizer.sampling_rate == 8_000
    assert getattr(student.tokenizer, "num_mel_bins", student.tokenizer.feature_size) == media.MEL_BINS


def test_a_whisper_of_shorter_sounds_and_other_mel_bins_gets_a_preprocessor_of_them() -> None:
    teacher = model(AutoModelForSpeechSeq2Seq, "whisper", max_source_positions=100)
    processor = written("whisper")
    student = build(
        AutoModelForSpeechSeq2Seq,
        "whisper",
        teacher,
        processor,
        config={"max_source_positions": 50, "num_mel_bins": 12, "encoder_layers": 1},
    )
    own = student.tokenizer
    features = own.feature_extractor([torch.randn(8_000).numpy()], sampling_rate=16_000, return_tensors="pt")
    assert features["input_features"].shape == (1, 12, 100)
    assert own.tokenizer is processor.tokenizer
    assert processor.feature_extractor.feature_size == media.MEL_BINS
    with pytest.raises(StudentError, match="max_source_positions: expected a multiple of 50, which is a second"):
        build(AutoModelForSpeechSeq2Seq, "whisper", teacher, processor, config={"max_source_positions": 40})


@pytest.mark.parametrize("kind", [kind for kind in media.WAVES if kind != "wav2vec2"])
def test_a_student_of_another_kind_for_ctc_has_the_outputs_of_its_teacher(kind: str) -> None:
    teacher = model(AutoModelForCTC, "wav2vec2", vocab_size=14, pad_token_id=3)
    sizes = {n: v for n, v in media.WAVES[kind].items() if n != "vocab_size" and not n.endswith("_token_id")}
    student = build(AutoModelForCTC, "wav2vec2", teacher, config={"model_type": kind, **sizes})
    assert (student.model.config.vocab_size, student.model.config.pad_token_id) == (14, 3)
    assert media.logits(student.model).shape[-1] == 14


@pytest.mark.parametrize(
    ("auto_model", "kind", "keys", "message"),
    [
        (AutoModelForImageClassification, "vit", {"tokenizer": {"vocab_size": 9}}, r"student\.tokenizer: .* images"),
        (AutoModelForImageClassification, "vit", {"config": {"vocab_size": 9}}, "vocab_size: is set from"),
        (AutoModelForImageClassification, "vit", {"config": {"hidden_size": 15}}, "cannot be shared by 2 attention"),
        (AutoModelForImageClassification, "vit", {"config": {"imge_size": 15}}, "did you mean image_size"),
        (
            AutoModelForImageClassification,
            "convnext",
            {"config": {"depths": [1, 1, 1]}},
            "depths of 3.*num_stages",
        ),
        (AutoModelForImageClassification, "swin", {"config": {"depths": [1]}}, "depths of 1, num_heads of 2"),
        (
            AutoModelForAudioClassification,
            "wav2vec2",
            {"config": {"conv_dim": [8]}},
            "convolutional layers is",
        ),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    auto_model: Any, kind: str, keys: dict[str, Any], message: str
) -> None:
    teacher = model(auto_model, kind)
    with pytest.raises(StudentError, match=message):
        build(auto_model, kind, teacher, **{"config": {"num_channels": 3} if kind == "vit" else {}, **keys})


@pytest.mark.parametrize("auto_model", [AutoModelForCTC, AutoModelForSpeechSeq2Seq])
def test_what_writes_needs_a_teacher_or_a_named_processor(auto_model: Any) -> None:
    kind = "wav2vec2" if auto_model is AutoModelForCTC else "whisper"
    with pytest.raises(StudentError, match=r"student\.config: without a teacher nothing prepares rows"):
        build(auto_model, kind, None, config={"model_type": kind})


@pytest.mark.parametrize("has_teacher", [True, False])
def test_settings_of_the_preprocessor_decide_the_size_of_images(has_teacher: bool) -> None:
    shape = {name: value for name, value in media.IMAGES["vit"].items() if name != "image_size"}
    teacher = model(AutoModelForImageClassification, "vit") if has_teacher else None
    student = build(
        AutoModelForImageClassification,
        "vit",
        teacher,
        config=shape if has_teacher else {"model_type": "vit", **shape},
        processor={"size": {"height": 24, "width": 24}, "image_mean": [0.5, 0.5, 0.4]},
    )
    assert student.model.config.image_size == 24
    assert [*student.tokenizer.image_mean] == [0.5, 0.5, 0.4]
    with pytest.raises(StudentError, match=r"student\.processor\.sizes: .* has no such setting; did you mean size"):
        build(AutoModelForImageClassification, "vit", teacher, config={"model_type": "vit"}, processor={"sizes": 24})


# ---- sizes


@pytest.mark.parametrize(("auto_model", "kind"), media.ALL)
def test_sizes_tell_what_a_model_reads_and_writes(auto_model: Any, kind: str) -> None:
    made = model(auto_model, kind)
    writes = auto_model is AutoModelForSpeechSeq2Seq
    assert position_limit(made, "encoder") is None
    assert position_limit(made) == position_limit(made, "decoder") == (12 if writes else None)
    assert is_bound_to_positions(made, "decoder") is writes
    rows = len(media.LETTERS) if auto_model in (AutoModelForCTC, AutoModelForSpeechSeq2Seq) else 0
    assert token_rows(made) == (rows, rows)
    assert encoder_layers(made.config) == (media.LAYERS if writes else None)
    if kind in media.STAGED:
        with pytest.raises(ModelError, match="stand in stages"):
            compared_layers(made.config)
    else:
        outputs = made(**media.inputs(made), output_hidden_states=True)
        states = outputs.decoder_hidden_states if writes else outputs.hidden_states
        assert compared_layers(made.config) == len(states) - 1 == media.LAYERS
        assert states[0].shape[-1] == sizes_of(made.config).hidden_size


# ---- freezing


@pytest.mark.parametrize(("auto_model", "kind"), [pair for pair in media.ALL if pair[1] != "speech_to_text"])
def test_frozen_embeddings_are_the_layers_that_make_the_first_states(auto_model: Any, kind: str) -> None:
    made = model(auto_model, kind)
    before = {name for name, each in made.named_parameters() if each.requires_grad}
    freeze(made, ["embeddings"])
    frozen = {name for name, each in made.named_parameters() if not each.requires_grad}.intersection(before)
    assert 0 < len(frozen) < len(before)
    stacks = () if kind in media.STAGED else tuple(each.stack for each in chosen_cuts(made, both_sides(auto_model, 4)))
    assert not [name for name in frozen if name.startswith(stacks)] or not stacks


@pytest.mark.parametrize("kind", media.WAVES)
def test_the_feature_encoder_is_frozen_as_transformers_does_it(kind: str) -> None:
    ours, theirs = (model(AutoModelForCTC, kind) for _ in range(2))
    freeze(ours, ["embeddings"])
    theirs.freeze_feature_encoder()
    assert [each.requires_grad for each in ours.parameters()] == [each.requires_grad for each in theirs.parameters()]


@pytest.mark.parametrize("kind", media.WRITERS)
def test_the_encoder_of_what_writes_is_frozen_alone(kind: str) -> None:
    made = model(AutoModelForSpeechSeq2Seq, kind)
    freeze(made, ["encoder"])
    assert not any(each.requires_grad for each in made.get_encoder().parameters())
    assert any(each.requires_grad for each in made.get_decoder().parameters())


@pytest.mark.parametrize(("auto_model", "kind"), ONE_STACK)
def test_an_encoder_alone_has_none_to_freeze(auto_model: Any, kind: str) -> None:
    with pytest.raises(StudentError, match="has no encoder beside a decoder"):
        freeze(model(auto_model, kind), ["encoder"])
