"""Rows that models are scored on, and what is logged of them: whether they can tell a good model from a bad one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_distill.data.classes import as_given, label_decoder
from hf_distill.errors import DataError, RecipeError, TeacherError
from hf_distill.evaluation.answers import AnswerScores
from hf_distill.evaluation.classification import ClassScores
from hf_distill.evaluation.metrics import MEASURED
from hf_distill.evaluation.predict import decision_scores
from hf_distill.evaluation.regression import SimilarityScores
from hf_distill.evaluation.retrieval import RetrievalScores
from hf_distill.evaluation.scores import Scores
from hf_distill.evaluation.tags import TagScores
from hf_distill.evaluation.transcripts.transcript_scores import transcript_scores
from hf_distill.names import nearest_or_all
from hf_distill.pipeline.experiment import Experiment, Stage
from hf_distill.pipeline.train import control_objectives
from hf_distill.tasks import Task
from hf_distill.tasks.question_answering import answers_of

LOOKED_AT_ONCE = 64
"""Rows that are read together to find a token that counts."""


def check_scored_rows(experiment: Experiment) -> None:
    """Refuse rows on which a teacher that is always right would be taken for one that knows nothing."""
    task, split = experiment.task, experiment.recipe.evaluate.split
    column, perfect = PERFECT.get(task.scored_as, ("", None))
    # A task of one's own may keep its answers elsewhere.
    if experiment.recipe.teacher is None or perfect is None or column not in experiment.rows.column_names:
        return
    try:
        perfect(task, experiment.rows).check_above_chance(experiment.metric)
    except TeacherError as error:
        found = {str(value) for value in experiment.rows[column]}
        told = f" ({column} is {found.pop()} in all of them)" if len(found) == 1 else ""
        raise DataError(
            f"split {split!r}: on its {len(experiment.rows):,} rows{told} a teacher that is always right scores no "
            f"better than one that knows nothing; score on more rows, and with other answers (data.{split}_split, "
            f"data.{split}_limit)"
        ) from error


def check_counted_tokens(experiment: Experiment) -> None:
    """Refuse rows of which no token counts where models are scored on tokens."""
    task, rows, tokenizer = experiment.task, experiment.rows, experiment.student.tokenizer
    if task.scored_as != "tokens":
        return
    collate = task.collator(tokenizer)
    for start in range(0, len(rows), LOOKED_AT_ONCE):
        encoded = list(task.encode(rows.select(range(start, min(start + LOOKED_AT_ONCE, len(rows)))), tokenizer))
        if encoded and task.masks(collate(encoded))["labels"].any():
            return
    raise DataError(
        f"split {experiment.recipe.evaluate.split!r}: no token of its {len(rows):,} rows counts, so that nothing can "
        "be scored; add longer texts, or other ones"
    )


def check_floor(experiment: Experiment) -> None:
    """Refuse a bag of words where texts have none that it counts."""
    data, texts = experiment.data, experiment.task.texts
    counts = TfidfVectorizer().build_analyzer()
    if experiment.recipe.evaluate.floor and not experiment.task.text_columns:
        raise RecipeError(
            f"recipe.evaluate.floor: it counts words, and rows of {experiment.task.name} have none; set it to false"
        )
    if experiment.recipe.evaluate.floor and not any(counts(text) for text in texts(data.train)):
        raise RecipeError(
            "recipe.evaluate.floor: it counts words of two letters and more, of which the training texts have none; "
            "set it to false"
        )


def check_best_metric(experiment: Experiment, stage: Stage) -> None:
    """Refuse a ``metric_for_best_model`` that no evaluation of the student or its control would log."""
    args = stage.arguments
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    asked = args.metric_for_best_model.removeprefix("eval_")
    of_rows = MEASURED[experiment.task.problem_type] if experiment.task.row_labels is not None else ()
    trained = {"the student": stage.objectives}
    if experiment.recipe.teacher is not None and experiment.recipe.evaluate.control:
        trained["the control"] = control_objectives(experiment.task)
    for name, objectives in trained.items():
        known = ["loss", *(f"loss_{each}" for each in objectives), *of_rows]
        if asked not in known:
            raise RecipeError(
                f"recipe.training.metric_for_best_model: {asked!r} is not logged where {name} is evaluated in "
                f"training{nearest_or_all(asked, known)}"
            )


def _decisions(task: Task, rows: Dataset) -> Scores:
    labels = task.row_labels
    assert labels is not None
    decode, given = label_decoder(rows, "label", labels), as_given(rows, "label", labels)
    right = np.array([given.encode(decode(value)) for value in rows["label"]], dtype=float)
    logits = right.reshape(len(rows), -1)
    if labels.problem_type == "single_label_classification":
        right = right.astype(int)
        logits = np.eye(len(labels.names))[right]
    if labels.problem_type != "regression":
        logits = 20 * logits - 10
    return decision_scores(logits, right, labels.problem_type, labels.names)


def _tags(task: Task, rows: Dataset) -> Scores:
    labels = task.label_set
    assert labels is not None
    decode = label_decoder(rows, "labels", labels)
    words = [(row, tag) for row, tags in enumerate(rows["labels"]) for tag in decode(tags) if tag is not None]
    row_of = np.array([row for row, _ in words], dtype=int)
    right = np.array([labels.index(tag) for _, tag in words], dtype=int)
    decided = ClassScores(np.eye(len(labels.names))[right], right, labels.problem_type, labels.names)
    return TagScores(words=decided, row_of=row_of, seen=np.ones_like(right, dtype=bool))


def _answers(task: Task, rows: Dataset) -> Scores:
    right = [[answer.text for answer in answers_of(value)] for value in rows["answers"]]
    return AnswerScores(texts=[next(iter(each), "") for each in right], references=right, sure=np.ones(len(right)))


def _vectors(task: Task, rows: Dataset) -> Scores:
    if task.problem_type == "similarity":
        right = np.asarray(rows["score"], dtype=np.float64)
        return SimilarityScores(right[:, None], right, "similarity", ("score",))
    queries = np.array(list(dict.fromkeys(rows["text"])), dtype=object)
    firsts = [np.zeros(1, dtype=int)] * len(queries)
    passages = len(set(rows["text_pair"]))
    return RetrievalScores(queries=queries, ranks=firsts, nearest=np.zeros(len(queries), dtype=int), passages=passages)


def _transcripts(task: Task, rows: Dataset) -> Scores:
    return transcript_scores(task, rows, rows["text"])


PERFECT: dict[str, tuple[str, Callable[[Task, Dataset], Scores]]] = {
    "decisions": ("label", _decisions),
    "tags": ("labels", _tags),
    "answers": ("answers", _answers),
    "vectors": ("text_pair", _vectors),
    "transcripts": ("text", _transcripts),
}
"""Where the right answers stand, and the scores of a model that gives them, by a task's ``scored_as``."""
