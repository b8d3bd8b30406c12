"""The contracts: every objective and every divergence keeps every rule of the arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig

from hf_distill.errors import ObjectiveError
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.objectives import (
    DKD,
    OBJECTIVES,
    Attention,
    Contrastive,
    Hidden,
    Labels,
    Logits,
    Objective,
    Relation,
    Similarity,
    make_objective,
)
from hf_distill.objectives.layer_maps import spaced_layer_map
from hf_distill.objectives.similarity import Loss
from hf_distill.types import Targets, View

ROWS, CLASSES, TOKENS, WIDTH, LAYERS, HEADS = 6, 5, 7, 8, 2, 4
TEMPERATURES = (1.0, 2.0, 7.5)

CASES: dict[str, Objective] = {
    "labels": Labels(),
    **{f"logits-{name}": Logits(divergence=name) for name in DIVERGENCES},
    "hidden-mse": Hidden(),
    "hidden-cosine": Hidden(loss="cosine"),
    "hidden-projected": Hidden(),
    "relation": Relation(relation_heads=HEADS),
    "relation-wider": Relation(relation_heads=2),
    "relation-minilm": Relation(relations=["qk", "vv"], student_layer=0, teacher_layer=2),
    "attention-kl": Attention(),
    "attention-mse": Attention(loss="mse", layers={0: 1}),
    "dkd": DKD(),
    **{f"similarity-{loss}": Similarity(loss=loss) for loss in get_args(Loss)},
    "similarity-first": Similarity(target="first"),
    "contrastive": Contrastive(),
}
AMONG_TEXTS = [
    name for name, o in CASES.items() if isinstance(o, Contrastive) or getattr(o, "loss", "") in get_args(Loss)[2:]
]
"""Those that compare the texts of a batch, or of a row, with each other."""
WIDER = ("hidden-projected", "relation-wider")
REAL = torch.arange(TOKENS)[None] < torch.tensor([7, 3, 5, 1, 6, 2])[:, None]
LOGITS = [name for name in CASES if name.startswith("logits")]


def config(width: int, layers: int) -> BertConfig:
    return BertConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=HEADS)


def connected(name: str) -> Objective:
    torch.manual_seed(0)
    objective = CASES[name]
    width = WIDTH + 4 if name in WIDER else WIDTH
    objective.connect(config(WIDTH, LAYERS), config(width, 2 * LAYERS))
    return objective


def states(layers: int, width: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(ROWS, TOKENS, width, generator=generator) for _ in range(layers + 1))


def projections(layers: int, width: int, seed: int) -> dict[int, dict[str, torch.Tensor]]:
    parts = {name: states(layers, width, seed + i) for i, name in enumerate("qkv")}
    return {layer: {name: vectors[layer] for name, vectors in parts.items()} for layer in range(layers)}


def attentions(layers: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Maps as models give them: nothing looks at padding."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(layers, ROWS, HEADS, TOKENS, TOKENS, generator=generator)
    return tuple(scores.masked_fill(~REAL[:, None, None], -torch.inf).softmax(-1))


def changed(given: View | Targets, change) -> View | Targets:
    """Whatever is there of the inside of a model, changed."""
    return replace(
        given,
        hidden_states=tuple(change(state) for state in given.hidden_states),
        projections={i: {n: change(x) for n, x in parts.items()} for i, parts in given.projections.items()},
        attentions=tuple(change(maps) for maps in given.attentions),
    )


def inside(given: View) -> list[torch.Tensor]:
    vectors = [vector for parts in given.projections.values() for vector in parts.values()]
    return [*given.hidden_states, *vectors, *given.attentions]


def view(distribution: str = "categorical", seed: int = 0) -> View:
    """A batch whose last row has no label and whose rows have unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(ROWS, CLASSES, generator=generator)
    categorical = distribution == "categorical"
    labels = torch.arange(ROWS) % CLASSES if categorical else torch.rand(ROWS, CLASSES, generator=generator).round()
    labelled = torch.ones(ROWS, dtype=torch.bool)
    labelled[-1] = False
    return View(
        logits=logits,
        distribution=distribution,
        labels=labels,
        masks={"labels": labelled, "positions": torch.ones(ROWS, dtype=torch.bool), "tokens": REAL},
        texts_of_row=3,
        hidden_states=states(LAYERS, WIDTH, seed + 1),
        projections=projections(LAYERS, WIDTH, seed + 2),
        attentions=attentions(LAYERS, seed + 3),
    )


