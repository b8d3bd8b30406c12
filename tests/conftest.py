"""What every test may use: no network, no telemetry, tiny models and tiny data made in memory."""

from __future__ import annotations

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    OMP_WAIT_POLICY="PASSIVE",
    OMP_NUM_THREADS="1",  # Here and in every process that a test starts: sums in another order are other weights.
    TOKENIZERS_PARALLELISM="false",
)

import re
import shutil
from pathlib import Path

import pytest

from hf_distill.recipe.data import LOADERS

HELPERS = Path(__file__).parent / "helpers"
# Recipes of the tests name functions there for their rows, which need no more leave than those of the package do.
for module in ("data", "tiny", "toy_task", "whispers"):
    functions = re.findall(r"^def (\w+)", (HELPERS / f"{module}.py").read_text(), re.M)
    LOADERS |= {f"tests.helpers.{module}:{name}" for name in functions}

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real data sets beside the checkout, where a machine has them."""
    if not DATA.is_dir():
        pytest.skip(f"no real data beside the checkout ({DATA})")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def measured_once():
    """Speeds are measured in one round: they tell nothing in a test, and runs would take a third longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_distill.evaluation.speed.ROUNDS", 1)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a complete run: a teacher made by its recipe, a narrower student with projections, a control."""
    from hf_distill import run
    from tests.helpers import tiny

    runs = tmp_path_factory.mktemp("runs")
    return run(tiny.recipe(), runs=runs, report=lambda line: None).folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The same, with its teacher, for a test that changes it: no other test may see that."""
    shutil.copytree(finished.parent, tmp_path / "runs")
    return tmp_path / "runs" / finished.name
