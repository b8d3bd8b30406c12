"""On-policy distillation: what the student writes, what is counted of it, and that nothing else changes."""

from __future__ import annotations

import copy
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, GPT2Config, TrainingArguments

from hf_distill import DistillationTrainer, Hidden, Labels, Logits, ModelTeacher, Rollout, RolloutConfig
from hf_distill.errors import DataError, ModelError, ObjectiveError, RecipeError, TeacherError
from hf_distill.generation.ends import ends_of
from hf_distill.generation.engines import TransformersEngine
from hf_distill.generation.rollout_checks import check_ends
from hf_distill.recipe import LoraConfig
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.students.adapters import add_adapters
from hf_distill.tasks import CausalLanguageModeling, TextClassification, Translation
from hf_distill.tasks.rollout_batches import WRITTEN
from hf_distill.teachers import CachedTeacher
from hf_distill.types import IGNORED
from tests.helpers import tiny
from tests.helpers.data import completions
from tests.helpers.known_writer import END, Known

SURE = 1e-4
"""A temperature at which the likeliest token is drawn."""


def chats(count: int = 32) -> Dataset:
    turns = [
        [
            {"role": role, "content": word}
            for role, word in zip(("user", "assistant") * 2, [*words, "good"], strict=True)
        ]
        for words in (text.split()[:3] for text in tiny.rows(count)["text"])
    ]
    return Dataset.from_dict({"messages": turns})


def trainer(folder, config: RolloutConfig | None = None, writer=None, **changes) -> DistillationTrainer:
    keys = ("model", "teacher", "task", "objectives", "train_dataset", "processing_class")
    given = {key: changes.pop(key) for key in keys if key in changes}
    shared = {
        "model": None if "model" in given else tiny.decoder(1, seed=1),
        "teacher": None if "teacher" in given else tiny.decoder(2, 48, seed=2),
        "task": CausalLanguageModeling(max_length=32),
        "objectives": [Logits(divergence="reverse_kl", temperature=1.0)],
        "train_dataset": completions(32),
        "processing_class": tiny.chat_tokenizer(),
    }
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "optim": "sgd",
        "learning_rate": 0.05,
        "max_grad_norm": 0.5,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        **changes,
    }
    rollout = Rollout(config, engine=writer) if config is not None else None
    return DistillationTrainer(**{**shared, **given}, args=TrainingArguments(**settings), rollout=rollout)


def trained(folder, config=None, writer=None, resume=False, **changes):
    one = trainer(folder, config, writer, **changes)
    one.train(resume_from_checkpoint=resume)
    return one, {name: value.clone() for name, value in one.model.state_dict().items()}


def logs(one: DistillationTrainer) -> list[dict]:
    return [entry for entry in one.state.log_history if "loss" in entry]


def assert_same(first: dict, second: dict, tolerance: float = 1e-6) -> None:
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=tolerance, rtol=0), name


ALWAYS = RolloutConfig(share=1.0, max_new_tokens=6)


# --- what is written --------------------------------------------------------------------------------------------------


def written(rows: Dataset, writer, task=None, config: RolloutConfig = ALWAYS, student=None, side: str = "right"):
    """The batch of the data, and what comes of it."""
    task, made = task or CausalLanguageModeling(max_length=32), tiny.chat_tokenizer(tiny.CHAT_TEMPLATE, side)
    student = student if student is not None else tiny.decoder(1, seed=1)
    encoded, rollout = task.encode(rows, made), Rollout(config, engine=writer)
    teacher = ModelTeacher(tiny.decoder(2, seed=2))
    encoded, _ = rollout.prepare(encoded, task, made, student, teacher, {"logits": Logits()})
    batch = task.collator(made)(list(encoded))
    return batch, rollout.write([batch], student, 0, 0, 0)[0], task


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_prompt_counts_nowhere_the_end_token_counts_and_what_follows_it_does_not(side):
    writer = Known()
    data, batch, task = written(completions(6), writer, side=side)
    masks = task.masks(batch)
    assert not masks["labels"].any()
    counted = batch["input_ids"][:, 1:][masks["positions"].view(6, -1)]
    assert counted.tolist() == [token for prompt in writer.prompts for token in writer.answer(prompt)]
    for ids, mask, prompt in zip(batch["input_ids"], batch["attention_mask"], writer.prompts, strict=True):
        assert ids[: mask.sum()].tolist() == prompt + writer.answer(prompt)
    first = data["input_ids"][0][data["attention_mask"][0].bool()].tolist()
    assert first[: len(writer.prompts[0])] == writer.prompts[0]
    assert (data["labels"][0] != IGNORED).sum() == len(first) - len(writer.prompts[0])


