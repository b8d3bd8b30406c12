"""Small models before training. A new way of building one is one file here and one line in ``STUDENTS``.

May be imported: ``build_student``, what other rooms do to a student (adapters, freezing), and ``pruning``.
Never belongs here: what the student learns, and from whom.
"""

from __future__ import annotations

from hf_distill.students.adapters import has_adapters, load_adapters, merge_adapters, of_adapters, quantized
from hf_distill.students.build import STUDENTS, build_student, learning, limit_learning
from hf_distill.students.freezing import frozen_encoder, share_an_encoder
from hf_distill.students.from_parts import parts_of
from hf_distill.students.layer_choice import chosen_cuts
from hf_distill.students.pruning.families import Shape, family_of_shapes, shape_of
from hf_distill.students.request import Student, StudentRequest

__all__ = [
    "STUDENTS",
    "Shape",
    "Student",
    "StudentRequest",
    "build_student",
    "chosen_cuts",
    "family_of_shapes",
    "frozen_encoder",
    "has_adapters",
    "learning",
    "limit_learning",
    "load_adapters",
    "merge_adapters",
    "of_adapters",
    "parts_of",
    "quantized",
    "shape_of",
    "share_an_encoder",
]
