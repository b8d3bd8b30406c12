"""A teacher with other tokens: each reads its own of the same text, and both are compared where they meet."""

from __future__ import annotations

import json
import math

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from hf_distill import DistillationTrainer, Hidden, Labels, Logits, run
from hf_distill.errors import ModelError, ObjectiveError, RecipeError, TeacherError
from hf_distill.evaluation.language_modeling import score_tokens
from hf_distill.evaluation.predict import Candidate
from hf_distill.losses import fused_chunks
from hf_distill.losses.cross_vocabulary import Crossing
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.fused import FusedTerm, fused_loss
from hf_distill.pipeline.preflight import check
from hf_distill.tasks import CausalLanguageModeling
from hf_distill.teachers import ModelTeacher
from hf_distill.tokenizers.alignment import token_bytes
from hf_distill.tokenizers.chat import render_chats
from hf_distill.tokenizers.cross_reader import NOWHERE
from hf_distill.tokenizers.shared_vocabulary import beginnings, shared_classes
from hf_distill.types import IGNORED, Head, HeadLogits
from tests.helpers import tiny
from tests.helpers.byte_tokenizers import byte_level, chatty, sentencepiece, sentences, texts
from tests.helpers.one_step import assert_same, terms
from tests.helpers.seams import accept_any_teacher

STUDENT, TEACHER = byte_level, sentencepiece
PROBABILITIES = [name for name in DIVERGENCES if name != "mse"]
TEMPLATES = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}",
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}",
)


