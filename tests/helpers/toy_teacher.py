"""A teacher that the package does not know: it counts words, named as ``tests.helpers.toy_teacher:ToyTeacher``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from hf_distill.teachers import Teacher
from hf_distill.types import Targets
from tests.helpers import tiny


class ToyTeacher(Teacher):
    """Says good of texts with good words, and bad of those with bad ones."""

    name = "a list of words"
    provides = frozenset({"logits"})
    facts: ClassVar[dict[str, Any]] = {
        "model": name,
        "hub_id": None,
        "revision": None,
        "license": None,
        "origin": "written by hand",
    }

    def __init__(self, *, certainty: float = 1.0) -> None:
        self.certainty, self.tokenizer = certainty, tiny.tokenizer()
        self.words = [torch.tensor([tiny.WORDS.index(word) for word in words]) for words in (tiny.BAD, tiny.GOOD)]

    def targets(self, task: Any, batch: Any, needs: Any, layers: Any = (), states: Any = None) -> Targets:
        ids = task.teacher_inputs(batch)["input_ids"]
        counts = torch.stack([torch.isin(ids, words).sum(-1) for words in self.words], -1)
        return Targets(logits=self.certainty * counts.float())