def targets(name: str, seed: int = 10) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    width = WIDTH + 4 if name in WIDER else WIDTH
    logits = 2 * torch.randn(ROWS, CLASSES, generator=generator)
    return Targets(
        logits=logits,
        hidden_states=states(2 * LAYERS, width, seed + 1),
        projections=projections(2 * LAYERS, width, seed + 2),
        attentions=attentions(2 * LAYERS, seed + 3),
    )


def with_gradient(given: View) -> View:
    given = changed(given, lambda tensor: tensor.clone().requires_grad_())
    return replace(given, logits=given.logits.clone().requires_grad_())


def value_and_gradients(name: str, given: View, wanted: Targets) -> tuple[torch.Tensor, list[torch.Tensor]]:
    given = with_gradient(given)
    total = connected(name).total(given, wanted)
    total.backward()
    leaves = [given.logits, *inside(given)]
    return total.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def test_every_objective_in_the_table_has_its_contracts_here():
    assert {type(objective) for objective in CASES.values()} == set(OBJECTIVES.values())


@pytest.mark.parametrize("name", CASES)
def test_the_total_is_a_finite_float32_scalar(name):
    total = connected(name).total(view(), targets(name))
    assert total.shape == ()
    assert total.dtype == torch.float32
    assert total.isfinite()
    assert total > 0


