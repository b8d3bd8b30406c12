"""Speech recognition with CTC: frames, blanks, texts and vocabularies of models with several ways to listen."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_distill.errors import DataError, LabelError, ModelError, ObjectiveError, RecipeError
from hf_distill.models.forward import accepted_inputs, compared_layers
from hf_distill.objectives import Labels
from hf_distill.tasks.speech.ctc import CTCSpeechRecognition
from hf_distill.tasks.speech.frames import best_paths, frame_counter, frames_needed
from hf_distill.tasks.speech.transcripts import Spelling, are_unspaced, written_text
from hf_distill.tokenizers.readers import Reader
from hf_distill.types import IGNORED, Targets
from tests.helpers import speech

FAMILIES = {
    "wav2vec2": {},
    "wav2vec2 with an adapter": {"add_adapter": True, "output_hidden_size": 16, "adapter_stride": 1},
    "wav2vec2 of the base size": {"feat_extract_norm": "group"},
    "wav2vec2-conformer": {},
    "hubert": {},
    "wavlm": {},
    "unispeech": {},
    "unispeech-sat": {},
    "sew": {"squeeze_factor": 2},
    "data2vec-audio": {},
    "wav2vec2-bert": {},
    "parakeet_ctc": {},
}
PROCESSOR = speech.processor()


def listener(family: str, **options):
    return speech.listener(family.partition(" ")[0], **FAMILIES[family], **options)


def run(model, task, batch):
    with torch.no_grad():
        return model(**accepted_inputs(model, task.student_inputs(batch)), output_hidden_states=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_makes_as_many_frames_as_the_task_counts_without_running_it(family):
    model = listener(family)
    task, batch = speech.bound(model), speech.batch(kind=family)
    outputs, masks = run(model, task, batch), task.masks(batch)
    assert outputs.logits.shape[:2].numel() == masks["positions"].numel()
    assert all(states.shape[:2] == masks["tokens"].shape for states in outputs.hidden_states)
    alone = [task.masks(speech.batch((text,), family))["positions"].sum().item() for text in speech.TEXTS]
    assert masks["positions"].view(len(alone), -1).sum(-1).tolist() == alone
    assert len(set(alone)) > 1
    assert compared_layers(model.config) == len(outputs.hidden_states) - 1


@pytest.mark.parametrize("family", [family for family in FAMILIES if "base" not in family])
def test_what_stands_behind_a_clip_changes_none_of_its_frames(family):
    model = listener(family)
    task, batch = speech.bound(model), speech.batch(kind=family)
    (name,) = {"input_values", "input_features"} & batch.keys()
    real = batch["attention_mask"].view(*batch["attention_mask"].shape, *[1] * (batch[name].dim() - 2))
    spoiled = {**batch, name: batch[name].masked_fill(real == 0, 7.0)}
    kept = task.masks(batch)["positions"]
    clean, dirty = (run(model, task, each).logits.flatten(0, 1)[kept] for each in (batch, spoiled))
    assert torch.allclose(clean, dirty, atol=1e-5)


def test_a_model_that_was_trained_without_a_mask_is_given_none_and_silence_behind_each_clip():
    batch = speech.batch()
    for family, told in (("wav2vec2 of the base size", False), ("wav2vec2", True)):
        model = listener(family)
        assert ("attention_mask" in accepted_inputs(model, speech.bound(model).student_inputs(batch))) is told
    assert not batch["input_values"][batch["attention_mask"] == 0].any()
    first = batch["input_values"][0][batch["attention_mask"][0].bool()]
    assert first.mean().abs() < 1e-4
    assert first.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("blank", [0, 3, 7])
def test_the_label_loss_is_that_of_transformers_wherever_the_blank_stands(blank):
    tokens = [token for token in speech.TOKENS if token != "<pad>"]
    tokens.insert(blank, "<pad>")
    model = speech.listener(pad_token_id=blank, ctc_loss_reduction="mean")
    task, processor = speech.bound(model), speech.processor(tuple(tokens))
    rows = speech.rows()
    batch = task.collator(processor)(list(task.encode(rows, processor)))
    outputs = run(model, task, batch)
    total = Labels().total(task.view(outputs.logits, None, batch), Targets())
    with torch.no_grad():
        expected = model(**accepted_inputs(model, task.student_inputs(batch)), labels=batch["labels"]).loss
    assert (total / task.masks(batch)["labels"].sum()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_paths_are_collapsed_before_the_blank_is_dropped_and_end_with_their_clip():
    #           a  a  _  a  b  b | behind the clip
    path = [[1, 1, 5, 1, 2, 2, 3, 3], [5, 4, 4, 4, 5, 4, 1, 5]]
    logits = torch.nn.functional.one_hot(torch.tensor(path), 6).float()
    frames = torch.arange(8) < torch.tensor([[6], [8]])
    assert best_paths(logits, frames, 5) == [[1, 1, 2], [4, 4, 1]]
    assert best_paths(logits, torch.zeros_like(frames), 5) == [[], []]


def test_letters_that_a_blank_keeps_apart_stay_two_in_the_text():
    tokenizer = speech.ctc_tokenizer()
    ids = tokenizer("a bee").input_ids
    assert written_text(tokenizer, ids) == "a bee"
    assert written_text(tokenizer, [*ids, tokenizer.unk_token_id]) == "a bee"


def test_what_a_model_writes_of_a_clip_does_not_depend_on_the_batch():
    model = speech.listener()
    task = speech.bound(model)

    def written(batch):
        return task.written(run(model, task, batch).logits, batch, model, PROCESSOR)

    # Clips are as noisy as their place among the rows, so that alone they are cut out of the batch.
    batch = speech.batch()
    lengths = batch["attention_mask"].sum(-1).tolist()
    alone = [{name: x[i : i + 1, :length] for name, x in batch.items()} for i, length in enumerate(lengths)]
    assert written(batch) == [written(each)[0] for each in alone]
    assert any(written(batch))


@pytest.mark.parametrize(
    ("letters", "text", "written"),
    [("abc", "A, b!  c.", "a b c"), ("ABC", "a Bc", "A BC"), ("aB", "Ab", "aB"), ("abc", "a|b", "ab")],
)
def test_texts_are_written_in_the_case_that_the_vocabulary_knows(letters, text, written):
    spelling = Spelling(speech.ctc_tokenizer(("|", *letters, "<unk>", "<pad>")))
    assert spelling(text) == written
    assert spelling.ids(text) == speech.ctc_tokenizer(("|", *letters, "<unk>", "<pad>"))(written).input_ids


def test_what_is_left_out_of_texts_is_told_and_texts_of_another_script_are_refused():
    rows = speech.rows(("ab, cd!", "bad x"))
    (line,) = speech.bound().check_rows(rows, PROCESSOR)
    assert "3 of 10 letters" in line
    assert "','" in line
    with pytest.raises(DataError, match="another language or script"):
        list(speech.bound().check_rows(with_texts(rows, ["привет", "ab"]), PROCESSOR))


def with_texts(rows: Dataset, texts) -> Dataset:
    return rows.remove_columns("text").add_column("text", texts)


def test_rows_whose_text_cannot_be_learned_teach_by_the_teacher_alone_and_are_told():
    rows = speech.rows(("ab", "bad cab", "dead", "a bee"))
    texts = [None, "abcde" * 9, "aaaaaaaaaaaa", ""]
    rows, task = with_texts(rows, texts), speech.bound()
    encoded = task.encode(rows, PROCESSOR)
    masks = task.masks(task.collator(PROCESSOR)(list(encoded)))
    # Twelve times the same letter take 23 frames with the blanks between them, and a clip of 0.48 s has 24 at most.
    assert masks["labels"].tolist() == [False, False, True, False]
    assert masks["positions"].view(4, -1).any(-1).all()
    bare, short = task.check_rows(rows, PROCESSOR)
    assert bare.startswith("2 of 4 rows have no text")
    assert short.startswith("1 of 4 rows have texts of more letters")


def test_equal_letters_beside_each_other_need_a_frame_between_them():
    labels = torch.tensor([[1, 1, 2, IGNORED], [1, 2, 1, 2], [IGNORED] * 4])
    assert frames_needed(labels).tolist() == [4, 4, 0]


def test_clips_that_are_too_long_are_cut_without_their_text_and_refused_where_they_are_scored():
    task, rows = speech.bound(max_seconds=0.5), speech.rows()
    encoded = task.encode(rows, PROCESSOR)
    assert encoded["cut"] == [False, True, False, True, False, True]
    batch = task.collator(PROCESSOR)(list(encoded))
    assert batch["input_values"].shape[1] == 8000
    assert task.masks(batch)["labels"].tolist() == [not cut for cut in encoded["cut"]]
    told = next(iter(task.check_rows(rows, PROCESSOR)))
    assert "3 of 6 rows will be cut: they are longer than task.max_seconds (0.5 s)" in told
    with pytest.raises(DataError, match="row 1 of the evaluated split has"):
        task.check_evaluated(rows)
    with pytest.raises(DataError, match="has no text"):
        task.check_evaluated(speech.rows((None,)))


def reader(name, model, processor=PROCESSOR):
    return Reader(name=name, model=model, tokenizer=processor)


def fitted(teacher_tokens, *, tokens=speech.TOKENS, **options):
    """A task, and what it tells, where the teacher's vocabulary is another one."""
    blank = teacher_tokens.index("<pad>")
    teacher = speech.listener(seed=1, vocab_size=len(teacher_tokens), pad_token_id=blank, **options)
    student = speech.listener(vocab_size=len(tokens), pad_token_id=tokens.index("<pad>"))
    task = CTCSpeechRecognition()
    readers = [
        reader("the student", student, speech.processor(tokens)),
        reader("the teacher", teacher, speech.processor(teacher_tokens)),
    ]
    return task, list(task.fit_lengths(readers)), teacher


