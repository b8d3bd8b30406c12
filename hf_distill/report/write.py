"""What a run leaves for people beside its models: the floor, the analysis, the figures and the card."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_distill.artifacts import copy_files, write_json
from hf_distill.data.load import Data
from hf_distill.evaluation.metrics import Predictions, Scored, by_place, primary_metric
from hf_distill.models.load import load_tokenizer
from hf_distill.recipe import Recipe
from hf_distill.report.analysis import error_analysis, token_analysis
from hf_distill.report.analysis_within import answer_analysis, search_analysis, tag_analysis
from hf_distill.report.card import write_card
from hf_distill.report.figures import quality_against_speed, training_curves
from hf_distill.tasks import Task

logger = logging.getLogger(__name__)


def write_report(
    recipe: Recipe,
    task: Task,
    data: Data,
    folder: Path,
    results: dict[str, Any],
    predictions: Mapping[str, Scored],
    histories: Mapping[str, list[dict[str, Any]]],
) -> None:
    """Analysis, figures and card; results.json last, since it marks the run as complete."""
    rows = data.evaluated(recipe.evaluate.split)
    analysis: dict[str, Any] = {}
    (folder / "figures").mkdir(exist_ok=True)
    figures = [folder / "figures" / "training.png"]
    student = folder / "student"
    metric = primary_metric(task, recipe.evaluate)
    stages = results["training"]["student"].get("stages", {})
    training_curves(histories, metric, figures[0], [each["steps"] for each in stages.values()])
    if "teacher" in predictions:
        analysis = _analysis(task, data, rows, predictions, student)
        write_json(folder / "analysis.json", analysis)
        figures.append(folder / "figures" / "quality_against_speed.png")
        quality_against_speed(results, figures[1])
    copy_files(figures, student / "figures")
    write_card(
        student, results, analysis, (folder / "recipe.yaml").read_text(), [f"figures/{path.name}" for path in figures]
    )
    write_json(folder / "results.json", results)


def _analysis(
    task: Task, data: Data, rows: Dataset, predictions: Mapping[str, Scored], student: Path
) -> dict[str, Any]:
    if task.scored_as == "tokens":
        return token_analysis(predictions, task.scored_texts(rows, load_tokenizer(str(student))))
    if task.scored_as == "answers":
        return answer_analysis(predictions, list(rows["question"]), list(rows["context"]))
    if task.problem_type == "retrieval":
        return search_analysis(predictions, list(dict.fromkeys(rows["text_pair"])))
    if task.scored_as == "tags":
        return tag_analysis(predictions, list(rows["tokens"]))
    decided = {name: each for name, each in predictions.items() if isinstance(each, Predictions)}
    if task.problem_type == "similarity":
        decided = {name: by_place(each) for name, each in decided.items()}
        texts = [f"{row['text']} | {row['text_pair']}" for row in rows]
    else:
        texts = list(task.texts(rows))
    lengths = [len(text.split()) for text in texts]
    return error_analysis(decided, texts, lengths, training_rows=task.training_rows(data.train))