def test_a_chat_is_written_from_its_last_turn_and_a_text_from_its_first_tokens():
    words, writer = tiny.CHAT_WORDS, Known()
    written(chats(4), writer)
    assert all([words[token] for token in prompt].count("assistant") == 1 for prompt in writer.prompts)
    rows = Dataset.from_dict({"text": ["the card is good", "my bank"]})
    writer = Known()
    written(
        rows, writer, CausalLanguageModeling(packing=False), RolloutConfig(share=1.0, max_new_tokens=6, prompt_tokens=3)
    )
    assert [[words[token] for token in prompt] for prompt in writer.prompts] == [
        ["[CLS]", "the", "card"],
        ["[CLS]", "my", "bank"],
    ]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_prompts_of_unlike_length_are_continued_as_each_alone_and_read_as_they_were_written(kind):
    student = tiny.decoder(2, seed=3)
    if kind == "gpt2":
        shape = {"n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": len(tiny.CHAT_WORDS), "n_layer": 2}
        student = AutoModelForCausalLM.from_config(GPT2Config(initializer_range=0.3, **shape)).eval()
        student.generation_config.eos_token_id = END
    config = RolloutConfig(share=1.0, max_new_tokens=5, temperature=SURE)
    _, together, _ = written(completions(6), TransformersEngine(), config=config, student=student)
    assert len(set(together["attention_mask"].sum(1).tolist())) > 1
    for number in range(6):
        _, alone, _ = written(completions(6).select([number]), TransformersEngine(), config=config, student=student)
        real = together["attention_mask"][number].bool()
        assert together["input_ids"][number][real].tolist() == alone["input_ids"][0].tolist()
    with torch.no_grad():
        inputs = {name: together[name] for name in ("input_ids", "attention_mask")}
        likeliest = student(**inputs).logits.argmax(-1)
    own = together[WRITTEN][:, 1:]
    assert torch.equal(likeliest[:, :-1][own], together["input_ids"][:, 1:][own])


def test_a_decoder_reads_again_what_it_read_while_it_wrote():
    student = tiny.encoder_decoder("marian", 2, 1, seed=1)
    texts = tiny.rows(6)["text"]
    rows, made = Dataset.from_dict({"source": texts, "target": texts}), tiny.chat_tokenizer()
    task = Translation()
    task.follow(student.config)
    rollout = Rollout(RolloutConfig(share=1.0, max_new_tokens=7, temperature=SURE))
    teacher = ModelTeacher(tiny.encoder_decoder("marian", 2, 2, seed=2))
    encoded, _ = rollout.prepare(task.encode(rows, made), task, made, student, teacher, {"logits": Logits()})
    (batch,) = rollout.write([task.collator(made)(list(encoded))], student, 0, 0, 0)
    with torch.no_grad():
        likeliest = student(**task.student_inputs({k: v for k, v in batch.items() if k != WRITTEN})).logits.argmax(-1)
    assert (batch["decoder_input_ids"][:, 0] == 2).all()
    inside = batch[WRITTEN][:, 1:]
    assert torch.equal(likeliest[:, :-1][inside], batch["decoder_input_ids"][:, 1:][inside])
    masks = task.masks(batch)
    assert torch.equal(masks["tokens"], batch[WRITTEN])
    assert not masks["labels"].any()


