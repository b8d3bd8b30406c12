"""Train a tiny student and write losses and weights: one process or, under torchrun, two."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import (
    AutoModelForImageClassification,
    BertModel,
    MixtralConfig,
    MixtralForCausalLM,
    TrainingArguments,
)

from hf_distill import Attention, DistillationTrainer, Hidden, Labels, Logits, Relation, Rollout, RolloutConfig
from hf_distill.objectives import Objective, Similarity
from hf_distill.tasks import (
    CausalLanguageModeling,
    CTCSpeechRecognition,
    Embeddings,
    ImageClassification,
    Translation,
)
from hf_distill.teachers import ModelTeacher
from tests.helpers import media_models, media_rows, speech, tiny
from tests.helpers.byte_tokenizers import byte_level, sentencepiece
from tests.helpers.known_writer import Known


def pair(task: str) -> dict[str, Any]:
    """Student, teacher, task and ragged rows."""
    if task == "text-classification":
        rows = tiny.rows(64)
        labels = [None if i % 5 == 0 else label for i, label in enumerate(rows["label"])]
        return {
            "model": tiny.bert(2, 32, seed=1),
            "teacher": tiny.bert(4, 48, seed=2),
            "train_dataset": rows.remove_columns("label").add_column("label", labels),
            "eval_dataset": tiny.rows(30, 1),
            "processing_class": tiny.tokenizer(),
        }
    if task in MEDIA:
        return MEDIA[task]()
    train, evaluation = (Dataset.from_dict({"text": tiny.rows(count, count)["text"]}) for count in (64, 30))
    if task == "causal-lm":
        return {
            "model": tiny.decoder(1, seed=1),
            "teacher": tiny.decoder(2, 48, seed=2),
            "task": CausalLanguageModeling(max_length=64, packing=False),
            "train_dataset": train,
            "eval_dataset": evaluation,
            "processing_class": tiny.chat_tokenizer(),
        }
    if task == "experts":
        return {**pair("causal-lm"), "model": experts()}
    if task == "cross-tokenizer":
        student, teacher = byte_level(), sentencepiece()
        return {
            **pair("causal-lm"),
            "model": tiny.decoder(1, seed=1, vocab_size=len(student)),
            "teacher": ModelTeacher(tiny.decoder(2, 48, seed=2, vocab_size=len(teacher)), teacher),
            "processing_class": student,
        }
    if task == "rollout":
        return {
            **pair("causal-lm"),
            "rollout": Rollout(RolloutConfig(share=0.5, max_new_tokens=6, prompt_tokens=3), engine=Known()),
        }
    if task == "embeddings":
        return vectors(train, evaluation)
    return {
        "model": tiny.encoder_decoder("marian", 2, 1, seed=1),
        "teacher": tiny.encoder_decoder("marian", 2, 2, seed=2),
        "task": Translation(),
        "train_dataset": train.add_column("source", train["text"]).rename_column("text", "target"),
        "eval_dataset": evaluation.add_column("source", evaluation["text"]).rename_column("text", "target"),
        "processing_class": tiny.chat_tokenizer(),
    }


def pictures() -> dict[str, Any]:
    """A ViT, that sees another part of each picture in each epoch."""
    task = ImageClassification(crop=0.5)
    task.read_labels(media_rows.pictures(24))
    return {
        "model": media_models.model(AutoModelForImageClassification, "vit", 1, num_hidden_layers=2),
        "teacher": media_models.model(AutoModelForImageClassification, "vit", 2),
        "task": task,
        "train_dataset": media_rows.pictures(24),
        "eval_dataset": media_rows.pictures(10, 1),
        "processing_class": media_rows.image_processor(),
    }


def clips() -> dict[str, Any]:
    """A model with a CTC head, and clips of unlike lengths."""
    return {
        "model": speech.listener(seed=1),
        "teacher": speech.listener(seed=2, hidden_size=24, num_hidden_layers=4),
        "task": CTCSpeechRecognition(),
        "train_dataset": speech.rows(repeats=4),
        "eval_dataset": speech.rows(),
        "processing_class": speech.processor(),
    }


MEDIA: dict[str, Callable[[], dict[str, Any]]] = {"image-classification": pictures, "speech-recognition-ctc": clips}


def experts() -> Any:
    """A Mixtral whose config asks for balance."""
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    asked = {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 1.0}
    return MixtralForCausalLM(MixtralConfig(vocab_size=len(tiny.CHAT_WORDS), num_key_value_heads=2, **shape, **asked))


def vectors(train: Dataset, evaluation: Dataset) -> dict[str, Any]:
    """A student that is narrower than its teacher, so with a projection, and rows of unlike numbers of texts."""
    task, made = Embeddings(), tiny.tokenizer()
    student, teacher = (tiny.bert(layers, hidden, seed=layers, kind=BertModel) for layers, hidden in ((1, 32), (2, 48)))
    task.check_model(teacher)
    torch.manual_seed(0)
    task.prepare_student(student, made, teacher, made, lambda: train["text"])
    first, second = (
        rows.add_column("text_pair", list(reversed(rows["text"]))).add_column(
            "candidates", [rows["text"][i : i + 1 + i % 3] for i in range(len(rows))]
        )
        for rows in (train, evaluation)
    )
    return {
        "model": student,
        "teacher": teacher,
        "task": task,
        "train_dataset": first,
        "eval_dataset": second,
        "processing_class": made,
    }


def objectives(task: str) -> list[Objective]:
    """All that a task's outputs allow and that do not compare the rows of a batch with each other."""
    if task == "embeddings":
        return [Similarity(), Similarity(loss="margin_mse"), Hidden()]
    if task in MEDIA:
        return [Labels(), Logits(), Hidden()]
    if task == "cross-tokenizer":
        return [Labels(), Logits(cross_tokenizer=True)]
    return [Labels(), Logits(), Hidden(), Relation(), Attention()]


