"""Where targets come from. A new kind of teacher is one file here and one line in ``TEACHERS``.

May be imported: the teachers, ``teacher_class``, and the caches' stores and schemes.
Never belongs here: which objective asks, and when a teacher is trained.
"""

from __future__ import annotations

from hf_distill.errors import TeacherError
from hf_distill.names import look_up
from hf_distill.recipe import TeacherConfig
from hf_distill.teachers.base import Loading, Teacher
from hf_distill.teachers.cached import CachedTeacher
from hf_distill.teachers.ensemble import EnsembleTeacher
from hf_distill.teachers.model import ModelTeacher
from hf_distill.teachers.served import ServedTeacher

__all__ = [
    "TEACHERS",
    "CachedTeacher",
    "EnsembleTeacher",
    "Loading",
    "ModelTeacher",
    "ServedTeacher",
    "Teacher",
    "teacher_class",
]

TEACHERS = {"model": ModelTeacher, "recipe": ModelTeacher, "ensemble": EnsembleTeacher, "server": ServedTeacher}
"""By the key of ``teacher`` in a recipe that only its kind has."""


def teacher_class(config: TeacherConfig) -> type[Teacher]:
    """The class that loads ``teacher`` of a recipe, which may name its own as ``package.module:Class``."""
    cls: type[Teacher] = look_up(config.kind_name, TEACHERS, "recipe.teacher.kind", TeacherError, Teacher)
    return cls
