"""What ``encoders.py`` compares: each sets up a new student and trains it, as its makers' examples do or as we do."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from benchmarks.language import keep
from hf_distill import DistillationTrainer, Hidden, Logits
from hf_distill.evaluation.predict import Candidate
from hf_distill.evaluation.retrieval import score_vectors
from hf_distill.evaluation.scores import Evaluation
from hf_distill.models.hardware import best_dtype
from hf_distill.models.loading import load_model
from hf_distill.objectives import Objective, Similarity
from hf_distill.recipe import CacheConfig
from hf_distill.students import chosen_cuts
from hf_distill.students.layers import cut
from hf_distill.tasks import Embeddings, Task, TextClassification
from hf_distill.teachers import CachedTeacher, ModelTeacher
from hf_distill.tokenizers.processors import load_tokenizer
from hf_distill.training.sampler import LengthGroupedSampler

Train = Callable[[], PreTrainedModel]
"""What trains a student that is set up, and gives it."""

FIXED = 128
"""Tokens that TextBrewer's examples pad every row to."""

LAYERS = [1, 3, 5]
"""Of the classifier's teacher that its student has, and whose states it learns."""

KEPT = [0, 3, 5]
"""Layers that the student of the embedder has."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all train.

    Attributes:
        folder: For what trainers write.
        classifier: The folder of a fine-tuned teacher.
        rows: A csv file with ``text`` and ``category``.
        test: The same.
        embedder: The folder of a sentence encoder.
        sentences: A jsonl file with ``text``.
        pairs: A jsonl file with ``text``, ``text_pair`` and ``score``.
        count: Rows that are learned from.
        epochs: How often.
        batch: Rows of a step.
        device: ``cpu`` or ``cuda``.
    """

    folder: str
    classifier: str
    rows: str
    test: str
    embedder: str
    sentences: str
    pairs: str
    count: int = 512
    epochs: int = 1
    batch: int = 32
    device: str = "cpu"

    @property
    def half(self) -> bool:
        """Whether those that train in mixed precision do: where the device multiplies bfloat16 in hardware."""
        return best_dtype(torch.device(self.device)) == torch.bfloat16

    def placed(self, teacher: PreTrainedModel) -> PreTrainedModel:
        """A teacher of ours as recipes load it: in bfloat16 where the device multiplies it."""
        model: Any = teacher
        return model.to(self.device, best_dtype(torch.device(self.device)))  # type: ignore[no-any-return]

    def arguments(self, **more: Any) -> dict[str, Any]:
        return {
            "output_dir": self.folder,
            "num_train_epochs": self.epochs,
            "per_device_train_batch_size": self.batch,
            "learning_rate": 2e-4,
            "bf16": self.half,
            "use_cpu": self.device == "cpu",
            "dataloader_pin_memory": self.device == "cuda",
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **more,
        }


def compared() -> list[str]:
    """What can be run here."""
    peers = {"textbrewer": "textbrewer", "sentence-transformers": "sentence_transformers"}
    missing = [name for name, package in peers.items() if importlib.util.find_spec(package) is None]
    return [name for name in (*CLASSIFIERS, *EMBEDDERS) if not any(name.startswith(peer) for peer in missing)]


# --- classification ---------------------------------------------------------------------------------------------------


def teacher_of(setting: Setting) -> PreTrainedModel:
    model = load_model(AutoModelForSequenceClassification, setting.classifier)
    return model.to(setting.device).eval()


def student_of(teacher: PreTrainedModel) -> PreTrainedModel:
    return cut(teacher.cpu(), chosen_cuts(teacher, LAYERS))


def classified(setting: Setting, path: str, count: int) -> tuple[TextClassification, Dataset]:
    """A bound task, and rows as its columns."""
    rows = load_dataset("csv", data_files=path, split="train").rename_column("category", "label")
    task = TextClassification(max_length=FIXED)
    task.follow(load_model(AutoModelForSequenceClassification, setting.classifier).config)
    return task, rows.shuffle(seed=0).select(range(min(count, len(rows))))


