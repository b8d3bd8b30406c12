"""How likely a text is that a model just wrote, from the very logits that it was written by: no second pass.

``generate`` can keep all its scores, but a vocabulary for every step, row and beam is gigabytes. A text can only go on
with a token that some beam of its row has next, or end; so a few numbers a step are enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Likelihood(LogitsProcessor):
    """Sees the scores of every step and keeps those of tokens that texts, ``beams`` a row, may hold or end with."""

    supports_continuous_batching = False

    def __init__(self, beams: int, ends: Sequence[int]) -> None:
        self.beams, self.ends = beams, list(ends)
        self._scores: Tensor | None = None
        self._steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note what the step before went on with; changes nothing."""
        if self._scores is not None:
            self._note(input_ids[:, -1])
        self._scores = scores
        return scores

    def means(self, written: Tensor, beam_indices: Tensor | None) -> tuple[list[float], list[int]]:
        """The mean log probability of each text's tokens, the end among them, and how many they are.

        Texts and the beams that their tokens came from are ``[N, T]``, as ``generate`` gives them after the prompts.
        """
        ends = torch.tensor(self.ends, device=written.device)
        if beam_indices is None:
            is_end = torch.isin(written, ends)
            inside = is_end.cumsum(1) - is_end.long() == 0
            beam_indices = torch.arange(len(written), device=written.device)[:, None].expand_as(written)
        else:
            beam_indices = beam_indices[:, : written.shape[1]].long()
            inside = beam_indices >= 0
        sums = torch.zeros(len(written), device=written.device)
        for step in range(written.shape[1]):
            found = self._of(step, written[:, step], beam_indices[:, step].clamp(min=0))
            sums += torch.where(inside[:, step], found, 0.0)
        counts = inside.sum(1)
        means: list[float] = (sums / counts.clamp(min=1)).tolist()
        return means, counts.tolist()

    def _note(self, tokens: Tensor) -> None:
        """Keep the log probabilities of all tokens that a row's beams have now, and of the ends, under each beam."""
        shared = tokens.view(-1, self.beams).repeat_interleave(self.beams, 0)
        ends = torch.tensor(self.ends, dtype=tokens.dtype, device=tokens.device).expand(len(tokens), -1)
        candidates = torch.cat([shared, ends], dim=1)
        self._steps.append((candidates, self._logs(candidates)))

    def _logs(self, tokens: Tensor) -> Tensor:
        assert self._scores is not None
        found = self._scores.gather(1, tokens)
        # Of beams, scores are log probabilities already.
        return found if self.beams > 1 else found - self._scores.logsumexp(-1, keepdim=True)

    def _of(self, step: int, tokens: Tensor, rows: Tensor) -> Tensor:
        """Of one token a text, each under its own row of scores."""
        if step >= len(self._steps):  # The last step: nothing has followed.
            assert self._scores is not None
            own = self._scores[rows]
            found = own.gather(1, tokens[:, None]).squeeze(1)
            return found if self.beams > 1 else found - own.logsumexp(-1)
        candidates, logs = (each[rows] for each in self._steps[step])
        # A token behind the end of its text may be no candidate; it does not count.
        return logs.masked_fill(candidates != tokens[:, None], -torch.inf).amax(1)
