"""Refuse, before a model is loaded, what no teacher could write or nobody could judge."""

from __future__ import annotations

from datasets import Dataset, concatenate_datasets

from hf_distill.data.rows import Data
from hf_distill.errors import DataError, RecipeError
from hf_distill.evaluation.metrics import make_scorers
from hf_distill.evaluation.predict import check_generation
from hf_distill.recipe import LabelConfig
from hf_distill.tasks import Task

WITHOUT_SCORER = "rouge"
"""What judges texts against references where a task has no scorer of its own."""


def check_label(config: LabelConfig | None, task: Task, data: Data) -> None:
    """Refuse what cannot be written or judged for these rows."""
    if config is None:
        if data.unlabelled is not None:
            task.check_unlabelled()
        return
    check_generation(config.generation, "recipe.label.generation", "label.hypotheses tells how many; remove it")
    make_scorers(scorer_of(config, task), "recipe.label.scorer")
    if config.filters.length_ratio is not None and not task.written_after_texts:
        raise RecipeError(
            f"recipe.label.filters.length_ratio: in {task.name} nothing that texts are written after has tokens to "
            "compare theirs with; use repetition, compression_ratio or mean_log_probability"
        )
    assert isinstance(data.train, Dataset)
    task.with_answers(data.train.select(range(1)), None)
    if data.unlabelled is None:
        return
    rows_to_write_for(task, data)
    if config.scores:
        key = "choose" if config.choose == "best" else "scorer" if config.scorer else "filters.reference_score"
        raise RecipeError(
            f"recipe.label.{key}: texts are judged against what the data say, and {len(data.unlabelled)} unlabelled "
            "rows say nothing; label them in a recipe of their own, or remove it"
        )


def rows_to_write_for(task: Task, data: Data) -> Dataset:
    """All rows that a teacher writes for, the unlabelled ones last; its place is the id of a row."""
    assert isinstance(data.train, Dataset)
    if data.unlabelled is None:
        return data.train
    more = task.with_answers(data.unlabelled, None)
    if missing := [name for name in data.train.column_names if name not in more.column_names]:
        raise DataError(
            f"the unlabelled rows have no column {', '.join(missing)}, which the training rows have; the teacher "
            "writes for both alike: add it"
        )
    more = more.select_columns(data.train.column_names).cast(data.train.features)
    return concatenate_datasets([data.train, more])


def scorer_of(config: LabelConfig, task: Task) -> tuple[str, ...]:
    """What judges texts against references: one name, or none where nothing is judged."""
    return (config.scorer or (*task.scorers, WITHOUT_SCORER)[0],) if config.scores else ()
