"""What the rows mean. A new task is one file here and one line in ``TASKS``.

May be imported: the tasks, ``make_task``, ``task_class``, and ``encoding`` by those who collate.
Never belongs here: objectives, teachers, and how scores are computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hf_distill.errors import RecipeError
from hf_distill.names import look_up
from hf_distill.tasks.causal_lm import CausalLanguageModeling
from hf_distill.tasks.embeddings import Embeddings
from hf_distill.tasks.masked_lm import MaskedLanguageModeling
from hf_distill.tasks.question_answering import QuestionAnswering
from hf_distill.tasks.sequence_to_sequence import Summarization, Translation
from hf_distill.tasks.task import Task
from hf_distill.tasks.text_classification import TextClassification
from hf_distill.tasks.token_classification import TokenClassification

__all__ = [
    "TASKS", "CausalLanguageModeling", "Embeddings", "MaskedLanguageModeling", "QuestionAnswering", "Summarization",
    "Task", "TextClassification", "TokenClassification", "Translation", "make_task", "task_class",
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
