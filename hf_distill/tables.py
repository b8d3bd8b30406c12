"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rich.table import Table

from hf_distill.card import verdict


def results_table(results: Mapping[str, Any]) -> Table:
    """Teacher, student and control side by side; the caption tells the comparison.

    Args:
        results: The content of ``results.json``.
    """
    comparison = results.get("comparison")
    metric = comparison["primary_metric"] if comparison else results["primary_metric"]
    table = Table(title=results["name"], caption=_caption(comparison), caption_justify="left")
    columns: tuple[tuple[str, Literal["left", "right"]], ...] = (
        ("model", "left"),
        (metric, "right"),
        ("95% interval", "right"),
        ("parameters", "right"),
        ("MB on disk", "right"),
        ("latency ms", "right"),
        ("rows/s", "right"),
    )
    for name, side in columns:
        table.add_column(name, justify=side)
    for name, model in results["models"].items():
        score = model["metrics"][metric]
        table.add_row(
            name,
            f"{score['value']:.4f}",
            f"{score['low']:.4f} to {score['high']:.4f}",
            f"{model['parameters']:,}",
            f"{model['disk_bytes'] / 1e6:.1f}",
            f"{model['latency_ms']:.2f}",
            f"{model['samples_per_second']:.0f}",
        )
    if "floor" in results:
        table.add_row("bag of words", f"{results['floor']['accuracy']:.4f}", "", "", "", "", "")
    return table


def _caption(comparison: Mapping[str, Any] | None) -> str | None:
    if comparison is None:
        return None
    lines = [
        f"student: {comparison['size_ratio']:.2f} of the teacher's parameters, "
        f"{comparison['speedup']:.1f} times its speed"
        + (
            f", {100 * comparison['retention']:.1f}% of its {comparison['primary_metric']}"
            if comparison["retention"]
            else ""
        )
    ]
    if comparison["student_minus_control"]:
        lines.append(verdict(comparison))
    return "\n".join(lines)
