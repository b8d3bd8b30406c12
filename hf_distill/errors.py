"""The errors that hf_distill raises, one small tree.

A message is one line: what was expected, what came, why it matters, what to do.
"""

from __future__ import annotations

from hf_distill.secrets import told


class HfDistillError(Exception):
    """Base of every error that the user can mend; its message is one line without secrets and control characters.

    Attributes:
        exit_code: What the command line exits with.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(told(" ".join(message.split())))


class RecipeError(HfDistillError):
    """A recipe that cannot be read as it stands."""


class DataError(HfDistillError):
    """Data that is missing, empty or not what the task needs."""


class LabelError(HfDistillError):
    """Labels that data, teacher and student do not share by name."""


class ModelError(HfDistillError):
    """A model, config or tokenizer that cannot be loaded."""


class TeacherError(HfDistillError):
    """A teacher that cannot give what an objective needs, or that knows nothing."""


class ServerError(HfDistillError):
    """A teacher behind an endpoint that cannot be asked, or whose answers cannot be used."""


class CacheError(HfDistillError):
    """A teacher cache that cannot be trusted: broken, unfinished, or made of something else."""


class WritingError(HfDistillError):
    """Texts that a teacher wrote and that no student can learn from: none is left, or they are broken."""


class StudentError(HfDistillError):
    """A student that cannot be built as asked."""


class ObjectiveError(HfDistillError):
    """An objective whose options are wrong, or that does not fit the task's outputs."""


class TrainingError(HfDistillError):
    """A training that ran away: a loss or a gradient is not finite, or a loss grew a hundredfold."""


class OutputError(HfDistillError):
    """A result folder that cannot be used."""


class ResourceError(HfDistillError):
    """The machine's disk is full, or its memory is used up."""


class HubError(HfDistillError):
    """The Hub refused a request or could not be reached."""

    exit_code = 3
