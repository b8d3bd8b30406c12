"""The figures of a card: PNG, small, readable on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = {"teacher": "#6b7280", "student": "#2563eb", "control": "#d97706"}
SIZE, DOTS = (6.4, 4.0), 100


def training_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], metric: str, path: Path) -> None:
    """The evaluation metric of student and control over the steps, and every term of the student's loss.

    Args:
        histories: Trainer's ``log_history`` by model.
        metric: The one that decides; drawn from ``eval_<metric>``.
        path: The PNG to write.
    """
    figure = Figure(figsize=(SIZE[0], 1.7 * SIZE[1]), dpi=DOTS, layout="constrained")
    above, below = figure.subplots(2, 1)
    for name, history in histories.items():
        _line(above, history, f"eval_{metric}", name, COLOURS[name])
    above.set(ylabel=f"{metric}, validation", xlabel="step")
    student = histories["student"]
    terms = sorted({key for entry in student for key in entry if key.startswith("weighted_loss_")})
    for key in terms:
        _line(below, student, key, key.removeprefix("weighted_loss_"), None)
    below.set(ylabel="weighted loss, student", xlabel="step", yscale="log")
    for axes in (above, below):
        _finish(axes)
    _save(figure, path)


def quality_against_speed(results: Mapping[str, Any], path: Path) -> None:
    """The deciding metric, with its interval, against throughput; a larger dot has more parameters.

    Args:
        results: The content of ``results.json``.
        path: The PNG to write.
    """
    metric = results["comparison"]["primary_metric"]
    largest = max(model["parameters"] for model in results["models"].values())
    figure = Figure(figsize=SIZE, dpi=DOTS, layout="constrained")
    axes = figure.subplots()
    for name, model in results["models"].items():
        score, speed = model["metrics"][metric], model["samples_per_second"]
        reach = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
        axes.errorbar(speed, score["value"], yerr=reach, color=COLOURS[name], capsize=4, linewidth=1.5)
        area = 60 + 340 * model["parameters"] / largest
        label = f"{name}, {model['parameters'] / 1e6:.1f} M"
        axes.scatter(speed, score["value"], s=area, color=COLOURS[name], label=label, alpha=0.85)
    axes.set(xlabel=f"rows a second ({results['speed']['device']})", ylabel=metric)
    axes.margins(x=0.2)
    _finish(axes)
    _save(figure, path)


def _line(axes: Axes, history: Sequence[Mapping[str, float]], key: str, label: str, colour: str | None) -> None:
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, color=colour, linewidth=2, marker="o", markersize=3)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11)
    axes.xaxis.label.set_fontsize(12)
    axes.yaxis.label.set_fontsize(12)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(fontsize=11, frameon=False)
        for handle in legend.legend_handles:
            if hasattr(handle, "set_sizes"):
                handle.set_sizes([60])


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
