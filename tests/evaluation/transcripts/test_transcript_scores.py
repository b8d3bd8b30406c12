"""Error rates of transcripts: of the whole split, of resamples, of pairs of models, and what they consist of."""

from __future__ import annotations

from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_distill.errors import DataError, LabelError, TeacherError
from hf_distill.evaluation.analysis import Evaluated
from hf_distill.evaluation.bootstrap import bootstrap, compare, model_metrics
from hf_distill.evaluation.metrics import LOWER_IS_BETTER, MEASURED, PRIMARY
from hf_distill.evaluation.predict import Candidate, predict
from hf_distill.evaluation.scores import Evaluation
from hf_distill.evaluation.transcripts.edits import NOTHING, edits_of
from hf_distill.evaluation.transcripts.normalizers import NORMALIZERS, normalized
from hf_distill.evaluation.transcripts.transcript_scores import TranscriptScores, transcript_scores
from tests.helpers import speech

SAID = ["the cat sat", "a big dog ran home", "yes", "the end", "one two three four"] * 4
STUDENT = ["the cat sad", "a dog ran home now", "yes", "end", "one too three four"] * 4
TEACHER = ["the cat sat", "a big dog ran home", "yes", "the end", "one too three four"] * 4
CONTROL = ["the hat sad", "dog", "", "end", "one"] * 4


def scores(texts, references=SAID, **options) -> TranscriptScores:
    return TranscriptScores(texts=texts, references=references, **options)


TASK = SimpleNamespace(
    scored_texts=lambda rows, _: rows["text"],
    scored_lengths=lambda _, texts: [400 * len(text.split()) for text in texts],
    length_unit="milliseconds",
)


def test_error_rates_are_those_of_jiwer_over_the_whole_split():
    found = scores(STUDENT).metrics()
    assert found["wer"] == pytest.approx(jiwer.wer(SAID, STUDENT))
    assert found["cer"] == pytest.approx(jiwer.cer(SAID, STUDENT))
    assert found.keys() == set(MEASURED["transcribed words"])
    assert found.keys() <= LOWER_IS_BETTER
    assert PRIMARY["transcribed words"] == "wer"


def test_a_resample_has_the_rate_of_its_rows_and_not_the_mean_of_their_rates():
    counts = np.random.default_rng(0).multinomial(len(SAID), np.full(len(SAID), 1 / len(SAID)), size=3)
    found = scores(STUDENT).score(counts)
    for drawn, value in zip(counts, found["wer"], strict=True):
        references, texts = (
            [each for each, n in zip(list_, drawn, strict=True) for _ in range(n)] for list_ in (SAID, STUDENT)
        )
        assert value == pytest.approx(jiwer.wer(references, texts))


def test_intervals_hold_the_rate_and_a_difference_is_of_the_same_rows():
    models = {"teacher": scores(TEACHER), "student": scores(STUDENT), "control": scores(CONTROL)}
    found = model_metrics(models, 200, 0)["student"]["wer"]
    assert found["low"] < found["value"] < found["high"]
    draws = bootstrap(models, 200, 0)
    assert np.std(draws["student"]["wer"] - draws["teacher"]["wer"]) > 0
    facts = {name: {"parameters": 1, "samples_per_second": 1} for name in models}
    told = compare(models, facts, "wer", 200, 0)
    assert told["lower_is_better"]
    assert told["student_minus_teacher"]["value"] > 0 > told["student_minus_control"]["high"]
    assert 0 < told["gap_closed"] < 1
    assert told["agreement"] == pytest.approx(np.mean([a == b for a, b in zip(STUDENT, TEACHER, strict=True)]))


def test_case_and_punctuation_count_once_and_not_the_second_time():
    found = scores(["HELLO WORLD"], ["Hello, world."]).metrics()
    assert (found["wer"], found["wer_normalized"]) == (1, 0)
    assert (found["cer"] > 0, found["cer_normalized"]) == (True, 0)


@pytest.mark.parametrize(("name", "wer"), [("basic", 4 / 3), ("english", 0.0)])
def test_english_has_one_way_to_write_numbers_and_contractions(name, wer):
    assert scores(["twenty one won't"], ["21 will not"], normalizer=name).metrics()["wer_normalized"] == pytest.approx(
        wer
    )


@pytest.mark.parametrize("name", NORMALIZERS)
def test_texts_made_alike_have_single_blanks_and_none_at_their_ends(name):
    assert normalized(["  Two,  words! ", ""], name) == ["2 words" if name == "english" else "two words", ""]


def test_where_words_have_no_blanks_characters_alone_are_counted():
    one = scores(["東京は木です"], ["東京は雨です"], unit="characters")
    assert one.metrics() == {"cer": pytest.approx(1 / 6), "cer_normalized": pytest.approx(1 / 6)}
    assert one.rate == "cer"


