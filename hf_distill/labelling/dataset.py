"""From training rows to rows that the teacher wrote for: a data set that trains like any other, and where it is from.

runs/labels/
  written-<hash>/                  see shards.py; other choices and filters find it again
  <hash>/datasets/*.parquet        train, validation, test: what data.path reads
  <hash>/provenance.json           teacher, settings, counts
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from accelerate import PartialState
from datasets import Dataset, Features, Value, concatenate_datasets

from hf_distill.artifacts import digest, read_json, write_json, write_whole
from hf_distill.data.local_files import read_files
from hf_distill.data.rows import Data, fingerprint
from hf_distill.errors import DataError, WritingError
from hf_distill.labelling.checks import rows_to_write_for, scorer_of
from hf_distill.labelling.provenance import facts_of, identity_of
from hf_distill.labelling.selection import Choice, choose, keep
from hf_distill.labelling.shards import read_all, write_all
from hf_distill.recipe import DataConfig, LabelConfig, Recipe
from hf_distill.tasks import Task
from hf_distill.teachers import Teacher

logger = logging.getLogger(__name__)

TRAIN = "train-00000-of-00001.parquet"
"""As the Hub names the file of a split."""

TEXTS, FIGURES = ("writer", "original_target"), ("mean_log_probability", "score")
ADDED = Features(
    {"row_id": Value("int64")} | dict.fromkeys(TEXTS, Value("string")) | dict.fromkeys(FIGURES, Value("float64"))
)
"""Columns beside those of the task."""


PROVENANCE = ("teacher", "generation", "label", "rows", "dropped", "not_ended", "mean_log_probability")
"""Keys of provenance.json that are read."""


@dataclass(frozen=True, kw_only=True)
class TeacherTexts:
    """Rows that a teacher wrote for, with the task's columns."""

    folder: Path
    provenance: dict[str, Any]  # The content of provenance.json.
    train: Dataset

    @property
    def datasets(self) -> Path:
        """What ``data.path`` of a recipe names to train on them."""
        return self.folder / "datasets"

    def in_place_of(self, data: Data) -> Data:
        """The data with these rows to train on."""
        return _with_train(data, self.train)

    def beside(self, data: Data) -> Data:
        """The data with both these rows and their own: the texts that a student must have words for."""
        assert isinstance(data.train, Dataset)
        return _with_train(data, concatenate_datasets([data.train, self.train]))


def label_rows(recipe: Recipe, task: Task, data: Data, teacher: Teacher, folder: Path, command: str) -> TeacherTexts:
    """Let the teacher write for every training row, unless it did, and make a data set of what it wrote."""
    config = recipe.label or LabelConfig()
    rows = rows_to_write_for(task, data)
    assert teacher.tokenizer is not None
    prompts = task.prompts(rows, teacher.tokenizer)
    writer = teacher.writer(config, task, prompts.options)
    identity = identity_of(recipe, config, task, data, teacher, writer)
    made = folder / digest({**identity, "label": asdict(config)})[:12]
    labels = _made_before(made, data)
    PartialState().wait_for_everyone()
    if labels is None:
        written = folder / f"written-{digest(identity)[:12]}"
        whose = f"{teacher.facts['model']} writes for {len(prompts.row_ids):,} rows"
        logger.info(f"labels: {whose} ({writer.description}), to {written}")
        write_all(written, identity, writer, prompts, recipe.seed)
        assert isinstance(data.train, Dataset)
        given = len(data.train)
        references = {i: text for i, text in zip(prompts.row_ids, prompts.references, strict=True) if i < given}
        scorer = next(iter(scorer_of(config, task)), None)
        kept, counts = _select(written, config, scorer, references, len(rows) - len(prompts.row_ids))
        if PartialState().is_main_process:
            train = _labelled(task, rows, kept, references)
            if config.keep_original:
                train = concatenate_datasets([train, _with_origin(data.train, range(given), "data", references)])
                counts["rows"]["original"] = given
            facts = facts_of(identity, config, data, teacher, command) | counts
            write_whole(made, lambda partial: _write(partial, train, data, facts))
        PartialState().wait_for_everyone()
        labels = _read(made, data)
    _log(labels.provenance)
    return labels


def _with_train(data: Data, train: Dataset) -> Data:
    return replace(data, train=train, unlabelled=None, fingerprint=fingerprint([data.validation, data.test, train]))


