"""Where tests replace what a run does: in one place, so that moving a file breaks no other test."""

from __future__ import annotations

import pytest

from hf_distill.evaluation.scores import Scores


def accept_any_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let teachers teach that know nothing, as tiny random ones do."""
    for name in ("check_above_chance", "check_order"):
        monkeypatch.setattr(Scores, name, lambda *_: None)
