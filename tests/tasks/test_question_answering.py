"""Questions with contexts: windows, where answers begin and end, and answers judged as SQuAD judges them."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertForQuestionAnswering, PretrainedConfig

from hf_distill import Hidden, Labels, Logits, run
from hf_distill.errors import DataError, RecipeError, TeacherError
from hf_distill.evaluation.answers import AnswerScores, exact_match, overlap, score_answers
from hf_distill.evaluation.bootstrap import bootstrap
from hf_distill.evaluation.metrics import MEASURED
from hf_distill.evaluation.predict import Candidate
from hf_distill.evaluation.scores import Evaluation
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.pipeline.preflight import check
from hf_distill.tasks import QuestionAnswering
from hf_distill.tasks.question_answering import Answer, answers_of
from tests.helpers import one_step, tiny
from tests.helpers.one_step import assert_same
from tests.helpers.seams import accept_any_teacher
from tests.helpers.stand_ins import asked


def rows(count: int = 12) -> Dataset:
    return asked("test")["test"].select(range(count))


def of(context: str, answers: dict | None, question: str = "is the card") -> Dataset:
    return Dataset.from_dict({"question": [question], "context": [context], "answers": [answers]})


def bound(data: Dataset | None = None, **options) -> QuestionAnswering:
    task = QuestionAnswering(**{"max_length": 32, "doc_stride": 4, **options})
    task.read_labels(rows() if data is None else data)
    return task


def reader(seed: int = 0):
    made = tiny.bert(seed=seed, kind=BertForQuestionAnswering)
    made.bert.embeddings.position_embeddings.weight.requires_grad_(False).zero_()  # So that a row may begin anywhere.
    return made


def batch_of(task: QuestionAnswering, side: str = "right", data: Dataset | None = None) -> dict:
    made = tiny.tokenizer()
    made.padding_side = side
    return task.collator(made)(list(task.encode(rows() if data is None else data, made)))


def terms(task, batches: list[dict], objectives) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    teacher = reader(2) if any(o.needs - {"labels"} for o in objectives) else None
    return one_step.terms(task, batches, reader(1), teacher, objectives)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_the_labels_are_the_first_and_last_token_of_the_answer():
    data = of("my house is very warm", {"text": ["very warm"], "answer_start": [12]})
    (window,) = bound(data).encode(data, tiny.tokenizer())
    tokens = tiny.tokenizer().convert_ids_to_tokens(window["input_ids"])
    first, last = window["labels"]
    assert tokens[first : last + 1] == ["very", "warm"]


def test_a_long_context_is_read_in_windows_that_overlap_and_only_those_with_the_answer_point_at_it():
    words = ["card", "bank", "money", "letter", "phone", "house", "garden", "river", "good", "bad"]
    data = of(" ".join(words), {"text": ["garden"], "answer_start": [" ".join(words).index("garden")]}, "is")
    windows = bound(data, max_length=8, doc_stride=2).encode(data, tiny.tokenizer())
    seen = [[data["context"][0][a:b] for a, b in w["places"] if a >= 0] for w in windows]
    assert seen == [words[0:4], words[2:6], words[4:8], words[6:10]]
    assert [w["labels"] != [0, 0] for w in windows] == [False, False, True, True]
    assert [w["row"] for w in windows] == [0, 0, 0, 0]


def test_questions_without_an_answer_point_at_the_first_token_and_those_not_labelled_count_nowhere():
    nothing = of("my house", {"text": [], "answer_start": []})
    assert bound(nothing).may_abstain
    assert not bound().may_abstain
    assert bound(nothing).encode(nothing, tiny.tokenizer())["labels"] == [[0, 0]]
    unknown = Dataset.from_list([*of("my house", {"text": ["my"], "answer_start": [0]}), *of("a bank", None)])
    masks = bound(unknown).masks(batch_of(bound(unknown), data=unknown))
    assert masks["labels"].tolist() == [True, True, False, False]
    assert masks["positions"].all()


def test_answers_may_be_given_as_a_list_of_them():
    data = of("my house", [{"text": "house", "answer_start": 3}])
    assert bound(data).encode(data, tiny.tokenizer())["labels"] == [[6, 6]]


def test_a_question_that_would_fill_a_window_is_cut():
    data = of("my house is warm", {"text": ["warm"], "answer_start": [12]}, "good " * 40)
    windows = bound(data, max_length=16).encode(data, tiny.tokenizer())
    assert max(windows["length"]) <= 16
    assert windows["labels"][-1] != [0, 0]


@pytest.mark.parametrize("text", ["", " "])
def test_an_answer_of_no_text_is_refused_with_the_form_of_a_question_without_one(text):
    data = of("my house", {"text": [text], "answer_start": [2]})
    with pytest.raises(DataError, match=r"an answer is '\s?', which stands nowhere; .*text: \[\], answer_start: \[\]"):
        bound(data).encode(data, tiny.tokenizer())


def test_what_cannot_be_read_is_refused_with_the_reason():
    data = of("my house", {"text": ["house"], "answer_start": [0]})
    with pytest.raises(DataError, match="expected 'house', found 'my ho'"):
        bound(data).encode(data, tiny.tokenizer())
    with pytest.raises(RecipeError, match="below half of max_length"):
        QuestionAnswering(max_length=16, doc_stride=8)
    with pytest.raises(RecipeError, match="max_answer_length"):
        QuestionAnswering(max_answer_length=0)
    with pytest.raises(RecipeError, match="set it to live"):
        check(recipe(teacher={**tiny.recipe()["teacher"], "kind": "cached"}), report=lambda line: None)


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_the_labels_alone_give_the_loss_and_gradients_of_the_models_own_head():
    data = rows().select([0])  # Nothing is padded: the model's own head lets padding be an answer.
    task, stock = bound(), reader(1).train()
    batch = batch_of(task, data=data)
    first, last = batch.pop("labels").T
    expected = stock(**batch, start_positions=first, end_positions=last).loss
    expected.backward()
    gradients = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert_same(terms(task, [batch_of(task, data=data)], [Labels()]), (expected.detach(), gradients))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_side_of_the_padding_what_stands_in_it_and_how_a_batch_is_split_change_nothing(divergence):
    task = bound()
    objectives = [Labels(), Logits(divergence=divergence), Hidden()]
    whole = batch_of(task)
    assert (whole["attention_mask"] == 0).any()
    garbage = copy.deepcopy(whole)
    garbage["input_ids"][whole["attention_mask"] == 0] = 7
    parts = [batch_of(task, data=rows().select([i])) for i in range(12)]
    expected = terms(task, [whole], objectives)
    for batches in ([batch_of(task, "left")], [garbage], parts):
        assert_same(expected, terms(task, batches, objectives))


# --- scores -----------------------------------------------------------------------------------------------------------


def test_answers_are_compared_as_squad_compares_them():
    assert exact_match("The Cat's  hat!", "cats hat") == 1.0
    assert overlap("the big black cat", "a black cat sat") == pytest.approx(2 * 2 / (3 + 3))
    assert overlap("cat cat", "cat") == pytest.approx(2 * 1 / (2 + 1))
    assert overlap("", "") == overlap("the", "") == 1.0
    assert overlap("cat", "") == overlap("dog", "cat") == 0.0


def scores(texts: list[str], sure: float = 0.5) -> AnswerScores:
    wanted = [["two cats", "cats"], [], ["a dog"], ["red house"]]
    return AnswerScores(texts=texts, references=wanted, sure=np.full(4, sure))


def test_the_best_of_several_right_answers_counts_and_none_is_right_where_there_is_none():
    found = scores(["cats", "", "dogs", "the house"]).metrics()
    assert found == pytest.approx({"f1": (1 + 1 + 0 + 2 / 3) / 4, "exact_match": 0.5})
    assert list(found) == list(MEASURED["question-answering"])


def test_resamples_draw_questions_and_agreement_is_that_of_answers():
    first, second = scores(["cats", "", "dogs", "the house"]), scores(["cats", "x", "dogs", "house"])
    draws = bootstrap({"student": first}, 2000, 0)["student"]
    assert draws["f1"].mean() == pytest.approx(first.f1.mean(), abs=0.02)
    assert draws["exact_match"].std() == pytest.approx(0.25, abs=0.02)
    assert first.agreement(second) == 0.75
    assert first.calibration_error == pytest.approx(0.0)


def test_a_teacher_that_answers_nothing_is_stopped():
    with pytest.raises(TeacherError, match="no better than answering nothing"):
        scores(["", "", "", ""]).check_above_chance("f1")
    scores(["cats", "", "", ""]).check_above_chance("f1")


class Fixed(torch.nn.Module):
    """A reader that says of every token how likely an answer begins and ends there."""

    def __init__(self, begin: dict[int, float], end: dict[int, float]) -> None:
        super().__init__()
        self.begin, self.end, self.device = begin, end, torch.device("cpu")
        self.config, self.dtype = PretrainedConfig(), torch.float32

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        def of(known: dict[int, float]) -> torch.Tensor:
            return torch.tensor([[known.get(int(i), -5.0) for i in row] for row in input_ids])

        return type("Outputs", (), {"start_logits": of(self.begin), "end_logits": of(self.end)})


def test_the_likeliest_answer_of_all_windows_is_given_within_the_context_and_not_too_long():
    words = ["card", "bank", "money", "letter", "phone", "house", "garden", "river", "good", "bad"]
    number = {word: tiny.WORDS.index(word) for word in [*words, "[CLS]"]}
    data = of(" ".join(words), {"text": ["bad"], "answer_start": [46]}, "card")
    data = data.map(lambda row: {"answers": {"text": ["bad"], "answer_start": [row["context"].rindex("bad")]}})
    model = Fixed(
        {number["phone"]: 3.0, number["card"]: 2.0, number["[CLS]"]: 2.9},
        {number["garden"]: 4.0, number["house"]: 2.0, number["[CLS]"]: 2.9},
    )

    def answer(**options) -> str:
        task = bound(data, max_length=10, doc_stride=3, **options)
        task.may_abstain = abstain
        return score_answers(
            Candidate(model=model, tokenizer=tiny.tokenizer()), Evaluation(task=task, rows=data, batch_size=2)
        ).texts[0]

    abstain = False
    assert answer() == "phone house garden"
    assert answer(max_answer_length=2) == "phone house"
    abstain = True
    assert answer() == "phone house garden"
    assert answer(max_answer_length=2) == ""


def test_the_analysis_names_the_kind_of_question_that_loses_most():
    found = {"teacher": scores(["cats", "", "dog", "red house"]), "student": scores(["cats", "", "dogs", "house"])}
    asked = {"question": ["Who is?", "When?", "What is it?", "Tell me."], "context": ["a b c", "a", "b c", "d"]}
    analysis = found["student"].analysis(found, SimpleNamespace(rows=asked))
    json.dumps(analysis)
    assert [each["label"] for each in analysis["classes"][:2]] == ["what", "other"]
    assert "1 questions)" in " ".join(analysis["summary"])
    assert [each["text"] for each in analysis["examples"]] == ["What is it?", "Tell me."]


def recipe(**changes) -> dict:
    return tiny.recipe(
        name="reader",
        task={"name": "question-answering", "max_length": 32, "doc_stride": 8},
        data={"path": "tests.helpers.data:questions"},
        evaluate={"resamples": 100},
        **changes,
    )


@pytest.mark.slow
def test_a_recipe_runs_from_questions_to_the_card(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    result = run(recipe(), runs=tmp_path, report=lambda line: None)
    assert result.metrics.keys() == {"f1", "exact_match"}
    card = (result.student / "README.md").read_text()
    assert "of the questions" in card
    assert "AutoModelForQuestionAnswering" in card
    assert json.loads((result.folder / "analysis.json").read_text())["classes"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": ["warm"], "answer_start": [3]}, [Answer("warm", 3)]),
        ({"text": "warm", "answer_start": 3}, [Answer("warm", 3)]),
        ([{"text": "warm", "answer_start": 3}], [Answer("warm", 3)]),
        ({"text": [], "answer_start": []}, []),
        ([], []),
    ],
)
def test_answers_are_read_in_every_form_that_has_their_places(value, expected):
    assert answers_of(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "warm",
        ["warm"],
        {"text": ["warm"]},
        {"text": "warm"},
        {"text": ["warm"], "answer_start": []},
        [{"text": "warm"}],
    ],
)
def test_answers_without_a_place_are_refused_with_the_forms_that_are_read(value):
    with pytest.raises(DataError, match=r"where they stand in the context.*answer_start"):
        answers_of(value)


def test_two_windows_share_fewer_tokens_where_rows_are_short():
    assert QuestionAnswering().doc_stride == QuestionAnswering(max_length=258).doc_stride == 128
    assert QuestionAnswering(max_length=256).doc_stride == 127
