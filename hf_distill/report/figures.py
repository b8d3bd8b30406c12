"""The figures of a card: PNG, small, readable on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from hf_distill.names import one_line

COLOURS = {"teacher": "#6b7280", "student": "#2563eb", "control": "#d97706"}
TERM_COLOURS = ("#0f766e", "#be185d", "#7c3aed", "#a16207", "#0369a1", "#15803d")
WIDTH, HEIGHT, DOTS = 6.4, 3.8, 100
"""Inches a panel, and dots an inch: 640 pixels wide."""

TERM = "weighted_loss_"
FONT, TICKS = 14, 13
COLOURS_KEPT = 96


def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]], metric: str, path: Path, stages: Sequence[int] = ()
) -> None:
    """The evaluation metric of student and control over the steps, and every term of the student's loss.

    A panel for which nothing was logged is left out.
    """
    student = histories["student"]
    terms = sorted({key for entry in student for key in entry if key.startswith(TERM)})
    # The loss by which models are compared is that of the labels, not the sum of a model's own terms.
    watched = "eval_loss_labels" if metric == "loss" else f"eval_{metric}"
    scores = {name: _points(history, watched) for name, history in histories.items()}
    losses = {key.removeprefix(TERM): _points(student, key) for key in terms}
    panels = [
        (lines, colours, label)
        for lines, colours, label in (
            (scores, [COLOURS[name] for name in scores], f"{_shown(metric)} (validation)"),
            (losses, TERM_COLOURS, "student's weighted loss"),
        )
        if any(lines.values())
    ]
    figure = Figure(figsize=(WIDTH, HEIGHT * max(1, len(panels))), dpi=DOTS, layout="constrained")
    for number, (lines, colours, label) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        for place, (name, points) in enumerate(lines.items()):
            style = "--" if name == "control" else "-"
            colour = colours[place % len(colours)]
            if points:
                how: dict[str, Any] = {"label": _shown(name), "color": colour, "linewidth": 2.5, "marker": "o", "ms": 4}
                axes.plot(*zip(*points, strict=True), style, **how)
        for end in list(accumulate(stages))[:-1]:
            axes.axvline(end, color=COLOURS["teacher"], ls=":", linewidth=1.5)
        if lines is losses and all(loss > 0 for points in losses.values() for _, loss in points):
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel=label)
        _finish(axes)
    save(figure, path)


def quality_against_speed(results: Mapping[str, Any], path: Path) -> None:
    """The deciding metric, with its interval, against throughput; a larger dot has more parameters."""
    metric = results["comparison"]["primary_metric"]
    # Of a served teacher neither is known.
    models = {name: model for name, model in results["models"].items() if "parameters" in model}
    largest = max(model["parameters"] for model in models.values())
    figure = Figure(figsize=(WIDTH, 1.2 * HEIGHT), dpi=DOTS, layout="constrained")
    axes = figure.add_subplot()
    for name, model in models.items():
        score, speed = model["metrics"][metric], model["samples_per_second"]
        # A point may lie a rounding error outside the interval of equal draws.
        reach = [[max(0.0, score["value"] - score["low"])], [max(0.0, score["high"] - score["value"])]]
        axes.errorbar(speed, score["value"], yerr=reach, color=COLOURS[name], capsize=6, linewidth=2, zorder=2)
        area = 60 + 340 * model["parameters"] / largest
        label = f"{name}\n{model['parameters'] / 1e6:,.1f} M"
        axes.scatter(speed, score["value"], s=area, color=COLOURS[name], label=label, alpha=0.85, zorder=3)
    speed = results["speed"]
    axes.set_xlabel(f"rows/s ({speed['device']}, batches of {speed['batch_size']})")
    axes.set_ylabel(f"{_shown(metric)}, 95% interval")
    axes.margins(x=0.2, y=0.15)
    axes.set_xlim(left=0)
    _finish(axes)
    save(figure, path)


def sweep_scores(results: Mapping[str, Any], path: Path) -> None:
    """The score of every student of a sweep along each axis, and the best at each of its values."""
    axes_of_grid = results["axes"]
    best_of = min if results["lower_is_better"] else max
    scored = [entry for entry in results["combinations"] if "value" in entry]
    figure = Figure(figsize=(WIDTH, HEIGHT * len(axes_of_grid)), dpi=DOTS, layout="constrained")
    for number, (key, values) in enumerate(axes_of_grid.items()):
        axes = figure.add_subplot(len(axes_of_grid), 1, number + 1)
        points = [(values.index(entry["values"][key]), entry["value"]) for entry in scored]
        best = {place: best_of(value for at, value in points if at == place) for place in sorted(dict(points))}
        axes.plot(list(best), list(best.values()), "-", color=COLOURS["student"], linewidth=2.5, label="best student")
        places, reached = zip(*points, strict=True)
        axes.scatter(places, reached, s=50, color=COLOURS["student"], alpha=0.5, label="student", zorder=3)
        if results["teacher"] is not None:
            axes.axhline(results["teacher"]["value"], color=COLOURS["teacher"], linewidth=2, ls="--", label="teacher")
        axes.set(xlabel=_shown(key), ylabel=f"{_shown(results['metric'])} (validation)")
        axes.margins(x=0.1, y=0.15)
        _finish(axes)
        ticks = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        axes.set_xticks(range(len(values)), [_shown(text, 12) for text in ticks])
    save(figure, path)


def plan_frontier(results: Mapping[str, Any], path: Path) -> None:
    """The size of every student that was measured against its speed, the frontier and the bounds."""
    bounds, students, teacher = results["bounds"], results["students"], results["teacher"]
    speed = "speedup" if bounds["max_latency_ms"] is None else "latency_ms"
    figure = Figure(figsize=(WIDTH, 1.2 * HEIGHT), dpi=DOTS, layout="constrained")
    axes = figure.add_subplot()
    frontier = sorted((each[speed], each["parameters"] / 1e6) for each in students if each["frontier"])
    axes.plot(*zip(*frontier, strict=True), "-", color=COLOURS["student"], linewidth=2, label="frontier")
    for label, shown, colour, area in (
        ("teacher", [teacher], COLOURS["teacher"], 120),
        ("student", students, COLOURS["student"], 50),
        ("chosen", [results["chosen"]], COLOURS["control"], 160),
    ):
        places, sizes = [each[speed] for each in shown], [each["parameters"] / 1e6 for each in shown]
        axes.scatter(places, sizes, s=area, color=colour, label=label, alpha=0.85, zorder=3)
    for bound, line in (
        (bounds["speedup"] if speed == "speedup" else bounds["max_latency_ms"], axes.axvline),
        (bounds["max_parameters"] and bounds["max_parameters"] / 1e6, axes.axhline),
    ):
        if bound is not None:
            line(bound, color=COLOURS["control"], ls="--", linewidth=1.5)
    told = {"speedup": "times the teacher's rows/s", "latency_ms": "ms a row"}[speed]
    axes.set(xlabel=f"{told} ({results['speed']['device']})", ylabel="million parameters")
    _finish(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())
    save(figure, path)


def _shown(name: str, most: int = 40) -> str:
    """A name of others as matplotlib shows it: no formula, and in the legend though it begins with an underscore."""
    text = one_line(name)
    text = text if len(text) <= most else text[: most - 1] + "…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _points(history: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[key]) for entry in history if key in entry]


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TICKS)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.label.set_fontsize(FONT)
    axes.yaxis.label.set_fontsize(FONT)
    # Above the panel it hides no point.
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
    legend = axes.legend(**above, ncols=3, columnspacing=1.0, handletextpad=0.4, fontsize=TICKS)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([80])


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a small PNG."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A palette makes the file three times smaller; no eye sees it in lines and dots.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS_KEPT).save(path, optimize=True)
