"""Where targets come from."""

from hf_distill.teachers.cached import CachedTeacher
from hf_distill.teachers.ensemble import Ensemble, EnsembleTeacher, check_mixes, teacher_of
from hf_distill.teachers.model import ENCODED, ModelTeacher, best_dtype, chosen_dtype, place, same_tokenizer

Teacher = ModelTeacher | CachedTeacher
"""Whatever gives targets for a batch."""

__all__ = [
    "ENCODED",
    "CachedTeacher",
    "Ensemble",
    "EnsembleTeacher",
    "ModelTeacher",
    "Teacher",
    "best_dtype",
    "check_mixes",
    "chosen_dtype",
    "place",
    "same_tokenizer",
    "teacher_of",
]
