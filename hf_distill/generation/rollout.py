"""On-policy distillation: in a share of the steps the student learns from what it has just written itself.

Agarwal et al. 2024 (GKD) and Gu et al. 2024 (MiniLLM): a student that was taught on the data alone meets its own
mistakes only when it is used; here the teacher judges each token of a text that the student wrote. What is counted is
what was written, the end token among it, and nothing behind it; no label is made of it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from hf_distill.artifacts import seed_of
from hf_distill.errors import RecipeError, TeacherError
from hf_distill.generation.ends import ends_of
from hf_distill.generation.engines import Engine, make_engine
from hf_distill.generation.rollout_checks import check_ends, check_judged, shared_context, with_room
from hf_distill.objectives import Objective
from hf_distill.recipe import RolloutConfig
from hf_distill.students import has_adapters
from hf_distill.tasks import Task
from hf_distill.tasks.rollout_batches import Writing, joined
from hf_distill.types import Batch, Reduce, Tokenizer

SHORT = 0.25
"""A mean length below this share of what the data have, or of what may be written, is told."""

logger = logging.getLogger(__name__)


class Judge(Protocol):
    """What a rollout asks of a teacher: its model's config, if known, and whether it gives targets for new texts."""

    config: PretrainedConfig | None
    reads_new_texts: bool