def model_of(made, layers: int = 2, hidden: int = 32, seed: int = 0, **options):
    ids = {"bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id}
    shape = {"vocab_size": len(made), "max_position_embeddings": 256, **ids, **options}
    return tiny.decoder(layers, hidden, seed, **shape)


def task_of(**options) -> CausalLanguageModeling:
    return CausalLanguageModeling(**{"max_length": 96, "packing": False, **options})


def rows_of(count: int = 24) -> Dataset:
    return Dataset.from_dict({"text": sentences(count)})


def batch_of(task, rows, student=None, teacher=None) -> dict:
    pair = (student or STUDENT(), teacher or TEACHER())
    return task.collator(*pair)(list(task.encode(rows, *pair)))


def crossing(student=None, teacher=None) -> Crossing:
    first, second = student or STUDENT(), teacher or TEACHER()
    own, other = token_bytes(first), token_bytes(second)
    return Crossing(shared_classes(own, other, (beginnings(own, other, second), beginnings(other, own, first))))


# --- the divergence ---------------------------------------------------------------------------------------------------


def case(rows: int = 9, seed: int = 0, padding: int = 3):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sizes = len(STUDENT()) + padding, len(TEACHER()) + 2 * padding
    hidden, weight = draw(rows, 6).requires_grad_(), draw(sizes[0], 6).requires_grad_()
    mask = torch.rand(rows, generator=generator) > 0.3
    return hidden, weight, draw(rows, 5), draw(sizes[1], 5), mask


def written_out(divergence, student, teacher, classes, options):
    """The divergence of the two sums over each class, with loops."""
    temperature = options["temperature"]
    sums = []
    for logits, sorted_into in ((student, classes.first), (teacher, classes.second)):
        taking_part = torch.tensor([i for i, c in enumerate(sorted_into) if c >= 0])
        shares = torch.softmax(logits[:, taking_part] / temperature, -1)
        member = torch.tensor([[sorted_into[i] == c for c in range(classes.count)] for i in taking_part.tolist()])
        sums.append((shares @ member.to(shares.dtype)).log())
    others = {name: value for name, value in options.items() if name != "temperature"}
    return DIVERGENCES[divergence](*sums, **others) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("divergence", PROBABILITIES)
def test_value_and_gradient_are_those_of_the_sums_over_each_class(divergence, temperature):
    first, second = STUDENT(), TEACHER()
    own, other = token_bytes(first), token_bytes(second)
    classes = shared_classes(own, other, (beginnings(own, other, second), beginnings(other, own, first)))
    hidden, weight, teacher_hidden, teacher_weight, mask = case()
    options = {"temperature": temperature}
    term = FusedTerm(divergence=divergence, factor=0.7, mask=mask, options=options, crossing=Crossing(classes))
    fused, _ = fused_loss(
        hidden, Head(weight=weight), [term], targets=HeadLogits(hidden=teacher_hidden, head=Head(weight=teacher_weight))
    )
    logits, theirs = (hidden @ weight.T)[mask], (teacher_hidden @ teacher_weight.T)[mask]
    expected = 0.7 * written_out(divergence, logits, theirs, classes, options).sum()
    assert fused.item() == pytest.approx(expected.item(), rel=1e-9)
    leaves = (hidden, weight)
    for ours, plain in zip(torch.autograd.grad(fused, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("positions", [1, 4, 100])
@pytest.mark.parametrize("block", [1, 2, 100])
def test_chunks_and_blocks_of_any_size_give_the_same_beside_the_cross_entropy_too(positions, block, monkeypatch):
    hidden, weight, teacher_hidden, teacher_weight, mask = case(rows=11)
    labels = torch.arange(11)
    shared = crossing()
    asked = [
        FusedTerm(divergence="jsd", factor=0.5, mask=mask, options={"temperature": 1.0, "beta": 0.3}, crossing=shared),
        FusedTerm(divergence=None, factor=1.0, mask=~mask, options={}),
    ]

    def loss(**more):
        found, _ = fused_loss(
            hidden,
            Head(weight=weight),
            asked,
            labels=labels,
            targets=HeadLogits(hidden=teacher_hidden, head=Head(weight=teacher_weight)),
            **more,
        )
        return found, torch.autograd.grad(found, (hidden, weight))

    expected = loss()
    monkeypatch.setattr(fused_chunks, "BLOCK_BYTES", block * len(weight) * 8)
    found = loss(memory=positions * (len(weight) + len(teacher_weight)) * 8)
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-12)
    for ours, plain in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("divergence", PROBABILITIES)
def test_with_one_vocabulary_it_is_the_plain_divergence_in_value_and_gradient(divergence):
    generator = torch.Generator().manual_seed(1)
    size = len(STUDENT())
    student, teacher = (torch.randn(6, size, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    same, options = crossing(STUDENT(), STUDENT()), {"temperature": 1.7}
    plain = student.clone().requires_grad_()
    expected = DIVERGENCES[divergence](plain, teacher, **options)
    (slope,) = torch.autograd.grad(expected.sum(), plain)
    torch.testing.assert_close(same.value(divergence, student, teacher, options), expected.detach())
    value, gradient = same.gradient(divergence, student.clone(), teacher.clone(), options)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, slope, rtol=1e-8, atol=1e-12)


def test_everything_masked_gives_zero_and_no_gradient():
    hidden, weight, teacher_hidden, teacher_weight, _ = case()
    nothing = torch.zeros(len(hidden), dtype=torch.bool)
    term = FusedTerm(
        divergence="forward_kl", factor=1.0, mask=nothing, options={"temperature": 1.0}, crossing=crossing()
    )
    loss, _ = fused_loss(
        hidden, Head(weight=weight), [term], targets=HeadLogits(hidden=teacher_hidden, head=Head(weight=teacher_weight))
    )
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in torch.autograd.grad(loss, (hidden, weight)))


# --- what each reads --------------------------------------------------------------------------------------------------


def bytes_before(made, ids, count, text: str) -> bytes:
    """What the tokens before one stand for, without a space that a tokenizer put before the text."""
    pieces = [made.pieces[token] or b"" for token in ids]
    put = sum(map(len, pieces)) - len(text.encode())
    assert put in (0, 1)
    return b"".join(pieces[:count])[put:]


def test_at_every_compared_position_both_have_read_the_same_bytes():
    student, teacher = STUDENT(), TEACHER()
    given, tables = texts(40, seed=3), (token_bytes(student), token_bytes(teacher))
    rows = task_of(max_length=512).encode(Dataset.from_dict({"text": given}), student, teacher)
    for text, row in zip(given, rows, strict=True):
        ids, own = row["input_ids"], row["teacher_input_ids"]
        compared = [(i, j) for i, j in enumerate(row["teacher_places"]) if j != NOWHERE]
        assert len(compared) > len(ids) / 4
        for i, j in compared:
            assert bytes_before(tables[0], ids, i, text) == bytes_before(tables[1], own, j, text)
        assert compared[-1] == (len(ids) - 1, len(own) - 1)  # Where both tell that the text ends.
        assert bytes_before(tables[0], ids, None, text) == text.encode()
        assert own[-1] == teacher.eos_token_id


def test_a_text_of_several_rows_is_cut_at_the_same_byte_for_both():
    student, teacher = STUDENT(), TEACHER()
    text = " ".join(sentences(30))
    rows = list(task_of(max_length=40).encode(Dataset.from_dict({"text": [text]}), student, teacher))
    assert len(rows) > 3
    pieces = [student.decode(row["input_ids"], skip_special_tokens=True) for row in rows]
    assert "".join(pieces) == text
    read = token_bytes(teacher)
    for row, piece in zip(rows, pieces, strict=True):
        own = row["teacher_input_ids"]
        assert read.places(own, piece.encode())[-1].end <= len(piece.encode())
        assert max(row["teacher_places"]) == len(own) - 1
        assert any(place != NOWHERE for place in row["teacher_places"])
    alone = list(task_of(max_length=40).encode(Dataset.from_dict({"text": [text]}), student))
    assert [row["input_ids"] for row in alone] == [row["input_ids"] for row in rows]  # As its control reads them.


def test_a_row_that_is_cut_inside_a_character_loses_no_more_than_that():
    task = task_of(max_length=5)
    rows = list(task.encode(Dataset.from_dict({"text": ["東京猫が好き" * 3]}), STUDENT(), TEACHER()))
    assert len(rows) > 3
    assert all(len(row["teacher_input_ids"]) >= 1 for row in rows)


def test_of_a_completion_only_its_tokens_are_compared():
    task = CausalLanguageModeling(max_length=96)
    rows = Dataset.from_dict({"prompt": ["the card is ", "my bank was "], "completion": ["good", "very slow"]})
    batch = batch_of(task, rows)
    masks = task.masks(batch)
    assert masks["positions"].any()
    assert not (masks["positions"] & ~masks["labels"]).any()
    told = batch["labels"][:, 1:].flatten()[masks["positions"]]
    assert STUDENT().eos_token_id in told.tolist()


def test_chats_stand_in_each_models_own_template_and_what_the_assistant_says_is_compared():
    student, teacher = chatty(STUDENT(), TEMPLATES[0]), chatty(TEACHER(), TEMPLATES[1])
    chat = [
        {"role": "user", "content": "my card"},
        {"role": "assistant", "content": "is good"},
        {"role": "user", "content": "the bank"},
        {"role": "assistant", "content": "is slow"},
    ]
    (row,) = CausalLanguageModeling(max_length=96).encode(Dataset.from_dict({"messages": [chat]}), student, teacher)
    compared = {i: j for i, j in enumerate(row["teacher_places"]) if j != NOWHERE}
    pairs = [(row["input_ids"][i], row["teacher_input_ids"][j]) for i, j in compared.items()]
    ends = [(student.eos_token_id, teacher.eos_token_id)]
    assert pairs.count(ends[0]) == 2
    said = "".join(student.decode(row["input_ids"][i]) for i in compared)
    assert said.startswith("i")
    assert not set(said) - set("is good slow</s>")
    assert all(row["labels"][i] != IGNORED for i in compared)
    (own,) = render_chats(teacher, chat)
    assert [own.text[slice(*span)] for span in own.contents] == ["is good", "is slow"]


def test_padding_on_the_left_or_right_gives_the_same_loss_and_gradients():
    import copy

    left = copy.deepcopy(STUDENT())
    left.padding_side = "left"
    task = task_of()
    batches = [batch_of(task, rows_of(), student) for student in (STUDENT(), left)]
    assert not batches[0]["attention_mask"].all()
    found = []
    for batch in batches:
        objective = Logits(cross_tokenizer=True)
        objective.connect_tokenizers(STUDENT(), TEACHER())
        found.append(terms(task, batch, model_of(STUDENT()), model_of(TEACHER(), 3, 48, 5), [Labels(), objective]))
    assert_same(*found)


def test_what_the_teacher_finds_in_its_padding_changes_nothing():
    task = task_of()
    clean = batch_of(task, rows_of())
    garbage = {**clean, "teacher_input_ids": clean["teacher_input_ids"].clone()}
    garbage["teacher_input_ids"][clean["teacher_attention_mask"] == 0] = 7
    found = []
    for batch in (clean, garbage):
        objective = Logits(cross_tokenizer=True)
        objective.connect_tokenizers(STUDENT(), TEACHER())
        found.append(terms(task, batch, model_of(STUDENT()), model_of(TEACHER(), 3, 48, 5), [objective]))
    assert_same(*found)


# --- training ---------------------------------------------------------------------------------------------------------


def trainer_of(folder, objectives, student=None, teacher=None, task=None, rows=None, **options) -> DistillationTrainer:
    args = {"max_steps": 4, "logging_steps": 1, "optim": "sgd", "learning_rate": 0.05, "save_strategy": "no", **options}
    return DistillationTrainer(
        model=student or model_of(STUDENT()),
        teacher=teacher or ModelTeacher(model_of(TEACHER(), 3, 48, 5), TEACHER()),
        task=task or task_of(),
        objectives=objectives,
        args=TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **args),
        train_dataset=rows or rows_of(32),
        processing_class=STUDENT(),
    )


def history(trainer) -> list[dict]:
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_with_the_same_tokenizer_on_both_sides_it_is_the_plain_path(divergence, tmp_path):
    def losses(teacher_tokenizer):
        teacher = ModelTeacher(model_of(STUDENT(), 3, 48, 5), teacher_tokenizer)
        trainer = trainer_of(tmp_path, [Labels(), Logits(divergence=divergence, cross_tokenizer=True)], teacher=teacher)
        crosses = trainer.objectives["logits"].crossing is not None
        entries = history(trainer)
        return crosses, [e["loss"] for e in entries], [e["grad_norm"] for e in entries], trainer.model.state_dict()

    plain, crossed = losses(None), losses(STUDENT())
    assert (plain[0], crossed[0]) == (False, True)
    assert crossed[1] == pytest.approx(plain[1], rel=1e-5)
    assert crossed[2] == pytest.approx(plain[2], rel=1e-4)
    assert all(torch.allclose(value, crossed[3][name], atol=1e-6) for name, value in plain[3].items())


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path):
    student = model_of(STUDENT())
    teacher = ModelTeacher(model_of(STUDENT()), STUDENT())
    (entry,) = history(trainer_of(tmp_path, [Logits(cross_tokenizer=True)], student, teacher, max_steps=1))
    assert entry["loss"] == pytest.approx(0.0, abs=1e-5)
    assert entry["grad_norm"] == pytest.approx(0.0, abs=1e-4)


