"""Does confidence tell rows of a class from rows of none? Confidence scored as a detector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

METRICS = ("auroc_out_of_scope", "fpr95_out_of_scope")
"""What :func:`detector` measures: the chance that a row in scope is surer than one out of scope (a tie counts half);
and the share of rows out of scope that pass the threshold of confidence that 95% of those in scope pass."""

PASSING = 0.95
"""The share of rows in scope that pass."""

Detector = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


def detector(inside: np.ndarray, outside: np.ndarray) -> Detector:
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
            METRICS[0]: (ours * less_sure).sum(axis=1) / (all_ours * all_others),
            METRICS[1]: wrongly[:, 0] / all_others,
        }

    return score


def _by_value(counts: np.ndarray, place: np.ndarray, values: int) -> np.ndarray:
    """``[R, values]``: how many of the drawn rows have each confidence."""
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    table = np.zeros((len(counts), values))
    table[:, place[order][starts]] = np.add.reduceat(counts[:, order], starts, axis=1)
    return table