class Rollout:
    """Batches that the student writes; serves one trainer.

    Args:
        config: As in a recipe; its defaults unless given.
        engine: What runs the student while it writes, in place of what the config names.

    Example:
        >>> trainer = DistillationTrainer(model=student, teacher=teacher, task="causal-lm",
        ...     objectives=[Logits(divergence="reverse_kl", temperature=1.0)], args=args, train_dataset=rows,
        ...     processing_class=tokenizer, rollout=Rollout(RolloutConfig(share=1.0)))
    """

    def __init__(self, config: RolloutConfig | None = None, *, engine: Engine | None = None) -> None:
        self.config = config if config is not None else RolloutConfig()
        self.engine = engine if engine is not None else make_engine(self.config)
        self._sums: Tensor | None = None
        self._writing: Writing | None = None
        self._settings: dict[str, Any] = {}
        self._warned = False

    def prepare(
        self,
        rows: Any,
        task: Task,
        tokenizer: Tokenizer | None,
        student: PreTrainedModel,
        teacher: Judge | None,
        objectives: Mapping[str, Objective],
    ) -> tuple[Any, list[str]]:
        """Fit to what is trained, if anything can be written and learned of it.

        Returns:
            The rows that can be written after, and lines that tell of others.
        """
        if teacher is None:
            raise TeacherError(
                "rollout: only a teacher judges what a student writes, and there is none; name one, or remove rollout"
            )
        if not teacher.reads_new_texts:
            raise TeacherError(
                "rollout: a cache holds what a teacher said of the data, nothing of what a student will write; give a "
                "live teacher, or remove rollout"
            )
        notes = [self.fit(task, tokenizer, student, teacher.config, objectives)]
        if self._writing is None or not isinstance(rows, (Dataset, IterableDataset)):
            return rows, notes
        context = shared_context(student.config, teacher.config)
        kept = with_room(rows, self._writing, self.config.max_new_tokens, context)
        if isinstance(kept, Dataset) and isinstance(rows, Dataset) and len(kept) < len(rows):
            lost = len(rows) - len(kept)
            notes.append(
                f"rollout: {lost:,} of {len(rows):,} rows are dropped: their prompts leave no room for "
                f"{self.config.max_new_tokens} tokens in a context of {context}"
            )
        return kept, notes

    def fit(
        self,
        task: Task,
        tokenizer: Tokenizer | None,
        student: PreTrainedModel,
        teacher: PretrainedConfig | None,
        objectives: Mapping[str, Objective],
    ) -> str:
        """The part of :meth:`prepare` that needs no weights and no rows; gives a line that tells what will be done."""
        config = self.config
        check_judged(config, objectives)
        self._writing = task.writing(tokenizer, config.prompt_tokens)
        ends = ends_of(student, tokenizer, task)
        check_ends(ends)
        pad = tokenizer.pad_token_id if tokenizer is not None else None
        self._settings = {
            "max_new_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_k": config.top_k or 0,
            "top_p": 1.0 if config.top_p is None else config.top_p,
            "eos_token_id": ends,
            "pad_token_id": ends[0] if pad is None else int(pad),
            **self._writing.options,
        }
        hindrances = {
            "an encoder-decoder": student.config.is_encoder_decoder,
            "a student with adapters": has_adapters(student),
            "several processes": PartialState().num_processes > 1,
        }
        if config.engine == "vllm" and (why := [name for name, there in hindrances.items() if there]):
            raise RecipeError(f"recipe.rollout.engine: vllm does not write for {why[0]} here; set it to transformers")
        context = shared_context(student.config, teacher)
        if context is not None and config.max_new_tokens >= context:
            raise RecipeError(
                f"recipe.rollout.max_new_tokens: {config.max_new_tokens} leave no room for a prompt in the context of "
                f"{context} that student and teacher have; lower it"
            )
        length = f"at most {config.max_new_tokens} tokens a row"
        return f"rollout: the student writes in {config.share:.0%} of the steps, {length}, by {config.engine}"

    def writes(self, seed: int, step: int) -> bool:
        """Whether the student writes the batches of a step: a coin that falls alike in every process and again."""
        return random.Random(f"{seed}/{step}/rollout").random() < self.config.share

    def write(
        self, batches: Sequence[Batch], student: PreTrainedModel, seed: int, step: int, process: int
    ) -> list[Batch]:
        """What the student writes in place of the batches of a step, which are on its device.

        Each process draws by itself, and the same again after a resume.
        """
        assert self._writing is not None
        if not batches:  # Of a stream that has come to its end.
            return []
        self.engine.follow(student)
        sizes = [len(batch["input_ids"]) for batch in batches]
        pad, starts = self._settings["pad_token_id"], list(accumulate(sizes, initial=0))
        asked = self._writing.asked(batches, pad)
        at_once = self.config.batch_size or max(sizes)
        parts = [slice(start, start + at_once) for start in range(0, starts[-1], at_once)]
        found = [
            self.engine.write(each.input_ids, each.attention_mask, self._settings, seed_of(seed, step, process, number))
            for number, each in enumerate(map(asked.at, parts))
        ]
        written = joined(found, pad)
        new = written[:, self._writing.skipped :]
        is_end = torch.isin(new, torch.tensor(self._settings["eos_token_id"], device=new.device))
        kept = is_end.cumsum(1) - is_end.long() == 0
        expected = sum(min(length, self.config.max_new_tokens) for length in asked.answers)
        known = torch.tensor([len(kept), expected], device=kept.device)
        sums = torch.stack((kept.sum(), (is_end & kept).sum(), *known)).double()
        self._sums = sums if self._sums is None else self._sums + sums
        return [
            self._writing.answered(batch, asked.at(rows), written[rows], kept[rows])
            for batch, rows in zip(batches, map(slice, starts, starts[1:]), strict=True)
        ]

    def logs(self, reduce: Reduce) -> dict[str, float]:
        """Mean length and share of ended texts since the last call; nothing where nothing was written. May warn."""
        if self._sums is None:  # On all processes or on none.
            return {}
        tokens, ends, rows, expected = reduce(self._sums).tolist()
        self._sums = None
        if not self._warned and PartialState().is_main_process:
            self._warned = _warn(tokens / rows, expected / rows, empty=tokens == ends)
        return {"rollout_length": tokens / rows, "rollout_ended": ends / rows}


def _warn(length: float, expected: float, empty: bool) -> bool:
    """Warn where the student stops writing; whether it does."""
    if empty:
        logger.warning("rollout: every text that the student wrote is empty: it writes the end token alone")
    elif length < SHORT * expected:
        logger.warning(
            f"rollout: the student writes {length:.1f} tokens where {expected:.1f} were expected of the data: its "
            "texts collapse; lower the learning rate or rollout.share, or take another divergence"
        )
    else:
        return False
    return True
