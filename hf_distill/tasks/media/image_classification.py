"""Image classification: what a picture shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from typing_extensions import override

from hf_distill.data.classes import ProblemType
from hf_distill.data.media.read_image import read_image
from hf_distill.recipe.parse import check_option, is_number
from hf_distill.tasks.encoding import MEDIA
from hf_distill.tasks.media.augmentation import mixed, view_of
from hf_distill.tasks.media.media_classification import MediaClassification
from hf_distill.tasks.media.media_rows import content_number
from hf_distill.tasks.task import TEACHER_PREFIX
from hf_distill.types import Batch, Collate


class ImageClassification(MediaClassification):
    """Rows of ``image`` and ``label``, see :class:`RowClassification`.

    Pictures are decoded as RGB, upright, and prepared by each model's own image processor, while batches are made.
    In training each epoch may see another view of a picture, the same for student and teacher: a part of it, perhaps
    mirrored (Beyer et al. 2022, Knowledge distillation: A good teacher is patient and consistent, section 3, find that
    this and a long schedule help most).

    Args:
        crop: The smallest share of a picture's area that a view keeps, at most 1, which keeps all of it. 0.08 is usual
            of photographs (Szegedy et al. 2015), where the view's sides differ by a third at most.
        flip: Whether half of the views are mirrored, left to right; wrong where sides mean something (digits, text).
        mixup: The share of rows that are a mixture of two pictures of their batch, see :func:`mixed`; their labels are
            the mixture of both.
        cutmix: The share of rows of which a part is another picture of their batch.
        keep_features: Whether what models read is made once and kept on disk, where `datasets` keeps its own: a picture
            of 224 x 224 takes 0.6 MB. Not with other views in each epoch.
        problem_type: As in text-classification.
        out_of_scope: As in text-classification.
        labels: As in text-classification.
    """

    name = "image-classification"
    pipeline_tag = "image-classification"
    example = '"your_picture.jpg"'
    material = "picture"
    auto_model = AutoModelForImageClassification
    auto_processor = AutoImageProcessor
    column = "image"
    required = ("image", "label")
    length_unit = ""
    encoded_by = ("problem_type", "out_of_scope", "crop", "flip", "mixup", "cutmix")

    def __init__(
        self,
        *,
        crop: float = 1.0,
        flip: bool = False,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        keep_features: bool = False,
        problem_type: ProblemType | None = None,
        out_of_scope: str | None = None,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__(problem_type, out_of_scope, labels)
        check_option("crop", crop, is_number(crop) and 0 < crop <= 1, "a share of the area above 0 and at most 1")
        check_option("flip", flip, isinstance(flip, bool), "true or false")
        for name, share in (("mixup", mixup), ("cutmix", cutmix)):
            check_option(name, share, is_number(share) and 0 <= share <= 1, "a share of the rows, 0 to 1")
        check_option("cutmix", cutmix, mixup + cutmix <= 1, "a share of the rows that mixup leaves")
        self.crop, self.flip, self.keep_features = float(crop), flip, keep_features
        self.mixup, self.cutmix = float(mixup), float(cutmix)
        self._mixes = self.mixup > 0 or self.cutmix > 0
        no_views = isinstance(keep_features, bool) and not (keep_features and self._changes)
        check_option("keep_features", keep_features, no_views, "true or false, and false beside other views")
        if self._changes:
            self.cache_schemes = ()  # type: ignore[misc]  # Each epoch sees other views than a cache would hold.

    @property
    def _changes(self) -> bool:
        return self.crop < 1 or self.flip or self._mixes

    @override
    def decoded(self, cell: Any, processor: Any) -> Image.Image:
        return read_image(cell)

    @override
    def prepared(self, media: Sequence[Any], processor: Any) -> Batch:
        if len(getattr(processor, "image_mean", None) or "RGB") == 1:
            media = [picture.convert("L") for picture in media]
        return {"pixel_values": processor(images=list(media), return_tensors="pt")["pixel_values"]}

    @override
    def blank(self, processor: Any) -> Image.Image:
        return Image.new("RGB", (64, 64))

    @override
    def picture(self, row: Mapping[str, Any]) -> Image.Image:
        return read_image(row["image"])

    @override
    def collator(self, tokenizer: Any, teacher_tokenizer: Any = None) -> Collate:
        return self._collator((tokenizer, teacher_tokenizer))

    @override
    def training_collator(self, tokenizer: Any, teacher_tokenizer: Any, epoch: Callable[[], Sequence[int]]) -> Collate:
        def drawn(content: int, what: str) -> random.Random:
            return random.Random(repr((*epoch(), content, what)))

        def change(picture: Image.Image, content: int) -> Image.Image:
            return view_of(picture, drawn(content, "view"), self.crop, self.flip)

        collate = self._collator((tokenizer, teacher_tokenizer), change if self._changes else None)

        def collate_mixed(rows: list[Mapping[str, Any]]) -> Batch:
            contents = [content_number(row[MEDIA]) for row in rows]
            return self._mixed(collate(rows), lambda: [drawn(content, "mixture") for content in contents])

        return collate_mixed if self._mixes else collate

    def _mixed(self, batch: Batch, draws: Callable[[], Sequence[random.Random]]) -> Batch:
        """The batch with mixtures, the same for student and teacher."""
        labels, found = self._mixable(batch["labels"]), {**batch}
        for name in ("pixel_values", TEACHER_PREFIX + "pixel_values"):
            if name in batch:
                found[name], found["labels"] = mixed(batch[name], labels, draws(), self.mixup, self.cutmix)
        return found

    def _collator(
        self, processors: tuple[Any, Any], change: Callable[[Image.Image, int], Image.Image] | None = None
    ) -> Collate:
        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            return {**self.inputs(rows, processors, change), "labels": self._label_tensor(rows)}

        return collate

    @override
    def row_sizes(self, lengths: Sequence[int]) -> tuple[int, str]:
        positions = self._positions or 1
        told = f", {positions} positions in each layer of the student" if self._positions else ""
        return positions, f"pictures: prepared while batches are made{told}"
