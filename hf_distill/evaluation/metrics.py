"""Which metrics there are for each kind of answer, and which one decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hf_distill.errors import RecipeError
from hf_distill.evaluation.text_metrics import metric_names
from hf_distill.recipe import EvaluateConfig
from hf_distill.tasks import Task

BITS_PER_BYTE = "bits_per_byte"
"""Of causal language models: the negative log-likelihood of a text in bits, over its bytes. It alone compares models
that cut a text into different tokens."""

AGAINST_TEACHER = ("kl_to_teacher", "agreement")
"""Metrics that there are only where there is a teacher, whose own are 0 and 1."""

OF_TOKENS = ("loss", "perplexity", "accuracy", "calibration_error", *AGAINST_TEACHER)
"""Metrics of each model's own tokens."""

OUT_OF_SCOPE = ("auroc_out_of_scope", "fpr95_out_of_scope")
"""How confidence tells rows of a class from rows of none: the chance that a row in scope is surer than one out of scope
(a tie counts half); and the share of rows out of scope that pass the threshold that 95% of those in scope pass."""

MEASURED: Mapping[str, tuple[str, ...]] = {
    "single_label_classification": (
        "accuracy",
        *(f"{name}_{average}" for average in ("macro", "weighted") for name in ("precision", "recall", "f1")),
    ),
    "multi_label_classification": ("accuracy", "f1_micro", "f1_macro"),
    "regression": ("pearson", "spearman", "mse"),
    "similarity": ("spearman", "pearson"),
    "retrieval": ("ndcg@10", "ndcg@1", "recall@1", "recall@10", "mrr@10"),
    "causal-lm": (*OF_TOKENS, BITS_PER_BYTE),
    **dict.fromkeys(("masked-lm", "translation", "summarization"), OF_TOKENS),
    "token-classification": ("f1", "precision", "recall", "accuracy"),
    "question-answering": ("f1", "exact_match"),
}
"""Metrics of each problem type; those of scorers come on top."""

PRIMARY: Mapping[str, str] = {
    **{problem_type: names[0] for problem_type, names in MEASURED.items()},
    "multi_label_classification": "f1_micro",
    "translation": "bleu",
    "summarization": "rougeL",
}
"""The metric by which models are compared when the recipe names none."""

LOWER_IS_BETTER = frozenset(
    {"mse", "loss", "perplexity", BITS_PER_BYTE, "calibration_error", "kl_to_teacher", "fpr95_out_of_scope"}
)

PASSING = 0.95
"""The share of rows in scope that pass the threshold of confidence."""


def primary_metric(task: Task, config: EvaluateConfig) -> str:
    """Give the metric to compare by: the one that the recipe asks for, or the task's own."""
    judged = metric_names(config.scorers or task.scorers)
    detected = OUT_OF_SCOPE if task.out_of_scope is not None else ()
    known = [*MEASURED[task.problem_type], *detected, *judged]
    if config.metric is None:
        own = PRIMARY[task.problem_type]
        return own if own in known else judged[0]
    if config.metric not in known:
        raise RecipeError(
            f"recipe.evaluate.metric: {config.metric!r} is not measured for {task.problem_type}; "
            f"choose one of {', '.join(known)}"
        )
    return config.metric


def detector(inside: np.ndarray, outside: np.ndarray) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """What scores confidences on resampled rows.

    Args:
        inside: ``[N]``, confidence in rows of a class.
        outside: ``[M]``, confidence in rows of none.

    Returns:
        A function of how often each row was drawn, ``[R, N]`` and ``[R, M]``, that gives ``[R]`` of each metric.
    """
    values, place = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    within, without = place[: len(inside)], place[len(inside) :]

    def score(drawn_inside: np.ndarray, drawn_outside: np.ndarray) -> dict[str, np.ndarray]:
        ours = _by_value(drawn_inside, within, len(values))
        others = _by_value(drawn_outside, without, len(values))
        all_ours, all_others = ours.sum(axis=1), others.sum(axis=1)
        less_sure = others.cumsum(axis=1) - others / 2
        passing = ours[:, ::-1].cumsum(axis=1) >= PASSING * all_ours[:, None] - 1e-9
        wrongly = np.take_along_axis(others[:, ::-1].cumsum(axis=1), passing.argmax(axis=1)[:, None], axis=1)
        return {
            OUT_OF_SCOPE[0]: (ours * less_sure).sum(axis=1) / (all_ours * all_others),
            OUT_OF_SCOPE[1]: wrongly[:, 0] / all_others,
        }

    return score


def _by_value(counts: np.ndarray, place: np.ndarray, values: int) -> np.ndarray:
    """``[R, values]``: how many of the drawn rows have each confidence."""
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    table = np.zeros((len(counts), values))
    table[:, place[order][starts]] = np.add.reduceat(counts[:, order], starts, axis=1)
    return table