@pytest.mark.parametrize("name", CASES)
def test_garbage_at_masked_places_changes_neither_value_nor_gradient(name):
    clean, wanted = view(), targets(name)
    masks = {**clean.masks, "positions": torch.tensor([True, True, False, True, True, False])}
    masks["labels"] = masks["labels"] & masks["positions"]
    clean = replace(clean, masks=masks)
    hidden = ~masks["tokens"]
    rows = ~masks["positions"]

    def spoiled(tensor):
        return tensor.masked_fill(hidden[:, None, :, None] if tensor.dim() == 4 else hidden[..., None], math.nan)

    labels = clean.labels.masked_fill(~masks["labels"], -100)
    dirty = replace(changed(clean, spoiled), labels=labels, logits=clean.logits.masked_fill(rows[:, None], math.inf))
    dirty_targets = replace(changed(wanted, spoiled), logits=wanted.logits.masked_fill(rows[:, None], math.nan))
    value, gradients = value_and_gradients(name, clean, wanted)
    dirty_value, dirty_gradients = value_and_gradients(name, dirty, dirty_targets)
    assert torch.equal(value, dirty_value)
    assert all(torch.equal(a, b) for a, b in zip(gradients, dirty_gradients, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_with_everything_masked_the_total_is_zero_and_finite(name):
    given = view()
    given = replace(given, masks={unit: torch.zeros_like(mask) for unit, mask in given.masks.items()})
    value, gradients = value_and_gradients(name, given, targets(name))
    assert value == 0
    assert all(gradient.abs().sum() == 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("distribution", "padded"),
    [("categorical", False), ("categorical", True), ("bernoulli", False)],
    ids=["categorical", "padded vocabulary", "bernoulli"],
)
@pytest.mark.parametrize(
    "objective",
    [
        Logits(divergence="mse"),
        *(Logits(divergence=d, temperature=t) for d in DIVERGENCES if d != "mse" for t in TEMPERATURES),
    ],
    ids=lambda objective: f"{objective.divergence}-{objective.options.get('temperature', '')}",
)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(objective, distribution, padded):
    logits = view().logits.clone()
    if padded:
        logits[:, -2:] = -torch.inf
    given = with_gradient(replace(view(), logits=logits, distribution=distribution))
    total = objective.total(given, Targets(logits=logits))
    total.backward()
    assert total.abs() < 1e-5
    assert given.logits.grad.isfinite().all()
    assert given.logits.grad.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["hidden-mse", "hidden-cosine"])
def test_equal_hidden_states_have_no_loss_and_no_gradient(name):
    objective = Hidden(loss=name.removeprefix("hidden-"))
    objective.connect(config(WIDTH, LAYERS), config(WIDTH, LAYERS))
    given = with_gradient(view())
    total = objective.total(given, Targets(hidden_states=tuple(s.detach() for s in given.hidden_states)))
    total.backward()
    assert total.abs() < 1e-4
    assert all(s.grad is None or s.grad.abs().max() < 1e-5 for s in given.hidden_states)


@pytest.mark.parametrize("name", ["relation", "relation-minilm", "attention-kl", "attention-mse", "dkd"])
def test_equal_models_have_no_loss_and_no_gradient(name):
    objective = connected(name)
    objective.layer_map = {0: 0}
    given = with_gradient(view())
    scores = torch.randn(ROWS, HEADS, TOKENS, TOKENS).requires_grad_()
    maps = scores.masked_fill(~REAL[:, None, None], -torch.inf).softmax(-1)
    given = replace(given, attentions=(maps,))
    seen = changed(given, torch.Tensor.detach)
    wanted = Targets(logits=given.logits.detach(), projections=seen.projections, attentions=seen.attentions)
    total = objective.total(given, wanted)
    total.backward()
    leaves = [given.logits, scores, *given.projections[0].values()]
    assert total.abs() < 1e-5
    assert all(leaf.grad is None or leaf.grad.abs().max() < 1e-5 for leaf in leaves)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_the_factor_of_the_squared_temperature_keeps_the_size_of_the_gradient(divergence):
    sizes = []
    for temperature in (10.0, 20.0, 40.0):
        given = with_gradient(replace(view(), logits=view().logits * 0.1))
        Logits(divergence=divergence, temperature=temperature).total(given, targets("x")).backward()
        sizes.append(given.logits.grad.norm().item())
    assert max(sizes) / min(sizes) < 1.15


def test_at_a_high_temperature_forward_kl_becomes_half_the_squared_difference():
    kl = Logits(temperature=1000.0).total(view(), targets("x"))
    squared = Logits(divergence="mse").total(view(), targets("x"))
    assert kl.item() == pytest.approx(squared.item() / 2, rel=0.02)


@pytest.mark.parametrize("name", LOGITS)
def test_the_gradient_of_a_divergence_is_that_of_its_formula_in_float64(name):
    divergence = DIVERGENCES[CASES[name].divergence]
    student = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(3))
    teacher = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(4))
    step, direction = 1e-2, torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(5))
    leaf = student.clone().requires_grad_()
    divergence(leaf, teacher).sum().backward()
    ahead, behind = (divergence(student + s * step * direction, teacher).sum() for s in (1, -1))
    assert (leaf.grad * direction).sum().item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=2e-2)


def test_forward_kl_and_jsd_are_those_of_the_textbook():
    p, q = (torch.softmax(x.double(), -1) for x in (targets("x").logits, view().logits))
    kl = (p * (p / q).log()).sum(-1)
    assert torch.allclose(DIVERGENCES["forward_kl"](view().logits, targets("x").logits).double(), kl, atol=1e-5)
    assert torch.allclose(
        DIVERGENCES["reverse_kl"](view().logits, targets("x").logits).double(), (q * (q / p).log()).sum(-1), atol=1e-5
    )
    m = 0.3 * p + 0.7 * q
    jsd = 0.3 * (p * (p / m).log()).sum(-1) + 0.7 * (q * (q / m).log()).sum(-1)
    assert torch.allclose(DIVERGENCES["jsd"](view().logits, targets("x").logits, beta=0.3).double(), jsd, atol=1e-5)


