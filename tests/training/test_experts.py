"""Models of several experts: what balances them is part of the loss where their config asks, as in Transformers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel, TrainingArguments

from hf_distill import DistillationTrainer, Labels, Logits, Rollout, RolloutConfig, run
from hf_distill.generation.generate import generate
from hf_distill.models.experts import balances_experts
from hf_distill.tasks import CausalLanguageModeling, Translation
from tests.helpers import tiny
from tests.helpers.one_step import assert_same, terms
from tests.helpers.seams import accept_any_teacher
from tests.helpers.trainers import arguments

WIDE = {
    "vocab_size": len(tiny.CHAT_WORDS),
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_experts_per_tok": 2,
}
MANY, LOCAL = {**WIDE, "num_experts": 4, "moe_intermediate_size": 16}, {**WIDE, "num_local_experts": 4}
SPARSE = {"num_experts": 4, "router_jitter_noise": 0.0, "expert_capacity": 64, "pad_token_id": 0, "d_model": 32}
KINDS: dict[str, dict[str, Any]] = {
    "mixtral": LOCAL,
    "qwen2_moe": {**MANY, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**MANY, "head_dim": 8},
    "olmoe": MANY,
    "phimoe": {**LOCAL, "router_jitter_noise": 0.0, "input_jitter_noise": 0.0},
    "granitemoe": LOCAL,
    "gpt_oss": {**LOCAL, "head_dim": 8},
    "jamba": {**MANY, "use_mamba_kernels": False, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {**LOCAL, "num_attention_heads": 4, "kv_channels": 8},  # Calls its coefficient otherwise.
    "switch_transformers": {
        **SPARSE,
        **{"d_kv": 8, "d_ff": 32, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4, "dropout_rate": 0.0},
        **{"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2},
    },
    "nllb-moe": {
        **SPARSE,
        **{f"{side}_{name}": 4 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")},
        **{f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("ffn_dim", 32), ("sparse_step", 2))},
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "moe_token_dropout"), 0.0),
        **{"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "moe_eval_capacity_token_fraction": -1.0},
    },
}
COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef", "router_z_loss_coef")


def experts(kind: str = "mixtral", *, asks: bool = True, seed: int = 0, factor: float = 1.0, **options) -> Any:
    """A model of four experts in some layers."""
    config = AutoConfig.for_model(kind, **{"vocab_size": 60, "decoder_start_token_id": 2, **KINDS[kind], **options})
    config.output_router_logits = asks
    for name in COEFFICIENTS:
        if hasattr(config, name):
            setattr(config, name, factor)
    torch.manual_seed(seed)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.mul_(20)  # Else they use all experts alike.
    return model


def task_of(model: PreTrainedModel) -> Any:
    return Translation() if model.config.is_encoder_decoder else CausalLanguageModeling(packing=False)


def batch_of(model: PreTrainedModel, rows: int = 4, seed: int = 1) -> dict[str, torch.Tensor]:
    """Rows of unlike lengths, padded."""
    drawn = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, 12, dtype=torch.long)
    mask[0, 7:] = mask[2, 9:] = 0
    ids = torch.randint(3, model.config.vocab_size, mask.shape, generator=drawn) * mask
    made = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    if model.config.is_encoder_decoder:
        made["decoder_input_ids"] = torch.cat([torch.full_like(ids[:, :1], 2), ids[:, :-1]], 1)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_labels_alone_have_the_loss_and_the_gradients_of_transformers(kind):
    model, plain = experts(kind), experts(kind, asks=False)
    batch = batch_of(model)
    theirs = copy.deepcopy(model).train()
    loss = theirs(**batch, output_router_logits=True).loss
    loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    ours = terms(task_of(model), batch, model, None, [Labels()])
    assert_same(ours, (loss.detach(), {name: gradients[name] for name in ours[1]}))
    assert gradients.keys() == ours[1].keys()
    assert ours[0] > terms(task_of(plain), batch, plain, None, [Labels()])[0] + 0.5


def test_what_padding_holds_changes_nothing():
    model = experts()
    batch = batch_of(model)
    other = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)}
    first, second = (terms(task_of(model), each, copy.deepcopy(model), None, [Labels()]) for each in (batch, other))
    assert_same(first, second)


def test_a_window_has_the_mean_of_its_micro_batches_and_not_their_sum():
    model = experts()
    batch = batch_of(model, 8)
    halves = [{name: value[i : i + 4] for name, value in batch.items()} for i in (0, 4)]
    of_labels = terms(task_of(model), halves, experts(asks=False), None, [Labels()])[0]
    each = [copy.deepcopy(model).train()(**half).aux_loss.detach() for half in halves]
    assert terms(task_of(model), halves, model, None, [Labels()])[0] - of_labels == pytest.approx(
        (sum(each) / 2).item(), abs=1e-5
    )


def test_a_batch_in_which_nothing_counts_adds_nothing():
    model = experts()
    batch = batch_of(model)
    empty = {**batch, "attention_mask": batch["attention_mask"] * 0, "labels": torch.full_like(batch["labels"], -100)}
    trainer = trainer_of(model)
    loss, _, _ = trainer.prediction_step(model.eval(), empty, prediction_loss_only=True)
    assert loss == 0
    filled = [trainer.prediction_step(model, each, prediction_loss_only=True)[0] for each in (batch, empty)]
    assert torch.isfinite(torch.stack(filled)).all()


def trainer_of(model, **options) -> DistillationTrainer:
    args = TrainingArguments("unused", use_cpu=True, report_to="none", per_device_eval_batch_size=4)
    return DistillationTrainer(model=model, task=task_of(model), args=args, **{"objectives": [Labels()], **options})


def test_evaluations_have_it_as_in_training_and_log_it():
    model = experts()
    rows = [{name: value[i].tolist() for name, value in batch_of(model, 8).items()} for i in range(8)]
    trainer = trainer_of(model, data_collator=lambda rows: {n: torch.tensor([r[n] for r in rows]) for n in rows[0]})
    found = trainer.evaluate(rows)
    model.eval()
    halves = [trainer.data_collator(rows[i : i + 4]) for i in (0, 4)]
    each = [model(**half).aux_loss.item() for half in halves]
    assert found["eval_loss_router"] == pytest.approx(sum(each) / 2, abs=1e-5)
    assert found["eval_loss"] == pytest.approx(found["eval_loss_labels"] + found["eval_loss_router"], abs=1e-5)


def test_the_teacher_computes_none_of_it_whatever_its_config_says():
    student, given = experts(), []
    teacher = experts("qwen3_moe", seed=1)
    teacher.model.register_forward_pre_hook(
        lambda _, args, read: given.append(read["output_router_logits"]), with_kwargs=True
    )
    terms(task_of(student), batch_of(student), student, teacher, [Labels(), Logits()])
    assert given[-1:] == [False]  # After the checks before training.


@pytest.mark.parametrize("kind", ["mixtral", "nllb-moe"])
def test_where_it_is_off_nothing_changes_and_no_line_is_told(kind):
    model = experts(kind, asks=False)
    trainer = trainer_of(model)
    assert [*trainer.objectives] == ["labels"]
    assert not any("expert" in line or "router" in line for line in trainer.connection_notes)
    asking = trainer_of(experts(kind))
    assert [*asking.objectives] == ["labels", "router"]
    assert sum("load-balancing" in line for line in asking.connection_notes) == 1


def test_models_without_experts_are_not_asked():
    assert not balances_experts(tiny.decoder(output_router_logits=True))
    assert not balances_experts(tiny.bert())


def test_a_student_that_writes_all_that_it_learns_from_balances_its_experts(tmp_path):
    trainer = DistillationTrainer(
        model=experts(),
        teacher=tiny.decoder(2, 48, seed=2),
        task=CausalLanguageModeling(max_length=32),
        objectives=[Logits()],
        rollout=Rollout(RolloutConfig(share=1.0, max_new_tokens=4)),
        args=arguments(tmp_path, max_steps=2, train_sampling_strategy="random"),
        train_dataset=Dataset.from_dict({"prompt": tiny.rows(16)["text"]}),
        processing_class=tiny.chat_tokenizer(),
    )
    trainer.train()
    assert all(entry["loss_router"] > 1.5 for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_writes_as_one_whose_config_asks_for_no_balance(kind):
    found = []
    for asks in (True, False):
        model = experts(kind, asks=asks).eval()
        batch = batch_of(model)
        read = {"input_ids": batch["input_ids"].flip(1), "attention_mask": batch["attention_mask"].flip(1)}
        for beams in (1, 2):
            settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": beams}
            found.append(generate(model, {**read, "pad_token_id": 0}, settings).tokens)
    assert all(torch.equal(*pair) for pair in zip(found[:2], found[2:], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("asks", [True, False])
def test_a_recipe_balances_student_and_control_where_the_config_of_the_student_asks(asks, tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    experts(asks=asks).save_pretrained(tmp_path / "teacher")
    tiny.chat_tokenizer().save_pretrained(tmp_path / "teacher")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny.rows(32)["text"]))
    recipe = {
        "version": 1,
        "name": "experts",
        "task": {"name": "causal-lm", "max_length": 32},
        "data": {"files": dict.fromkeys(("train", "validation", "test"), str(tmp_path / "texts.jsonl"))},
        "teacher": {"model": str(tmp_path / "teacher"), "kind": "cached", "cache": {"scheme": "top_k", "k": 8}},
        "student": {"layers": 1},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}],
        "training": {"max_steps": 2, "logging_steps": 1, "use_cpu": True, "save_strategy": "no"},
        "evaluate": {"resamples": 100},
    }
    told: list[str] = []
    result = run(recipe, runs=tmp_path / "runs", report=told.append)
    assert sum("experts are not balanced" in line for line in told) == (not asks)
    for name in ("student", "control"):
        history = json.loads((result.folder / "checkpoints" / f"{name}.json").read_text())["log_history"]
        assert all((entry.get("loss_router", 0.0) > 1.5) == asks for entry in history if "loss" in entry)
    assert AutoConfig.from_pretrained(result.student).output_router_logits == asks