def test_the_student_writes_in_eval_mode_without_gradients_with_a_cache_and_is_left_as_it_was():
    student = tiny.decoder(1, seed=1, attention_dropout=0.5).train()
    student.model.norm.eval()
    student.generation_config.update(num_beams=3, repetition_penalty=1.5, top_k=1)
    student.config.use_cache = False
    before, seen = student.generation_config.to_dict(), []

    def look(module, arguments, named):
        seen.append((named["use_cache"], module.training, torch.is_grad_enabled(), len(named["input_ids"])))

    student.register_forward_pre_hook(look, with_kwargs=True)
    state = torch.random.get_rng_state()
    rollout = TransformersEngine()
    rollout.follow(student)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    settings = {"max_new_tokens": 8, "eos_token_id": [999], "pad_token_id": 0, "top_k": 0}
    found = rollout.write(ids, torch.ones_like(ids), settings, 3)
    assert seen == [(True, False, False, 2)] * 8  # Two rows: no beams.
    assert found.shape == (2, 8)
    assert student.training
    assert not student.model.norm.training
    assert student.config.use_cache is False
    assert student.generation_config.to_dict() == before
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(found, rollout.write(ids, torch.ones_like(ids), settings, 3))


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objectives", [lambda: [Logits(divergence="jsd")], lambda: [Logits(temperature=1.0), Hidden()]]
)
def test_8x1_and_1x8_give_the_same_losses_and_weights_where_the_same_is_written(objectives, tmp_path):
    whole, weights = trained(tmp_path, ALWAYS, Known(), objectives=objectives())
    split, other = trained(
        tmp_path,
        ALWAYS,
        Known(),
        objectives=objectives(),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
    )
    assert [e["loss"] for e in logs(whole)] == pytest.approx([e["loss"] for e in logs(split)], abs=1e-6)
    assert_same(weights, other)


@pytest.mark.parametrize("task", ["causal-lm", "translation"])
def test_what_is_written_at_once_changes_nothing_but_the_speed(task, tmp_path):
    texts, more = tiny.rows(16)["text"], {}
    if task == "translation":
        models = {"model": tiny.encoder_decoder("marian", 2, 1, seed=1), "teacher": tiny.encoder_decoder(seed=2)}
        rows = Dataset.from_dict({"source": texts, "target": texts})
        more = {"task": Translation(), "train_dataset": rows, **models}
    found, widths = [], []
    for size in (1, 3, 16):
        config = RolloutConfig(share=1.0, max_new_tokens=6, temperature=SURE, batch_size=size)
        options = {**more, "model": copy.deepcopy(more.get("model", tiny.decoder(1, seed=1)))}
        one = trainer(tmp_path, config, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
        write = one._rollout.engine.write
        widths.append([])
        one._rollout.engine.write = lambda ids, *rest, write=write: widths[-1].append(len(ids)) or write(ids, *rest)
        one.train()
        found.append(one.model.state_dict())
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])
    assert [sizes[:3] for sizes in widths] == [[1, 1, 1], [3, 3, 2], [8, 8, 8]]


def test_a_share_of_0_is_no_rollout_at_all(tmp_path):
    _, plain = trained(tmp_path)
    one, weights = trained(tmp_path, RolloutConfig(share=0.0))
    assert all(torch.equal(value, weights[name]) for name, value in plain.items())
    assert not any("rollout_length" in entry for entry in logs(one))


def test_the_students_own_texts_teach_no_labels(tmp_path):
    config = RolloutConfig(share=0.5, max_new_tokens=6)
    one, _ = trained(tmp_path, config, objectives=[Labels(), Logits()], max_steps=8)
    by_student = ["rollout_length" in entry for entry in logs(one)]
    assert {True, False} == set(by_student)
    assert [entry["loss_labels"] == 0.0 for entry in logs(one)] == by_student
    assert all(entry["loss_logits"] > 0 for entry in logs(one))


def test_the_coin_falls_alike_in_every_process_and_as_often_as_the_share_says():
    rollouts = [Rollout(RolloutConfig(share=share)) for share in (0.0, 0.3, 1.0)]
    shares = [sum(rollout.writes(7, step) for step in range(1000)) / 1000 for rollout in rollouts]
    assert shares == [0.0, pytest.approx(0.3, abs=0.05), 1.0]
    again = Rollout(RolloutConfig(share=0.3))
    assert [again.writes(7, i) for i in range(50)] == [rollouts[1].writes(7, i) for i in range(50)]
    assert [again.writes(8, i) for i in range(50)] != [again.writes(7, i) for i in range(50)]