def test_a_teacher_with_the_same_letters_in_another_order_is_put_into_the_students():
    tokens = ("<pad>", "e", "d", "c", "b", "a", "|", "<unk>")
    task, _, teacher = fitted(tokens)
    batch = speech.batch()
    logits = run(teacher, task, batch).logits
    found = task.teacher_logits(logits, None, batch).view_as(logits)
    for number, token in enumerate(speech.TOKENS):
        assert torch.equal(found[..., number], logits[..., tokens.index(token)])


def test_special_tokens_that_one_model_alone_has_are_not_compared_and_letters_are_not_missed():
    task, lines, _ = fitted((*speech.LETTERS, "<pad>", "<s>"))
    found = task.teacher_logits(torch.zeros(1, 2, 8), None, {})
    assert found[0].isinf().tolist() == [token == "<unk>" for token in speech.TOKENS]
    assert lines
    with pytest.raises(LabelError, match="writes e, which the student does not know"):
        fitted(speech.TOKENS, tokens=tuple(token for token in speech.TOKENS if token != "e"))
    with pytest.raises(LabelError, match="writes e, which the teacher does not know"):
        fitted(tuple(token for token in speech.TOKENS if token != "e"))


def test_the_same_vocabulary_is_left_as_it_is():
    task, lines, _ = fitted(speech.TOKENS)
    logits = torch.randn(2, 3, 8)
    assert task.teacher_logits(logits, None, {}) is not logits
    assert torch.equal(task.teacher_logits(logits, None, {}), logits.flatten(0, 1))
    assert lines == []


