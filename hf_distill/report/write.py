"""What a run leaves for people beside its models: the analysis, the figures and the card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_distill.artifacts import copy_files, write_json, write_text
from hf_distill.data.rows import Data
from hf_distill.data.sources import is_public
from hf_distill.evaluation.analysis import Evaluated
from hf_distill.evaluation.metrics import primary_metric
from hf_distill.evaluation.scores import Scores
from hf_distill.recipe import Recipe
from hf_distill.recipe.yaml_text import yaml_text
from hf_distill.report.card import model_card
from hf_distill.report.card_contents import card_facts, portable_facts, without_rows
from hf_distill.report.figures import quality_against_speed, training_curves
from hf_distill.report.pictures import show_wrong
from hf_distill.tasks import Task
from hf_distill.tokenizers.processors import load_processor


def write_report(
    recipe: Recipe,
    task: Task,
    data: Data,
    folder: Path,
    results: dict[str, Any],
    predictions: Mapping[str, Scores],
    histories: Mapping[str, list[dict[str, Any]]],
) -> None:
    """Analysis, figures and card; results.json last, since it marks the run as complete."""
    analysis: dict[str, Any] = {}
    (folder / "figures").mkdir(exist_ok=True)
    figures = [folder / "figures" / "training.png"]
    student = folder / "student"
    metric = primary_metric(task, recipe.evaluate)
    stages = results["training"]["student"].get("stages", {})
    training_curves(histories, metric, figures[0], [each["steps"] for each in stages.values()])
    if "teacher" in predictions:
        rows, tokenizer = data.evaluated(recipe.evaluate.split), load_processor(task.auto_processor, str(student))
        evaluated = Evaluated(task=task, rows=rows, train=data.train, tokenizer=tokenizer)
        analysis = predictions["student"].analysis(predictions, evaluated)
        write_json(folder / "analysis.json", analysis)
        figures.append(folder / "figures" / "quality_against_speed.png")
        quality_against_speed(results, figures[1])
    copy_files(figures, student / "figures")
    shown = [f"figures/{path.name}" for path in figures]
    quotes = is_public(recipe.data) if recipe.evaluate.examples is None else recipe.evaluate.examples
    said = analysis if quotes else without_rows(analysis)
    results["card"] = card_facts(recipe, said, len(results["data"]["labels"]))
    pictures = folder / "figures" / "mistaken.png"
    if quotes and (count := show_wrong(task, data.evaluated(recipe.evaluate.split), predictions["student"], pictures)):
        copy_files([pictures], student / "figures")
        shown.append("figures/mistaken.png")
        results["card"]["quoted_rows"] += count
    card = model_card(results, said, yaml_text(portable_facts(recipe.to_dict())), shown)
    write_text(student / "README.md", str(card))
    write_json(folder / "results.json", results)
