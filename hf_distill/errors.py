"""The errors that hf_distill raises, one small tree.

    HfDistillError              exit code 2: the user can mend it
    ├── RecipeError             a key, a type, a range, an override, a file that is no recipe
    ├── DataError               a file, a split, a column, a row
    ├── LabelError              labels that data, teacher and student do not share
    ├── ModelError              a model or tokenizer that cannot be loaded
    ├── TeacherError            a teacher that cannot teach (at chance, or lacks what an objective needs)
    ├── ServerError             a teacher behind an endpoint that cannot be asked, or whose answers cannot be used
    ├── CacheError              a teacher cache that is broken, unfinished, or was made of something else
    ├── WritingError            texts that a teacher wrote and that no student can learn from
    ├── StudentError            a student that cannot be built
    ├── ObjectiveError          an objective with wrong options, or for the wrong kind of output
    ├── OutputError             a folder that is not writable, or belongs to another recipe
    └── HubError                the Hub refused, or could not be reached

A message is one line: what was expected, what came, why it matters, what to do.
"""

from __future__ import annotations


class HfDistillError(Exception):
    """Base of every error that the user can mend; the command line exits with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


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


class OutputError(HfDistillError):
    """A result folder that cannot be used."""


class HubError(HfDistillError):
    """The Hub refused a request or could not be reached."""
