"""From training rows to rows that the teacher wrote for: a data set that trains like any other, and where it is from.

runs/labels/
  written-<hash>/                  see shards.py; other choices and filters find it again
  <hash>/datasets/*.parquet        train, validation, test: what data.path reads
  <hash>/provenance.json           teacher, settings, counts
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, Features, Value, concatenate_datasets

from hf_distill.data.load import Data, fingerprint
from hf_distill.data.sources import read_files
from hf_distill.errors import WritingError
from hf_distill.evaluation.predict import Candidate
from hf_distill.evaluation.served import Served
from hf_distill.evaluation.written import with_length
from hf_distill.generation.hypotheses import Writer, writing_settings
from hf_distill.generation.served import ServedWriter
from hf_distill.labelling.checks import asked_rows, scorer_of
from hf_distill.labelling.provenance import facts_of, identity_of, own_generation
from hf_distill.labelling.selection import Choice, choose, keep
from hf_distill.labelling.shards import SHARD_ROWS, digest, read_all, write_all
from hf_distill.recipe import LabelConfig, Recipe
from hf_distill.run_folder import write_json, write_whole
from hf_distill.tasks import Task
from hf_distill.tasks.rollout_batches import Prompts
from hf_distill.teachers import place

logger = logging.getLogger(__name__)


ADDED = Features(
    {
        "row_id": Value("int64"),
        "writer": Value("string"),
        "original_target": Value("string"),
        "mean_log_probability": Value("float64"),
        "score": Value("float64"),
    }
)
"""Columns beside those of the task."""


@dataclass(frozen=True, kw_only=True)
class TeacherTexts:
    """Rows that a teacher wrote for.

    Attributes:
        folder: Where they lie.
        provenance: The content of ``provenance.json``.
        train: The rows, with the task's columns.
    """

    folder: Path
    provenance: dict[str, Any]
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


def label_rows(
    recipe: Recipe,
    task: Task,
    data: Data,
    teacher: Candidate | Served,
    folder: Path,
    command: str,
) -> TeacherTexts:
    """Let the teacher write for every training row, unless it did, and make a data set of what it wrote.

    Args:
        recipe: Checked; without ``label`` all its settings are as they are by default.
        task: Bound to the data.
        data: Whose training rows, and unlabelled rows, are written for.
        teacher: Live.
        folder: Of all labels, ``runs/labels``.
        command: What runs it again.

    Raises:
        WritingError: Where nothing is left of what was written, or it is broken.
    """
    config = recipe.label or LabelConfig()
    rows = asked_rows(task, data)
    prompts = task.prompts(rows, teacher.tokenizer)
    writer = _writer(teacher, config, task, prompts)
    identity = identity_of(recipe, config, task, data, teacher, writer)
    made = folder / digest({**identity, "label": asdict(config)})
    is_made = (made / "provenance.json").is_file()
    PartialState().wait_for_everyone()
    if not is_made:
        written = folder / f"written-{digest(identity)}"
        searched = "the likeliest token each time" if isinstance(teacher, Served) else f"{config.beams} beams"
        shown = f"drawn, {config.hypotheses} a row" if config.draws else searched
        logger.info(
            f"labels: {teacher.facts['model']} writes for {len(prompts.row_ids):,} rows ({shown}), to {written}"
        )
        # A server is given a whole shard: how many rows are under way, its client decides.
        at_once = SHARD_ROWS if isinstance(teacher, Served) else config.batch_size
        write_all(written, identity, lambda: _placed(writer), prompts, at_once, recipe.seed)
        _make(made, written, config, task, data, rows, prompts, facts_of(identity, config, data, teacher, command))
    labels = _read(made, data)
    for line in _told(labels):
        logger.info(line)
    return labels


def _with_train(data: Data, train: Dataset) -> Data:
    parts = [data.validation, data.test, train]
    return replace(data, train=train, unlabelled=None, fingerprint=fingerprint(parts))


def _writer(teacher: Candidate | Served, config: LabelConfig, task: Task, prompts: Prompts) -> Writer | ServedWriter:
    if isinstance(teacher, Served):
        settings = with_length({**prompts.options, **config.generation}, task.longest_text)
        return ServedWriter(teacher.client, teacher.tokenizer, config, settings)
    settings = writing_settings(config, task.longest_text, prompts.options)
    return Writer(teacher.model, teacher.tokenizer, own_generation(teacher), settings)


def _placed(writer: Writer | ServedWriter) -> Writer | ServedWriter:
    if isinstance(writer, ServedWriter):
        return writer
    place(writer.model, PartialState().device)
    writer.model.eval()
    return writer


def _make(
    made: Path,
    written: Path,
    config: LabelConfig,
    task: Task,
    data: Data,
    rows: Dataset,
    prompts: Prompts,
    facts: dict[str, Any],
) -> None:
    """Choose, filter and write the data set; every process chooses, so that all end alike where nothing is left."""
    assert isinstance(data.train, Dataset)
    given = len(data.train)
    references = {i: text for i, text in zip(prompts.row_ids, prompts.references, strict=True) if i < given}
    texts = sorted(read_all(written), key=lambda each: each.row_id)
    choices = choose(texts, references, config, next(iter(scorer_of(config, task)), None))
    kept, dropped = keep(choices, config.filters)
    dropped = {"prompt_too_long": len(rows) - len(prompts.row_ids), **dropped}
    if not kept:
        raise WritingError(
            f"label.filters: nothing is left of {len(rows)} rows ({_counts(dropped)}); loosen what drops most, or look "
            f"at what the teacher wrote, in {written}"
        )
    likely = [each.hypothesis.mean_log_probability for each in kept]
    facts["rows"] = {
        "asked": len(rows),
        "written": len(choices),
        "kept": len(kept),
        "original": given if config.keep_original else 0,
    }
    facts["dropped"] = dropped
    facts["not_ended"] = sum(not each.hypothesis.ended for each in kept)
    facts["mean_log_probability"] = None if None in likely else round(float(np.mean(np.array(likely, float))), 5)
    if PartialState().is_main_process:
        train = _labelled(task, data, rows, kept, references)
        if config.keep_original:
            train = concatenate_datasets([train, _original(data.train, references)])
        write_whole(made, lambda partial: _write(partial, train, data, facts))
    PartialState().wait_for_everyone()


def _labelled(task: Task, data: Data, rows: Dataset, kept: Sequence[Choice], references: Mapping[int, str]) -> Dataset:
    """The rows that are kept, with what the teacher wrote, and the columns of :data:`ADDED`."""
    ids = [each.row_id for each in kept]
    texts = task.with_answers(rows.select(ids), [each.hypothesis.text for each in kept])
    texts = texts.select_columns(rows.column_names).cast(rows.features)
    more = {
        "row_id": ids,
        "writer": ["teacher"] * len(kept),
        "original_target": [references.get(i) for i in ids],
        "mean_log_probability": [each.hypothesis.mean_log_probability for each in kept],
        "score": [each.score for each in kept],
    }
    return concatenate_datasets([texts.flatten_indices(), Dataset.from_dict(more, features=ADDED)], axis=1)


def _original(rows: Any, references: Mapping[int, str]) -> Dataset:
    """Rows as they are in the data, with the same columns."""
    count = len(rows)
    nothing = dict.fromkeys(("mean_log_probability", "score"), [None] * count)
    told = {"original_target": [references.get(i) for i in range(count)], **nothing}
    more = {"row_id": list(range(count)), "writer": ["data"] * count, **told}
    return concatenate_datasets([rows.flatten_indices(), Dataset.from_dict(more, features=ADDED)], axis=1)


def _write(folder: Path, train: Dataset, data: Data, facts: Mapping[str, Any]) -> None:
    (folder / "datasets").mkdir(parents=True)
    splits = {"train": train, "validation": _original(data.validation, {}), "test": _original(data.test, {})}
    for name, rows in splits.items():
        rows.to_parquet(str(folder / "datasets" / _file(name)))
    write_json(folder / "provenance.json", facts)


def _read(folder: Path, data: Data) -> TeacherTexts:
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    rows = read_files(str(folder / "datasets" / _file("train")), "train")
    assert isinstance(rows, Dataset)
    assert isinstance(data.train, Dataset)
    train = rows.select_columns(data.train.column_names).cast(data.train.features)
    return TeacherTexts(folder=folder, provenance=provenance, train=train)


def _file(split: str) -> str:
    """As the Hub names it."""
    return f"{split}-00000-of-00001.parquet"


def _told(labels: TeacherTexts) -> Iterator[str]:
    facts = labels.provenance
    rows = facts["rows"]
    more = f", and {rows['original']:,} as the data have them" if rows["original"] else ""
    yield f"labels: {rows['kept']:,} of {rows['asked']:,} rows{more}; dropped: {_counts(facts['dropped'])}"
    if facts["not_ended"]:
        yield (
            f"labels: {facts['not_ended']:,} texts were cut at the most tokens a text may have; a student learns to "
            "stop there: raise label.generation.max_new_tokens where they are many"
        )


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} by {name}" for name, count in dropped.items() if count) or "none"
