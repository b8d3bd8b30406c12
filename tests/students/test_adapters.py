"""LoRA students: adapters learn and nothing else, however the loss is computed; they are saved, loaded and merged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
    TrainingArguments,
)

import hf_distill
from hf_distill import DistillationTrainer, Hidden, Labels, Logits, ModelTeacher, load_recipe, run
from hf_distill.errors import HubError, ModelError, RecipeError, StudentError
from hf_distill.models.forward import run_model
from hf_distill.models.loading import load_config, load_model, save_adapted_config
from hf_distill.pipeline.preflight import resolve
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.pipeline.train import Lesson, train_model
from hf_distill.recipe import LoraConfig
from hf_distill.report.hub import push_folder
from hf_distill.students import build_student, has_adapters, learning, merge_adapters
from hf_distill.students.adapters import add_adapters
from tests.helpers import tiny
from tests.helpers.hub_server import hub_server

TOKENIZER = tiny.tokenizer()
NAMES = ("bad", "good", "neither")
IDS = torch.arange(5, 15)[None]


def silent(line: str) -> None:
    """Report to nobody."""


def perturbed(model: PreTrainedModel) -> PreTrainedModel:
    """Adapters start at 0; here they do something."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def adapted(model: PreTrainedModel, **options: Any) -> PreTrainedModel:
    add_adapters(model, LoraConfig(**{"r": 4, **options}))
    return perturbed(model)


def texts(count: int = 32) -> Any:
    return tiny.rows(count).remove_columns("label")


def language_trainer(folder: Path, model: PreTrainedModel, **options: Any) -> DistillationTrainer:
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        **options,
    }
    return DistillationTrainer(
        model=model,
        teacher=tiny.decoder(3, 48, seed=2),
        task=hf_distill.tasks.make_task("causal-lm", {"max_length": 16}),
        objectives=[Labels(), Logits(temperature=2.0)],
        args=TrainingArguments(**settings),
        train_dataset=texts(),
        eval_dataset=texts(8),
        processing_class=tiny.chat_tokenizer(),
    )


# ---- what learns


def test_adapters_of_a_language_model_learn_and_its_embeddings_and_head_do_not() -> None:
    model = adapted(tiny.decoder(2))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in names)
    assert len(names) == 2 * 2 * 7
    assert isinstance(model, PreTrainedModel)


def test_the_head_and_the_pooler_of_a_classifier_learn_whole() -> None:
    model = adapted(tiny.bert(2))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    whole = {name for name in names if "lora_" not in name}
    assert {name.split(".modules_to_save")[0] for name in whole} == {"classifier", "bert.pooler"}
    assert sum("lora_" in name for name in names) == 2 * 2 * 6


@pytest.mark.parametrize("kind", ["marian", "t5", "bart"])
def test_both_sides_of_an_encoder_decoder_learn_through_adapters_alone(kind: str) -> None:
    model = adapted(tiny.encoder_decoder(kind))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in names)
    assert {side for side in ("encoder.", "decoder.") for name in names if side in name} == {"encoder.", "decoder."}


def test_the_fused_loss_gives_adapters_the_gradients_of_whole_logits(tmp_path: Path) -> None:
    student = adapted(tiny.decoder(2, seed=1))
    trainer = language_trainer(tmp_path, student)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(student, batch).backward()
    fused = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()

    mask = trainer.task.masks(batch)["positions"]
    inputs = trainer.task.student_inputs(batch)
    own = student(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)[mask]
    with torch.no_grad():
        other = trainer.teacher.model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)[mask]
    labels = batch["labels"][:, 1:].flatten()[mask]
    divergence = torch.nn.functional.kl_div(
        (own / 2).log_softmax(-1), (other / 2).log_softmax(-1), log_target=True, reduction="batchmean"
    )
    (torch.nn.functional.cross_entropy(own, labels) + 4 * divergence).backward()
    plain = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    assert fused.keys() == plain.keys()
    assert all("lora_" in name for name in plain)
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0
        assert torch.allclose(fused[name], gradient, atol=1e-6), name


