"""Several teachers: what they say together, who teaches which row, and that one of them alone is that teacher."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset

from hf_distill import CausalLanguageModeling, EnsembleTeacher, Hidden, Labels, Logits, TextClassification
from hf_distill.errors import LabelError, TeacherError
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.fused import FusedTerm, fused_loss
from hf_distill.losses.gradients import GRADIENTS
from hf_distill.pipeline.teacher_cache import Source, cached
from hf_distill.recipe import CacheConfig
from hf_distill.tasks import Embeddings, MaskedLanguageModeling, QuestionAnswering, Translation
from hf_distill.teachers import ModelTeacher, Teacher
from hf_distill.teachers.ensemble import check_one_tokenizer, mixed
from hf_distill.types import TAUGHT_BY, Head, HeadLogits, MixedLogits
from tests.helpers import tiny
from tests.helpers.fused_cases import LargestTensor
from tests.helpers.one_step import assert_same, terms
from tests.helpers.trainers import TOKENIZER, trainer

LOGITS = frozenset({"logits"})


def classifier(seed: int, labels=("bad", "good"), **options):
    return tiny.bert(2, 32, labels=labels, seed=seed, **options).eval()


def classification(rows=None) -> tuple[TextClassification, dict]:
    rows = rows if rows is not None else tiny.rows(12)
    task = TextClassification(max_length=32)
    task.read_labels(rows)
    return task, task.collator(TOKENIZER)(list(task.encode(rows, TOKENIZER)))


def languages(count: int = 6) -> tuple[CausalLanguageModeling, dict]:
    task, made = CausalLanguageModeling(max_length=16, packing=False), tiny.chat_tokenizer()
    rows = task.encode(Dataset.from_dict({"text": tiny.rows(count)["text"]}), made)
    return task, task.collator(made)(list(rows))


def whole(source) -> torch.Tensor:
    return source if isinstance(source, torch.Tensor) else source.logits()


def said(given, task, batch) -> torch.Tensor:
    teacher = given if isinstance(given, Teacher) else ModelTeacher(given)
    teacher.follow(task)
    return whole(teacher.targets(task, batch, LOGITS).logits)


# --- one of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "vocabulary"])
def test_an_ensemble_of_one_is_that_teacher_bit_for_bit(kind):
    task, batch = classification() if kind == "classes" else languages()

    def one(wrap):
        student = tiny.bert(2, 32, seed=1) if kind == "classes" else tiny.decoder()
        teacher = classifier(2) if kind == "classes" else tiny.decoder(3, seed=5)
        return terms(task, batch, student, wrap(teacher), [Labels(), Logits(temperature=2.0)])

    alone, together = one(lambda model: model), one(lambda model: EnsembleTeacher([model], weights=[3.0]))
    assert torch.equal(alone[0], together[0])
    assert all(torch.equal(gradient, together[1][name]) for name, gradient in alone[1].items())


def test_an_ensemble_of_one_trains_the_same_student(tmp_path):
    students = []
    for teacher in (classifier(2), EnsembleTeacher([classifier(2)])):
        made = trainer(tmp_path, [Labels(), Logits()], teacher=teacher)
        made.train()
        students.append(made.model.state_dict())
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("kind", ["classes", "vocabulary"])
def test_three_times_the_same_teacher_is_that_teacher(kind, divergence):
    task, batch = classification() if kind == "classes" else languages()

    def one(wrap):
        student = tiny.bert(2, 32, seed=1) if kind == "classes" else tiny.decoder()
        teacher = classifier(2) if kind == "classes" else tiny.decoder(3, seed=5)
        return terms(task, batch, student, wrap(teacher), [Logits(divergence=divergence)])

    assert_same(one(lambda model: model), one(lambda model: EnsembleTeacher([model] * 3, [1.0, 2.0, 0.5])))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_that_says_what_the_mixture_says_has_nothing_to_learn(divergence):
    task, batch = languages()
    student = tiny.decoder(3, seed=5)
    loss, gradients = terms(
        task, batch, student, EnsembleTeacher([copy.deepcopy(student)] * 2), [Logits(divergence=divergence, weight=1.0)]
    )
    assert loss.abs() < 1e-5
    if divergence != "total_variation":  # Its gradient is a sign, which rounding decides where both are equal.
        assert max(gradient.abs().max() for gradient in gradients.values()) < 1e-4


# --- the mixture ------------------------------------------------------------------------------------------------------


def test_the_mixture_is_the_weighted_mean_of_probabilities():
    task, batch = classification()
    first, second = classifier(2), classifier(3)
    probabilities = [torch.softmax(said(model, task, batch).double(), -1) for model in (first, second)]
    found = torch.softmax(said(EnsembleTeacher([first, second], [3.0, 1.0]), task, batch).double(), -1)
    assert torch.allclose(found, 0.75 * probabilities[0] + 0.25 * probabilities[1], atol=1e-6)
    assert not torch.allclose(found, probabilities[0], atol=1e-2)


def test_each_class_of_several_is_mixed_by_itself():
    logits = [torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) * 4 for seed in (0, 1)]
    found = torch.sigmoid(mixed(logits, [0.25, 0.75], "bernoulli"))
    assert torch.allclose(found, 0.25 * logits[0].sigmoid() + 0.75 * logits[1].sigmoid(), atol=1e-6)


def test_the_mixture_of_sure_answers_stays_finite():
    sure = torch.tensor([[200.0, -200.0]])
    for distribution in ("categorical", "bernoulli"):
        assert torch.isfinite(mixed([sure, sure], [0.5, 0.5], distribution)).all()


def test_of_scores_the_mean_is_taken():
    logits = [torch.tensor([[1.0]]), torch.tensor([[4.0]])]
    assert mixed(logits, [2 / 3, 1 / 3], "real").item() == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["classes", "vocabulary"])
def test_the_order_of_members_does_not_matter_and_their_weights_do(kind):
    task, batch = classification() if kind == "classes" else languages()
    models = [classifier(2), classifier(3)] if kind == "classes" else [tiny.decoder(3, seed=5), tiny.decoder(2, seed=6)]
    first = said(EnsembleTeacher(models, [2.0, 1.0]), task, batch)
    assert torch.allclose(first, said(EnsembleTeacher(models[::-1], [1.0, 2.0]), task, batch), atol=1e-6)
    assert not torch.allclose(first, said(EnsembleTeacher(models, [1.0, 2.0]), task, batch), atol=1e-2)


def test_a_mixture_over_a_vocabulary_is_the_mean_of_probabilities_of_tokens_that_all_have():
    task, batch = languages()
    models = [tiny.decoder(3, seed=5), tiny.decoder(2, hidden=48, seed=6, vocab_size=len(tiny.CHAT_WORDS) + 5)]
    size = len(tiny.CHAT_WORDS)
    each = [torch.softmax(said(model, task, batch)[:, :size].double(), -1) for model in models]
    source = EnsembleTeacher(models, [1.0, 4.0]).targets(task, batch, LOGITS).logits
    assert isinstance(source, MixedLogits)
    assert source.vocabulary == size
    assert torch.allclose(torch.softmax(whole(source).double(), -1), 0.2 * each[0] + 0.8 * each[1], atol=1e-6)


# --- the fused loss ---------------------------------------------------------------------------------------------------

POSITIONS, WIDTHS, ROWS, VOCABULARY = 7, (6, 4), (11, 13), 11


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(**head) -> MixedLogits:
    heads = [Head(weight=drawn(n, width, seed=n), **head) for n, width in zip(ROWS, WIDTHS, strict=True)]
    weights = torch.tensor([[0.3, 0.7]], dtype=torch.float64).log().repeat(POSITIONS, 1)
    weights[2, 0] = weights[4, 1] = -torch.inf
    states = drawn(POSITIONS, sum(WIDTHS), seed=5).split(WIDTHS, 1)
    members = tuple(HeadLogits(hidden=own, head=each) for own, each in zip(states, heads, strict=True))
    return MixedLogits(members=members, log_weights=weights.log_softmax(-1))


@pytest.mark.parametrize("memory", [1, 3000, 2**20])
@pytest.mark.parametrize("student_rows", [VOCABULARY, VOCABULARY - 2, VOCABULARY + 2])
@pytest.mark.parametrize("divergence", GRADIENTS)
def test_the_fused_loss_of_a_mixture_is_the_plain_one_in_value_and_gradient(divergence, student_rows, memory):
    teacher = mixture(soft_cap=5.0, scale=0.8)
    mask = torch.tensor([True, True, True, False, True, True, True])
    options = {} if divergence == "mse" else {"temperature": 2.0}
    shared = min(student_rows, VOCABULARY)
    found = []
    for is_fused in (True, False):
        hidden, weight = drawn(POSITIONS, 5, seed=1).requires_grad_(), drawn(student_rows, 5, seed=2).requires_grad_()
        own = Head(weight=weight)
        if is_fused:
            term = FusedTerm(divergence=divergence, factor=0.3, mask=mask, options=options)
            loss, _ = fused_loss(hidden, own, [term], targets=teacher, shared=shared, memory=memory)
        else:
            pair = [each[mask][:, :shared] for each in (own.logits(hidden), teacher.logits())]
            loss = 0.3 * DIVERGENCES[divergence](*pair, **options).sum()
        found.append((loss.detach(), dict(zip("hw", torch.autograd.grad(loss, (hidden, weight)), strict=True))))
    assert_same(*found, tolerance=1e-9)


def test_a_mixture_over_a_vocabulary_is_never_held_whole():
    count, size = 64, 500
    members = tuple(
        HeadLogits(hidden=drawn(count, 4).float(), head=Head(weight=drawn(size, 4, seed=n).float())) for n in (1, 2)
    )
    weight = drawn(size, 4, seed=3).float().requires_grad_()
    term = FusedTerm(divergence="forward_kl", factor=1.0, mask=torch.ones(count, dtype=torch.bool), options={})
    with LargestTensor() as seen:
        loss, _ = fused_loss(
            drawn(count, 4, seed=4).float(),
            Head(weight=weight),
            [term],
            targets=MixedLogits(members=members, log_weights=torch.full((count, 2), 0.5).log()),
            memory=8 * 6 * 4 * size,
        )
        loss.backward()
    assert seen.elements <= 8 * size


def test_what_stands_where_nothing_is_compared_changes_nothing():
    mask = torch.arange(POSITIONS) != 3
    results = []
    for garbage in (0.0, torch.nan):
        teacher = mixture().map(lambda values, garbage=garbage: values.masked_fill(~mask[:, None], garbage))
        weight = drawn(VOCABULARY, 5, seed=2).requires_grad_()
        labelled = FusedTerm(divergence=None, factor=1.0, mask=~mask, options={})
        term = FusedTerm(divergence="jsd", factor=1.0, mask=mask, options={})
        loss, _ = fused_loss(
            drawn(POSITIONS, 5, seed=1),
            Head(weight=weight),
            [term, labelled],
            labels=torch.ones(POSITIONS, dtype=torch.long),
            targets=teacher,
        )
        results.append((loss.detach(), {"w": torch.autograd.grad(loss, weight)[0]}))
    assert_same(*results, tolerance=0.0)


def test_padding_changes_nothing():
    task, batch = languages()
    student, models = tiny.decoder(), [tiny.decoder(3, seed=5), tiny.decoder(2, seed=6)]
    changed = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)}
    assert (changed["input_ids"] != batch["input_ids"]).any()
    objectives = [Labels(), Logits()]
    first, second = (
        terms(task, each, copy.deepcopy(student), EnsembleTeacher(models), objectives) for each in (batch, changed)
    )
    assert_same(first, second, tolerance=1e-6)


# --- who may be one of them -------------------------------------------------------------------------------------------


def test_labels_are_aligned_by_name_for_each_member():
    task, batch = classification()
    first, second = classifier(2), classifier(3)
    turned = copy.deepcopy(second)
    turned.config.id2label, turned.config.label2id = {0: "good", 1: "bad"}, {"good": 0, "bad": 1}
    with torch.no_grad():
        turned.classifier.weight.copy_(second.classifier.weight.flip(0))
        turned.classifier.bias.copy_(second.classifier.bias.flip(0))
    expected = said(EnsembleTeacher([first, second]), task, batch)
    for members in ([first, turned], [turned, first]):
        assert torch.allclose(said(EnsembleTeacher(members), task, batch), expected, atol=1e-6)


def test_a_member_of_other_labels_is_refused():
    task, _ = classification()
    with pytest.raises(LabelError, match="does not know the labels"):
        EnsembleTeacher([classifier(2), classifier(3, labels=("up", "down"))]).follow(task)


def test_members_that_cut_texts_otherwise_are_refused_by_name():
    own = {"first": tiny.tokenizer(), "second": tiny.tokenizer()}
    check_one_tokenizer(own)
    with pytest.raises(TeacherError, match=r"first .* and turned .* into different ones"):
        check_one_tokenizer({**own, "turned": tiny.tokenizer([*tiny.WORDS[:5], *tiny.WORDS[:4:-1]])})


@pytest.mark.parametrize(("weights", "count"), [([1.0], 2), ([1.0, 0.0], 2), ([1.0, -1.0], 2), ([], 0)])
def test_weights_that_are_none_are_refused(weights, count):
    with pytest.raises(TeacherError, match="a weight above 0"):
        EnsembleTeacher([classifier(2)] * count, weights)


def test_what_lies_within_one_model_is_refused(tmp_path):
    with pytest.raises(TeacherError, match="hidden needs hidden_states"):
        trainer(tmp_path, [Hidden()], teacher=EnsembleTeacher([classifier(2)]))


@pytest.mark.parametrize(
    ("task", "told"), [(QuestionAnswering(), "classes of its own"), (Embeddings(), "space"), (Translation(), "writes")]
)
def test_tasks_in_which_a_mixture_means_nothing_are_refused(task, told):
    with pytest.raises(TeacherError, match=told):
        EnsembleTeacher([classifier(2)]).follow(task)


# --- one teacher a row ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "vocabulary"])
def test_each_row_is_taught_by_its_teacher_alone(kind):
    task, batch = classification() if kind == "classes" else languages()
    models = [classifier(2), classifier(3)] if kind == "classes" else [tiny.decoder(3, seed=5), tiny.decoder(2, seed=6)]
    rows = len(batch["input_ids"])
    chosen = torch.tensor([1, 0, 1, 1, 0, 0] * 2)[:rows]
    found = said(EnsembleTeacher(models, routed=True), task, {**batch, TAUGHT_BY: chosen}).view(
        rows, -1, 2 if kind == "classes" else len(tiny.CHAT_WORDS)
    )
    alone = [said(model, task, batch).view(found.shape) for model in models]
    for row, member in enumerate(chosen.tolist()):
        own, other = (torch.softmax(alone[m][row], -1) for m in (member, 1 - member))
        assert torch.allclose(torch.softmax(found[row], -1), own, atol=1e-6)
        assert not torch.allclose(own, other, atol=1e-2)


def test_a_teacher_without_rows_in_a_batch_does_not_run():
    task, batch = languages()
    models = [tiny.decoder(3, seed=5), tiny.decoder(2, seed=6)]
    runs = []
    for number, model in enumerate(models):
        model.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
    one = torch.ones(len(batch["input_ids"]), dtype=torch.long)
    EnsembleTeacher(models, routed=True).targets(task, {**batch, TAUGHT_BY: one}, LOGITS)
    assert runs == [1]


def test_a_batch_that_does_not_tell_by_whom_it_is_taught_is_refused():
    task, batch = classification()
    with pytest.raises(TeacherError, match="does not tell by which"):
        said(EnsembleTeacher([classifier(2), classifier(3)], routed=True), task, batch)


def test_rows_that_become_none_or_several_still_tell_their_teacher():
    made = tiny.chat_tokenizer()
    task = CausalLanguageModeling(max_length=4, packing=False)
    texts = ["card bank", "the card is good and my bank is slow"]
    rows = Dataset.from_dict({"text": texts, TAUGHT_BY: [1, 0]})
    encoded = task.encode(rows, made)
    assert encoded[TAUGHT_BY] == [1, *[0] * (len(encoded) - 1)]
    assert len(encoded) > 2
    masked = MaskedLanguageModeling(max_length=6, packing=False)
    encoded = masked.encode(rows, tiny.tokenizer())
    assert encoded[TAUGHT_BY] == [1, *[0] * (len(encoded) - 1)]
    assert len(encoded) > 2


# --- a cache ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routed", [False, True])
def test_two_teachers_in_a_cache_say_what_they_say_live(routed, tmp_path):
    rows = tiny.rows(12).add_column(TAUGHT_BY, [0, 1, 1] * 4)
    task = TextClassification(max_length=32)
    task.read_labels(rows)
    encoded = task.encode(rows, TOKENIZER)
    model = EnsembleTeacher([classifier(2), classifier(3)], [2.0, 1.0], ["first", "second"], routed=routed)
    model.follow(task)
    source = Source(
        teacher=model,
        task=task,
        tokenizer=TOKENIZER,
        student=tiny.bert().config,
        data_fingerprint="none",
        seed=0,
    )
    reader, train, _ = cached(source, encoded, encoded, {"logits": Logits()}, CacheConfig(verify=3), tmp_path, 4)
    batch = {
        **task.collator(TOKENIZER)(list(train)),
        "row_id": torch.arange(12),
        TAUGHT_BY: torch.tensor(rows[TAUGHT_BY]),
    }
    live = source.teacher.targets(task, batch, LOGITS).logits
    assert torch.allclose(reader.targets(task, batch, LOGITS).logits, live, atol=1e-6)
    members = reader.plan.identity["members"]
    assert [each["name"] for each in members] == ["first", "second"]
    assert routed == (members[0]["weight"] is None)
