"""What a teacher that hears a clip at once is asked to write down, so that students learn its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from typing_extensions import override

from hf_distill.tasks.encoding import MEDIA
from hf_distill.tasks.media.media_rows import MediaTask
from hf_distill.tasks.rollout_batches import Prompts
from hf_distill.tasks.speech.listening import extractor_of
from hf_distill.types import Batch


class Transcribed(MediaTask, abstract=True):
    """Rows of ``audio`` whose ``text`` a teacher may write: nothing is read before it, all of it at once."""

    written_after_texts = False

    @override
    def decoding(self, processor: Any) -> int:
        return int(extractor_of(processor).sampling_rate)

    @override
    def prompts(self, rows: Dataset, tokenizer: Any) -> Prompts:
        def heard(places: Sequence[int]) -> Batch:
            cells: list[Mapping[str, Any]] = [{MEDIA: rows[place]["audio"]} for place in places]
            return self.completed(self.inputs(cells, (tokenizer, None)), tokenizer)

        return Prompts(
            input_ids=[[] for _ in range(len(rows))],
            references=[text or "" for text in rows["text"]],
            row_ids=list(range(len(rows))),
            sources=heard,
        )

    @override
    def with_answers(self, rows: Dataset, texts: Sequence[str] | None) -> Dataset:
        kept: Dataset = rows.select_columns(["audio"])
        return kept.add_column("text", list(texts or [""] * len(rows)))
