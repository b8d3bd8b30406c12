"""What every teacher is, where its class is defined."""

from __future__ import annotations

import pytest

from hf_distill.errors import TeacherError
from hf_distill.pipeline.preflight import check
from hf_distill.teachers import TEACHERS, Teacher
from tests.helpers import tiny


@pytest.mark.parametrize(("provides", "told"), [({"logit"}, "logits"), ((), "expected what it gives of")])
def test_a_teacher_that_provides_nothing_that_exists_is_refused_where_it_is_defined(provides, told):
    with pytest.raises(TeacherError, match=f"provides: .*{told}"):
        type("Own", (Teacher,), {"provides": frozenset(provides)})


@pytest.mark.parametrize("kind", TEACHERS)
def test_every_kind_of_teacher_provides_logits(kind):
    assert "logits" in TEACHERS[kind].provides


def test_an_objective_that_a_teacher_of_ones_own_cannot_serve_is_refused_before_training():
    recipe = {
        **tiny.recipe(),
        "teacher": {"kind": "tests.helpers.toy_teacher:ToyTeacher"},
        "student": {"config": {"model_type": "bert", "num_hidden_layers": 1}, "tokenizer": {"vocab_size": 60}},
        "objectives": [{"kind": "hidden"}],
    }
    with pytest.raises(TeacherError, match=r"objective hidden: .*hidden_states, which it does not give"):
        check(recipe, report=lambda line: None, allow_code=True)
