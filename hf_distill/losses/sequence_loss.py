"""Connectionist temporal classification: how likely a row's labels are, wherever they stand among its positions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.types import IGNORED, View


def ctc_of_rows(view: View) -> Tensor:
    """The negative log-likelihood of each row's labels, divided by their number: ``[M]`` float32 of M rows with labels.

    Graves et al. 2006, Connectionist Temporal Classification, equation 12, as Transformers' models compute it with
    ``ctc_loss_reduction: mean``. The positions that count are the first ones of each row.
    """
    assert isinstance(view.logits, Tensor)
    labels, rows = view.labels, view.masks["labels"]
    frames = view.masks["positions"].view(len(rows), -1)[rows]
    # What stands at other positions may be no number, which the gradient of a softmax would spread.
    logits = view.logits.view(len(rows), -1, view.logits.shape[-1])[rows].masked_fill(~frames[..., None], 0.0)
    if labels is None or not len(logits):
        return logits.float().flatten(1).sum(1) * 0.0
    there = labels[rows] != IGNORED
    lengths = there.sum(-1)
    log_probabilities = logits.log_softmax(-1, dtype=torch.float32).transpose(0, 1)
    # cuDNN's knows blank 0 and short rows alone, and is not the same from run to run.
    with torch.backends.cudnn.flags(enabled=False):
        loss = functional.ctc_loss(
            log_probabilities, labels[rows][there], frames.sum(-1), lengths, blank=view.blank, reduction="none"
        )
    return loss / lengths.clamp(min=1)
