"""Students that a teacher may have, by depth and width: their configs and parameters, without weights."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PretrainedConfig

from hf_distill.data.rows import Data
from hf_distill.errors import StudentError
from hf_distill.pipeline.plans import ModelPlan, planned_student
from hf_distill.recipe import FromParts, Recipe, WidthConfig
from hf_distill.students import Shape, chosen_cuts, family_of_shapes, shape_of
from hf_distill.tasks import Task

logger = logging.getLogger(__name__)

SHARES = (0.75, 0.5, 0.375, 0.25)
"""Of the teacher's heads, hidden size and units: the widths that are planned beside the whole one."""

DEPTHS = 12
"""Depths that are planned at most; evenly spaced where the teacher is deeper."""

SIDE_DEPTHS = 4
"""The same for each side of an encoder-decoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """A student that may be built.

    Attributes:
        layers: As ``student.layers``.
        width: As ``student.width``; None for the teacher's.
        parameters: How many it has.
        config: What it is built from.
    """

    layers: int | Mapping[str, int]
    width: Mapping[str, int] | None
    parameters: int
    config: PretrainedConfig = field(repr=False)

    @property
    def depth(self) -> int:
        """Layers of all sides."""
        return self.layers if isinstance(self.layers, int) else sum(self.layers.values())

    @property
    def name(self) -> str:
        """For people, and unique among its like."""
        deep = str(self.layers) if isinstance(self.layers, int) else "+".join(map(str, self.layers.values()))
        return f"{deep} layer{'s' * (self.depth > 1)}" + (f" x {self.width['hidden_size']}" if self.width else "")

    @property
    def student(self) -> dict[str, Any]:
        """The ``student`` block of a recipe."""
        layers = self.layers if isinstance(self.layers, int) else dict(self.layers)
        return {"layers": layers, **({"width": dict(self.width)} if self.width else {})}


Column = list[Sketch]
"""Students that differ in depth alone (in that of the decoder, where there is an encoder), the shallowest first."""


def sketch_columns(recipe: Recipe, task: Task, data: Data, teacher: ModelPlan) -> list[Column]:
    """All students that are planned."""
    columns: list[Column] = []
    refused: StudentError | None = None
    for width in (None, *_widths(teacher.model.config)):
        for depths in _depths(teacher):
            columns.append([])
            for layers in depths:
                try:
                    columns[-1].append(_sketch(recipe, task, data, teacher, layers, width))
                except StudentError as error:  # Not every model can lose any layer.
                    refused = error
    if refused is not None and not any(columns):
        raise refused
    return [column for column in columns if column]


def _depths(teacher: ModelPlan) -> list[list[int] | list[dict[str, int]]]:
    """Columns of ``student.layers``."""
    if not teacher.model.config.is_encoder_decoder:
        ((total,),) = ((cut.total for cut in chosen_cuts(teacher.model, 1)),)
        return [_spaced(total, DEPTHS)]
    encoder, decoder = (cut.total for cut in chosen_cuts(teacher.model, {"encoder": 1, "decoder": 1}))
    return [
        [{"encoder": first, "decoder": second} for second in _spaced(decoder, SIDE_DEPTHS)]
        for first in reversed(_spaced(encoder, SIDE_DEPTHS))
    ]


def _spaced(total: int, most: int) -> list[int]:
    """Whole numbers from 1 to the total, so many at most."""
    count = min(total, most)
    return sorted({round(1 + i * (total - 1) / max(count - 1, 1)) for i in range(count)})


def _widths(config: PretrainedConfig) -> list[WidthConfig]:
    try:
        shapes, source = family_of_shapes(config)[:-1], shape_of(config)
    except StudentError as error:
        logger.info(f"width: only the depth is planned: {error}")
        return []
    chosen = {_nearest(shapes, share * source.heads): None for share in SHARES if shapes}
    return [
        WidthConfig(hidden_size=each.hidden_size, heads=each.heads, intermediate_size=each.intermediate_size)
        for each in chosen
    ]


def _nearest(shapes: Sequence[Shape], heads: float) -> Shape:
    return min(shapes, key=lambda shape: abs(shape.heads - heads))


def _sketch(
    recipe: Recipe, task: Task, data: Data, teacher: ModelPlan, layers: Any, width: WidthConfig | None
) -> Sketch:
    asked = FromParts(layers=layers, width=width)
    student = planned_student(dataclasses.replace(recipe, student=asked), task, data, teacher)
    sizes = ("hidden_size", "heads", "intermediate_size")
    return Sketch(
        layers=layers,
        width=None if width is None else {name: getattr(width, name) for name in sizes},
        parameters=student.parameters,
        config=student.model.config,
    )
