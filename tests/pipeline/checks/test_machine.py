"""What a machine cannot do is refused before any work, by the key that asks for it."""

from __future__ import annotations

import importlib.util
import json
import random
import re

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import integration_utils
from transformers.training_args import OptimizerNames

import hf_distill
from hf_distill.errors import HfDistillError, ModelError, RecipeError
from hf_distill.pipeline.checks import machine
from hf_distill.pipeline.checks.machine import check_family, check_modules, try_training
from hf_distill.pipeline.experiment import stages_of, with_defaults
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.tasks import CausalLanguageModeling
from tests.helpers import tiny


def stage(tmp_path, allow_code=False, **training):
    settings = {"use_cpu": True, "max_steps": 2, **training}
    recipe = load_recipe(
        tiny.recipe(teacher=None, objectives=[{"kind": "labels"}], training=settings), allow_code=allow_code
    )
    (only,) = stages_of(with_defaults(recipe), RunFolder(tmp_path / "runs" / "tiny"))
    return only


def refusal(tmp_path, **training):
    with pytest.raises(RecipeError) as error:
        try_training(stage(tmp_path, allow_code=True, **training))
    return str(error.value)


def is_there(package):
    return importlib.util.find_spec(package) is not None


PACKAGES = {"azure_ml": "azureml", "dvclive": "dvclive", "flyte": "flytekit"}
MISSING = sorted(
    name
    for name in integration_utils.INTEGRATION_TO_CALLBACK
    if name != "kubeflow" and not is_there(PACKAGES.get(name, name))
)


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("several", [False, True])
def test_a_report_to_a_package_that_is_not_there_is_refused_with_how_to_install_it(name, several, tmp_path):
    told = refusal(tmp_path, report_to=[name, "wandb"] if several else name)
    assert told.startswith("recipe.training.report_to: ")
    assert "pip install" in told
    assert told.endswith("; or set it to none")


@pytest.mark.parametrize("report_to", ["none", "all", [], ["none"], ["all"]])
def test_a_report_to_what_is_there_passes(report_to, tmp_path):
    try_training(stage(tmp_path, report_to=report_to))


def test_a_report_to_nobody_is_refused(tmp_path):
    assert "report_to: nothing is not supported, only azure_ml" in refusal(tmp_path, report_to=["nothing"])


def test_a_report_is_not_begun(tmp_path, monkeypatch):
    begun = []

    class Callback(integration_utils.TensorBoardCallback):
        def __init__(self):
            begun.append("made")

        def __getattribute__(self, name):
            if name.startswith("on_"):
                begun.append(name)
            return super().__getattribute__(name)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Callback)
    try_training(stage(tmp_path, report_to="tensorboard"))
    assert begun == ["made"]


OPTIMIZERS = {
    **dict.fromkeys(("adamw_bnb_8bit", "paged_adamw_32bit", "lion_8bit", "rmsprop_bnb", "ademamix"), "bitsandbytes"),
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free_adamw": "schedulefree",
    "stable_adamw": "optimi",
    "galore_adamw": "galore_torch",
    "apollo_adamw": "apollo_torch",
}


@pytest.mark.parametrize("name", [name for name, package in OPTIMIZERS.items() if not is_there(package)])
def test_an_optimizer_of_a_package_that_is_not_there_is_refused(name, tmp_path):
    told = refusal(
        tmp_path, optim=name, optim_target_modules=["query"] if "_" in name and "adamw" in name[6:] else None
    )
    assert told.startswith("recipe.training.optim: cannot be done here: ")
    assert "pip install" in told
    assert told.endswith("; correct or remove it")


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_an_optimizer_that_is_there_passes(name, tmp_path):
    assert name in {each.value for each in OptimizerNames}
    try_training(stage(tmp_path, optim=name))


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"adam_beta1": 2}, "adam_beta1: cannot be done here: Invalid beta"),
        ({"optim_args": "momentum"}, "optim_args: cannot be done here: "),
        ({"lr_scheduler_kwargs": {"nothing": 1}}, "lr_scheduler_kwargs: cannot be done here: .*'nothing'"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type: cannot be done here: .*min_lr"),
        ({"torch_compile_backend": "nothing"}, "torch_compile_backend: cannot be done here: .*NOTHING"),
        ({"torch_compile_mode": "nothing"}, "torch_compile_mode: cannot be done here: .*mode=nothing"),
        ({"fsdp": True}, "fsdp: cannot be done here: .*distributed"),
        ({"fsdp": True, "fsdp_config": "none.json"}, r"fsdp: \[Errno 2\] No such file"),
        ({"accelerator_config": "none.json"}, r"accelerator_config: \[Errno 2\] No such file"),
        ({"accelerator_config": {"nothing": 1}}, "accelerator_config: .*'nothing'"),
        ({"eval_strategy": "sometimes"}, "eval_strategy: sometimes is not a valid"),
        ({"eval_strategy": "no", "load_best_model_at_end": True}, "load_best_model_at_end: .*strategy to match"),
    ],
)  # fmt: skip
def test_what_no_trainer_takes_is_refused_by_its_key(training, told, tmp_path):
    assert re.match(f"recipe.training.{told}", refusal(tmp_path, **training))