def test_8x1_4x2_and_1x8_give_the_same_weights(tmp_path):
    def trained(batch, accumulation):
        trainer = trainer_of(
            tmp_path,
            [Labels(), Logits(cross_tokenizer=True)],
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )
        losses = [entry["loss"] for entry in history(trainer)]
        return losses, {name: value.clone() for name, value in trainer.model.state_dict().items()}

    losses, whole = trained(8, 1)
    for split in ((4, 2), (1, 8)):
        others, weights = trained(*split)
        assert others == pytest.approx(losses, rel=1e-5)
        assert all(torch.allclose(value, weights[name], atol=1e-6) for name, value in whole.items())


def test_how_much_is_compared_is_told_before_training_and_logged_in_it(tmp_path):
    trainer = trainer_of(tmp_path, [Labels(), Logits(cross_tokenizer=True)], eval_strategy="no")
    assert "of the student's" in trainer.connection_notes[0]
    for entry in history(trainer):
        assert 0.3 < entry["compared_positions"] <= 1.0
        assert 0.0 < entry["shared_mass_student"] < 1.0
        assert 0.0 < entry["shared_mass_teacher"] < 1.0


def test_a_student_learns_from_a_teacher_with_other_tokens(tmp_path):
    losses = [
        entry["loss_logits"]
        for entry in history(
            trainer_of(tmp_path, [Logits(cross_tokenizer=True)], max_steps=40, optim="adamw_torch", learning_rate=3e-3)
        )
    ]
    assert losses[-1] < 0.6 * losses[0]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_without_it_a_teacher_with_other_tokens_is_refused_with_this_way_out(tmp_path):
    with pytest.raises(ObjectiveError, match="set cross_tokenizer: true for logits"):
        trainer_of(tmp_path, [Logits()])
    with pytest.raises(ObjectiveError, match="set cross_tokenizer: true for logits"):
        trainer_of(tmp_path, [Logits(cross_tokenizer=True), Hidden()])