def test_every_process_and_step_draws_by_itself_and_again_the_same():
    task, made, student = CausalLanguageModeling(max_length=32), tiny.chat_tokenizer(), tiny.decoder(1, seed=1)
    rollout = Rollout(ALWAYS)
    teacher = ModelTeacher(tiny.decoder(2, seed=2))
    rows, _ = rollout.prepare(task.encode(completions(6), made), task, made, student, teacher, {"logits": Logits()})
    batch = task.collator(made)(list(rows))

    def texts(*place) -> list:
        return [each["input_ids"].tolist() for each in rollout.write([batch, batch], student, 0, *place)]

    first, second = texts(0, 0)
    assert first != second
    assert texts(0, 0) == [first, second]
    assert first not in (*texts(1, 0), *texts(0, 1))


def test_a_resumed_run_writes_and_learns_the_same(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}
    config = RolloutConfig(share=0.7, max_new_tokens=6)
    whole, weights = trained(tmp_path / "whole", config, **options)
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "cut" / "checkpoint-2")
    resumed, again = trained(tmp_path / "cut", config, resume=True, **options)
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert [e.get("rollout_length") for e in logs(whole)] == [e.get("rollout_length") for e in logs(resumed)]


def test_gradient_checkpointing_changes_nothing(tmp_path):
    _, plain = trained(tmp_path, ALWAYS)
    _, weights = trained(tmp_path, ALWAYS, gradient_checkpointing=True)
    assert_same(plain, weights)


def test_a_translator_learns_from_what_it_writes(tmp_path):
    texts = tiny.rows(16)["text"]
    one, _ = trained(
        tmp_path,
        RolloutConfig(share=1.0, max_new_tokens=6),
        model=tiny.encoder_decoder("marian", 2, 1, seed=1),
        teacher=tiny.encoder_decoder("marian", 2, 2, seed=2),
        task=Translation(),
        objectives=[Logits(divergence="reverse_kl"), Hidden()],
        train_dataset=Dataset.from_dict({"source": texts, "target": texts}),
    )
    assert all(1 <= entry["rollout_length"] <= 6 for entry in logs(one))


def test_rows_that_are_streamed_are_written_after(tmp_path):
    rows = completions(16).to_iterable_dataset()
    one, _ = trained(tmp_path, ALWAYS, Known(), train_dataset=rows, max_steps=3)  # The third is of a second epoch.
    assert [entry["rollout_ended"] for entry in logs(one)] == [1.0, 1.0, 1.0]


def test_adapters_write_and_learn(tmp_path):
    student = tiny.decoder(1, seed=1)
    add_adapters(student, LoraConfig(r=2, alpha=4, dropout=0.5))
    one, weights = trained(tmp_path, ALWAYS, model=student)
    assert any(value.abs().sum() > 0 for name, value in weights.items() if "lora_B" in name)
    assert all(1 <= entry["rollout_length"] <= 6 for entry in logs(one))


# --- what is told -----------------------------------------------------------------------------------------------------


def warnings(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.name == "hf_distill.generation.rollout"]


class Silent(Known):
    def answer(self, prompt: list[int]) -> list[int]:
        return [END]


def test_the_length_and_the_share_of_ended_texts_are_logged(tmp_path):
    config = RolloutConfig(share=1.0, max_new_tokens=3)
    writer = Known()
    one, _ = trained(tmp_path, config, writer, max_steps=1)
    answers = [writer.answer(prompt) for prompt in writer.prompts]
    (entry,) = logs(one)
    assert entry["rollout_length"] == pytest.approx(sum(min(len(a), 3) for a in answers) / 8)
    assert entry["rollout_ended"] == pytest.approx(sum(len(a) <= 3 for a in answers) / 8)


def test_a_student_that_writes_its_end_alone_is_told_of_once_and_learns_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hf_distill.generation.rollout"):
        one, _ = trained(tmp_path, ALWAYS, Silent())
    assert [entry["rollout_length"] for entry in logs(one)] == [1.0] * 3
    assert all(entry["loss"] > 0 for entry in logs(one))
    assert warnings(caplog) == ["rollout: every text that the student wrote is empty: it writes the end token alone"]


