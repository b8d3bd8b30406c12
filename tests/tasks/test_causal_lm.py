"""Language models: what counts, what sees what, and that a fused loss is the plain one."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    TrainingArguments,
    pipeline,
)

from hf_distill import DistillationTrainer, Hidden, Labels, Logits, run
from hf_distill.errors import DataError, ModelError, ObjectiveError, RecipeError
from hf_distill.losses.fused import fused_loss
from hf_distill.models.forward import output_head, without_head
from hf_distill.models.sanity_checks import check_head, check_packing
from hf_distill.tasks import CausalLanguageModeling
from hf_distill.tasks.encoding import fit, pack, read_chat, read_completion
from hf_distill.teachers import ModelTeacher
from hf_distill.training.loss import weighted_loss
from hf_distill.types import IGNORED
from tests.helpers import tiny
from tests.helpers.data import completions, given, texts
from tests.helpers.one_step import assert_same, terms

WORDS = tiny.CHAT_WORDS
MARKED = (
    "{% for m in messages %}{{ m.role }} {% if m.role == 'assistant' %}{% generation %}{{ m.content }} [SEP] "
    "{% endgeneration %}{% else %}{{ m.content }} [SEP] {% endif %}{% endfor %}"
)


def batch_of(task: CausalLanguageModeling, rows: Dataset, made=None) -> dict:
    made = made or tiny.chat_tokenizer()
    encoded = task.encode(rows, made)
    return task.collator(made)(list(encoded))


def assert_same_terms(task, first, second) -> None:
    assert_same(*(terms(task, batch, tiny.decoder(), tiny.decoder(3, seed=5)) for batch in (first, second)))


def test_packed_texts_give_the_loss_and_gradients_of_each_text_alone():
    packed, alone = (CausalLanguageModeling(max_length=64, packing=packing) for packing in (True, False))
    rows = texts(4)  # Few enough for one block: a text that is cut loses a target.
    packed_batch, batch = batch_of(packed, rows), batch_of(alone, rows)
    assert "position_ids" in packed_batch
    assert len(packed_batch["input_ids"]) == 1
    assert packed.masks(packed_batch)["labels"].sum() == alone.masks(batch)["labels"].sum()
    teacher = tiny.decoder(3, 48, seed=5)
    assert_same(
        terms(packed, packed_batch, tiny.decoder(), ModelTeacher(teacher)),
        terms(alone, batch, tiny.decoder(), ModelTeacher(teacher)),
    )


def test_left_padding_gives_the_loss_and_gradients_of_right_padding():
    task = CausalLanguageModeling(max_length=32, packing=False)
    right, left = (batch_of(task, texts(), tiny.chat_tokenizer(side=side)) for side in ("right", "left"))
    assert not right["attention_mask"].all()
    assert_same_terms(task, right, left)


def test_what_stands_in_padding_changes_nothing():
    task = CausalLanguageModeling(max_length=32, packing=False)
    clean = batch_of(task, texts())
    garbage = copy.deepcopy(clean)
    garbage["input_ids"][clean["attention_mask"] == 0] = 7
    assert_same_terms(task, clean, garbage)


def test_the_labels_alone_give_the_loss_of_the_models_own_head():
    task = CausalLanguageModeling(max_length=32)
    batch = batch_of(task, completions())
    loss, gradients = terms(task, batch, tiny.decoder(), None, [Labels()])
    stock = tiny.decoder()
    expected = stock(**batch).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for name, parameter in stock.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-6), name


def test_the_fused_loss_is_the_plain_one():
    task = CausalLanguageModeling(max_length=32)
    batch, student, teacher = batch_of(task, completions()), tiny.decoder(), tiny.decoder(3, 48, seed=5)
    objectives = [Labels(weight=0.3), Logits(temperature=2.0), Logits(divergence="jsd", weight=0.5)]
    fused = terms(task, batch, student, teacher, objectives)
    student.zero_grad()
    with torch.no_grad():
        targets = teacher(**task.student_inputs(batch)).logits
    named = dict(enumerate(objectives))
    view = task.view(student(**task.student_inputs(batch)).logits, None, batch)
    counts = {unit: mask.sum() for unit, mask in view.masks.items()}
    from hf_distill.types import Targets

    loss, _ = weighted_loss(named, view, Targets(logits=task.view(targets, None, batch).logits), counts)
    loss.backward()
    plain = loss.detach(), {name: p.grad for name, p in student.named_parameters()}
    assert_same(fused, plain)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_even_with_a_padded_vocabulary():
    task = CausalLanguageModeling(max_length=32)
    batch = batch_of(task, texts())
    student = tiny.decoder()
    padded = copy.deepcopy(student)
    padded.resize_token_embeddings(len(WORDS) + 8, mean_resizing=False)
    for one, other in ((student, padded), (padded, student), (student, student)):
        loss, gradients = terms(task, batch, copy.deepcopy(one), copy.deepcopy(other), [Logits(), Hidden()])
        assert loss == pytest.approx(0.0, abs=1e-6)
        assert all(gradient.abs().max() < 1e-5 for gradient in gradients.values())


@pytest.mark.parametrize("form", ["texts", "completions"])
def test_8x1_4x2_and_1x8_give_the_same_weights(form, tmp_path):
    rows = texts(32) if form == "texts" else completions(32)
    task = CausalLanguageModeling(max_length=24, packing=False if form == "texts" else None)

    def weights(batch: int, accumulation: int) -> tuple[list[float], dict[str, torch.Tensor]]:
        trainer = DistillationTrainer(
            model=tiny.decoder(),
            teacher=tiny.decoder(3, 48, seed=5),
            task=task,
            objectives=[Labels(), Logits(temperature=2.0), Hidden()],
            args=TrainingArguments(
                str(tmp_path),
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                max_steps=4,
                logging_steps=1,
                optim="sgd",
                learning_rate=0.05,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                save_strategy="no",
                train_sampling_strategy="group_by_length",
            ),
            train_dataset=rows,
            processing_class=tiny.chat_tokenizer(),
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return losses, {name: value.clone() for name, value in trainer.model.state_dict().items()}

    losses, whole = weights(8, 1)
    for batch, accumulation in ((4, 2), (1, 8)):
        other_losses, other = weights(batch, accumulation)
        assert losses == pytest.approx(other_losses, rel=1e-6)
        assert all(torch.allclose(value, other[name], atol=1e-6) for name, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", [{"torch_compile": True, "torch_compile_backend": "eager"}, {"activation_checkpointing": True}], ids=str
)
def test_compiled_or_checkpointed_the_losses_are_the_same(option, tmp_path):
    def losses(**options) -> list[float]:
        trainer = DistillationTrainer(
            model=tiny.decoder(),
            teacher=tiny.decoder(3, 48, seed=5),
            task=CausalLanguageModeling(max_length=24),
            objectives=[Labels(), Logits(temperature=1.0), Hidden()],
            args=TrainingArguments(
                str(tmp_path),
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                max_steps=3,
                logging_steps=1,
                save_strategy="no",
                **options,
            ),
            train_dataset=texts(64),
            processing_class=tiny.chat_tokenizer(),
        )
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert losses(**option) == pytest.approx(losses(), rel=1e-6)


def test_blocks_are_full_and_the_first_token_of_each_piece_is_nobodys_target():
    blocks = pack([([1, 2, 3], [1, 2, 3], [3, 1, 1]), ([4, 5, 6, 7], [4, 5, 6, 7], [2, 2, 2, 2])], 5)
    assert blocks["input_ids"] == [[1, 2, 3, 4, 5], [6, 7]]
    assert blocks["position_ids"] == [[0, 1, 2, 0, 1], [0, 1]]
    assert blocks["labels"] == [[IGNORED, 2, 3, IGNORED, 5], [IGNORED, 7]]
    assert blocks["length"] == [5, 2]
    assert blocks["bytes"] == [4, 2]


def test_of_a_prompt_and_its_completion_only_the_completion_and_the_end_token_count():
    made = tiny.chat_tokenizer()
    ids, labels, _ = read_completion(made, "the card ", "is good")
    counted = [token for token in labels if token != IGNORED]
    assert made.convert_ids_to_tokens(counted) == ["is", "good", "[SEP]"]
    assert made.decode(ids, skip_special_tokens=True) == "the card is good"


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, MARKED])
def test_of_a_chat_only_the_assistants_turns_count(template):
    made = tiny.chat_tokenizer(template)
    chat = [
        {"role": "user", "content": "my card"},
        {"role": "assistant", "content": "is good"},
        {"role": "user", "content": "the bank"},
        {"role": "assistant", "content": "is slow"},
    ]
    ((ids, labels, _),) = read_chat(made, chat)
    counted = made.convert_ids_to_tokens([token for token in labels if token != IGNORED])
    marks = [] if template == MARKED else ["assistant"]
    assert counted == [*marks, "is", "good", "[SEP]", *marks, "is", "slow", "[SEP]"]
    assert len(ids) == len(labels)


def test_a_prompt_that_leaves_no_room_is_dropped_or_cut_from_its_start():
    example = (list(range(10)), [IGNORED] * 8 + [8, 9], [1] * 10)
    assert list(fit(example, 8, False, "drop")) == []
    assert list(fit(example, 8, False, "truncate")) == [slice(2, 10)]
    long_completion = (list(range(10)), [IGNORED] * 2 + list(range(2, 10)), [1] * 10)
    assert list(fit(long_completion, 4, False, "drop")) == [slice(0, 4)]


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32),
        LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32),
        Gemma2Config(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=32,
            final_logit_softcapping=0.5,
        ),
        CohereConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            logit_scale=0.25,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        GraniteConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            logits_scaling=8.0,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_the_head_of_every_family_gives_the_logits_that_the_model_gives(config):
    model, inputs = AutoModelForCausalLM.from_config(config).eval(), {"input_ids": torch.arange(3, 13)[None]}
    with torch.no_grad():
        with without_head(model) as caught:
            model(**inputs)
        torch.testing.assert_close(output_head(model).logits(caught.hidden), model(**inputs).logits)
    check_head(model, inputs)
    check_packing(model)


def test_a_head_that_does_more_than_we_know_is_refused():
    model = tiny.decoder()
    forward = model.forward

    def more(**inputs):
        outputs = forward(**inputs)
        outputs.logits = outputs.logits**2
        return outputs

    model.forward = more
    with pytest.raises(ModelError, match="does more to its logits"):
        check_head(model, {"input_ids": torch.arange(3, 13)[None]})


def test_a_model_that_ignores_positions_is_refused_for_packing():
    model = tiny.decoder()
    forward = model.forward
    model.forward = lambda position_ids=None, **inputs: forward(**inputs)
    with pytest.raises(ModelError, match=r"set task\.packing to false"):
        check_packing(model)


def test_the_forward_without_head_gives_what_the_head_gets():
    model = tiny.decoder()
    ids = torch.arange(3, 13)[None]
    with torch.no_grad(), without_head(model) as caught:
        stand_in = model(input_ids=ids).logits
    assert stand_in.shape == (1, 1, len(WORDS))
    expected = model(input_ids=ids).logits
    assert torch.allclose(output_head(model).logits(caught.hidden), expected, atol=1e-6)
    assert functional.mse_loss(model(input_ids=ids).logits, expected) < 1e-12  # The head is back.


def test_mixed_precision_makes_the_logits_of_a_model_without_its_head_as_those_of_the_model():
    model = tiny.decoder()
    ids = torch.arange(3, 13)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(input_ids=ids).logits
        with without_head(model) as caught:
            model(input_ids=ids)
    made = output_head(model).logits(caught.hidden)
    assert made.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(made, expected)


def test_mixed_precision_of_a_trainer_reaches_the_products_of_the_student_and_leaves_the_teacher_its_own(
    tmp_path, monkeypatch
):
    seen = []

    def spy(hidden, head, terms, **given):
        seen.append((hidden.dtype, given["targets"].hidden.dtype))
        return fused_loss(hidden, head, terms, **given)

    monkeypatch.setattr("hf_distill.training.loss.fused_loss", spy)
    DistillationTrainer(
        model=tiny.decoder(),
        teacher=ModelTeacher(tiny.decoder(3, 48, seed=5)),
        task=CausalLanguageModeling(max_length=24),
        objectives=[Labels(), Logits()],
        args=TrainingArguments(
            str(tmp_path), use_cpu=True, bf16=True, report_to="none", disable_tqdm=True, max_steps=1, save_strategy="no"
        ),
        train_dataset=texts(),
        processing_class=tiny.chat_tokenizer(),
    ).train()
    assert seen == [(torch.bfloat16, torch.float32)]


def test_a_float64_model_has_float64_logits_also_in_mixed_precision():
    model = tiny.decoder().double()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), without_head(model) as caught:
        model(inputs_embeds=torch.zeros(1, 3, model.config.hidden_size, dtype=torch.float64))
    assert caught.hidden.dtype == torch.float64


@pytest.mark.parametrize(
    ("rows", "made", "told"),
    [
        ({"sentence": ["a"]}, {}, "needs a column text, or prompt and completion, or messages"),
        ({"messages": [[{"role": "assistant", "content": "a"}]]}, {}, "has none; take an instruction-tuned"),
        (
            {"messages": [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "good"}]]},
            {"template": "{{ messages | length }}{% for m in messages %}{{ m.role }} {{ m.content }}{% endfor %}"},
            "row 0: .*begins an assistant's turn otherwise",
        ),
    ],
)
def test_rows_that_cannot_be_read_are_refused(rows, made, told):
    with pytest.raises(DataError, match=told):
        CausalLanguageModeling().encode(Dataset.from_dict(rows), tiny.chat_tokenizer(**made))


@pytest.mark.parametrize(
    ("rows", "option"),
    [
        (texts(), {"too_long": "truncate"}),
        (texts(), {"separator": " "}),
        (completions(), {"packing": False}),
        (Dataset.from_dict({"messages": [[{"role": "user", "content": "a"}]]}), {"separator": " "}),
    ],
)
def test_an_option_that_does_nothing_for_the_rows_is_refused(rows, option):
    with pytest.raises(RecipeError, match=f"task.{next(iter(option))}: does nothing for rows of"):
        CausalLanguageModeling(**option).read_labels(rows)


def test_rows_of_which_no_completion_is_left_are_refused():
    long = Dataset.from_dict({"prompt": ["the card is very good and my"], "completion": ["bank"]})
    with pytest.raises(DataError, match="none of 1 rows is left"):
        CausalLanguageModeling(max_length=4).encode(long, tiny.chat_tokenizer())
    kept = CausalLanguageModeling(max_length=4, too_long="truncate").encode(long, tiny.chat_tokenizer())
    assert len(kept) == 1


def test_a_model_without_positions_is_refused_for_packing():
    config = BloomConfig(vocab_size=50, hidden_size=32, n_layer=1, n_head=2)
    with pytest.raises(ModelError, match="takes no position_ids"):
        check_packing(AutoModelForCausalLM.from_config(config))


def test_a_tokenizer_without_an_end_token_is_refused():
    with pytest.raises(DataError, match="no end token"):
        CausalLanguageModeling().encode(texts(), tiny.tokenizer(WORDS))


@pytest.mark.parametrize("options", [{"max_length": 3}, {"too_long": "cut"}])
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(RecipeError, match="task"):
        CausalLanguageModeling(**options)


def test_a_run_distils_a_decoder_from_its_layers_and_proves_it(tmp_path):
    made, teacher = tiny.chat_tokenizer(), tiny.decoder(4, seed=3)
    made.save_pretrained(tmp_path / "teacher")
    training = {"learning_rate": 3e-3, "per_device_train_batch_size": 8, "use_cpu": True, "num_train_epochs": 3}
    first = DistillationTrainer(
        model=teacher,
        task=CausalLanguageModeling(max_length=32),
        objectives=[Labels()],
        args=TrainingArguments(str(tmp_path / "made"), report_to="none", save_strategy="no", **training),
        train_dataset=texts(200),
        processing_class=made,
    )
    first.train()
    first.save_model(str(tmp_path / "teacher"))
    recipe = {
        "version": 1,
        "name": "decoder",
        "task": {"name": "causal-lm", "max_length": 32},
        "data": {"path": "tests.helpers.data:text_splits", "arguments": {"train": 200, "test": 48}},
        "teacher": {"model": str(tmp_path / "teacher")},
        "student": {"layers": 2},
        "objectives": [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}, {"kind": "hidden"}],
        "training": {**training, "num_train_epochs": 1},
        "evaluate": {"resamples": 100},
    }
    result = run(recipe, runs=tmp_path / "runs", report=lambda line: None)
    models = result.results["models"]
    assert models["teacher"]["metrics"]["kl_to_teacher"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert models["teacher"]["metrics"]["agreement"]["value"] == 1.0
    assert models["student"]["metrics"].keys() == models["control"]["metrics"].keys()
    assert result.comparison["primary_metric"] == "loss"
    assert result.comparison["lower_is_better"] is True
    assert 0 < result.comparison["agreement"] < 1
    assert "nats a token" in (result.student / "README.md").read_text()
    saved = AutoModelForCausalLM.from_pretrained(result.student)
    assert saved.config.use_cache is True
    assert saved.generation_config.eos_token_id == made.eos_token_id
    assert pipeline("text-generation", str(result.student), max_new_tokens=3)("the card")[0]["generated_text"]


def test_a_metric_against_a_teacher_is_refused_where_there_is_none(tmp_path):
    recipe = {
        "version": 1,
        "name": "alone",
        "task": "causal-lm",
        "data": {"path": "tests.helpers.data:text_splits", "arguments": {"train": 200, "test": 48}},
        "student": {"pretrained": "some/model"},
        "evaluate": {"metric": "agreement"},
    }
    with pytest.raises(RecipeError, match="agreement compares with a teacher"):
        run(recipe, runs=tmp_path, report=lambda line: None)


def other_words() -> PreTrainedTokenizerBase:
    made = tiny.tokenizer([*WORDS[:5], *reversed(WORDS[5:])])
    made.eos_token = "[SEP]"
    return made


def test_a_teacher_of_other_tokens_is_refused_and_one_that_knows_more_of_them_is_not():
    rows, args = texts(4), TrainingArguments("unused", use_cpu=True, report_to="none")

    def pair(made) -> DistillationTrainer:
        return DistillationTrainer(
            model=tiny.decoder(),
            teacher=tiny.decoder(3, vocab_size=len(WORDS) + 8),
            task="causal-lm",
            objectives=[Logits()],
            args=args,
            train_dataset=rows,
            processing_class=tiny.chat_tokenizer(),
            teacher_processing_class=made,
        )

    with pytest.raises(ObjectiveError, match="have different tokens; take a student with the teacher's tokenizer"):
        pair(other_words())
    more = tiny.chat_tokenizer()
    more.add_tokens(["<think>"])
    assert pair(more).teacher.tokenizer is None


def test_rows_that_are_dropped_or_cut_are_counted_in_the_report(tmp_path):
    long = "card " * 40
    data = Dataset.from_dict(
        {"prompt": ["my card is", long, "the bank was"] * 8, "completion": ["good", "bad", long] * 8}
    )
    given.value = DatasetDict(train=data, validation=data.select([0]), test=data.select([0]))
    tiny.decoder().save_pretrained(tmp_path / "teacher")
    tiny.chat_tokenizer().save_pretrained(tmp_path / "teacher")
    told: list[str] = []
    run(
        {
            "version": 1,
            "name": "counted",
            "task": {"name": "causal-lm", "max_length": 16, "separator": " "},
            "data": {"path": "tests.helpers.data:given"},
            "student": {"pretrained": str(tmp_path / "teacher")},
            "training": {"max_steps": 1, "use_cpu": True, "save_strategy": "no", "eval_strategy": "no"},
            "evaluate": {"resamples": 100},
        },
        runs=tmp_path,
        report=told.append,
    )
    assert "student: 8 of 24 rows are dropped: their prompts are longer than task.max_length (16 tokens)" in told
    assert "student: 8 of 24 rows are cut: they are longer than task.max_length (16 tokens)" in told
