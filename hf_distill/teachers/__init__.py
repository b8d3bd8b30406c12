"""Where targets come from."""

from hf_distill.models.hardware import best_dtype, chosen_dtype, place
from hf_distill.teachers.cached import CachedTeacher
from hf_distill.teachers.ensemble import Ensemble, EnsembleTeacher, teacher_of
from hf_distill.teachers.model import ENCODED, ModelTeacher, same_tokenizer
from hf_distill.teachers.server import ServerTeacher

Teacher = ModelTeacher | CachedTeacher | ServerTeacher
"""Whatever gives targets for a batch."""

__all__ = [
    "ENCODED",
    "CachedTeacher",
    "Ensemble",
    "EnsembleTeacher",
    "ModelTeacher",
    "ServerTeacher",
    "Teacher",
    "best_dtype",
    "chosen_dtype",
    "place",
    "same_tokenizer",
    "teacher_of",
]
