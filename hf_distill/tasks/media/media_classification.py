"""What tasks share that say of which class a picture or a sound is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from hf_distill.tasks.encoding import PREPARED
from hf_distill.tasks.labelled.row_classification import RowClassification
from hf_distill.tasks.media.media_rows import MediaTask
from hf_distill.types import Batch, Masks, Rows


class MediaClassification(MediaTask, RowClassification, abstract=True):
    """Rows with a picture or a sound, all of one size when they are prepared, and a ``label`` each."""

    @override
    def encode(self, rows: Rows, tokenizer: Any, teacher_tokenizer: Any = None) -> Rows:
        labels = self._encoder(rows)

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            count = len(next(iter(batch.values())))
            return {"labels": labels(batch, count), "length": [1] * count}

        return self.with_media(rows, encode_batch, (tokenizer, teacher_tokenizer))

    @override
    def masks(self, batch: Batch) -> Masks:
        masks = self._masks_of(next(batch[name] for name in PREPARED if name in batch))
        return {"labels": self._labelled(batch, masks["positions"]), **masks}