def classifier(setting: Setting, is_cached: bool) -> DistillationTrainer:
    """Set up; where the teacher is cached, it has looked at all rows by then."""
    teacher = teacher_of(setting)
    task, rows = classified(setting, setting.rows, setting.count)
    tokenizer = load_tokenizer(setting.classifier)
    student = student_of(teacher)
    # TextBrewer adds up the losses of its layers; here they are averaged.
    objectives = [Logits(temperature=2.0), Hidden(weight=float(len(LAYERS)))]
    asked: ModelTeacher | CachedTeacher = ModelTeacher(setting.placed(teacher))
    if is_cached:
        asked, rows = cached(
            setting, asked, task, tokenizer, rows, {"logits": objectives[0], "hidden": objectives[1]}, student
        )
    trainer = DistillationTrainer(
        model=student,
        teacher=asked,
        task=task,
        objectives=objectives,
        args=TrainingArguments(**setting.arguments(train_sampling_strategy="group_by_length")),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def cached(
    setting: Setting,
    teacher: ModelTeacher,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    objectives: Mapping[str, Objective] | None,
    student: PreTrainedModel,
) -> tuple[CachedTeacher, Dataset]:
    """The teacher looks once, and is read from then on."""
    encoded = task.encode(rows, tokenizer)
    assert isinstance(encoded, Dataset)
    folder = Path(tempfile.mkdtemp(dir=setting.folder))
    told = {"objectives": objectives, "student": student.config, "batch_size": 64}
    return keep(teacher, task, tokenizer, encoded, CacheConfig(), folder, **told)


def ours(setting: Setting) -> Train:
    trainer = classifier(setting, is_cached=False)

    def train() -> PreTrainedModel:
        trainer.train()
        return trainer.model  # type: ignore[return-value]

    return train


def ours_cached(setting: Setting) -> Train:
    """What the cache takes to make is counted."""

    def train() -> PreTrainedModel:
        trainer = classifier(setting, is_cached=True)
        trainer.train()
        return trainer.model  # type: ignore[return-value]

    return train


def padding(setting: Setting) -> float:
    """The share of padding in an epoch of all rows."""
    whole = classifier(dataclasses.replace(setting, count=sys.maxsize), is_cached=False)
    masks = [batch["attention_mask"] for batch in whole.get_train_dataloader()]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def textbrewer(setting: Setting, batches: Any, autocast: bool) -> Train:
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    teacher = teacher_of(setting)
    student = student_of(teacher).to(setting.device)
    teacher.to(setting.device)

    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        return {
            "logits": (outputs.logits,),
            "hidden": outputs.hidden_states,
            "inputs_mask": batch["attention_mask"],
        }

    matches = [
        {"layer_T": layer + 1, "layer_S": i + 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
        for i, layer in enumerate(LAYERS)
    ]
    distiller = GeneralDistiller(
        TrainingConfig(device=setting.device, output_dir=setting.folder),
        DistillationConfig(temperature=2, intermediate_matches=matches),
        teacher,
        student,
        adaptor,
        adaptor,
    )
    distiller.save_and_callback = lambda *_: None  # Ours writes no checkpoints here, either.
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-4)
    steps = len(batches) * setting.epochs

    def train() -> PreTrainedModel:
        # All steps are within one autocast, which would keep the weights of the first as it cast them.
        cast = torch.autocast(setting.device, torch.bfloat16, cache_enabled=False) if autocast else nullcontext()
        with distiller, cast:
            distiller.train(
                optimizer,
                batches,
                num_epochs=setting.epochs,
                scheduler_class=torch.optim.lr_scheduler.LinearLR,
                scheduler_args={"start_factor": 1.0, "end_factor": 0.0, "total_iters": steps},
                max_grad_norm=1.0,
                output_hidden_states=True,
            )
        return student

    return train


def textbrewer_as_it_comes(setting: Setting) -> Train:
    task, rows = classified(setting, setting.rows, setting.count)
    tokenizer = load_tokenizer(setting.classifier)
    encoded = task.encode(rows, tokenizer)

    def collate(listed: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        features = [{"input_ids": row["input_ids"]} for row in listed]
        return dict(tokenizer.pad(features, padding="max_length", max_length=FIXED, return_tensors="pt"))

    return textbrewer(setting, DataLoader(encoded, setting.batch, shuffle=True, collate_fn=collate), autocast=False)


def textbrewer_with_our_batches(setting: Setting) -> Train:
    task, rows = classified(setting, setting.rows, setting.count)
    tokenizer = load_tokenizer(setting.classifier)
    encoded = task.encode(rows, tokenizer)
    collate = task.collator(tokenizer)
    sampler = LengthGroupedSampler(list(encoded["length"]), setting.batch, 0)

    def inputs(listed: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(listed)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    loader = DataLoader(encoded, setting.batch, sampler=sampler, collate_fn=inputs)
    return textbrewer(setting, loader, autocast=setting.half)


def accuracy(student: PreTrainedModel, setting: Setting) -> dict[str, float]:
    task, rows = classified(setting, setting.test, 1500)
    tokenizer = load_tokenizer(setting.classifier)
    encoded = task.encode(rows, tokenizer)
    collate = task.collator(tokenizer)
    right = 0
    student.to(setting.device).eval()
    with torch.inference_mode():
        for listed in _parts(list(encoded.sort("length")), 64):
            batch = {name: value.to(setting.device) for name, value in collate(listed).items()}
            logits = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            right += int((logits.argmax(-1) == batch["labels"]).sum())
    return {"accuracy": right / len(encoded)}


# --- vectors ----------------------------------------------------------------------------------------------------------


def sentences(setting: Setting) -> Dataset:
    rows = load_dataset("json", data_files=setting.sentences, split="train").shuffle(seed=0)
    return rows.select(range(min(setting.count, len(rows))))


def small_embedder(setting: Setting, task: Embeddings) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Student and teacher."""
    teacher = load_model(AutoModel, setting.embedder)
    task.check_model(teacher)
    student = cut(teacher, chosen_cuts(teacher, KEPT))
    tokenizer = load_tokenizer(setting.embedder)
    task.prepare_student(student, tokenizer, teacher, tokenizer, lambda: ["a text"])
    return student, teacher


def ours_vectors(setting: Setting) -> Train:
    task = Embeddings(max_length=FIXED)
    student, teacher = small_embedder(setting, task)
    tokenizer = load_tokenizer(setting.embedder)
    given = sentences(setting)

    def train() -> PreTrainedModel:
        asked, rows = cached(setting, ModelTeacher(setting.placed(teacher)), task, tokenizer, given, None, student)
        trainer = DistillationTrainer(
            model=student,
            teacher=asked,
            task=task,
            objectives=[Similarity(loss="mse")],
            args=TrainingArguments(**setting.arguments(train_sampling_strategy="group_by_length")),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return student

    return train


def sentence_transformers(setting: Setting) -> Train:
    """As its example of distilling a model into some of its layers: the teacher encodes, the student learns by MSE."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    teacher = SentenceTransformer(setting.embedder, device=setting.device)
    student = SentenceTransformer(setting.embedder, device=setting.device)
    model: Any = student[0].auto_model
    model.encoder.layer = torch.nn.ModuleList(model.encoder.layer[i] for i in KEPT)
    model.config.num_hidden_layers = len(KEPT)
    given = list(sentences(setting)["text"])

    def train() -> PreTrainedModel:
        vectors = teacher.encode(given, batch_size=setting.batch, show_progress_bar=False)
        trainer: Trainer = SentenceTransformerTrainer(
            model=student,
            args=SentenceTransformerTrainingArguments(**setting.arguments()),
            train_dataset=Dataset.from_dict({"sentence": given, "label": vectors.tolist()}),
            loss=losses.MSELoss(student),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        made: PreTrainedModel = model
        return made

    return train


def spearman(student: PreTrainedModel, setting: Setting) -> dict[str, float]:
    task = Embeddings(max_length=FIXED)
    task.check_model(student)
    rows = load_dataset("json", data_files=setting.pairs, split="train")
    candidate = Candidate(model=student, tokenizer=load_tokenizer(setting.embedder))
    scores = score_vectors(candidate, Evaluation(task=task, rows=rows))
    return {"spearman": scores.metrics()["spearman"]}


def _parts(rows: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


CLASSIFIERS: dict[str, Callable[[Setting], Train]] = {
    "ours, live": ours,
    "ours, cached": ours_cached,
    "textbrewer, as its examples run": textbrewer_as_it_comes,
    "textbrewer, batches as ours": textbrewer_with_our_batches,
}

EMBEDDERS: dict[str, Callable[[Setting], Train]] = {
    "ours, vectors": ours_vectors,
    "sentence-transformers": sentence_transformers,
}
