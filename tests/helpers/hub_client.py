"""What a person does with the Hub, in a process of its own: the client reads the Hub's address when it is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments, pipeline

from hf_distill import DistillationTrainer, Labels
from hf_distill.models.loading import load_model
from hf_distill.report.hub import push_folder
from tests.helpers import tiny


def main(folder: Path) -> None:
    model = tiny.bert(2, 32, seed=3)
    model.save_pretrained(folder / "student")
    tiny.tokenizer().save_pretrained(folder / "student")
    (folder / "student" / "README.md").write_text("---\nlibrary_name: transformers\n---\n# student\n")
    (folder / "student" / "training_args.bin").write_bytes(b"not for the Hub")
    print("pushed", push_folder(folder / "student", "me/student"))

    loaded = AutoModelForSequenceClassification.from_pretrained("me/student")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert (
        AutoTokenizer.from_pretrained("me/student")("the good card")["input_ids"]
        == tiny.tokenizer()("the good card")["input_ids"]
    )
    assert load_model(AutoModelForSequenceClassification, "me/student").config.id2label == {0: "bad", 1: "good"}
    assert pipeline("text-classification", "me/student")("the good card")[0]["label"] in ("bad", "good")

    tiny.splits(16, 8).push_to_hub("me/data")
    assert load_dataset("me/data")["train"]["text"] == tiny.splits(16, 8)["train"]["text"]

    trainer = DistillationTrainer(
        model=tiny.bert(2, 32, seed=1),
        teacher="me/student",
        objectives=[Labels(), "logits", "hidden"],
        args=TrainingArguments(
            str(folder / "trained"),
            use_cpu=True,
            max_steps=2,
            push_to_hub=True,
            hub_model_id="me/trained",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=tiny.rows(16),
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    trainer.push_to_hub()
    again = AutoModelForSequenceClassification.from_pretrained("me/trained")
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in again.state_dict().items())
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