def test_packed_texts_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"task\.packing: .*set it to false"):
        trainer_of(tmp_path, [Logits(cross_tokenizer=True)], task=CausalLanguageModeling(max_length=96))


def test_mse_and_other_values_are_refused():
    with pytest.raises(ObjectiveError, match="mse compares single logits"):
        Logits(divergence="mse", cross_tokenizer=True)
    with pytest.raises(ObjectiveError, match="cross_tokenizer must be true or false"):
        Logits(cross_tokenizer="yes")


def test_a_tokenizer_that_does_not_cover_all_bytes_is_refused_by_name(tmp_path):
    words = tiny.chat_tokenizer()
    words.name_or_path = "someone/words"
    with pytest.raises(ModelError, match="someone/words do not give back every text"):
        trainer_of(tmp_path, [Logits(cross_tokenizer=True)], teacher=ModelTeacher(tiny.decoder(), words))


# --- a whole run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path) -> dict:
    for name, model, made in (
        ("teacher", model_of(TEACHER(), 3, 48, 5), TEACHER()),
        ("student", model_of(STUDENT()), STUDENT()),
    ):
        model.save_pretrained(tmp_path / name)
        made.save_pretrained(tmp_path / name)
    return {
        "version": 1,
        "name": "crossed",
        "task": {"name": "causal-lm", "max_length": 64, "packing": False},
        "data": {"path": "tests.helpers.data:byte_text_splits"},
        "teacher": {"model": str(tmp_path / "teacher")},
        "student": {"pretrained": str(tmp_path / "student")},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0, "cross_tokenizer": True}],
        "training": {"use_cpu": True, "max_steps": 3, "per_device_train_batch_size": 8, "report_to": "none"},
        "evaluate": {"resamples": 100},
    }


