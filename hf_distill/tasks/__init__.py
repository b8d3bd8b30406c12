"""What the rows mean. A new task is one file here and one line in ``TASKS``.

May be imported: the tasks, ``make_task``, ``task_class``, and ``encoding`` by those who collate.
Never belongs here: objectives, teachers, and how scores are computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_distill.errors import RecipeError
from hf_distill.names import look_up
from hf_distill.tasks.causal.causal_lm import CausalLanguageModeling
from hf_distill.tasks.embeddings import Embeddings
from hf_distill.tasks.masked_lm import MaskedLanguageModeling
from hf_distill.tasks.media.audio_classification import AudioClassification
from hf_distill.tasks.media.image_classification import ImageClassification
from hf_distill.tasks.question_answering import QuestionAnswering
from hf_distill.tasks.sequence_to_sequence import Summarization, Translation
from hf_distill.tasks.speech.ctc import CTCSpeechRecognition
from hf_distill.tasks.speech.whisper import SpeechRecognition
from hf_distill.tasks.task import Task
from hf_distill.tasks.text_classification import TextClassification
from hf_distill.tasks.token_classification import TokenClassification

__all__ = [
    "TASKS", "AudioClassification", "CTCSpeechRecognition", "CausalLanguageModeling", "Embeddings",
    "ImageClassification", "MaskedLanguageModeling", "QuestionAnswering", "SpeechRecognition", "Summarization", "Task",
    "TextClassification",
    "TokenClassification", "Translation", "check_class", "make_task", "task_class", "task_of",
]  # fmt: skip

TASKS: dict[str, type[Task]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "embeddings": Embeddings,
    "causal-lm": CausalLanguageModeling,
    "masked-lm": MaskedLanguageModeling,
    "translation": Translation,
    "summarization": Summarization,
    "audio-classification": AudioClassification,
    "image-classification": ImageClassification,
    "speech-recognition": SpeechRecognition,
    "speech-recognition-ctc": CTCSpeechRecognition,
}


def task_class(name: str) -> type[Task]:
    """The task by name (``causal-lm``) or dotted path (``my_package.tasks:MyTask``)."""
    cls: type[Task] = look_up(name, TASKS, "task", RecipeError, Task)
    return cls


def make_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """A task by name, with its options, of which unknown ones are refused (RecipeError)."""
    cls = task_class(name)
    known = list(inspect.signature(cls).parameters)
    for option in options or {}:
        if option not in known:
            raise RecipeError(f"task.{option}: no such option of {name}; it knows {', '.join(known)}")
    return cls(**(options or {}))


def task_of(model: PreTrainedModel) -> str:
    """The task that a model's class is for, ``translation`` of an encoder-decoder; refused where it does not tell."""
    found = [name for name, task in TASKS.items() if _has_head(task, model)]
    if not found:
        raise RecipeError(
            f"task: the class {_plain(model).__name__} does not tell the task; pass task, one of {', '.join(TASKS)}"
        )
    return found[0]


def check_class(task: Task, model: PreTrainedModel) -> None:
    """Refuse a model with the head of another task."""
    if not _has_head(type(task), model) and any(_has_head(other, model) for other in TASKS.values()):
        right, kind = task_of(model), _plain(model).__name__
        loader = getattr(task.auto_model, "__name__", task.auto_model)
        raise RecipeError(
            f"task: {task.name} needs a model of {loader}, got a {kind}, which is one of {right}: its outputs mean "
            f"something else; pass task={right!r}, or such a model"
        )


def _plain(model: PreTrainedModel) -> type:
    """The class under adapters and compilation."""
    inner: Any = getattr(model, "_orig_mod", model)
    return type(getattr(inner, "get_base_model", lambda: inner)())


def _has_head(task: type[Task], model: PreTrainedModel) -> bool:
    """Whether a task's loader knows the class of a model, or one that it derives from."""
    # BART's and mBART's class is that of masked language models, too.
    if issubclass(task, MaskedLanguageModeling) and model.config.is_encoder_decoder:
        return False
    mapping: Mapping[str, Any] = getattr(getattr(task.auto_model, "_model_mapping", None), "_model_mapping", {})
    known = {name for names in mapping.values() for name in ((names,) if isinstance(names, str) else names)}
    return any(parent.__name__ in known for parent in _plain(model).__mro__)