def main(folder: Path, batch: int, resume: bool, task: str, steps: int) -> None:
    # What balances experts is a mean over micro-batches, so that these must be the same.
    batch = 4 if task == "experts" else batch
    trainer = DistillationTrainer(
        **pair(task),
        objectives=objectives(task),
        args=TrainingArguments(
            output_dir=str(folder),
            use_cpu=True,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=8 // (batch * int(os.environ["WORLD_SIZE"])),
            per_device_eval_batch_size=5,
            max_steps=steps,
            optim="sgd",
            learning_rate=0.05,
            logging_steps=1,
            save_strategy="steps",
            save_steps=5,
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="group_by_length",
        ),
    )
    trainer.train(resume_from_checkpoint=resume)
    evaluation = trainer.evaluate()
    if trainer.is_world_process_zero():
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        facts = {
            "world_size": trainer.args.world_size,
            "losses": [entry["loss"] for entry in entries],
            "written": [entry.get("rollout_length") for entry in entries],
            "terms": [entry.get("loss_hidden") for entry in entries],
            "balance": [entry.get("loss_router") for entry in entries],
            "compared": [entry.get("compared_positions") for entry in entries],
            "eval_loss": evaluation["eval_loss"],
        }
        (folder / "facts.json").write_text(json.dumps(facts))
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")


def leave() -> None:
    """End the process group and its threads: one that drops a tensor while Python ends aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        # The trainer still holds the group, in cycles; its threads end when nothing does.
        gc.collect()


if __name__ == "__main__":
    assert os.environ["OMP_NUM_THREADS"] == "1"
    place, size, again = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["resume"]
    main(place, size, again, "text-classification", 12)
    names = ("causal-lm", "translation", "embeddings", "rollout", "cross-tokenizer", "experts", *MEDIA)
    for name in () if again else names:
        main(place / name, size, again, name, 4)
    leave()
