"""The contracts where labels are sequences (CTC): labels, logits and hidden states over the frames of clips."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hf_distill.errors import ObjectiveError
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.objectives import DKD, Contrastive, Hidden, Labels, Logits, Similarity
from hf_distill.types import IGNORED, Targets, View
from tests.helpers import speech

ROWS, FRAMES, CLASSES, WIDTH, BLANK = 5, 9, 6, 8, 4
REAL = torch.arange(FRAMES) < torch.tensor([9, 4, 7, 2, 8])[:, None]
LABELS = torch.tensor([[1, 1, 2], [3, IGNORED, IGNORED], [0, 5, IGNORED], [IGNORED] * 3, [2, 1, 0]])

CASES = {
    "labels": Labels(),
    **{f"logits-{name}": Logits(divergence=name) for name in DIVERGENCES},
    "logits-blank": Logits(blank_weight=0.25),
    "hidden-mse": Hidden(),
    "hidden-cosine": Hidden(loss="cosine"),
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def view(seed: int = 0) -> View:
    """Clips of unequal lengths, the fourth without a text."""
    return View(
        logits=2 * drawn(ROWS * FRAMES, CLASSES, seed=seed),
        distribution="ctc",
        labels=LABELS,
        masks={"labels": torch.arange(ROWS) != 3, "positions": REAL.flatten(), "tokens": REAL},
        blank=BLANK,
        hidden_states=tuple(drawn(ROWS, FRAMES, WIDTH, seed=seed + i) for i in (1, 2, 3)),
    )


def targets(seed: int = 10) -> Targets:
    logits = 2 * drawn(ROWS * FRAMES, CLASSES, seed=seed)
    logits[::3, BLANK] = 20  # Frames at which the teacher is sure of the blank.
    return Targets(logits=logits, hidden_states=tuple(drawn(ROWS, FRAMES, WIDTH, seed=seed + i) for i in (1, 2, 3)))


def connected(name: str):
    objective = CASES[name]
    config = speech.listener().config
    objective.connect(config, config)
    return objective


def value_and_gradients(name: str, given: View, wanted: Targets):
    logits = given.logits.clone().requires_grad_()
    states = tuple(state.clone().requires_grad_() for state in given.hidden_states)
    total = connected(name).total(replace(given, logits=logits, hidden_states=states), wanted)
    total.backward()
    return total.detach(), [torch.zeros_like(x) if x.grad is None else x.grad for x in (logits, *states)]


@pytest.mark.parametrize("name", CASES)
def test_the_total_is_a_finite_float32_scalar_and_a_sum_over_its_rows(name):
    whole, wanted = view(), targets()
    total = connected(name).total(whole, wanted)
    assert total.dtype == torch.float32
    assert total > 0

    def part(row: int) -> float:
        frames = slice(row * FRAMES, (row + 1) * FRAMES)

        def cut(given):
            states = tuple(state[row : row + 1] for state in given.hidden_states)
            return replace(given, logits=given.logits[frames], hidden_states=states)

        masks = {"labels": whole.masks["labels"][row : row + 1], "positions": REAL[row], "tokens": REAL[row : row + 1]}
        piece = replace(cut(whole), masks=masks, labels=LABELS[row : row + 1])
        return connected(name).total(piece, cut(wanted)).item()

    assert total.item() == pytest.approx(sum(map(part, range(ROWS))), rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_garbage_at_frames_behind_a_clip_changes_neither_value_nor_gradient(name):
    clean, wanted = view(), targets()

    def spoiled(given):
        states = tuple(state.masked_fill(~REAL[..., None], math.nan) for state in given.hidden_states)
        return replace(given, logits=given.logits.masked_fill(~REAL.view(-1, 1), math.nan), hidden_states=states)

    value, gradients = value_and_gradients(name, clean, wanted)
    dirty, dirty_gradients = value_and_gradients(name, spoiled(clean), spoiled(wanted))
    assert torch.equal(value, dirty)
    assert all(torch.equal(a, b) for a, b in zip(gradients, dirty_gradients, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_with_everything_masked_the_total_is_zero_and_finite(name):
    given = view()
    given = replace(given, masks={unit: torch.zeros_like(mask) for unit, mask in given.masks.items()})
    value, gradients = value_and_gradients(name, given, targets())
    assert value == 0
    assert all(gradient.abs().sum() == 0 for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in CASES if name != "labels"])
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(name):
    given = view()
    value, gradients = value_and_gradients(name, given, Targets(logits=given.logits, hidden_states=given.hidden_states))
    assert value.abs() < 1e-4
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients)


@pytest.mark.parametrize("name", CASES)
def test_half_precision_gives_a_float32_loss(name):
    half = replace(
        view(), logits=view().logits.bfloat16(), hidden_states=tuple(x.bfloat16() for x in view().hidden_states)
    )
    total = connected(name).total(half, targets())
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(connected(name).total(view(), targets()).item(), rel=0.03)


def test_the_label_loss_is_a_sum_over_all_ways_to_write_the_labels():
    """By hand: one clip of three frames, and one label that may stand at any of them, once or several times."""
    logits = drawn(3, 3)
    p = logits.softmax(-1)
    ways = [(0, 2, 2), (2, 0, 2), (2, 2, 0), (0, 0, 2), (2, 0, 0), (0, 0, 0)]
    likely = sum(math.prod(p[t, c].item() for t, c in enumerate(way)) for way in ways)
    one = torch.ones(1, 3, dtype=torch.bool)
    given = View(
        logits=logits,
        distribution="ctc",
        labels=torch.tensor([[0, IGNORED]]),
        masks={"labels": one[0, :1], "positions": one[0], "tokens": one},
        blank=2,
    )
    assert Labels().total(given, Targets()).item() == pytest.approx(-math.log(likely), rel=1e-5)


def test_frames_at_which_the_teacher_is_sure_of_the_blank_count_less():
    wanted = targets()
    sure = (wanted.logits.softmax(-1)[:, BLANK] > 0.9) & REAL.flatten()
    assert 0 < sure.sum() < REAL.sum()

    def total(rows, weight=None):
        masks = {**view().masks, "positions": rows}
        return Logits(blank_weight=weight).total(replace(view(), masks=masks), wanted).item()

    blank, other = total(sure), total(REAL.flatten() & ~sure)
    for weight in (0.0, 0.25, 1.0):
        assert total(REAL.flatten(), weight) == pytest.approx(other + weight * blank, rel=1e-5)


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_of_blanks_beyond_a_share_is_refused(weight):
    with pytest.raises(ObjectiveError, match="blank_weight"):
        Logits(blank_weight=weight)


@pytest.mark.parametrize("distribution", ["categorical", "bernoulli"])
def test_a_weight_of_blanks_is_refused_where_there_is_no_blank(distribution):
    with pytest.raises(ObjectiveError, match="have no blank"):
        Logits(blank_weight=0.5).check(distribution)
    Logits(blank_weight=0.5).check("ctc")


@pytest.mark.parametrize("objective", [DKD(), Similarity(), Contrastive()], ids=lambda objective: objective.name)
def test_objectives_that_need_a_label_or_a_vector_at_each_position_are_refused(objective):
    with pytest.raises(ObjectiveError, match="this task's are ctc"):
        objective.check("ctc")