def _select(
    written: Path, config: LabelConfig, scorer: str | None, references: Mapping[int, str], unread: int
) -> tuple[list[Choice], dict[str, Any]]:
    """The texts to train on and what is counted of them; all processes select, so that all fail where none is left."""
    choices = choose(sorted(read_all(written), key=lambda row: row.row_id), references, config, scorer)
    kept, dropped = keep(choices, config.filters, scorer)
    asked, dropped = unread + len(choices), {"prompt_too_long": unread, **dropped}
    if not kept:
        raise WritingError(
            f"label.filters: nothing is left of {asked} rows ({_listed(dropped)}); loosen what drops most, or look at "
            f"what the teacher wrote, in {written}"
        )
    likely = [choice.hypothesis.mean_log_probability for choice in kept]
    return kept, {
        "rows": {"asked": asked, "written": len(choices), "kept": len(kept), "original": 0},
        "dropped": dropped,
        "not_ended": sum(not choice.hypothesis.ended for choice in kept),
        "mean_log_probability": None if None in likely else round(float(np.mean(np.array(likely, float))), 5),
    }


def _labelled(task: Task, rows: Dataset, kept: Sequence[Choice], references: Mapping[int, str]) -> Dataset:
    ids = [choice.row_id for choice in kept]
    texts = task.with_answers(rows.select(ids), [choice.hypothesis.text for choice in kept])
    texts = texts.select_columns(rows.column_names).cast(rows.features)
    likely = [choice.hypothesis.mean_log_probability for choice in kept]
    figures = {"mean_log_probability": likely, "score": [choice.score for choice in kept]}
    return _with_origin(texts, ids, "teacher", references, figures)


def _with_origin(
    rows: Dataset,
    ids: Sequence[int],
    writer: str,
    references: Mapping[int, str],
    figures: Mapping[str, Sequence[float | None]] | None = None,
) -> Dataset:
    """Rows with the columns of :data:`ADDED`."""
    nothing = dict.fromkeys(FIGURES, [None] * len(ids))
    texts = {"writer": [writer] * len(ids), "original_target": [references.get(i) for i in ids]}
    added = Dataset.from_dict({"row_id": list(ids), **texts, **(figures or nothing)}, features=ADDED)
    return concatenate_datasets([rows.flatten_indices(), added], axis=1)


def _write(folder: Path, train: Dataset, data: Data, facts: Mapping[str, Any]) -> None:
    (folder / "datasets").mkdir(parents=True)
    held_out = {"validation": data.validation, "test": data.test}
    splits = {name: _with_origin(rows, range(len(rows)), "data", {}) for name, rows in held_out.items()}
    for name, rows in {"train": train, **splits}.items():
        rows.to_parquet(str(folder / "datasets" / TRAIN.replace("train", name)))
    write_json(folder / "provenance.json", facts)


def _made_before(folder: Path, data: Data) -> TeacherTexts | None:
    """What was made before; None where nothing was, or where it is damaged: what the teacher wrote makes it again."""
    if not folder.is_dir():
        return None
    try:
        return _read(folder, data)
    except WritingError as error:
        logger.info(f"warning: labels: {error}")
        return None


def _read(folder: Path, data: Data) -> TeacherTexts:
    remedy = "it is made again from what the teacher wrote"
    what = "the provenance of the teacher's texts"
    provenance = read_json(folder / "provenance.json", WritingError, what, PROVENANCE, remedy)
    try:
        counts = [*provenance["rows"].values(), *provenance["dropped"].values(), provenance["not_ended"]]
        if {*map(type, counts)} != {int} or not {"asked", "kept", "original"} <= provenance["rows"].keys():
            raise ValueError("its provenance.json counts no rows")
        for name in ("validation", "test"):
            pyarrow.parquet.read_metadata(folder / "datasets" / TRAIN.replace("train", name))
        path = str(folder / "datasets" / TRAIN)
        rows = read_files(path, "train", DataConfig(files=path))
        assert isinstance(rows, Dataset)
        assert isinstance(data.train, Dataset)
        train = rows.select_columns(data.train.column_names).cast(data.train.features)
        if len(train) != (expected := provenance["rows"]["kept"] + provenance["rows"]["original"]):
            raise ValueError(f"it has {len(train)} rows, its provenance.json says {expected}")
    except (DataError, OSError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise WritingError(f"{folder} is damaged ({error}); {remedy}") from error
    return TeacherTexts(folder=folder, provenance=provenance, train=train)


def _log(provenance: Mapping[str, Any]) -> None:
    rows = provenance["rows"]
    more = f", and {rows['original']:,} as the data have them" if rows["original"] else ""
    dropped = _listed(provenance["dropped"])
    logger.info(f"labels: {rows['kept']:,} of {rows['asked']:,} rows{more}; dropped: {dropped}")
    if cut := provenance["not_ended"]:
        logger.info(
            f"labels: {cut:,} texts were cut at the most tokens a text may have; a student learns to stop there: raise "
            "label.generation.max_new_tokens where they are many"
        )


def _listed(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} by {name}" for name, count in dropped.items() if count) or "none"