def test_texts_that_collapse_to_below_a_quarter_of_the_datas_are_told_of(tmp_path, caplog):
    class Short(Known):
        def answer(self, prompt: list[int]) -> list[int]:
            return [7, END]

    rows = Dataset.from_dict(
        {"prompt": ["the card "] * 8, "completion": ["is good and kind and warm and fine the a"] * 8}
    )
    with caplog.at_level(logging.WARNING, "hf_distill.generation.rollout"):
        trained(tmp_path, RolloutConfig(share=1.0, max_new_tokens=30), Short(), train_dataset=rows, max_steps=1)
        assert "writes 2.0 tokens where 11.0 were expected" in caplog.text
        caplog.clear()
        trained(tmp_path, RolloutConfig(share=1.0, max_new_tokens=5), Short(), train_dataset=rows, max_steps=1)
        assert not warnings(caplog)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_prompts_that_leave_no_room_are_dropped_and_counted(tmp_path):
    prompts = ["the card is " * 15 if i < 3 else "the card is " for i in range(11)]
    rows = Dataset.from_dict({"prompt": prompts, "completion": ["good"] * 11})
    task = CausalLanguageModeling(max_length=64)
    one = trainer(tmp_path, RolloutConfig(max_new_tokens=32), train_dataset=rows, task=task)
    assert len(one.train_dataset) == 8
    assert any("3 of 11 rows are dropped" in line for line in one.connection_notes)
    with pytest.raises(DataError, match="none of 11 rows is left: every prompt and 62 tokens"):
        trainer(tmp_path, RolloutConfig(max_new_tokens=62), train_dataset=rows, task=task)
    with pytest.raises(RecipeError, match="64 leave no room for a prompt in the context of 64"):
        trainer(tmp_path, RolloutConfig(max_new_tokens=64), train_dataset=rows, task=task)


def test_an_empty_prompt_is_refused(tmp_path):
    made = tiny.chat_tokenizer()
    ids = made("good", add_special_tokens=False)["input_ids"] + [END]
    rows = Dataset.from_dict({"input_ids": [[2, *ids], ids], "labels": [[IGNORED, *ids], ids]})
    with pytest.raises(DataError, match="training row 1 has an empty prompt"):
        trainer(tmp_path, ALWAYS, train_dataset=rows)


@pytest.mark.parametrize(
    ("config", "changes", "error", "told"),
    [
        (ALWAYS, {"objectives": [Labels(), Logits()]}, ObjectiveError, "labels does nothing with rollout.share 1.0"),
        (
            RolloutConfig(max_new_tokens=6),
            {"objectives": [Labels()]},
            ObjectiveError,
            "only an objective that asks a teacher",
        ),
        (ALWAYS, {"teacher": None, "objectives": [Labels()]}, TeacherError, "there is none; name one"),
        (ALWAYS, {"train_dataset": Dataset.from_dict({"text": ["a"] * 8})}, RecipeError, "how many tokens of a row"),
        (RolloutConfig(prompt_tokens=2), {}, RecipeError, "rows that have a prompt of their own"),
        (
            RolloutConfig(prompt_tokens=2),
            {"train_dataset": Dataset.from_dict({"text": ["a"] * 8})},
            RecipeError,
            "task.packing: of texts that are laid end to end",
        ),
    ],
)
def test_what_cannot_be_written_or_judged_is_refused(config, changes, error, told, tmp_path):
    with pytest.raises(error, match=told):
        trainer(tmp_path, config, **changes)


def test_a_cached_teacher_and_a_task_that_writes_nothing_are_refused():
    rollout, student, made = Rollout(), tiny.decoder(1), tiny.chat_tokenizer()
    cached, live = CachedTeacher.__new__(CachedTeacher), ModelTeacher(tiny.decoder(1))
    objectives = {"logits": Logits()}
    with pytest.raises(TeacherError, match="nothing of what a student will write"):
        rollout.prepare(None, CausalLanguageModeling(), made, student, cached, objectives)
    with pytest.raises(RecipeError, match="nothing is written in text-classification"):
        rollout.prepare(None, TextClassification(), made, student, live, objectives)