def test_what_enters_the_head_has_gone_through_the_adapters() -> None:
    model = adapted(tiny.decoder(2)).eval()
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        _, source = run_model(model, model, {"input_ids": IDS}, True, False)
        assert torch.allclose(source.head.logits(source.hidden), expected, atol=1e-6)
        assert not torch.allclose(tiny.decoder(2).eval()(input_ids=IDS).logits, expected, atol=1e-2)


@pytest.mark.parametrize(("target", "named"), [("lm_head", "the output head"), ("embed_tokens", "the embeddings")])
def test_adapters_on_the_head_or_the_embeddings_are_refused_by_name(target: str, named: str) -> None:
    with pytest.raises(StudentError, match=rf"target_modules: they name \S*{target}, {named}"):
        add_adapters(tiny.decoder(2), LoraConfig(target_modules=["q_proj", target]))


def test_modules_that_are_not_there_are_refused() -> None:
    with pytest.raises(StudentError, match=r"student\.lora: .*nonsense"):
        add_adapters(tiny.decoder(2), LoraConfig(target_modules=["nonsense"]))


# ---- training, saving, resuming


def test_only_adapters_change_in_training_and_the_gradient_reaches_them_with_checkpointed_activations(
    tmp_path: Path,
) -> None:
    runs = {}
    for checkpointing in (False, True):
        student = adapted(tiny.decoder(2, seed=1))
        before = {name: value.clone() for name, value in student.state_dict().items()}
        language_trainer(tmp_path, student, gradient_checkpointing=checkpointing).train()
        for name, value in student.state_dict().items():
            assert torch.equal(value, before[name]) == ("lora_" not in name), name
        runs[checkpointing] = student.state_dict()
    for name, value in runs[False].items():
        assert torch.allclose(value, runs[True][name], atol=1e-5), name


