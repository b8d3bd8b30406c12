"""A few of many cases for the fast suite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int = 6) -> list[Any]:
    """All cases for ``pytest.mark.parametrize``, of which all but every sixth are slow; a tuple gives several."""
    slow = pytest.mark.slow
    given = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=slow if i % every else ()) for i, case in enumerate(given)]
