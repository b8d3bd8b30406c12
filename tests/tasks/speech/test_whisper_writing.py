"""What a Whisper writes, scored and labelling: as Transformers' own writes it, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_distill.evaluation.metrics import make_scorers
from hf_distill.evaluation.predict import write_and_score, write_texts
from hf_distill.generation.hypotheses import ModelWriter
from hf_distill.recipe import LabelConfig
from tests.helpers import whispers
from tests.tasks.speech.test_whisper import bound

GREEDY = {"do_sample": False, "max_new_tokens": 8}


def writing(timestamps: bool = False) -> tuple[Any, Any, Any]:
    """A model that writes no marks of time unless it is to, its processor, and the task."""
    made = whispers.processor()
    model = whispers.whisper(made=made)
    stamps = [number for token, number in made.tokenizer.get_vocab().items() if token[:2] == "<|" and "." in token]
    if not timestamps:
        model.generation_config.suppress_tokens += stamps
    return model, made, bound(model, timestamps=timestamps)


def write(model: Any, made: Any, task: Any, rows: Any, size: int = 4, settings: Any = None) -> list[str]:
    return write_texts(model, made, task.prompts(rows, made), settings or GREEDY, size)


def test_texts_are_those_that_whispers_own_generate_writes_in_this_language():
    model, made, task = writing()
    rows = whispers.rows(6)
    found = write(model, made, task, rows)
    heard = task.prompts(rows, made).read(range(6))["input_features"]
    own = model.generate(input_features=heard, language="en", task="transcribe", max_new_tokens=8)
    assert found == made.tokenizer.batch_decode(own, skip_special_tokens=True)
    assert len(set(found)) > 2


def test_each_text_follows_its_own_prompt_whatever_the_batch():
    model, made, task = writing()
    rows = whispers.rows(6, prompt=["nine one", None, "two", None, "six six six", "five"])
    together, alone = (write(model, made, task, rows, size) for size in (6, 1))
    assert together == alone
    asked = task.prompts(rows, made)
    heard = asked.read([4])["input_features"]
    ids = torch.tensor(made.tokenizer.get_prompt_ids("six six six"))
    own = model.generate(input_features=heard, language="en", task="transcribe", prompt_ids=ids, max_new_tokens=8)
    assert together[4] == made.tokenizer.decode(own[0], skip_special_tokens=True)
    assert together != write(model, made, task, rows.remove_columns("prompt"))


def test_marks_of_time_are_written_in_order_and_not_scored():
    model, made, task = writing(timestamps=True)
    rows = whispers.rows(3, text=["<|0.00|> one<|0.20|>", "two", "three"])
    asked = task.prompts(rows, made)
    assert asked.references == [" one", "two", "three"]
    assert not any("<|" in text for text in write(model, made, task, rows))


@pytest.mark.parametrize("settings", [{"num_beams": 3, "max_new_tokens": 6}, {"do_sample": True, "max_new_tokens": 6}])
def test_several_texts_of_a_teacher_differ_and_come_with_what_the_model_says_of_them(settings):
    model, made, task = writing()
    asked = task.prompts(whispers.rows(4, prompts=True), made)
    config = LabelConfig(generation=settings, hypotheses=2, choose="best")
    writer = ModelWriter(model, made, config, own=model.generation_config, task=task, options=asked.options)
    found = writer.write(asked, [0, 1, 2, 3], seed=3)
    assert any(first.text != second.text for first, second in found)
    prefix = asked.input_ids[0]
    for hypothesis in found[0]:
        ids = made.tokenizer(hypothesis.text, add_special_tokens=False)["input_ids"]
        if hypothesis.ended or len(ids) != hypothesis.tokens:
            continue  # Its letters may be read as other tokens than it was written in.
        read = torch.tensor([[*prefix, *ids]])
        with torch.no_grad():
            logits = model(input_features=asked.read([0])["input_features"], decoder_input_ids=read).logits[0]
        if "num_beams" not in settings:  # Beams are compared by probabilities among all tokens.
            logits[:, model.generation_config.suppress_tokens] = -torch.inf
            logits[len(prefix) - 1, model.generation_config.begin_suppress_tokens] = -torch.inf
        said = torch.log_softmax(logits[len(prefix) - 1 : -1], -1).gather(1, torch.tensor(ids)[:, None])
        assert hypothesis.mean_log_probability == pytest.approx(said.mean().item(), abs=1e-3)
    assert found == writer.write(asked, [0, 1, 2, 3], seed=3)


def test_texts_are_scored_by_their_wrong_words():
    model, made, task = writing()
    rows = whispers.rows(4)
    found = write_and_score(model, task, made, rows, ("wer", "cer"), GREEDY, 4)
    assert found.references == list(rows["text"])
    one = torch.ones(1, 4).numpy()
    scores = found.score(one)
    assert set(scores) == {"wer", "wer_normalized", "cer", "cer_normalized"}
    assert scores["wer"] > 0


def test_error_rates_are_of_all_that_is_said_and_follow_resampled_rows():
    (words,) = make_scorers(["wer"])
    texts, references = ["One two", "three", "four five six"], ["one two.", "three four", "five"]
    judge = words.judge(texts, references)
    found = judge(torch.tensor([[1.0, 1, 1], [2, 0, 0]]).numpy())
    assert found["wer"].tolist() == pytest.approx([(2 + 1 + 2) / 5, 1.0])
    assert found["wer_normalized"].tolist() == pytest.approx([3 / 5, 0.0])
