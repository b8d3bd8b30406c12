"""What a model decides and writes on labelled rows, as scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hf_distill.errors import RecipeError
from hf_distill.evaluation.answers import score_answers
from hf_distill.evaluation.classification import ClassScores, LabelSetScores
from hf_distill.evaluation.language_modeling import Written, judged, score_tokens
from hf_distill.evaluation.metrics import make_scorers, scorer_names
from hf_distill.evaluation.regression import RealScores, SimilarityScores
from hf_distill.evaluation.retrieval import score_vectors
from hf_distill.evaluation.scores import DecisionScores, Evaluation, Scoreable, Scores, by_row
from hf_distill.evaluation.tags import score_tags
from hf_distill.evaluation.transcripts.transcript_scores import score_transcripts
from hf_distill.generation.ends import with_ends
from hf_distill.generation.generate import generate, with_length, writer_inputs
from hf_distill.generation.room import parts_with_room, report_room
from hf_distill.models.forward import accepted_inputs, run_model
from hf_distill.models.hardware import place, share_rows
from hf_distill.names import nearest
from hf_distill.tasks import Task
from hf_distill.tasks.rollout_batches import Prompts
from hf_distill.tokenizers.compare import reads_alike
from hf_distill.tokenizers.processors import vocabulary_of
from hf_distill.types import Batch, LogitSource

DECISIONS: Mapping[str, type[DecisionScores]] = {
    "single_label_classification": ClassScores,
    "multi_label_classification": LabelSetScores,
    "regression": RealScores,
    "similarity": SimilarityScores,
}
"""What scores one decision a row, by problem type."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model that is evaluated, as :class:`Scoreable` asks; ``folder`` holds its weights."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path = Path()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """The model alone."""
        return (self.model,)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Its folder alone."""
        return (self.folder,)

    def run(self, inputs: Batch, has_vocabulary: bool) -> Tensor | LogitSource:
        """A forward pass."""
        return run_model(self.model, self.model, accepted_inputs(self.model, inputs), has_vocabulary, False)[1]

    def score(self, evaluation: Evaluation) -> Scores:
        """Its scores on labelled rows."""
        return predict(self, evaluation)


def predict(candidate: Scoreable, evaluation: Evaluation) -> Scores:
    """Score what runs here on labelled rows, in the order of the rows and of the data's labels."""
    return SCORE_FUNCTIONS[evaluation.task.scored_as](candidate, evaluation)


def _token_scores(candidate: Scoreable, evaluation: Evaluation) -> Scores:
    task, rows, config, tokenizer = evaluation.task, evaluation.rows, evaluation.config, candidate.tokenizer
    reference = evaluation.reference
    alike = reference is not None and reference.models and reads_alike(tokenizer, reference.tokenizer)
    encoded, sizes = task.encode(rows, tokenizer), [len(text.encode()) for text in task.texts(rows)]
    few = max(1, evaluation.batch_size // 8)
    scores = score_tokens(candidate, task, encoded, reference if alike else None, few, sizes)
    if not (names := scorer_names(task, config.scorers)):
        return scores
    assert tokenizer is not None
    (model,) = candidate.models
    written = write_and_score(model, task, tokenizer, rows, names, config.generation, config.batch_size)
    return dataclasses.replace(scores, written=written)


def decision_scores(logits: np.ndarray, labels: np.ndarray, problem_type: str, *more: Any) -> DecisionScores:
    """Scores of one decision a row, of the kind that the labels are; shares of several labels count from a half on."""
    if DECISIONS[problem_type].many:
        labels = (labels >= 0.5).astype(np.float64)
    return DECISIONS[problem_type](logits, labels, problem_type, *more)


def predict_decisions(
    candidate: Scoreable, evaluation: Evaluation, answer: Callable[[Batch], Any] | None = None
) -> DecisionScores:
    """Score decisions about whole rows; ``answer`` gives logits ``[B, C]``, where it is not a forward pass."""
    task, tokenizer, outside = evaluation.task, candidate.tokenizer, evaluation.outside

    def read(batch: Batch) -> list[np.ndarray]:
        logits: Any = answer(batch) if answer else candidate.run(task.student_inputs(batch), False)
        return list(logits.float().cpu().numpy())

    def logits(encoded: Any) -> np.ndarray:
        return np.stack(by_row(candidate.models, task, tokenizer, encoded, evaluation.batch_size, read))

    encoded, labels = task.encode(evaluation.rows, tokenizer), task.row_labels
    return decision_scores(
        logits(encoded),
        np.asarray(encoded["labels"]),
        labels.problem_type,
        labels.names,
        logits(task.encode(outside, tokenizer)) if outside else None,
        make_scorers(evaluation.config.scorers),
    )


SCORE_FUNCTIONS: dict[str, Callable[[Scoreable, Evaluation], Scores]] = {
    "decisions": predict_decisions,
    "tags": score_tags,
    "answers": score_answers,
    "vectors": score_vectors,
    "tokens": _token_scores,
    "transcripts": score_transcripts,
}
"""What scores a model that runs here, by a task's ``scored_as``."""


def check_generation(
    settings: Mapping[str, Any],
    where: str = "recipe.evaluate.generation",
    reshaping: str = "one text is judged for each row; remove it",
) -> None:
    """Refuse what Transformers' GenerationConfig does not know, or what gives other than texts of a known number."""
    known = GenerationConfig().to_dict()
    for name in settings:
        if name in ("num_return_sequences", "return_dict_in_generate"):
            raise RecipeError(f"{where}.{name}: {reshaping}")
        if name not in known and not hasattr(GenerationConfig(), name):
            raise RecipeError(f"{where}.{name}: GenerationConfig has no such setting{nearest(name, known)}")
    try:
        GenerationConfig(**settings).validate(strict=True)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{where}: {str(error).splitlines()[0]}") from error


def set_generation(model: PreTrainedModel, settings: Mapping[str, Any]) -> None:
    """Let a model keep how it is to write, for whoever loads it."""
    if settings:
        assert model.generation_config is not None
        model.generation_config.update(**settings)


def write_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    settings: Mapping[str, Any],
    batch_size: int,
    seed: int = 0,
) -> list[str]:
    """What a model writes, in the order of the prompts, which several processes share.

    Prompts of about the same length form a batch; ``seed`` decides what is drawn, where the settings draw.
    """
    place(model, PartialState().device)
    set_seed(seed)
    words, begins = vocabulary_of(tokenizer), prompts.sources is not None
    assert words is not None

    def work(numbers: list[int]) -> list[str]:
        texts: dict[int, str] = {}
        rows = [prompts.input_ids[number] for number in numbers]
        for places, part, own in parts_with_room(model, rows, {**prompts.options, **settings}, begins):
            sources = prompts.read([numbers[place] for place in places])
            found = generate(model, writer_inputs(model, words, part, sources), own)
            texts |= zip(places, words.batch_decode(found.tokens, skip_special_tokens=True), strict=True)
        return [texts[place] for place in range(len(numbers))]

    report_room(model, prompts.input_ids, settings, begins)
    with torch.inference_mode():
        return share_rows([len(ids) for ids in prompts.input_ids], batch_size, work)


def write_and_score(
    model: PreTrainedModel,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    names: Sequence[str],
    settings: Mapping[str, Any],
    batch_size: int,
) -> Written:
    """Let a model write after every row's prompt, and judge it by scorers of these names."""
    prompts = task.prompts(rows, tokenizer)
    settings = with_ends(with_length(settings, task.longest_text), model, vocabulary_of(tokenizer), task)
    texts = write_texts(model, tokenizer, prompts, settings, batch_size)
    return judged(texts, prompts, names)
