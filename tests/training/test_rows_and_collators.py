"""Rows tokenised already and collators of Transformers: what a batch lacks is made, or refused by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    default_data_collator,
    set_seed,
)

from hf_distill import DistillationTrainer, Hidden, Labels, Logits
from hf_distill.errors import DataError, RecipeError, TeacherError
from hf_distill.tasks import TASKS, check_class, make_task, task_of
from hf_distill.types import Targets, View
from tests.helpers import tiny
from tests.helpers.thinned import thinned
from tests.helpers.trainers import arguments

TOKENIZER = tiny.chat_tokenizer()
WORDS = len(tiny.CHAT_WORDS)


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(5, WORDS, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def table(length: Any, **columns: Any) -> Dataset:
    """Rows of token ids; other columns are made of them."""
    made = []
    for i in range(8):
        tokens = ids(length(i), i)
        made.append({"input_ids": tokens, **{name: make(tokens, i) for name, make in columns.items()}})
    return Dataset.from_list(made)


def ones(tokens: list[int], _: int) -> list[int]:
    return [1] * len(tokens)


def ragged(i: int) -> int:
    return 6 + i % 3


def even(_: int) -> int:
    return 7


def itself(tokens: list[int], _: int) -> list[int]:
    return tokens


def framed(tokens: list[int], _: int) -> list[int]:
    return [-100, *(token % 3 for token in tokens[1:-1]), -100]


def target(tokens: list[int], i: int) -> list[int]:
    return [*reversed(tokens[: 2 + i % 4]), 3]


def special(rows: Dataset) -> Dataset:
    """With special tokens around each row."""
    return rows.map(lambda row: {"input_ids": [2, *row["input_ids"][1:-1], 3]})


def gpt2() -> Any:
    torch.manual_seed(0)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape = {"vocab_size": WORDS, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**shape, **rates, bos_token_id=2, eos_token_id=3, initializer_range=0.2))


def encoder(kind: Any, **options: Any) -> Any:
    return lambda: tiny.bert(kind=kind, vocab_size=WORDS, **options)


def writer(kind: str) -> Any:
    return lambda: tiny.encoder_decoder(kind, 2, 2)


tagger, reader = encoder(BertForTokenClassification, labels=("a", "b", "c")), encoder(BertForQuestionAnswering)
masked, classifier = encoder(BertForMaskedLM), lambda: tiny.bert(vocab_size=WORDS)
texts, learned = table(ragged, attention_mask=ones), table(ragged, attention_mask=ones, labels=itself)
pairs = table(ragged, attention_mask=ones, labels=target)
places = {"start_positions": lambda _, i: i % 5, "end_positions": lambda _, i: i % 5 + 1}
tagged = special(table(ragged, attention_mask=ones, labels=framed))

CASES = {
    "llama, language modelling": (tiny.decoder, texts, DataCollatorForLanguageModeling(TOKENIZER, mlm=False)),
    "llama, seq2seq": (tiny.decoder, learned, DataCollatorForSeq2Seq(TOKENIZER)),
    "llama, default, no mask": (tiny.decoder, table(even, labels=itself), default_data_collator),
    "llama, flattening": (tiny.decoder, learned, DataCollatorWithFlattening()),
    # Of flattened rows alone: of others Trainer divides GPT-2's loss by labels that nothing predicts, too.
    "gpt2, flattening": (gpt2, learned, DataCollatorWithFlattening()),
    **{
        f"{kind}, seq2seq without a model": (writer(kind), pairs, DataCollatorForSeq2Seq(TOKENIZER))
        for kind in ("bart", "mbart", "marian", "t5")
    },
    "bart, default, no mask": (
        writer("bart"),
        table(even, labels=lambda tokens, _: tokens[:4]),
        default_data_collator,
    ),
    "tags": (tagger, tagged, DataCollatorForTokenClassification(TOKENIZER)),
    "tags, default, no mask": (tagger, special(table(even, labels=framed)), default_data_collator),
    "answers": (reader, table(even, attention_mask=ones, **places), default_data_collator),
    "answers, no mask": (reader, table(even, **places), default_data_collator),
    "masks": (masked, texts, DataCollatorForLanguageModeling(TOKENIZER, mlm_probability=0.5)),
    "masks made before": (masked, learned, DataCollatorForTokenClassification(TOKENIZER)),
    "classes, no mask": (classifier, table(even, label=lambda _, i: i % 2), default_data_collator),
    "classes, padding": (classifier, table(ragged, labels=lambda _, i: i % 2), DataCollatorWithPadding(TOKENIZER)),
}


def run(cls: type, make: Any, rows: Dataset, collator: Any, folder: Any, **more: Any) -> tuple[Any, list[float]]:
    options = {"per_device_eval_batch_size": 8, "max_steps": 2, "train_sampling_strategy": "random", "seed": 3}
    one = cls(
        model=make(),
        args=arguments(folder, **options),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=TOKENIZER,
        data_collator=collator,
        **more,
    )
    set_seed(5)
    found = one.evaluate()["eval_loss"], one.predict(rows).predictions
    one.train()
    return found, [entry["loss"] for entry in one.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", thinned(CASES))
def test_the_losses_and_predictions_are_those_of_the_stock_trainer(name, tmp_path):
    make, rows, collator = CASES[name]
    (loss, predicted), losses = run(DistillationTrainer, make, rows, collator, tmp_path, objectives=["labels"])
    (wanted, theirs), wanted_losses = run(Trainer, make, rows, collator, tmp_path)
    assert loss == pytest.approx(wanted, abs=1e-4)
    assert losses == pytest.approx(wanted_losses, abs=1e-4)
    for mine, other in zip(
        *(each if isinstance(each, tuple) else (each,) for each in (predicted, theirs)), strict=True
    ):
        assert torch.allclose(torch.tensor(mine), torch.tensor(other), atol=1e-4)


OWN = {
    "causal-lm": (tiny.decoder, learned, CASES["llama, seq2seq"][2]),
    "translation": (writer("bart"), pairs, CASES["bart, seq2seq without a model"][2]),
    "token-classification": (tagger, tagged, DataCollatorForTokenClassification(TOKENIZER)),
    "question-answering": (reader, table(even, attention_mask=ones, **places), default_data_collator),
    "masked-lm": (masked, learned, DataCollatorForTokenClassification(TOKENIZER)),
    "text-classification": (classifier, table(ragged, label=lambda _, i: i % 2), DataCollatorWithPadding(TOKENIZER)),
}


@pytest.mark.parametrize("task", thinned(OWN))
def test_the_tasks_own_collator_reads_such_rows_and_a_teacher_teaches_on_them(task, tmp_path):
    make, rows, collator = OWN[task]
    teacher = make()
    options = {"objectives": [Labels(), Logits(), Hidden()], "teacher": teacher}
    (loss, _), losses = run(DistillationTrainer, make, rows, None, tmp_path, **options)
    (other, _), others = run(DistillationTrainer, make, rows, collator, tmp_path, **options)
    assert loss == pytest.approx(other, abs=1e-5)
    assert losses == pytest.approx(others, abs=1e-5)


def batch_of(rows: Dataset, collator: Any = None, **options: Any) -> dict[str, torch.Tensor]:
    settings = {"objectives": ["labels"], "processing_class": TOKENIZER, "train_dataset": rows, **options}
    one = DistillationTrainer(model=tiny.decoder(), args=arguments("unused"), data_collator=collator, **settings)
    return one._completed(next(iter(one.get_train_dataloader())))


def test_a_given_attention_mask_is_kept_and_labels_are_made_of_the_tokens_it_leaves():
    rows = table(even, attention_mask=lambda tokens, i: [1] * (3 + i % 4) + [0] * (4 - i % 4))
    batch = batch_of(rows)
    assert batch["attention_mask"].sum() == sum(map(sum, rows["attention_mask"]))
    assert ((batch["labels"] != -100) == batch["attention_mask"].bool()).all()


@pytest.mark.parametrize("names", [["completion_mask"], ["assistant_masks"], ["completion_mask", "assistant_masks"]])
@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("collator", [None, default_data_collator], ids=["own", "default"])
def test_masks_of_what_is_learned_count(names, has_labels, collator):
    def after(start: int) -> Any:
        return lambda tokens, i: [int(place >= start) for place in range(len(tokens))]

    masks = {name: after(2 + place) for place, name in enumerate(names)}
    rows = table(even, attention_mask=ones, **masks, **({"labels": itself} if has_labels else {}))
    counted = batch_of(rows, collator)["labels"] != -100
    assert (counted.sum(1) == 7 - 1 - len(names)).all()


@pytest.mark.parametrize("name", ["loss_mask", "label_mask", "assistant_mask", "my_labels"])
def test_a_column_that_looks_like_a_mask_or_labels_and_that_nothing_reads_is_refused(name, tmp_path):
    rows = table(even, attention_mask=ones, **{name: ones})
    with pytest.raises(DataError, match=f"train_dataset: column {name}"):
        batch_of(rows)
    one = DistillationTrainer(model=tiny.decoder(), args=arguments(tmp_path), processing_class=TOKENIZER)
    with pytest.raises(DataError, match=f"eval_dataset: column {name}"):
        one.evaluate(rows)


def test_other_columns_are_left_out_as_trainer_leaves_them_out():
    assert batch_of(table(even, attention_mask=ones, label_text=lambda *_: "good", number=lambda _, i: i))


@pytest.mark.parametrize(
    ("make", "columns", "key"),
    [
        (classifier, {}, "label or labels"),
        (tagger, {}, "label or labels"),
        (reader, {}, "label or labels"),
    ],
)
def test_rows_without_the_labels_that_an_objective_needs_are_refused(make, columns, key, tmp_path):
    rows = table(even, attention_mask=ones, **columns)
    with pytest.raises(DataError, match=key):
        DistillationTrainer(model=make(), args=arguments(tmp_path), train_dataset=rows, processing_class=TOKENIZER)


def collate(rows: list[dict[str, Any]]) -> Any:
    """Pads the inputs and drops everything else."""
    return TOKENIZER.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")


@pytest.mark.parametrize(
    ("make", "rows", "key"),
    [
        (classifier, CASES["classes, padding"][1], "labels"),
        (tagger, tagged, "labels"),
        (reader, table(even, **places), "labels"),
        (masked, learned, "labels"),
        (writer("t5"), pairs, "decoder_input_ids"),
    ],
    ids=["classes", "tags", "answers", "masks", "translation"],
)
def test_a_collator_that_drops_what_is_learned_is_refused_by_key_and_name(make, rows, key, tmp_path):
    options = {"args": arguments(tmp_path), "train_dataset": rows, "processing_class": TOKENIZER}
    one = DistillationTrainer(model=make(), data_collator=collate, **options)
    with pytest.raises(DataError, match=f"a batch of collate has no '{key}'"):
        one.train()


def test_labels_of_another_length_are_refused(tmp_path):
    rows = table(even, attention_mask=ones, labels=lambda tokens, _: tokens[:5])
    with pytest.raises(DataError, match=r"labels: expected one value a token, \[8, 7\], got \[8, 5\]"):
        run(DistillationTrainer, tiny.decoder, rows, default_data_collator, tmp_path, objectives=["labels"])


def test_decoder_inputs_of_another_length_than_the_labels_are_refused(tmp_path):
    rows = table(even, attention_mask=ones, labels=lambda tokens, _: tokens[:5], decoder_input_ids=itself)
    with pytest.raises(DataError, match=r"expected \[40\] positions.*got \[56\]"):
        run(DistillationTrainer, writer("bart"), rows, default_data_collator, tmp_path, objectives=["labels"])


@pytest.mark.parametrize("name", ["logits", "labels", "hidden_states", "encoder_states"])
def test_a_view_of_other_positions_than_its_masks_is_refused(name):
    tokens, there = torch.ones(2, 3, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    whole = {
        "logits": torch.zeros(6, 4),
        "labels": torch.zeros(6, dtype=torch.long),
        "hidden_states": (torch.zeros(2, 3, 5),),
        "encoder_states": (torch.zeros(2, 3, 5),),
    }
    masks = {"labels": there, "positions": there, "tokens": tokens, "sources": tokens}
    view = View(distribution="categorical", masks=masks, **whole)
    view.check_sizes(view)
    cut = (torch.zeros(2, 4, 5),) if name.endswith("states") else whole[name][:5]
    other = replace(view, **{name: cut})
    with pytest.raises(DataError, match=name):
        other.check_sizes(other)
    if name != "labels":
        with pytest.raises(DataError, match=name):
            view.check_sizes(Targets(**{name: cut}))


def test_inputs_that_are_embedded_already_are_read(tmp_path):
    model = classifier()
    rows = table(even, labels=lambda _, i: i % 2)
    table_of = model.get_input_embeddings().weight.detach()
    vectors = [table_of[row].tolist() for row in rows["input_ids"]]
    embedded = rows.remove_columns("input_ids").add_column("inputs_embeds", vectors)
    (loss, _), losses = run(
        DistillationTrainer, classifier, embedded, default_data_collator, tmp_path, objectives=["labels"]
    )
    (wanted, _), others = run(
        DistillationTrainer, classifier, rows, default_data_collator, tmp_path, objectives=["labels"]
    )
    assert loss == pytest.approx(wanted, abs=1e-5)
    assert losses[0] == pytest.approx(others[0], abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "labels", "found"),
    [
        ("multi_label_classification", lambda _, i: [i % 2, 1], [[0.0, 1.0], [1.0, 1.0]]),
        ("multi_label_classification", lambda _, i: [float(i % 2), 0.5], [[0.0, 0.5], [1.0, 0.5]]),
        ("regression", lambda _, i: i, [0.0, 1.0]),
    ],
)
def test_numbers_are_labels_of_several_classes_and_of_scores(kind, labels, found, tmp_path):
    names = ("bad", "good") if kind != "regression" else ("score",)
    model = tiny.bert(vocab_size=WORDS, labels=names, problem_type=kind)
    one = DistillationTrainer(
        model=model, args=arguments(tmp_path, max_steps=1), data_collator=default_data_collator,
        train_dataset=table(even, labels=labels),
    )  # fmt: skip
    batch = one._completed(default_data_collator(list(one.train_dataset.select(range(2)))))
    assert batch["labels"].tolist() == found
    one.train()


def test_classes_as_fractions_are_refused(tmp_path):
    rows = table(even, labels=lambda _, i: [0.0, 1.0])
    with pytest.raises(DataError, match="problem_type"):
        run(DistillationTrainer, classifier, rows, default_data_collator, tmp_path, objectives=["labels"])


MODELS = {
    "text-classification": classifier,
    "token-classification": tagger,
    "question-answering": reader,
    "masked-lm": masked,
    "causal-lm": tiny.decoder,
    "embeddings": encoder(BertModel),
    "translation": writer("bart"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_class_of_a_model_tells_its_task_and_no_other(name):
    class Derived(type(MODELS[name]())):
        pass

    model = MODELS[name]()
    assert task_of(model) == name
    model.__class__ = Derived
    assert task_of(model) == name
    for other in TASKS:
        if other in (name, "summarization" if name == "translation" else name):
            continue
        with pytest.raises(RecipeError, match=f"task={name!r}"):
            check_class(make_task(other), model)


def test_gpt2_is_a_causal_language_model_and_a_wrong_task_is_refused_at_once(tmp_path):
    assert (
        DistillationTrainer(model=gpt2(), args=arguments(tmp_path), processing_class=TOKENIZER).task.name == "causal-lm"
    )
    with pytest.raises(RecipeError, match=r"GPT2LMHeadModel.*task='causal-lm'"):
        DistillationTrainer(model=gpt2(), args=arguments(tmp_path), task="text-classification")
    with pytest.raises(RecipeError, match="BertForMaskedLM"):
        DistillationTrainer(model=classifier(), args=arguments(tmp_path), teacher=masked(), objectives=[Logits()])


TOKENS = [[5, 6, 7, 8]] * 8


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"input_ids": TOKENS, "labels": [[-100] * 4] * 8}, "no token of its 8 rows counts"),
        ({"input_ids": [[5]] * 8}, "no token of its 8 rows counts"),
        ({"input_ids": TOKENS, "labels": [None] * 8}, "row 0 has null in labels"),
        ({"input_ids": [[5.0, 6.0]] * 8}, "row 0 has .* where whole numbers are meant"),
        ({"input_ids": []}, "has no rows"),
    ],
)
def test_tokenised_rows_of_which_nothing_can_be_learned_are_refused(rows, told, tmp_path):
    with pytest.raises(DataError, match=f"train_dataset: {told}"):
        DistillationTrainer(
            model=tiny.decoder(1),
            args=arguments(tmp_path),
            train_dataset=Dataset.from_dict(rows),
            processing_class=TOKENIZER,
            task="causal-lm",
            objectives=["labels"],
        )


def test_several_splits_and_several_teachers_are_refused_with_the_way_out(tmp_path):
    splits = DatasetDict(train=Dataset.from_dict({"input_ids": TOKENS}))
    options = {"args": arguments(tmp_path), "processing_class": TOKENIZER, "task": "causal-lm"}
    with pytest.raises(DataError, match=r"train_dataset: expected one data set, got several \(train\)"):
        DistillationTrainer(model=tiny.decoder(1), train_dataset=splits, objectives=["labels"], **options)
    with pytest.raises(TeacherError, match=r"expected a model, .*got list; several models are one EnsembleTeacher"):
        DistillationTrainer(
            model=tiny.decoder(1), train_dataset=splits["train"], teacher=[tiny.decoder(1)] * 2, **options
        )