def test_models_whose_frames_or_blank_do_not_fit_are_refused_with_the_reason():
    with pytest.raises(ObjectiveError, match=r"frames of 5.03 s of sound and the teacher"):
        fitted(speech.TOKENS, conv_stride=(5, 8, 4))
    with pytest.raises(ModelError, match=r"its blank is output 0 \(config.pad_token_id\)"):
        list(CTCSpeechRecognition().fit_lengths([reader("the student", speech.listener(pad_token_id=0))] * 2))
    with pytest.raises(ModelError, match="tokens beyond them"):
        list(CTCSpeechRecognition().fit_lengths([reader("the student", speech.listener(vocab_size=5))] * 2))


def test_a_teacher_that_listens_in_another_way_reads_the_clips_by_its_own_extractor():
    loud = speech.processor(do_normalize=False)
    task, rows = speech.bound(), speech.rows()
    batch = task.collator(PROCESSOR, loud)(list(task.encode(rows, PROCESSOR, loud)))
    assert task.teacher_inputs(batch)["input_values"].abs().max() < 0.5
    assert task.student_inputs(batch)["input_values"].abs().max() > 1
    assert not any(name.startswith("teacher_") for name in task.student_inputs(batch))


@pytest.mark.parametrize(
    ("texts", "unit"),
    [(["hello there", "one"], "words"), (["こんにちは", "东京 ok"], "characters"), (["one"], "words")],
)
def test_errors_are_counted_in_characters_where_words_have_no_blanks_between_them(texts, unit):
    task, rows = CTCSpeechRecognition(), Dataset.from_dict({"text": texts})
    task.read_labels(rows)
    assert task.unit == unit
    assert are_unspaced(texts) is (unit == "characters")
    assert bool(list(task.label_notes(rows))) is (unit == "characters")
    asked = CTCSpeechRecognition(unit="words")
    asked.read_labels(rows)
    assert asked.unit == "words"


@pytest.mark.parametrize("options", [{"unit": "letters"}, {"normalizer": "x"}])
def test_options_that_do_not_exist_are_refused(options):
    with pytest.raises(RecipeError, match=f"task.{next(iter(options))}"):
        CTCSpeechRecognition(**options)


def test_batches_of_others_are_completed_or_refused_by_what_they_lack():
    task = speech.bound()
    assert task.completed({"input_values": torch.zeros(2, 9)}, None)["attention_mask"].shape == (2, 9)
    with pytest.raises(DataError, match="neither input_values nor input_features"):
        task.completed({"input_ids": torch.zeros(2, 9), "labels": None}, None)


def test_a_head_that_does_not_tell_its_frames_is_refused():
    from tests.helpers import tiny

    with pytest.raises(ModelError, match="tells how many frames"):
        frame_counter(tiny.bert().config)