def test_bernoulli_forward_kl_is_the_mean_over_the_classes_of_yes_and_no():
    p, q = (torch.sigmoid(x.double()) for x in (targets("x").logits, view().logits))
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(-1)
    value = DIVERGENCES["forward_kl"](view().logits, targets("x").logits, distribution="bernoulli")
    assert torch.allclose(value.double(), kl, atol=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_classes_that_the_teacher_rules_out_add_nothing(divergence):
    student, teacher = view().logits.clone().requires_grad_(), targets("x").logits.clone()
    teacher[:, -1] = -torch.inf
    value = DIVERGENCES[divergence](student, teacher)
    value.sum().backward()
    assert value.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_half_precision_models_give_a_float32_loss(name):
    given, wanted = view(), targets(name)
    half, half_targets = (
        replace(changed(each, torch.Tensor.bfloat16), logits=each.logits.bfloat16()) for each in (given, wanted)
    )
    total = connected(name).total(half, half_targets)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(connected(name).total(given, wanted).item(), rel=0.03)


@pytest.mark.parametrize("name", [name for name in CASES if name not in (*AMONG_TEXTS, "similarity-first")])
def test_a_total_is_a_sum_over_its_rows(name):
    whole, wanted = view(), targets(name)

    def part(rows: slice):
        piece, aim = (
            replace(changed(each, lambda tensor: tensor[rows]), logits=each.logits[rows]) for each in (whole, wanted)
        )
        masks = {unit: mask[rows] for unit, mask in whole.masks.items()}
        return connected(name).total(replace(piece, labels=whole.labels[rows], masks=masks), aim).item()

    parts = [part(slice(0, 2)), part(slice(2, 5)), part(slice(5, 6))]
    assert connected(name).total(whole, wanted).item() == pytest.approx(sum(parts), rel=1e-5)


def test_labels_give_the_loss_that_transformers_heads_give():
    given = view()
    mask = given.masks["labels"]
    expected = functional.cross_entropy(given.logits[mask], given.labels[mask])
    assert (Labels().total(given, Targets()) / mask.sum()).item() == pytest.approx(expected.item())
    several = view("bernoulli")
    expected = functional.binary_cross_entropy_with_logits(several.logits[mask], several.labels[mask])
    assert (Labels().total(several, Targets()) / mask.sum()).item() == pytest.approx(expected.item())
    real = replace(view("real"), logits=view().logits[:, :1], labels=torch.rand(ROWS))
    expected = functional.mse_loss(real.logits[mask].squeeze(), real.labels[mask])
    assert (Labels().total(real, Targets()) / mask.sum()).item() == pytest.approx(expected.item())


def test_every_mapped_layer_gets_a_gradient_the_last_included():
    objective = Hidden()
    objective.connect(config(WIDTH, LAYERS), config(WIDTH, 2 * LAYERS))
    given = with_gradient(view())
    objective.total(given, targets("hidden-mse")).backward()
    embeddings, *layers = given.hidden_states
    assert embeddings.grad is None
    assert all(layer.grad.abs().sum() > 0 for layer in layers)


def plain_relation(first, second, heads):
    """Of one row of vectors ``[tokens, width]``, as MiniLMv2 writes it, in float64."""
    width = first.shape[-1] // heads
    found = []
    for head in range(heads):
        a, b = (each.double()[:, head * width : (head + 1) * width] for each in (first, second))
        found.append(torch.softmax(a @ b.T / math.sqrt(width), -1))
    return torch.stack(found)


@pytest.mark.parametrize("name", ["relation", "relation-wider", "relation-minilm"])
def test_a_relation_is_that_of_the_paper_over_the_real_tokens_alone(name):
    objective, given, wanted = connected(name), view(), targets(name)
    ((own, other),) = objective.layer_map.items()
    expected = 0.0
    for row, count in enumerate(REAL.sum(-1)):
        for first, second in objective.relations:
            p, q = (
                plain_relation(parts[first][row, :count], parts[second][row, :count], objective.heads)
                for parts in (wanted.projections[other], given.projections[own])
            )
            expected += (p * (p / q).log()).sum(-1).mean(0).sum().item()
    assert objective.total(given, wanted).item() == pytest.approx(expected, rel=1e-5)


def test_attention_is_compared_head_by_head_or_by_means_where_heads_are_fewer():
    given, wanted = view(), targets("attention-kl")
    p, q = wanted.attentions[1], given.attentions[0]
    squared = Attention(loss="mse", layers={0: 1})
    squared.connect(config(WIDTH, LAYERS), config(WIDTH, 2 * LAYERS))
    by_head = (p - q).square().sum(-1).mean(1)[REAL].sum().item()
    assert squared.total(given, wanted).item() == pytest.approx(by_head, rel=1e-5)
    fewer = replace(given, attentions=tuple(maps[:, :2] for maps in given.attentions))
    by_means = (p.mean(1) - q[:, :2].mean(1)).square().sum(-1)[REAL].sum().item()
    assert squared.total(fewer, wanted).item() == pytest.approx(by_means, rel=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_decoupled_distillation_with_the_weights_of_the_teacher_is_the_plain_one(temperature):
    objective = DKD(temperature=temperature)
    student, teacher, labels = view().logits, targets("dkd").logits, view().labels
    target, other = objective.parts(student, teacher, labels)
    share = (teacher / temperature).softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    plain = DIVERGENCES["forward_kl"](student, teacher, temperature=temperature)
    assert torch.allclose((target + (1 - share) * other) * temperature**2, plain, atol=1e-5)


def test_decoupled_distillation_weighs_its_parts_on_labelled_rows_alone():
    given, wanted = view(), targets("dkd")
    mask = given.masks["labels"]
    objective = DKD(alpha=0.5, beta=3.0, temperature=2.0)
    target, other = objective.parts(given.logits[mask], wanted.logits[mask], given.labels[mask])
    assert objective.total(given, wanted).item() == pytest.approx(4 * (0.5 * target + 3 * other).sum().item(), rel=1e-5)


def test_the_spaced_map_ends_with_the_last_layer_of_both():
    assert spaced_layer_map(3, 6) == {0: 1, 1: 3, 2: 5}
    assert spaced_layer_map(6, 12)[5] == 11
    assert spaced_layer_map(5, 12)[4] == 11
    assert spaced_layer_map(4, 4) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_negative_layers_count_from_the_end():
    objective = Hidden(layers={0: 0, -1: -1})
    objective.connect(config(WIDTH, 3), config(WIDTH, 12))
    assert objective.layer_map == {0: 0, 2: 11}


def test_a_student_layer_named_twice_is_refused():
    with pytest.raises(ObjectiveError, match="names a student layer twice"):
        Hidden(layers={1: 0, -1: 2}).connect(config(8, 2), config(8, 3))


def test_the_chosen_map_and_the_projections_are_told():
    lines = Hidden().connect(config(8, 2), config(12, 4))
    assert "0 <- 1, 1 <- 3" in lines[0]
    assert "8 -> 12" in lines[1]


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Logits(temperature=0.0), "temperature"),
        (lambda: Logits(temperature=math.nan), "temperature"),
        (lambda: Logits(divergence="kl"), "forward_kl"),
        (lambda: Logits(divergence="mse", temperature=2.0), "does nothing"),
        (lambda: Logits(beta=0.5), "does nothing"),
        (lambda: Logits(divergence="jsd", beta=1.0), "beta"),
        (lambda: Labels(weight=-1.0), "weight"),
        (lambda: Labels(weight=math.inf), "weight"),
        (lambda: Labels(weight={"from": 1.0, "to": 0.1, "shap": "cosine"}), "from, to and shape"),
        (lambda: Labels(weight={"from": 1.0}), "from, to and shape"),
        (lambda: Labels(weight={"from": 1.0, "to": 0.1, "shape": "step"}), "linear, cosine"),
        (lambda: Labels(weight={"from": -1.0, "to": 0.1}), "labels: weight"),
        (lambda: Logits(temperature={"from": 4, "to": 0}), "logits: temperature"),
        (lambda: Logits(divergence="mse", temperature={"from": 4, "to": 1}), "does nothing"),
        (lambda: Hidden(loss="l1"), "cosine"),
        (lambda: Hidden(layers={0: "1"}), "mapping"),
        (lambda: Hidden(layers=[1, 2]), "mapping"),
        (lambda: Hidden(layers={5: 0}).connect(config(8, 2), config(8, 4)), "out of range"),
        (lambda: Relation(relations=["qq", "kq"]), "qq, kk, vv, qk"),
        (lambda: Relation(relations="qq"), "list"),
        (lambda: Relation(relations=["vv", "vv"]), "twice"),
        (lambda: Relation(relation_heads=0), "relation_heads"),
        (lambda: Relation(teacher_layer="last"), "teacher_layer"),
        (lambda: Relation(teacher_layer=9).connect(config(8, 2), config(8, 4)), "relation: layer 9 of the teacher"),
        (lambda: Attention(loss="l1"), "one of kl, mse"),
        (lambda: Attention(layers={0: 0.5}), "mapping"),
        (lambda: DKD(alpha=-1.0), "alpha"),
        (lambda: DKD(alpha=0.0, beta=0.0), "nothing to learn"),
        (lambda: DKD(temperature=0.0), "temperature"),
        (lambda: DKD().check("bernoulli"), "categorical"),
        (lambda: make_objective("logit", {}), "labels, logits, hidden"),
        (lambda: make_objective("logits", {"temprature": 2}), "temperature"),
        (lambda: make_objective("no.such.module:Loss", {}), "cannot be imported"),
        (lambda: make_objective("math:pi", {}), "standard library"),
        (lambda: Logits().check("real"), "mse"),
    ],
)
def test_wrong_options_are_refused_with_a_hint(make, part):
    with pytest.raises(ObjectiveError, match=part):
        make()


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.75), ("cosine", 1 - 0.5 * (1 - math.sqrt(0.5)) / 2)])
def test_what_is_scheduled_goes_from_one_value_to_another(shape, middle):
    objective = Logits(weight={"from": 1.0, "to": 0.5, "shape": shape}, temperature={"from": 4, "to": 2})
    seen = []
    for fraction in (0.0, 0.5 if shape == "linear" else 0.25, 1.0):
        objective.at(fraction)
        seen.append(objective.weight)
    assert seen == pytest.approx([1.0, middle, 0.5])
    assert objective.options["temperature"] == 2.0
    assert objective.total(view(), targets("x")) == Logits(temperature=2.0).total(view(), targets("x"))