def test_edits_tell_which_words_are_wrong_missing_or_too_many():
    found = edits_of(["a b c", "", "d"], ["a x c e", "y", ""])
    assert [list(row) for row in found.pairs] == [[("b", "x"), (NOTHING, "e")], [(NOTHING, "y")], [("d", NOTHING)]]
    assert found.wrong.tolist() == [2, 1, 1]
    assert found.said.tolist() == [3, 0, 1]


def test_a_teacher_that_writes_nothing_is_no_teacher_and_one_without_case_may_be():
    with pytest.raises(TeacherError, match="no better than writing nothing"):
        scores([""] * len(SAID)).check_above_chance("wer")
    scores([text.upper() for text in SAID]).check_above_chance("wer")


def test_a_split_without_texts_is_refused():
    with pytest.raises(LabelError, match="no text to compare"):
        scores(["a"], [" "])


def test_the_analysis_names_what_is_mixed_up_left_out_and_made_up_and_where():
    models = {"teacher": scores(TEACHER), "student": scores(STUDENT), "control": scores(CONTROL)}
    rows = Dataset.from_dict({"audio": [{"bytes": b"", "path": f"/clips/{i}.wav"} for i in range(20)], "text": SAID})
    found = models["student"].analysis(models, Evaluated(task=TASK, rows=rows, train=rows, tokenizer=None))
    told = "\n".join(found["summary"])
    assert "Of 60 words in 20 clips the student gets wrong (WER) 33.3%, the teacher 6.7%" in told
    assert "Most often left out: big (4 times, by the teacher 0), the (4 times" in told
    assert "Most often written though it is not said: now (4 times" in told
    assert {"label": "two", "predicted": "too", "count": 4, "teacher_count": 4} in found["confusions"]
    assert sum(bucket["support"] for bucket in found["lengths"]) == 20
    assert found["lengths"][0]["from"] == 400
    assert found["rows"][0]["student"] > found["rows"][0]["teacher"]
    assert found["written"][0]["text"].startswith("3.wav (800 milliseconds)")
    assert found["written"][0].keys() == {"text", "reference", *models}


def test_errors_of_case_alone_are_told_as_such():
    loud = [text.upper() for text in SAID]
    models = {"teacher": scores(SAID), "student": scores(loud)}
    rows = Dataset.from_dict({"audio": [{"bytes": b"x", "path": None}] * 20, "text": SAID})
    found = models["student"].analysis(models, Evaluated(task=TASK, rows=rows, train=rows, tokenizer=None))
    assert any("case and punctuation alone" in line for line in found["summary"])
    assert found["written"][0]["text"].startswith("row 0")


def test_any_models_transcripts_become_scores_as_their_task_says():
    rows = Dataset.from_dict({"text": ["東京"]})
    found = transcript_scores(SimpleNamespace(unit="characters", normalizer="english"), rows, ["東"])
    assert found.metrics()["cer"] == 0.5
    assert found.normalizer == "english"


def test_a_model_is_scored_by_what_it_writes_of_each_clip_in_the_order_of_the_rows():
    model, processor, rows = speech.listener(), speech.processor(), speech.rows()
    task = speech.bound(model)
    found = predict(Candidate(model=model, tokenizer=processor), Evaluation(task=task, rows=rows, batch_size=16))
    batch = task.collator(processor)(list(task.encode(rows, processor)))
    with torch.no_grad():
        logits = model(input_values=batch["input_values"], attention_mask=batch["attention_mask"]).logits
    assert list(found.texts) == task.written(logits, batch, model, processor)
    assert list(found.references) == list(speech.TEXTS)
    assert any(found.texts)


def test_a_teacher_is_read_by_its_own_frames_and_vocabulary():
    tokens = speech.TOKENS[::-1]
    model, rows = speech.listener(pad_token_id=0, conv_stride=(5, 8, 4)), speech.rows()
    candidate = Candidate(model=model, tokenizer=speech.processor(tokens))
    found = predict(candidate, Evaluation(task=speech.bound(), rows=rows))
    alone = predict(candidate, Evaluation(task=speech.bound(model), rows=rows))
    assert found.texts == alone.texts
    assert any(found.texts)


def test_a_split_whose_clips_would_be_cut_is_refused_before_it_is_scored():
    model = speech.listener()
    candidate = Candidate(model=model, tokenizer=speech.processor())
    with pytest.raises(DataError, match="its end would not be heard"):
        predict(candidate, Evaluation(task=speech.bound(model, max_seconds=0.5), rows=speech.rows()))
