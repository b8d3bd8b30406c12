"""The tables at the end of a run, of a sweep and of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from hf_distill.names import one_line
from hf_distill.report.card import verdict
from hf_distill.report.card_making import primary_metric
from hf_distill.secrets import told


def results_table(results: Mapping[str, Any]) -> Table:
    """Teacher, student and control side by side; the caption tells the comparison."""
    comparison, metric = results.get("comparison"), primary_metric(results)
    lines = []
    if comparison:
        smaller = ""
        if (share := comparison["size_ratio"]) is not None:
            smaller = f": {share:.2f} of the teacher's parameters, {comparison['speedup']:.1f} times its speed"
        is_share = comparison["retention"] and not comparison["lower_is_better"]
        kept = f", {100 * comparison['retention']:.1f}% of its {metric}" if is_share else ""
        lines += [f"student{smaller}{kept}"] if smaller or kept else []
        if comparison["student_minus_control"]:
            lines.append(verdict(comparison))
    table = Table(title=_plain(results["name"], "table.title"), caption=_caption(*lines), caption_justify="left")
    table.add_column("model")
    for name in (metric, "95% interval", "parameters", "MB on disk", "latency ms", "rows/s"):
        table.add_column(_plain(name), justify="right")
    for name, model in results["models"].items():
        score = model["metrics"][metric]
        sizes = ["served", "", "", ""]
        if "parameters" in model:
            sizes = [f"{model['parameters']:,}", f"{model['disk_bytes'] / 1e6:.1f}"]
            sizes += [f"{model['latency_ms']:.2f}", f"{model['samples_per_second']:.0f}"]
        table.add_row(_plain(name), f"{score['value']:.4f}", f"{score['low']:.4f} to {score['high']:.4f}", *sizes)
    if "floor" in results:
        table.add_row("bag of words", f"{results['floor']['accuracy']:.4f}", "", "", "", "", "")
    return table


def sweep_table(results: Mapping[str, Any]) -> Table:
    """The students of a sweep, the best first, below their teacher."""
    metric, sign = results["metric"], 1 if results["lower_is_better"] else -1
    teacher = results["teacher"]
    read = f"; the teacher read {teacher['rows_read']:,} rows for all students" if teacher else ""
    caption = f"{metric} on {results['rows']} validation rows{read}"
    table = Table(
        title=_plain(f"{results['name']}: sweep", "table.title"), caption=_caption(caption), caption_justify="left"
    )
    for key in results["axes"]:
        table.add_column(_plain(key), justify="right", overflow="fold")
    table.add_column(_plain(metric), justify="right")
    table.add_column("seconds", justify="right")
    if teacher:
        table.add_row("teacher", *[""] * (len(results["axes"]) - 1), f"{teacher['value']:.4f}", "")
    best = results["best"]["values"]
    for entry in sorted(results["combinations"], key=lambda entry: sign * entry.get("value", sign * float("inf"))):
        seconds = entry.get("seconds")
        table.add_row(
            *map(_plain, entry["values"].values()),
            f"{entry['value']:.4f}" if "value" in entry else "failed",
            "" if seconds is None else f"{seconds:.1f}",
            style="bold" if entry["values"] == best else None,
        )
    return table


def plan_table(results: Mapping[str, Any]) -> Table:
    """The students that were measured, the largest first; an asterisk marks the frontier."""
    chosen, speed = results["chosen"]["name"], results["speed"]
    caption = _caption(
        "* on the frontier: none is larger and faster",
        f"medians, and quartiles of latency; on {speed['device']}, {speed['dtype']}, batches of {speed['batch_size']}",
    )
    table = Table(title=_plain(f"{results['name']}: plan", "table.title"), caption=caption, caption_justify="left")
    table.add_column("student")
    for name in ("parameters", "latency ms", "quartiles", "rows/s", "speedup", ""):
        table.add_column(name, justify="right")
    for entry in ({"name": "teacher", **results["teacher"]}, *results["students"]):
        low, high = entry["latency_quartiles"]
        table.add_row(
            _plain(entry["name"] + (" *" if entry.get("frontier") else "")),
            f"{entry['parameters']:,}",
            f"{entry['latency_ms']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{entry['samples_per_second']:.0f}",
            f"{entry['speedup']:.2f}",
            "chosen" if entry["name"] == chosen else "fits" if entry.get("keeps_to_bounds") else "",
            style="bold" if entry["name"] == chosen else None,
        )
    return table


def _plain(value: Any, style: str = "") -> Text:
    """A value as it is: Rich would read styles, links and emojis out of a text."""
    return Text(told(one_line(value)), style)


def _caption(*lines: str) -> Text | None:
    return Text("\n".join(map(one_line, lines)), "table.caption") if lines else None
