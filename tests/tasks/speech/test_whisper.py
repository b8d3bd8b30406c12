"""Speech recognition by Whisper: both models read the same, prompts too, and what counts is the text."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Audio
from torch.nn import functional
from transformers import WhisperForConditionalGeneration

from hf_distill import Hidden, Labels, Logits
from hf_distill.errors import DataError, ModelError, ObjectiveError, RecipeError, TeacherError
from hf_distill.tasks.speech.whisper import SpeechRecognition
from hf_distill.types import IGNORED
from tests.helpers import tiny, whispers
from tests.helpers.one_step import assert_same, terms

ENGLISH = {"language": "en", "task": "transcribe"}
START, ENGLISH_MARK, TRANSCRIBE, UNSTAMPED = (
    "<|startoftranscript|>",
    "<|en|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)


def bound(model: WhisperForConditionalGeneration, **options) -> SpeechRecognition:
    task = SpeechRecognition(**{**ENGLISH, "max_target_length": 64, **options})
    task.follow(model.config)
    return task


def batch_of(task: SpeechRecognition, rows=None, made=None) -> dict:
    made = made or whispers.processor()
    rows = rows if rows is not None else whispers.rows(6)
    return task.collator(made)(list(task.encode(rows, made)))


def tokens_of(ids) -> list[str]:
    return whispers.processor().tokenizer.convert_ids_to_tokens(ids)


# ---- rows and batches


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        (ENGLISH, [START, ENGLISH_MARK, TRANSCRIBE, UNSTAMPED]),
        ({"language": "German", "task": "translate"}, [START, "<|de|>", "<|translate|>", UNSTAMPED]),
        ({"language": "en", "task": None}, [START, ENGLISH_MARK, TRANSCRIBE, UNSTAMPED]),
        ({"language": None, "task": None}, [START, UNSTAMPED]),
        ({**ENGLISH, "timestamps": True}, [START, ENGLISH_MARK, TRANSCRIBE]),
    ],
)
def test_a_decoder_reads_the_prefix_and_the_text_and_learns_all_behind_the_first_token(options, prefix):
    task = bound(whispers.whisper(), **options)
    (row,) = task.encode(whispers.rows(1, text=["two three"]), whispers.processor())
    assert tokens_of(row["decoder_input_ids"]) == [*prefix, *tokens_of(row["labels"])[len(prefix) - 1 : -1]]
    assert tokens_of(row["labels"]) == [*prefix[1:], "t", "w", "o", "Ġthree", "<|endoftext|>"]


def test_a_prompt_is_read_before_the_prefix_and_does_not_count():
    task = bound(whispers.whisper())
    rows = whispers.rows(2, text=["one two", "one two"], prompt=["nine one", None])
    asked, plain = task.encode(rows, whispers.processor())
    read = tokens_of(asked["decoder_input_ids"])
    assert read[:4] == ["<|startofprev|>", "Ġnine", "Ġone", START]
    assert asked["decoder_input_ids"][3:] == plain["decoder_input_ids"]
    assert asked["labels"] == [IGNORED] * 3 + plain["labels"]


def test_texts_and_prompts_that_leave_no_room_are_cut_and_marked():
    task = bound(whispers.whisper(), max_target_length=16)
    long = " ".join(["nine"] * 20)
    rows = whispers.rows(3, text=["one", long, "one"], prompt=[None, None, "two " + long])
    kept, text, prompt = task.encode(rows, whispers.processor())
    assert [row["cut"] for row in (kept, text, prompt)] == [False, True, True]
    assert len(text["decoder_input_ids"]) == 15
    assert tokens_of(text["labels"])[-1] == "<|endoftext|>"
    assert tokens_of(prompt["decoder_input_ids"])[:9] == ["<|startofprev|>", *["Ġnine"] * 7, START]
    (line,) = task.check_rows(rows, whispers.processor())
    assert "2 of 3 rows will be cut: they are longer than task.max_target_length (16 tokens)" in line


def test_a_batch_holds_features_of_the_models_length_and_a_mask_of_what_was_heard():
    task = bound(whispers.whisper())
    rows = whispers.rows(2, audio=[whispers.recording(0, 0.5), whispers.recording(1, 1.0)])
    batch = batch_of(task, rows)
    assert batch["input_features"].shape == (2, 8, 100)
    assert batch["attention_mask"].sum(1).tolist() == [50, 100]
    expected = whispers.processor().feature_extractor(
        [whispers.samples(1, 1.0)], sampling_rate=whispers.RATE, return_tensors="pt"
    )
    torch.testing.assert_close(batch["input_features"][1], expected["input_features"][0])


def test_recordings_of_which_not_all_would_be_heard_are_refused_by_number_and_in_a_batch():
    task, made = bound(whispers.whisper()), whispers.processor()
    rows = whispers.rows(3, audio=[whispers.recording(i, seconds) for i, seconds in enumerate((0.5, 1.5, 1.2))])
    with pytest.raises(DataError, match=r"2 of 3 rows are longer than the 1 seconds .* row 1, of 1\.5 s"):
        list(task.check_rows(rows, made))
    with pytest.raises(DataError, match=r"row 1 of a batch has 1\.5 seconds; this model hears at most 1"):
        batch_of(task, rows)


def test_a_processor_that_hears_another_length_than_the_model_is_refused():
    with pytest.raises(ModelError, match="features of 2 seconds, but the model hears 1 "):
        list(bound(whispers.whisper()).check_rows(whispers.rows(2), whispers.processor(seconds=2)))


def test_masks_count_all_frames_and_the_tokens_behind_the_first_of_rows_that_are_there():
    task = bound(whispers.whisper())
    batch = batch_of(task, whispers.rows(3, prompts=True))
    batch["attention_mask"][2] = 0  # A row that was repeated to fill a batch.
    masks = task.masks(batch)
    counted = batch["labels"] != IGNORED
    counted[2] = False
    assert torch.equal(masks["tokens"], counted)
    assert torch.equal(masks["labels"], counted.flatten())
    assert torch.equal(masks["positions"], counted.flatten())
    assert masks["sources"].tolist() == [[True] * 50] * 2 + [[False] * 50]


def test_a_view_has_one_position_a_token():
    model = whispers.whisper()
    task = bound(model)
    batch = batch_of(task, whispers.rows(3, prompts=True))
    logits = model(**task.student_inputs(batch)).logits
    view = task.view(logits, None, batch)
    assert torch.equal(view.logits, logits.flatten(0, 1))
    assert torch.equal(view.labels, batch["labels"].flatten())


def test_a_batch_of_transformers_own_collator_reads_the_same():
    task = bound(whispers.whisper())
    ours = batch_of(task)
    theirs = {"input_features": ours["input_features"], "labels": ours["labels"]}
    found = task.completed(theirs, whispers.processor())
    counted = ours["labels"] != IGNORED
    assert torch.equal(found["decoder_input_ids"][counted], ours["decoder_input_ids"][counted])
    assert found["attention_mask"].shape == (6, 100)
    prompted = batch_of(task, whispers.rows(2, prompts=True))
    with pytest.raises(DataError, match="the prompt that stood there is lost"):
        task.completed({name: prompted[name] for name in ("input_features", "labels")}, None)


# ---- losses


@pytest.mark.parametrize("prompts", [False, True])
def test_the_labels_alone_give_the_loss_and_gradients_of_the_models_own_head(prompts):
    student = whispers.whisper()
    task = bound(student)
    batch = batch_of(task, whispers.rows(6, prompts=prompts))
    found = terms(task, batch, student, None, [Labels()])
    stock = whispers.whisper().train()
    expected = stock(**{name: value for name, value in batch.items() if name != "attention_mask"}).loss
    expected.backward()
    gradients = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert_same(found, (expected.detach(), gradients))


@pytest.mark.parametrize("prompts", [False, True])
def test_teacher_and_student_read_the_same_tokens_before_each_position(prompts):
    student, teacher = whispers.whisper(), whispers.whisper(2, 3, seed=3)
    task = bound(student)
    batch = batch_of(task, whispers.rows(6, prompts=prompts))
    read = []
    for model in (student, teacher):
        hook = model.get_decoder().register_forward_pre_hook
        hook(lambda _, __, inputs: read.append(inputs["input_ids"].clone()), with_kwargs=True)
    found = terms(task, batch, student, teacher, [Logits(temperature=2.0)])
    ours, theirs = read[-2:]
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, batch["decoder_input_ids"])
    assert not prompts or (batch["labels"][1, :3] == IGNORED).all()
    inputs = {"input_features": batch["input_features"], "decoder_input_ids": batch["decoder_input_ids"]}
    counted = batch["labels"] != IGNORED
    plain = whispers.whisper().train()
    with torch.no_grad():
        wanted = torch.log_softmax(teacher(**inputs).logits[counted] / 2, -1)
    ours = torch.log_softmax(plain(**inputs).logits[counted] / 2, -1)
    expected = 4 * functional.kl_div(ours, wanted, log_target=True, reduction="batchmean")
    expected.backward()
    assert_same(found, (expected.detach(), {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}))


def test_what_stands_where_nothing_counts_changes_nothing():
    student, teacher = whispers.whisper(), whispers.whisper(2, 3, seed=3)
    task = bound(student)
    batch = batch_of(task, whispers.rows(6, prompts=True))
    garbage = copy.deepcopy(batch)
    behind = (batch["labels"] != IGNORED).flip(1).cumsum(1).flip(1) == 0
    assert behind.any()
    garbage["decoder_input_ids"][behind] = 7
    objectives = [Labels(), Logits(), Hidden(), Hidden(side="encoder")]
    assert_same(*(terms(task, each, copy.deepcopy(student), teacher, objectives) for each in (batch, garbage)))


def test_layers_of_both_sides_are_mapped_by_their_own_depth():
    student, teacher = whispers.whisper(1, 1), whispers.whisper(2, 3, seed=3)
    sides = [Hidden(), Hidden(side="encoder")]
    task = bound(student)
    _, gradients = terms(task, batch_of(task), student, teacher, sides)
    assert [each.layer_map for each in sides] == [{0: 2}, {0: 1}]
    assert any("encoder.layers.0" in name for name in gradients)


def test_a_teacher_in_half_precision_hears_features_in_its_dtype():
    student, teacher = whispers.whisper(), whispers.whisper(2, 3, seed=3)
    task = bound(student)
    half = copy.deepcopy(teacher).to(torch.bfloat16)
    whole, rounded = (
        terms(task, batch_of(task), copy.deepcopy(student), each, [Logits()])[0] for each in (teacher, half)
    )
    assert rounded == pytest.approx(whole.item(), rel=0.1)


# ---- refusals


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"language": 3}, "task.language: expected the name of a language"),
        ({"task": "summarize"}, "task.task: expected one of transcribe, translate"),
        ({"timestamps": "yes"}, "task.timestamps: expected true or false"),
        ({"max_target_length": 1}, "task.max_target_length"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(options, told):
    with pytest.raises(RecipeError, match=told):
        SpeechRecognition(**options)


def test_a_language_that_whisper_does_not_know_is_refused():
    task = bound(whispers.whisper(), language="klingon")
    with pytest.raises(RecipeError, match="Unsupported language: klingon"):
        task.encode(whispers.rows(1), whispers.processor())


def test_other_models_and_processors_are_refused_by_name():
    with pytest.raises(ModelError, match="needs a Whisper, but this is a marian"):
        SpeechRecognition().follow(tiny.encoder_decoder().config)
    with pytest.raises(ModelError, match="needs a WhisperProcessor"):
        bound(whispers.whisper()).encode(whispers.rows(1), tiny.tokenizer())


def test_a_model_of_english_alone_is_refused_where_a_language_is_given():
    model = whispers.whisper()
    model.generation_config.is_multilingual = False
    with pytest.raises(RecipeError, match="knows English alone"):
        bound(model).check_model(model)
    bound(model, language=None, task=None).check_model(model)


def test_what_no_student_of_speech_does_is_refused():
    task = bound(whispers.whisper())
    with pytest.raises(RecipeError, match=r"recipe\.rollout: a student of speech-recognition writes no batches"):
        task.writing(whispers.processor())
    with pytest.raises(ObjectiveError, match="num_mel_bins"):
        task.check_tokenizers(False)
    with pytest.raises(TeacherError, match="several teachers"):
        task.check_mixture()


def test_texts_without_a_language_are_told_where_the_tokenizer_knows_languages():
    task = bound(whispers.whisper(), language=None, task=None)
    (line,) = task.check_rows(whispers.rows(2), whispers.processor())
    assert line.startswith(f"task.language: none is given, so texts begin with {START} {UNSTAMPED}")


def test_a_prompt_that_holds_special_tokens_is_refused():
    rows = whispers.rows(1, prompt=["one <|en|> two"])
    with pytest.raises(DataError, match=r"prompt: .*<\|en\|>"):
        bound(whispers.whisper()).encode(rows, whispers.processor())


def test_rows_of_a_stream_and_of_decoded_audio_are_encoded_alike():
    task, made = bound(whispers.whisper()), whispers.processor()
    rows = whispers.rows(3, prompts=True)
    expected = list(task.encode(rows, made))
    decoded = rows.cast_column("audio", Audio(sampling_rate=whispers.RATE))
    for other in (decoded, rows.to_iterable_dataset()):
        assert list(task.encode(other, made)) == expected