def test_a_run_compares_models_with_different_tokens_by_bits_a_byte(recipe, tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    told: list[str] = []
    result = run(recipe, runs=tmp_path / "runs", report=told.append)
    assert any("begin where one of the teacher's does" in line for line in told)
    models = result.results["models"]
    assert result.comparison["primary_metric"] == "bits_per_byte"
    assert result.comparison["lower_is_better"] is True
    assert result.comparison["agreement"] is None
    assert result.comparison["student_minus_control"]["low"] <= result.comparison["student_minus_control"]["high"]
    assert not {"kl_to_teacher", "agreement"} & models["student"]["metrics"].keys()
    card = (result.student / "README.md").read_text()
    assert "have different tokens, of which bits_per_byte alone compares" in card
    assert "bits for a byte of text" in card
    analysis = json.loads((result.folder / "analysis.json").read_text())
    assert analysis["measure"]["rows"] == "bits_per_byte"
    assert "metric: bits_per_byte" in (result.folder / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"evaluate": {"metric": "loss"}}, RecipeError, "loss is a figure of each model's own tokens"),
        ({"teacher": {"kind": "cached"}}, TeacherError, "cross_tokenizer needs a live teacher"),
        ({"rollout": {"share": 0.5, "prompt_tokens": 4}}, ObjectiveError, "remove rollout"),
        ({"task": {"name": "causal-lm", "max_length": 64}}, RecipeError, r"task\.packing"),
        ({"task": {"name": "masked-lm"}}, ObjectiveError, "cross_tokenizer is for causal-lm"),
    ],
    ids=["metric", "cache", "rollout", "packing", "task"],
)
def test_what_cannot_be_done_across_tokenizers_is_refused_before_training(recipe, change, error, message):
    for key, value in change.items():
        together = {**recipe.get(key, {}), **value} if key in ("teacher", "evaluate") else value
        recipe = {**recipe, key: together}
    with pytest.raises(error, match=message):
        check(recipe, report=lambda line: None)


def test_bits_a_byte_are_the_likelihood_of_the_text_over_its_bytes():
    task, made = task_of(), STUDENT()
    model = model_of(made).eval()
    given = ["the card is good", "naïve 東京"]
    encoded = task.encode(Dataset.from_dict({"text": given}), made)
    sizes = [len(text.encode()) for text in given]
    scores = score_tokens(Candidate(model=model, tokenizer=made), task, encoded, sizes=sizes)
    assert scores.bytes.tolist() == sizes
    nats = 0.0
    for text in given:
        ids = torch.tensor([made(text)["input_ids"]])
        with torch.no_grad():
            logits = torch.log_softmax(model(ids).logits[0, :-1], -1)
        nats -= logits.gather(1, ids[0, 1:, None]).sum().item()
    assert scores.metrics()["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(sizes), rel=1e-5)


def test_a_text_of_several_rows_is_one_row_of_the_comparison():
    task, made = task_of(max_length=16), STUDENT()
    given = [" ".join(sentences(3)), "the card is good"]
    encoded = task.encode(Dataset.from_dict({"text": given}), made)
    assert len(encoded) > 2
    scores = score_tokens(
        Candidate(model=model_of(made), tokenizer=made), task, encoded, sizes=[len(text.encode()) for text in given]
    )
    assert len(scores.tokens) == 2
    assert scores.tokens.sum() == sum(label != IGNORED for row in encoded["labels"] for label in row)


def test_packed_rows_tell_their_bytes_too():
    task, made = CausalLanguageModeling(max_length=512), STUDENT()
    given = sentences(4)
    (row,) = task.encode(Dataset.from_dict({"text": given}), made)
    assert row["bytes"] == sum(len(text.encode()) for text in given)
