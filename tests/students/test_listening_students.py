"""Students that listen: what prepares clips for a fresh one."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCTC, AutoProcessor

from hf_distill.recipe import FromConfig
from hf_distill.students import build_student
from tests.helpers import speech


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wav2vec2-bert"])
def test_a_fresh_student_of_its_teachers_kind_listens_as_its_teacher_does(kind):
    teacher = speech.listener(kind)
    processor = speech.reads_spectrograms(kind) if kind in speech.OF_SPECTROGRAMS else speech.processor()
    student = build_student(
        FromConfig(config={"hidden_size": 12}),
        auto_model=AutoModelForCTC,
        teacher=teacher,
        teacher_tokenizer=processor,
        texts=list,
        model_options={},
        auto_processor=AutoProcessor,
    )
    assert type(student.tokenizer.feature_extractor) is type(processor.feature_extractor)
    assert student.model.config.hidden_size == 12
