"""Masked language models: what is hidden, from whom, and that a fused loss is the plain one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForMaskedLM,
    BertForMaskedLM,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    TrainingArguments,
    pipeline,
)

from hf_distill import DistillationTrainer, Hidden, Labels, Logits, run
from hf_distill.errors import DataError, ModelError, ObjectiveError, RecipeError
from hf_distill.evaluation.language_modeling import score_tokens
from hf_distill.evaluation.predict import Candidate
from hf_distill.objectives.relation import Relation
from hf_distill.tasks import MaskedLanguageModeling
from hf_distill.tasks.masked_lm import Masking
from hf_distill.teachers import ModelTeacher
from hf_distill.training.loss import weighted_loss
from hf_distill.types import IGNORED, Targets
from tests.helpers import tiny
from tests.helpers.data import texts
from tests.helpers.one_step import assert_same, terms

MASK, WORDS = tiny.WORDS.index("[MASK]"), tiny.WORDS


def encoder(layers: int = 2, hidden: int = 32, seed: int = 0, **options):
    """With a head whose bias is not 0: it must not be forgotten."""
    model = tiny.bert(layers, hidden, seed=seed, kind=BertForMaskedLM, **options)
    torch.nn.init.normal_(model.cls.predictions.decoder.bias)
    return model


def task_of(**options) -> MaskedLanguageModeling:
    return MaskedLanguageModeling(**{"max_length": 16, "mask_probability": 0.4, **options})


def batch_of(task, rows: Dataset, made=None) -> dict:
    made = made or tiny.tokenizer()
    return task.collator(made)(list(task.encode(rows, made)))


def sided(side: str):
    made = tiny.tokenizer()
    made.padding_side = side
    return made


def every() -> list:
    return [Labels(), Logits(temperature=2.0), Hidden(loss="cosine", layers={-1: -1})]


# --- what is hidden ---------------------------------------------------------------------------------------------------


def test_of_the_tokens_to_be_told_eight_tenths_are_hidden_one_is_another_and_one_stays():
    ids = np.random.default_rng(0).integers(5, len(WORDS), 40_000).tolist()
    shown, labels = map(np.array, Masking(tiny.tokenizer(), 0.15)(ids))
    told = labels != IGNORED
    assert told.mean() == pytest.approx(0.15, abs=0.01)
    assert (labels[told] == np.array(ids)[told]).all()
    assert (shown[~told] == np.array(ids)[~told]).all()
    assert (shown[told] == MASK).mean() == pytest.approx(0.8 + 0.1 / len(WORDS), abs=0.02)
    assert (shown[told] == labels[told]).mean() == pytest.approx(0.1 + 0.1 / len(WORDS), abs=0.02)


def test_special_tokens_and_unknown_words_are_never_hidden():
    batch = batch_of(task_of(mask_probability=0.99), Dataset.from_dict({"text": ["the strange card", "my bank"]}))
    told = [[WORDS[i] for i in row if i != IGNORED] for row in batch["labels"].tolist()]
    assert told == [["the", "card"], ["my", "bank"]]
    assert batch["input_ids"][0, [0, 2, 4]].tolist() == [WORDS.index(each) for each in ("[CLS]", "[UNK]", "[SEP]")]


def test_what_is_hidden_of_a_row_depends_on_nothing_but_the_row_where_models_are_scored():
    task, made = task_of(), tiny.tokenizer()
    rows = list(task.encode(texts(), made))
    whole = task.collator(made)(rows)
    torch.manual_seed(1)
    for i, row in enumerate(rows):
        alone = task.collator(made)([row])
        width = len(row["input_ids"])
        assert torch.equal(alone["labels"][0], whole["labels"][i, :width])
        assert torch.equal(alone["input_ids"][0], whole["input_ids"][i, :width])


def test_each_epoch_and_each_seed_hide_other_tokens_but_a_row_of_a_cache_keeps_its_own():
    task, made = task_of(), tiny.tokenizer()
    rows = list(task.encode(texts(), made))
    draw = [0, 0]
    learned = task.training_collator(made, None, lambda: tuple(draw))
    seen = []
    for draw[:] in ([7, 0], [7, 1], [8, 0], [7, 0]):
        seen.append(learned(rows)["labels"])
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    kept = learned([{**row, "row_id": i} for i, row in enumerate(rows)])
    assert torch.equal(kept["labels"], task.collator(made)(rows)["labels"])


def test_a_long_text_becomes_several_rows_and_none_of_it_is_lost():
    text = " ".join(WORDS[5:] * 2)
    made = tiny.tokenizer()
    rows = task_of(max_length=12).encode(Dataset.from_dict({"text": [text, "the card"]}), made)
    assert max(rows["length"]) == 12
    assert all(ids[0] == WORDS.index("[CLS]") and ids[-1] == WORDS.index("[SEP]") for ids in rows["input_ids"])
    inner = [token for ids in rows["input_ids"] for token in ids[1:-1]]
    assert made.decode(inner) == f"{text} the card"


def test_packed_rows_are_full_with_a_separator_between_texts():
    made = tiny.tokenizer()
    rows = task_of(max_length=8, packing=True).encode(
        Dataset.from_dict({"text": ["the good card", "my bank", "a river is cold"]}), made
    )
    assert [made.decode(ids) for ids in rows["input_ids"]] == [
        "[CLS] the good card [SEP] my bank [SEP]",
        "[CLS] [SEP] a river is cold [SEP]",
    ]


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_both_models_read_the_same_masks():
    task = task_of()
    batch = batch_of(task, texts())
    assert task.teacher_inputs(batch).keys() == task.student_inputs(batch).keys() == {"input_ids", "attention_mask"}
    assert all(
        torch.equal(value, task.teacher_inputs(batch)[name]) for name, value in task.student_inputs(batch).items()
    )


def test_the_labels_alone_give_the_loss_of_the_models_own_head():
    task = task_of()
    batch = batch_of(task, texts())
    loss, gradients = terms(task, batch, encoder(), None, [Labels()])
    stock = encoder()
    expected = stock(**batch).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in stock.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name


def test_what_stands_in_padding_and_on_which_side_it_is_changes_nothing():
    task = task_of()
    right, left = (batch_of(task, texts(), sided(side)) for side in ("right", "left"))
    garbage = copy.deepcopy(right)
    outside = right["attention_mask"] == 0
    assert outside.any()
    garbage["input_ids"][outside], garbage["labels"][outside] = 7, 9
    teacher = encoder(3, 48, seed=5)
    objectives = [Labels(), Logits(temperature=2.0), Hidden()]
    first = terms(task, right, encoder(), teacher, objectives)
    assert_same(first, terms(task, garbage, encoder(), teacher, [Labels(), Logits(temperature=2.0), Hidden()]))
    assert_same(*(terms(task, batch, encoder(), teacher, every()) for batch in (right, left)))


def test_the_fused_loss_is_the_plain_one():
    task = task_of()
    batch, student, teacher = batch_of(task, texts()), encoder(), encoder(3, 48, seed=5)
    objectives = [Labels(weight=0.3), Logits(temperature=2.0), Logits(divergence="jsd", weight=0.5)]
    fused = terms(task, batch, student, teacher, objectives)
    student.zero_grad()
    with torch.no_grad():
        targets = task.view(teacher(**task.student_inputs(batch)).logits, None, batch).logits
    view = task.view(student(**task.student_inputs(batch)).logits, None, batch)
    counts = {unit: mask.sum() for unit, mask in view.masks.items()}
    loss, _ = weighted_loss(dict(enumerate(objectives)), view, Targets(logits=targets), counts)
    loss.backward()
    assert_same(fused, (loss.detach(), {name: p.grad for name, p in student.named_parameters()}))


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    task = task_of()
    objectives = [Logits(), Hidden(loss="cosine", layers={-1: -1}), Relation()]
    loss, gradients = terms(task, batch_of(task, texts()), encoder(), encoder(), objectives)
    assert loss == pytest.approx(0.0, abs=1e-5)
    assert all(gradient.abs().max() < 1e-4 for gradient in gradients.values())


def test_the_last_layers_cosine_is_that_of_all_tokens_hidden_or_not():
    task, student, teacher = task_of(), encoder(), encoder(4, seed=5)
    batch = batch_of(task, texts())
    loss, _ = terms(task, batch, student, teacher, [Hidden(loss="cosine", layers={-1: -1})])
    inputs, tokens = task.student_inputs(batch), batch["attention_mask"].bool()
    with torch.no_grad():
        last = [each(**inputs, output_hidden_states=True).hidden_states[-1][tokens] for each in (student, teacher)]
    assert loss == pytest.approx(1 - torch.cosine_similarity(*last, dim=-1).mean().item(), abs=1e-5)


def test_8x1_is_1x8_with_ragged_rows_in_one_step():
    task, made = task_of(), tiny.tokenizer()
    rows = list(task.encode(texts(8), made))
    assert len({len(row["input_ids"]) for row in rows}) > 3
    collate = task.collator(made)
    teacher = encoder(3, 48, seed=5)
    together = terms(
        task, collate(rows), encoder(), ModelTeacher(teacher), [Labels(), Logits(temperature=2.0), Hidden()]
    )
    apart = terms(task, [collate([row]) for row in rows], encoder(), ModelTeacher(teacher))
    assert_same(together, apart)


def trained(folder, batch: int = 8, accumulation: int = 1, steps: int = 6, resume: bool = False, **options):
    trainer = DistillationTrainer(
        model=encoder(),
        teacher=encoder(3, seed=5),
        task=task_of(),
        objectives=every(),
        args=TrainingArguments(
            str(folder),
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            max_steps=steps,
            logging_steps=1,
            optim="sgd",
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            **{"learning_rate": 0.05, "save_strategy": "no", "train_sampling_strategy": "group_by_length", **options},
        ),
        train_dataset=texts(16),
        eval_dataset=texts(8, 1),
        processing_class=tiny.tokenizer(),
    )
    trainer.train(resume_from_checkpoint=resume)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer, losses, {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_8x1_and_1x8_give_the_same_weights_though_each_epoch_hides_other_tokens(tmp_path):
    _, losses, whole = trained(tmp_path)
    _, others, apart = trained(tmp_path, 1, 8)
    assert losses == pytest.approx(others, rel=1e-5)
    assert all(torch.allclose(value, apart[name], atol=1e-6) for name, value in whole.items())


def test_a_training_that_goes_on_hides_what_it_would_have_hidden(tmp_path):
    _, _, whole = trained(tmp_path / "whole", save_strategy="steps", save_steps=3)
    (tmp_path / "parts").mkdir()
    (tmp_path / "whole" / "checkpoint-3").rename(tmp_path / "parts" / "checkpoint-3")
    _, _, parts = trained(tmp_path / "parts", resume=True)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_an_evaluation_says_the_same_in_every_epoch_and_training_reads_other_masks(tmp_path):
    trainer, *_ = trained(tmp_path, learning_rate=0.0)
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]
    seen = []
    for epoch in (0, 1, 0):
        trainer._epoch.fill_(epoch)
        seen.append(torch.cat([batch["labels"].sort(1).values[:, -1] for batch in trainer.get_train_dataloader()]))
    assert not torch.equal(seen[0], seen[1])
    before = trainer.evaluate()["eval_loss"]
    trainer._epoch.fill_(3)
    assert trainer.evaluate()["eval_loss"] == before


def test_workers_that_persist_hide_other_tokens_in_each_epoch_too(tmp_path):
    trainer, *_ = trained(tmp_path, learning_rate=0.0, dataloader_num_workers=1, dataloader_persistent_workers=True)
    loader = trainer.get_train_dataloader()
    seen = []
    for epoch in (0, 1):
        trainer._epoch.fill_(epoch)
        seen.append(torch.cat([batch["labels"].sort(1).values[:, -1] for batch in loader]).sort().values)
    assert not torch.equal(*seen)


# --- models -----------------------------------------------------------------------------------------------------------

SHAPE = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 70,
}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
FAMILIES = [
    RobertaConfig(**SHAPE, pad_token_id=0),
    DistilBertConfig(vocab_size=len(WORDS), dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    ElectraConfig(**SHAPE, embedding_size=16),
    ModernBertConfig(**SHAPE, **IDS),
    DebertaV2Config(**SHAPE),
]


def of(config):
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_models_of_every_family_learn_by_the_loss_of_their_own_head(config):
    task, model = task_of(), of(config)
    task.check_model(model)
    batch = batch_of(task, texts(8))
    stock = of(config)
    names = ("input_ids", "attention_mask", "labels")
    expected = stock(**{name: batch[name] for name in names}).loss.item()
    loss, gradients = terms(task, batch, _without_dropout(model), of(config), [Labels(), Logits()])
    assert loss == pytest.approx(expected, abs=1e-4)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def _without_dropout(model):
    """A model that stays as it is evaluated."""
    model.train = lambda mode=True: model
    return model.eval()


def test_a_head_that_is_no_linear_map_of_what_is_caught_is_refused_by_name():
    with pytest.raises(ModelError, match="DebertaV2ForMaskedLM does more to its logits"):
        task_of().check_model(of(DebertaV2Config(**SHAPE, legacy=False)))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_a_mask_is_refused():
    made = tiny.tokenizer()
    made.mask_token = None
    with pytest.raises(DataError, match="has no mask token"):
        task_of().collator(made)


def test_a_teacher_of_other_tokens_is_refused():
    made = tiny.tokenizer([*WORDS[:5], *reversed(WORDS[5:])])
    with pytest.raises(ObjectiveError, match="have different tokens"):
        DistillationTrainer(
            model=encoder(),
            teacher=encoder(),
            task="masked-lm",
            objectives=[Logits()],
            args=TrainingArguments("unused", use_cpu=True, report_to="none"),
            train_dataset=texts(4),
            processing_class=tiny.tokenizer(),
            teacher_processing_class=made,
        )


@pytest.mark.parametrize(
    "options", [{"max_length": 3}, {"packing": 1}, {"mask_probability": 0}, {"mask_probability": 1.0}], ids=str
)
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(RecipeError, match=f"task.{next(iter(options))}"):
        MaskedLanguageModeling(**options)


# --- scores and runs --------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_plain_logits_over_hidden_tokens_whatever_the_batch():
    task, made, student, teacher = task_of(), tiny.tokenizer(), encoder(), encoder(3, seed=5)
    rows = task.encode(texts(), made)
    batch = task.collator(made)(list(rows))
    with torch.no_grad():
        ours, theirs = (
            each.eval()(**task.student_inputs(batch)).logits.flatten(0, 1)[task.masks(batch)["labels"]].log_softmax(-1)
            for each in (student, teacher)
        )
    labels = batch["labels"].flatten()[task.masks(batch)["labels"]]
    expected = {
        "loss": torch.nn.functional.nll_loss(ours, labels).item(),
        "accuracy": (ours.argmax(-1) == labels).float().mean().item(),
        "kl_to_teacher": (theirs.exp() * (theirs - ours)).sum(-1).mean().item(),
        "agreement": (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item(),
    }
    ours, theirs = (Candidate(model=model, tokenizer=made) for model in (student, teacher))
    for size in (3, 24):
        found = score_tokens(ours, task, rows, theirs, size).metrics()
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    same = score_tokens(theirs, task, rows, theirs).metrics()
    assert same["kl_to_teacher"] == pytest.approx(0.0, abs=1e-6)
    assert same["agreement"] == 1.0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    made = tiny.tokenizer()
    trainer = DistillationTrainer(
        model=encoder(4, seed=3, initializer_range=0.05),
        task=task_of(),
        args=TrainingArguments(
            str(folder / "made"),
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            learning_rate=3e-3,
            num_train_epochs=8,
            per_device_train_batch_size=16,
        ),
        train_dataset=texts(96),
        processing_class=made,
    )
    trainer.train()
    trainer.save_model(str(folder / "teacher"))
    made.save_pretrained(folder / "teacher")
    return folder / "teacher"


def recipe(folder, **changes):
    return {
        "version": 1,
        "name": "encoder",
        "task": {"name": "masked-lm", "max_length": 16, "mask_probability": 0.4},
        "data": {"path": "tests.helpers.data:text_splits"},
        "teacher": {"model": str(folder), "dtype": "float32"},
        "student": {"layers": 2},
        "objectives": [
            {"kind": "labels"},
            {"kind": "logits", "temperature": 2.0},
            {"kind": "hidden", "loss": "cosine", "layers": {-1: -1}},
        ],
        "training": {"learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": 16, "use_cpu": True},
        "evaluate": {"resamples": 100},
        **changes,
    }


def test_a_run_distils_an_encoder_that_fills_masks(teacher, tmp_path):
    result = run(recipe(teacher), runs=tmp_path, report=lambda line: None)
    models = result.results["models"]
    assert models["teacher"]["metrics"]["kl_to_teacher"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert models["student"]["metrics"].keys() == models["control"]["metrics"].keys()
    assert result.comparison["primary_metric"] == "loss"
    card = (result.student / "README.md").read_text()
    assert 'model(f"your {model.tokenizer.mask_token} text")' in card
    assert "of the masked tokens" in card
    found = pipeline("fill-mask", str(result.student))("the [MASK] card", top_k=2)
    assert all(each["token_str"] in WORDS for each in found)


def test_a_stream_is_learned_from_as_long_as_there_are_steps(teacher, tmp_path):
    data = {"path": "tests.helpers.data:text_splits", "streaming": True}
    training = {**recipe(teacher)["training"], "eval_steps": 4, "save_strategy": "no"}
    result = run(
        recipe(teacher, name="stream", data=data, training=training, evaluate={"resamples": 100, "control": False}),
        runs=tmp_path,
        report=lambda line: None,
    )
    assert result.results["training"]["student"]["steps"] == 8  # Six a pass.
    assert result.metrics["loss"] > 0


def test_a_cache_that_keeps_all_tokens_teaches_as_the_live_teacher_would_by_the_same_masks(
    teacher, tmp_path, monkeypatch
):
    def learned(name: str, **changes) -> dict[str, torch.Tensor]:
        settings = {"evaluate": {"resamples": 100, "control": False}, "name": name, **changes}
        result = run(recipe(teacher, **settings), runs=tmp_path, report=lambda line: None)
        return AutoModelForMaskedLM.from_pretrained(result.student).state_dict()

    kept = {"scheme": "top_k", "k": len(WORDS), "verify": 8}
    cached = learned("cached", teacher={"model": str(teacher), "dtype": "float32", "kind": "cached", "cache": kept})
    plain = MaskedLanguageModeling.training_collator
    monkeypatch.setattr(  # The masks of a cache, beside a live teacher.
        MaskedLanguageModeling, "training_collator", lambda task, made, other, _: plain(task, made, other, tuple)
    )
    live = learned("live")
    assert all(torch.allclose(value, cached[name], atol=2e-3) for name, value in live.items())