@pytest.mark.parametrize("make", [Logits, DKD])
def test_a_temperature_starts_where_its_schedule_does(make):
    moving, still = make(temperature={"from": 3.0, "to": 1.0}), make(temperature=3.0)
    assert moving.total(view(), targets("x")) == still.total(view(), targets("x"))
    moving.at(1.0)
    assert moving.total(view(), targets("x")) == make(temperature=1.0).total(view(), targets("x"))


def test_an_objective_of_ones_own_is_named_by_its_dotted_path():
    assert isinstance(make_objective("hf_distill.objectives.logits:Logits", {"temperature": 4.0}), Logits)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"needs": frozenset()}, r"\.Own: unit: expected one of labels, positions, tokens, sources, batches, got none"),
        ({"unit": "rows", "needs": frozenset()}, "unit: expected one of labels, .*, got 'rows'"),
        ({"unit": frozenset({"labels"}), "needs": frozenset()}, "unit: expected one of"),
        ({"unit": "labels"}, "needs: expected a set of labels, .*attentions, got none"),
        ({"unit": "labels", "needs": "logits"}, "needs: expected a set of .*, got 'logits'"),
        ({"unit": "labels", "needs": frozenset({"logit"})}, r"needs: expected a set of .*logits.*, got \['logit'\]"),
        ({"unit": "labels", "needs": frozenset(), "distributions": {"binary"}}, "distributions: .*bernoulli"),
    ],
)
def test_a_class_without_what_an_objective_says_is_refused_where_it_is_defined(attributes, message):
    with pytest.raises(ObjectiveError, match=message):
        type("Own", (Objective,), attributes)