def test_a_student_that_no_token_stops_is_refused():
    student = tiny.decoder(1)
    assert ends_of(student, tiny.chat_tokenizer(), CausalLanguageModeling()) == [END]
    student.generation_config.eos_token_id = [30, END]
    assert ends_of(student, None, CausalLanguageModeling()) == [30, END]
    student.generation_config.eos_token_id = None
    with pytest.raises(ModelError, match="never stop writing"):
        check_ends(ends_of(student, None, CausalLanguageModeling()))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"share": 1.5}, "rollout.share: expected 0.0 to 1.0"),
        ({"temperature": 0}, "rollout.temperature: expected a number above 0"),
        ({"max_new_tokens": 0}, "rollout.max_new_tokens: expected at least 1"),
        ({"top_p": 0.0}, "rollout.top_p: expected above"),
        ({"engine": "pen"}, "rollout.engine: expected one of transformers, vllm"),
        ({"engine_options": {"dtype": "half"}}, "engine_options: they do nothing for engine: transformers"),
        ({"lambda": 0.5}, "rollout.lambda: no such key"),
    ],
)
def test_a_recipe_with_a_wrong_rollout_is_refused(keys, told):
    with pytest.raises(RecipeError, match=told):
        load_recipe(tiny.recipe(rollout=keys))


def test_a_recipe_whose_teacher_is_cached_or_absent_has_no_rollout():
    with pytest.raises(RecipeError, match="a cache holds what a teacher said of the data"):
        load_recipe(tiny.recipe(rollout={}, teacher={"model": "some/teacher", "kind": "cached"}))
    with pytest.raises(RecipeError, match="only a teacher can judge"):
        load_recipe(tiny.recipe(rollout={}, teacher=None))


# --- vLLM -------------------------------------------------------------------------------------------------------------


class Engine:
    """What stands in for ``vllm.LLM``: the same interface, and a real model behind it."""

    made: list[Engine] = []  # noqa: RUF012

    def __init__(self, model: str, **options) -> None:
        self.model, self.options, self.resets = AutoModelForCausalLM.from_pretrained(model), options, 0
        self.model.load_weights = lambda weights: self.model.load_state_dict(dict(weights)) and {"all"}
        Engine.made.append(self)

    def apply_model(self, function) -> list:
        return [function(self.model)]

    def reset_prefix_cache(self) -> None:
        self.resets += 1

    def generate(self, prompts: list[dict], parameters: list[SimpleNamespace], use_tqdm: bool) -> list:
        writer, found = TransformersEngine(), []
        writer.follow(self.model)
        for prompt, how in zip(prompts, parameters, strict=True):
            ids = torch.tensor([prompt["prompt_token_ids"]])
            settings = {
                "max_new_tokens": how.max_tokens,
                "eos_token_id": how.stop_token_ids,
                "pad_token_id": 0,
                "temperature": how.temperature,
                "top_k": 0,
            }
            tokens = writer.write(ids, torch.ones_like(ids), settings, how.seed)[0].tolist()
            found.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens)]))
        return found


@pytest.fixture
def vllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine, SamplingParams=SimpleNamespace))
    monkeypatch.setattr(Engine, "made", [])
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def test_vllm_writes_with_the_weights_of_each_step_what_transformers_writes(vllm, tmp_path):
    sure = {"share": 1.0, "max_new_tokens": 5, "temperature": SURE}
    _, plain = trained(tmp_path, RolloutConfig(**sure))
    config = RolloutConfig(**sure, engine="vllm", engine_options={"dtype": "float32"})
    one, weights = trained(tmp_path, config, objectives=[Logits(divergence="reverse_kl", temperature=1.0)])
    assert_same(plain, weights)
    (engine,) = Engine.made
    assert engine.options == {"gpu_memory_utilization": 0.3, "skip_tokenizer_init": True, "dtype": "float32"}
    assert engine.resets == 2
    one._rollout.engine.follow(one.model)
    assert_same(one.model.state_dict(), engine.model.state_dict(), 0.0)


def test_vllm_is_refused_where_it_is_not_installed_or_cannot_write(vllm, monkeypatch):
    rollout, teacher = Rollout(RolloutConfig(engine="vllm")), ModelTeacher(tiny.decoder(1))
    student, task = tiny.encoder_decoder(), Translation()
    task.follow(student.config)
    with pytest.raises(RecipeError, match="vllm does not write for an encoder-decoder"):
        rollout.prepare(None, task, tiny.chat_tokenizer(), student, teacher, {"logits": Logits()})
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(RecipeError, match="needs the package vllm, which is not installed"):
        Rollout(RolloutConfig(engine="vllm"))