@pytest.mark.parametrize(
    ("training", "package"),
    [({"deepspeed": {"zero_optimization": {"stage": 2}}}, "deepspeed"), ({"use_liger_kernel": True}, "liger_kernel")],
)
def test_a_package_that_training_needs_is_named(training, package, tmp_path):
    if is_there(package):
        pytest.skip(f"{package} is installed")
    (key,) = training
    told = refusal(tmp_path, **training)
    assert told.startswith(f"recipe.training.{key}: ")
    assert "pip install" in told


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"bf16": True},
        {"gradient_accumulation_steps": 4},
        {"neftune_noise_alpha": 5},
        {"activation_checkpointing": True},
        {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"eval_strategy": "steps", "eval_steps": 0.5, "save_strategy": "steps", "save_steps": 0.5},
        {"include_num_input_tokens_seen": "all"},
        {"max_grad_norm": 0.0, "warmup_steps": 10},
    ],
)
def test_what_trains_passes(training, tmp_path):
    try_training(stage(tmp_path, **training))


def test_what_recomputed_activations_are_told_is_tried(tmp_path):
    telling = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"context_fn": "os:system"}}
    with pytest.raises(RecipeError, match=r"training\.gradient_checkpointing.*context_fn"):
        try_training(stage(tmp_path, **telling))


def test_a_trial_leaves_nothing_behind(tmp_path):
    one = stage(tmp_path)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    try_training(one)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert not list(tmp_path.iterdir())


def test_modules_that_the_student_does_not_have_are_refused(tmp_path, monkeypatch):
    student = tiny.bert(1)
    monkeypatch.setattr(type(student), "supports_gradient_checkpointing", False)
    with pytest.raises(RecipeError, match="activation_checkpointing: BertForSequenceClassification does not support"):
        check_modules(stage(tmp_path, activation_checkpointing=True), student)
    check_modules(stage(tmp_path), student)


@pytest.mark.parametrize(
    ("key", "value"), [("train_sampling_strategy", "by_length"), ("log_level", "loud"), ("ddp_backend", "x")]
)
def test_a_value_that_is_not_among_those_of_a_key_is_refused(key, value, tmp_path):
    recipe = tiny.recipe(training={"use_cpu": True, key: value})
    with pytest.raises(RecipeError, match=f"training.{key}: expected one of .*, got '{value}'"):
        hf_distill.check(recipe, report=lambda line: None)


def test_a_key_that_no_other_can_mend_is_not_blamed(tmp_path, monkeypatch):
    def broken(recipe):
        raise OSError("no disk\nis left")

    monkeypatch.setattr(machine, "_step", broken)
    assert refusal(tmp_path, max_steps=3) == "recipe.training: cannot be done here: no disk is left"


def test_a_teachers_machine_is_tried_too():
    recipe = tiny.recipe()
    recipe["teacher"]["recipe"]["training"]["adam_beta2"] = 3
    with pytest.raises(RecipeError, match=r"teacher .*: recipe.training.adam_beta2: cannot be done here"):
        hf_distill.check(recipe, report=lambda line: None)


def test_weights_that_are_quantised_by_a_package_that_is_not_there_are_refused(tmp_path):
    if is_there("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    tiny.bert(1).save_pretrained(tmp_path / "quantised")
    tiny.tokenizer().save_pretrained(tmp_path / "quantised")
    path = tmp_path / "quantised" / "config.json"
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    with pytest.raises(ModelError, match="requires bitsandbytes"):
        hf_distill.check(
            tiny.recipe(teacher={"model": str(path.parent)}, student={"layers": 1}), report=lambda line: None
        )


@pytest.mark.parametrize("name", ["flash_attention_2", "nothing"])
def test_an_attention_that_is_not_there_is_refused(name):
    recipe = tiny.recipe(student={"config": {"hidden_size": 32, "attn_implementation": name}})
    with pytest.raises(HfDistillError, match=r"student\.config"):
        hf_distill.check(recipe, report=lambda line: None)


def on_meta(kind, **options):
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, vocab_size=60, **options))


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("bloom", {"n_head": 4}, "takes no position_ids"),
        ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}, "lets packed texts see one another"),
        ("mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1}, "takes no position_ids"),
    ],
)
def test_texts_are_not_packed_for_a_family_that_cannot_tell_them_apart(kind, options, told):
    packed, alone = CausalLanguageModeling(), CausalLanguageModeling(packing=False)
    with pytest.raises(ModelError, match=f"{told}.*set task.packing to false"):
        check_family(packed, on_meta(kind, **options))
    check_family(alone, on_meta(kind, **options))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_a_family_that_can_passes(kind):
    check_family(CausalLanguageModeling(), on_meta(kind))


def test_a_family_that_is_too_large_to_be_tried_passes_without_being_built(monkeypatch):
    monkeypatch.setattr(machine, "SMALL_ENOUGH", 10)
    check_family(CausalLanguageModeling(), on_meta("bloom", n_head=4))


def test_fp16_on_a_cpu_is_refused_for_it_would_do_nothing(tmp_path):
    assert refusal(tmp_path, fp16=True).startswith("recipe.training.fp16: does nothing on a CPU")
    try_training(stage(tmp_path, bf16=True))