def test_a_run_that_goes_on_from_a_checkpoint_of_adapters_ends_with_the_same_ones(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    whole = adapted(tiny.decoder(2, seed=1), dropout=0.2)
    language_trainer(tmp_path / "whole", whole, **options).train()
    first = adapted(tiny.decoder(2, seed=1), dropout=0.2)
    language_trainer(tmp_path / "parts", first, **{**options, "max_steps": 2}).train()
    second = tiny.decoder(2, seed=1)
    add_adapters(second, LoraConfig(r=4, dropout=0.2))
    trainer = language_trainer(tmp_path / "parts", second, **options)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert {path.name for path in (tmp_path / "parts" / "checkpoint-4").glob("*.safetensors")} == {
        "adapter_model.safetensors"
    }


def test_the_best_adapters_are_taken_at_the_end(tmp_path: Path) -> None:
    student = adapted(tiny.decoder(2, seed=1))
    trainer = language_trainer(
        tmp_path,
        student,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=1,
        eval_steps=1,
        max_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses[-1] < max(losses) - 1e-3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(losses), abs=1e-6)


@pytest.mark.parametrize("make", [tiny.bert, tiny.decoder])
def test_merged_adapters_compute_the_same_in_an_ordinary_model(make: Any, tmp_path: Path) -> None:
    model = adapted(make(2)).eval()
    before = model(input_ids=IDS).logits
    merge_adapters(model)
    assert not has_adapters(model)
    assert model.state_dict().keys() == make(2).state_dict().keys()
    assert torch.allclose(model(input_ids=IDS).logits, before, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert torch.allclose(loaded(input_ids=IDS).logits, before, atol=1e-5)


def feature_extractor(layers: int) -> PreTrainedModel:
    return BertModel(tiny.bert(layers).config)


def tagger(layers: int) -> PreTrainedModel:
    return BertForTokenClassification(tiny.bert(layers, labels=NAMES).config)


def reader(layers: int) -> PreTrainedModel:
    return BertForQuestionAnswering(tiny.bert(layers).config)


def fill_mask(layers: int) -> PreTrainedModel:
    return BertForMaskedLM(tiny.bert(layers).config)


@pytest.mark.parametrize(
    ("make", "auto", "task_type"),
    [
        (tiny.bert, "ForSequenceClassification", "SEQ_CLS"),
        (tagger, "ForTokenClassification", "TOKEN_CLS"),
        (reader, "ForQuestionAnswering", "QUESTION_ANS"),
        (feature_extractor, "ForFeatureExtraction", "FEATURE_EXTRACTION"),
        (tiny.decoder, "ForCausalLM", "CAUSAL_LM"),
        (lambda _: tiny.encoder_decoder("marian"), "ForSeq2SeqLM", "SEQ_2_SEQ_LM"),
        (lambda _: tiny.encoder_decoder("t5"), "ForSeq2SeqLM", "SEQ_2_SEQ_LM"),
        (lambda _: tiny.encoder_decoder("bart"), "ForSeq2SeqLM", "SEQ_2_SEQ_LM"),
        (fill_mask, "", None),
    ],
)
def test_adapters_of_every_task_are_loaded_by_the_class_of_peft_for_it(
    tmp_path: Path, make: Any, auto: str, task_type: str | None
) -> None:
    make(2).save_pretrained(tmp_path / "base")
    start = type(make(2)).from_pretrained(tmp_path / "base")
    model = adapted(start).eval()
    model.save_pretrained(tmp_path / "student")
    assert json.loads((tmp_path / "student" / "adapter_config.json").read_text())["task_type"] == task_type
    loaded = getattr(peft, f"AutoPeftModel{auto}").from_pretrained(tmp_path / "student").eval()
    inputs = {"input_ids": IDS, **({"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {})}
    with torch.no_grad():
        expected, found = model(**inputs)[0], loaded(**inputs)[0]
        assert torch.allclose(found, expected, atol=1e-6)
        assert not torch.allclose(
            type(model).from_pretrained(tmp_path / "base").eval()(**inputs)[0], expected, atol=1e-4
        )


# ---- the whole flow


def base(folder: Path) -> str:
    """A pretrained encoder without head or pooler, whose config knows nothing of the labels."""
    model = tiny.bert(2, 32, seed=3, num_labels=2)
    model.bert.pooler = None
    model.config.id2label, model.config.label2id = {0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    model.bert.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def recipe(pretrained: str, **lora: Any) -> dict[str, Any]:
    """Trained on labels alone: the quickest run."""
    made = tiny.recipe(name="adapted", data={"path": "tests.helpers.data:three_classes"}, objectives=[])
    del made["teacher"], made["objectives"]
    made["student"] = {"pretrained": pretrained, "lora": {"r": 4, "alpha": 8, **lora}}
    made["training"] = {**made["training"], "max_steps": 4}
    made["evaluate"] = {"resamples": 100}
    return made


def train(name: str, made: dict[str, Any], folder: Path, teacher: PreTrainedModel | None = None) -> Path:
    """Train a student or control as a run does, and evaluate nothing."""
    experiment = resolve(load_recipe(made))
    task, stage = experiment.task, dataclasses.replace(experiment.stages[0], folder=RunFolder(folder))
    objectives = {"labels": Labels(), **({"logits": Logits(), "hidden": Hidden()} if teacher else {})}
    taught_by = ModelTeacher(teacher) if teacher else None
    train_model(
        experiment,
        stage,
        Lesson(name=name, data=experiment.data, objectives=objectives, teacher=taught_by),
        lambda: build_student(
            experiment.recipe.student,
            auto_model=task.auto_model,
            teacher=teacher,
            teacher_tokenizer=TOKENIZER,
            texts=lambda: [],
            model_options=task.model_options(),
        ),
    )
    return folder / name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("adapters")
    lines: list[str] = []
    result = run(recipe(base(folder / "base")), runs=folder / "runs", report=lines.append)
    return SimpleNamespace(result=result, base=folder / "base", lines=lines)


def test_a_run_saves_adapters_and_tells_what_learned(finished: Any) -> None:
    folder, results = finished.result.student, finished.result.results
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(finished.base)
    assert settings["r"] == 4
    assert (folder / "tokenizer.json").is_file()
    assert {path.name for path in folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
    weights = load_file(folder / "adapter_model.safetensors")
    assert not any("embeddings" in key for key in weights)
    assert weights["base_model.model.classifier.weight"].shape == (3, 32)
    learned = results["training"]["student"]["trainable_parameters"]
    assert learned == sum(tensor.numel() for tensor in weights.values()) < results["models"]["student"]["parameters"]
    assert any(f"{learned:,} of them learn" in line for line in finished.lines)
    assert any(f"{learned:,} parameters learn" in line for line in finished.lines)
    assert f"{learned:,} of its parameters learned" in (folder / "README.md").read_text()


def test_student_and_control_differ_in_what_they_learned_and_not_in_what_they_are(
    finished: Any, tmp_path: Path
) -> None:
    teacher = tiny.bert(2, 48, labels=NAMES, seed=9)
    made = recipe(str(finished.base))
    folders = [train("student", made, tmp_path, teacher), train("control", made, tmp_path)]
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    settings = [json.loads((folder / "adapter_config.json").read_text()) for folder in folders]
    assert one.keys() == other.keys()
    assert not any("distillation" in name for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert {**settings[0], "target_modules": set(settings[0]["target_modules"])} == {
        **settings[1],
        "target_modules": set(settings[1]["target_modules"]),
    }


def test_saved_adapters_are_loaded_with_their_labels_their_head_and_their_pooler(finished: Any) -> None:
    folder = finished.result.student
    assert load_config(str(folder)).id2label == dict(enumerate(NAMES))
    first, second = (load_model(AutoModelForSequenceClassification, str(folder)) for _ in range(2))
    assert has_adapters(first)
    with torch.no_grad():
        logits = first(input_ids=IDS).logits
        assert logits.shape == (1, 3)
        assert torch.equal(logits, second(input_ids=IDS).logits)


def test_saved_adapters_are_loaded_by_transformers_as_the_card_tells(finished: Any) -> None:
    card = (finished.result.student / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert 'from_pretrained("USER/adapted"' in code
    scope: dict[str, Any] = {}
    exec(code.replace("USER/adapted", str(finished.result.student)), scope)
    ours = load_model(AutoModelForSequenceClassification, str(finished.result.student))
    batch = TOKENIZER("the good card", return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(scope["model"].eval()(**batch).logits, ours(**batch).logits, atol=1e-6)
    assert scope["model"].config.id2label == dict(enumerate(NAMES))


def test_adapters_beside_a_folder_are_not_pushed_for_nobody_could_load_them(finished: Any) -> None:
    with pytest.raises(HubError, match=r"beside the folder .*base.*lora\.merge: true"):
        push_folder(finished.result.student, "me/adapted", endpoint="http://127.0.0.1:9")


def test_adapters_beside_a_model_of_the_hub_are_pushed_with_their_tokenizer_and_labels(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.result.student, tmp_path / "student")
    path = tmp_path / "student" / "adapter_config.json"
    settings = {**json.loads(path.read_text()), "base_model_name_or_path": "someone/small-bert"}
    path.write_text(json.dumps(settings))
    # The tests run offline; this client may talk to loopback.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with hub_server() as hub:
        push_folder(tmp_path / "student", "me/adapted", endpoint=hub.url, token="hf_me")
        files = hub.repos["model", "me/adapted"].head.files
    own = {"adapter_config.json", "adapter_model.safetensors", "adapted_config.json", "tokenizer.json", "README.md"}
    assert own <= files.keys()
    assert not {"config.json", "model.safetensors"} & files.keys()
    assert b'from_pretrained("me/adapted"' in files["README.md"]


def test_in_how_few_bits_weights_were_held_in_training_is_not_told_to_who_loads_them(tmp_path: Path) -> None:
    config = tiny.bert(labels=NAMES).config
    config.quantization_config = {"load_in_4bit": True, "quant_method": "bitsandbytes"}
    save_adapted_config(config, tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path / "adapted_config.json")
    assert loaded.id2label == dict(enumerate(NAMES))
    assert not hasattr(loaded, "quantization_config")


def test_a_merged_student_is_an_ordinary_checkpoint_that_computes_what_its_adapters_did(
    finished: Any, tmp_path: Path
) -> None:
    merged = train("student", recipe(str(finished.base), merge=True), tmp_path)
    assert not (merged / "adapter_config.json").exists()
    one = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    other = load_model(AutoModelForSequenceClassification, str(finished.result.student))
    assert one.config.id2label == dict(enumerate(NAMES))
    with torch.no_grad():
        assert torch.allclose(one(input_ids=IDS).logits, other(input_ids=IDS).logits, atol=1e-5)


def test_adapters_whose_weights_are_missing_or_that_are_to_be_students_again_are_refused(
    finished: Any, tmp_path: Path
) -> None:
    for path in finished.result.student.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match="holds no weights"):
        load_model(AutoModelForSequenceClassification, str(tmp_path))
    config = load_recipe(recipe(str(finished.result.student))).student
    with pytest.raises(StudentError, match="holds adapters, and a student starts from a whole model"):
        build_student(
            config,
            auto_model=AutoModelForSequenceClassification,
            teacher=None,
            teacher_tokenizer=None,
            texts=lambda: [],
            model_options={},
        )


def test_layers_of_a_teacher_learn_through_adapters_where_they_are_merged() -> None:
    student = build_student(
        load_recipe(tiny.recipe(student={"layers": [0, -1], "lora": {"r": 2, "merge": True}})).student,
        auto_model=AutoModelForCausalLM,
        teacher=tiny.decoder(3),
        teacher_tokenizer=tiny.chat_tokenizer(),
        texts=lambda: [],
        model_options={},
    ).model
    assert has_adapters(student)
    assert 0 < learning(student) < student.num_parameters() / 4


# ---- refusals


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"config": {}, "lora": {}}, r"student\.lora: fresh weights would stay random"),
        ({"layers": 2, "lora": {}}, r"lora\.merge: adapters alone are of use beside a model that others have"),
        ({"pretrained": "a/b", "lora": {}, "freeze": ["embeddings"]}, r"student\.freeze: does nothing with lora"),
        ({"pretrained": "a/b", "lora": {"quantize": "4bit", "merge": True}}, r"lora\.merge: weights of 4 bits"),
        ({"pretrained": "a/b", "lora": {"r": 0}}, r"lora\.r: expected at least 1"),
        ({"pretrained": "a/b", "lora": {"alpha": 0}}, r"lora\.alpha: expected at least 1"),
        ({"pretrained": "a/b", "lora": {"dropout": 1.0}}, r"lora\.dropout: expected a share from 0 to below 1"),
        ({"pretrained": "a/b", "lora": {"target_modules": []}}, r"target_modules: expected at least one"),
        ({"pretrained": "a/b", "lora": {"rank": 3}}, r"lora\.rank: no such key"),
        ({"pretrained": "a/b", "lora": {"quantize": "8bit"}}, r"lora\.quantize: expected one of 4bit"),
    ],
)
def test_keys_of_lora_that_do_nothing_or_harm_are_refused(student: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny.recipe(student=student))


def test_a_package_that_is_missing_is_named_before_anything_is_loaded(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StudentError, match="needs bitsandbytes, which is not installed; pip install bitsandbytes"):
        hf_distill.check(recipe(str(finished.base), quantize="4bit"), report=silent)


def test_4_bits_without_a_cuda_device_are_refused(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StudentError, match=r"lora\.quantize: 4bit needs a CUDA device"):
        hf_distill.check(recipe(str(finished.base), quantize="4bit"), report=silent)
