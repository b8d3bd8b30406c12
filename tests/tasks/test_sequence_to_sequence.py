"""Translation and summarisation: both models read the same, and what they write is judged."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sacrebleu.metrics import BLEU, CHRF
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, TrainingArguments

from hf_distill import DistillationTrainer, Hidden, Labels, Logits, run
from hf_distill.errors import HfDistillError, ModelError, ObjectiveError, RecipeError, TeacherError
from hf_distill.evaluation.language_modeling import TokenScores, judged
from hf_distill.evaluation.metrics import make_scorers
from hf_distill.evaluation.predict import check_generation, write_and_score, write_texts
from hf_distill.generation.generate import beam_cache, writer_inputs
from hf_distill.pipeline.cases import TargetsCase
from hf_distill.pipeline.compatibility import check_targets
from hf_distill.tasks import CausalLanguageModeling, Summarization, Translation
from hf_distill.teachers import ModelTeacher
from hf_distill.tokenizers.trained import train_tokenizer
from hf_distill.types import IGNORED
from tests.helpers import tiny
from tests.helpers.data import reversed_pairs
from tests.helpers.one_step import assert_same, terms

KINDS = ("marian", "bart", "t5", "mbart", "m2m_100", "pegasus")


def bound(model, task: type = Translation, **options):
    made = task(max_length=32, max_target_length=32, **options)
    made.follow(model.config)
    return made


def batch_of(task, side: str = "right", count: int = 24) -> dict:
    made = tiny.chat_tokenizer(side=side)
    return task.collator(made)(list(task.encode(reversed_pairs(count), made)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_labels_alone_give_the_loss_and_gradients_of_the_models_own_head(kind):
    student = tiny.encoder_decoder(kind)
    task = bound(student)
    batch = batch_of(task)
    found = terms(task, batch, student, None, [Labels()])
    stock = tiny.encoder_decoder(kind).train()
    expected = stock(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    expected.backward()
    gradients = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert_same(found, (expected.detach(), gradients))


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_the_fused_divergence_is_that_of_all_logits(kind):
    student, teacher = tiny.encoder_decoder(kind), tiny.encoder_decoder(kind, 2, 4, seed=3)
    if kind == "marian":
        for model, seed in ((student, 1), (teacher, 2)):
            model.final_logits_bias.copy_(torch.randn(1, 120, generator=torch.Generator().manual_seed(seed)))
    task = bound(student)
    batch = batch_of(task)
    found = terms(task, batch, student, teacher, [Logits(temperature=2.0)])
    plain = tiny.encoder_decoder(kind).train()
    if kind == "marian":
        plain.final_logits_bias.copy_(student.final_logits_bias)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    counted = batch["labels"] != IGNORED
    with torch.no_grad():
        wanted = torch.log_softmax(teacher(**inputs).logits[counted] / 2, -1)
    ours = torch.log_softmax(plain(**inputs).logits[counted] / 2, -1)
    expected = 4 * functional.kl_div(ours, wanted, log_target=True, reduction="batchmean")
    expected.backward()
    assert_same(found, (expected.detach(), {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}))


def test_the_side_of_the_padding_and_what_stands_in_it_change_nothing():
    student, teacher = tiny.encoder_decoder("t5"), tiny.encoder_decoder("t5", 2, 4, seed=3)
    task = bound(student)
    objectives = [Labels(), Logits(), Hidden(), Hidden(side="encoder")]
    right, left = batch_of(task), batch_of(task, "left")
    garbage = copy.deepcopy(right)
    garbage["input_ids"][right["attention_mask"] == 0] = 7
    garbage["decoder_input_ids"][right["labels"] == IGNORED] = 9
    found = [terms(task, each, copy.deepcopy(student), teacher, objectives) for each in (right, left, garbage)]
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_hidden_states_are_the_decoders_and_are_mapped_by_its_depth():
    student, teacher = tiny.encoder_decoder("t5", 4, 1), tiny.encoder_decoder("t5", 4, 3, seed=3)
    objective = Hidden()
    task = bound(student)
    batch = batch_of(task)
    loss, _ = terms(task, batch, student, teacher, [objective])
    assert objective.layer_map == {0: 2}
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    ours, theirs = (
        model(**inputs, output_hidden_states=True).decoder_hidden_states[depth]
        for model, depth in ((student, 1), (teacher, 3))
    )
    counted = batch["labels"] != IGNORED
    assert loss == pytest.approx((ours - theirs)[counted].square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_an_encoder_learns_the_teachers_states_of_the_source_by_its_own_depth(kind):
    student, teacher = tiny.encoder_decoder(kind, 2, 1), tiny.encoder_decoder(kind, 4, 3, seed=3)
    objective = Hidden(side="encoder")
    task = bound(student)
    batch = batch_of(task)
    loss, gradients = terms(task, batch, student, teacher, [objective])
    assert objective.layer_map == {0: 1, 1: 3}
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    ours, theirs = (model(**inputs, output_hidden_states=True).encoder_hidden_states for model in (student, teacher))
    real = batch["attention_mask"].bool()
    expected = [(ours[i + 1] - theirs[j + 1])[real].square().mean() for i, j in objective.layer_map.items()]
    assert loss == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    moved = {name for name, gradient in gradients.items() if gradient.abs().sum() > 0}
    for layer in range(2):
        assert any(f"encoder.{'block' if kind == 't5' else 'layers'}.{layer}." in name for name in moved)
    assert not any("decoder." in name for name in moved)


def test_both_sides_learn_at_once_through_projections_where_widths_differ():
    student = tiny.encoder_decoder("marian", 2, 1)
    teacher = tiny.encoder_decoder("marian", 4, 3, seed=3, d_model=48)
    sides = [Hidden(), Hidden(side="encoder", layers={0: 0, 1: -1})]
    task = bound(student)
    _, gradients = terms(task, batch_of(task), student, teacher, sides)
    assert [each.layer_map for each in sides] == [{0: 2}, {0: 0, 1: 3}]
    assert all(parameter.grad.abs().sum() > 0 for each in sides for parameter in each.module.parameters())
    assert {name.split(".")[1] for name in gradients} >= {"encoder", "decoder"}


def test_states_of_an_encoder_are_asked_only_where_one_learns():
    student, teacher = tiny.encoder_decoder("marian"), tiny.encoder_decoder("marian", seed=3)
    for parameter in student.get_encoder().parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ObjectiveError, match="the student's encoder is frozen"):
        terms(bound(student), {}, student, teacher, [Hidden(side="encoder")])
    with pytest.raises(ObjectiveError, match="bert has one stack of layers"):
        Hidden(side="encoder").connect(tiny.bert().config, tiny.bert().config)
    with pytest.raises(ObjectiveError, match="side must be one of decoder, encoder"):
        Hidden(side="left")
    objectives = {"hidden": Hidden(side="encoder")}
    case = TargetsCase(traits=frozenset({"cached"}), task=Translation(), objectives=objectives)
    with pytest.raises(TeacherError, match="encoder_states, which a cache does not keep"):
        check_targets(case)


def parameters_after_a_step(split: tuple[int, int], tmp_path) -> dict[str, torch.Tensor]:
    size, accumulation = split
    student = tiny.encoder_decoder("marian", 2, 1)
    trainer = DistillationTrainer(
        model=student,
        teacher=ModelTeacher(tiny.encoder_decoder("marian", 2, 3, seed=3)),
        task=bound(student),
        objectives=[Labels(), Logits(), Hidden(), Hidden(side="encoder")],
        args=TrainingArguments(
            str(tmp_path / f"{size}"),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=reversed_pairs(8),
        processing_class=tiny.chat_tokenizer(),
    )
    trainer.train()
    return dict(student.named_parameters())


def test_eight_rows_at_once_and_one_by_one_make_the_same_step(tmp_path):
    whole, single = (parameters_after_a_step(split, tmp_path) for split in ((8, 1), (1, 8)))
    start = dict(tiny.encoder_decoder("marian", 2, 1).named_parameters())
    assert any(not torch.equal(whole[name], start[name]) for name in whole)
    for name, values in whole.items():
        assert torch.allclose(values, single[name], atol=1e-5), name


def test_a_model_without_an_encoder_is_refused():
    with pytest.raises(ModelError, match="use the task causal-lm"):
        Translation().follow(tiny.decoder().config)


def test_a_teacher_whose_decoder_starts_with_another_token_is_refused():
    student = tiny.encoder_decoder("marian")
    with pytest.raises(ModelError, match="starts with another token"):
        terms(bound(student), {}, student, tiny.encoder_decoder("marian", decoder_start_token_id=5), [Logits()])


def test_a_target_does_not_hold_the_token_that_decoders_start_with():
    task = bound(tiny.encoder_decoder("marian"))
    words = tiny.chat_tokenizer()
    assert words("card")["input_ids"][0] == words.cls_token_id == 2
    (encoded,) = task.encode(reversed_pairs(1), words)
    assert encoded["labels"][0] != 2
    batch = batch_of(task)
    assert (batch["decoder_input_ids"][:, 0] == 2).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_length": 1}, "max_length"),
        ({"max_target_length": "80"}, "max_target_length"),
        ({"prefix": 3}, "prefix"),
        ({"source_language": "de"}, "both of source_language and target_language"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(options, told):
    with pytest.raises(RecipeError, match=told):
        Summarization(**options)


def test_languages_that_the_tokenizer_does_not_mark_are_refused():
    task = bound(tiny.encoder_decoder("marian"), source_language="de", target_language="en")
    with pytest.raises(RecipeError, match="knows no language 'de'"):
        task.encode(reversed_pairs(2), tiny.chat_tokenizer())


TEXTS = ["a card was in the house", "my bank is slow", "the letter", ""]
REFERENCES = ["the card was in the house", "my bank was very slow", "the letter was late", "a river"]


@pytest.mark.parametrize(("name", "metric"), [("bleu", BLEU), ("chrf", CHRF)])
def test_scores_from_summed_counts_are_sacrebleus_own_and_follow_resampled_rows(name, metric):
    (scorer,) = make_scorers([name])
    counts = np.array([[1, 1, 1, 1], [2, 0, 1, 1]])
    found = scorer.scores(counts @ scorer.statistics(TEXTS, REFERENCES), counts.sum(1))[name]
    for value, drawn in zip(found, ([0, 1, 2, 3], [0, 0, 2, 3]), strict=True):
        expected = metric().corpus_score([TEXTS[i] for i in drawn], [[REFERENCES[i] for i in drawn]]).score
        assert value == pytest.approx(expected)


def test_rouge_and_functions_are_means_over_rows():
    rouge, exact, number, own = make_scorers(["rouge", "exact_match", "last_number", "tests.helpers.recipes:longer"])
    statistics = rouge.statistics(["the card was late"], ["the card was very late"])
    assert statistics[0] == pytest.approx([8 / 9, 4 / 7, 8 / 9])
    assert exact.statistics(["a ", "b"], ["a", "c"]).tolist() == [[1.0], [0.0]]
    assert number.statistics(["so 1,200 it is", "none"], ["3 + 1197 = 1200", "7"]).tolist() == [[1.0], [0.0]]
    assert own.scores(np.array([[3.0]]), np.array([4]))["longer"] == pytest.approx(0.75)


def test_a_scorer_may_be_a_class_of_ones_own():
    (scorer,) = make_scorers(["hf_distill.evaluation.metrics:Rouge"])
    assert scorer.names == ("rouge1", "rouge2", "rougeL")


@pytest.mark.parametrize("name", ["blue", "tests.nowhere:score", "tests.helpers.tiny:nothing", "decimal:Decimal"])
def test_a_scorer_that_is_not_there_is_refused(name):
    with pytest.raises(RecipeError, match=r"recipe\.evaluate\.scorers"):
        make_scorers([name])


@pytest.mark.parametrize("settings", [{"num_beems": 4}, {"max_new_tokens": 0}, {"num_return_sequences": 2}])
def test_settings_that_transformers_does_not_know_are_refused(settings):
    with pytest.raises(RecipeError, match=r"recipe\.evaluate\.generation"):
        check_generation(settings)


def test_what_a_decoder_writes_follows_from_its_prompt_whatever_the_batch():
    model, words = tiny.decoder(), tiny.chat_tokenizer()
    task = CausalLanguageModeling(max_length=40, separator=" so ")
    prompts = task.prompts(reversed_pairs(7).rename_columns({"source": "prompt", "target": "completion"}), words)
    assert prompts.references == reversed_pairs(7)["target"]
    settings = {"max_new_tokens": 6, "do_sample": False}
    together, alone = (write_texts(model, words, prompts, settings, size) for size in (4, 1))
    assert together == alone
    assert len(set(together)) > 1


def test_what_an_encoder_and_decoder_write_stands_in_the_order_of_the_rows_whatever_the_batch():
    model, words = tiny.encoder_decoder("t5", seed=2), tiny.chat_tokenizer()
    prompts = bound(model).prompts(reversed_pairs(7), words)
    settings = {"max_new_tokens": 6, "do_sample": True, "top_k": 1}
    together, alone = (write_texts(model, words, prompts, settings, size) for size in (4, 1))
    assert together == alone
    one = model.generate(torch.tensor([prompts.input_ids[3]]), max_new_tokens=6, do_sample=False)
    assert together[3] == words.decode(one[0], skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_beams_that_do_not_carry_their_source_write_what_beams_write(kind):
    model, words = tiny.encoder_decoder(kind), tiny.chat_tokenizer()
    inputs = writer_inputs(model, words, bound(model).prompts(reversed_pairs(7), words).input_ids)
    settings = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 8}
    told = {**settings, "return_dict_in_generate": True, "output_scores": True}
    generation = copy.deepcopy(model.generation_config)
    generation.update(**settings)

    lighter = model.generate(**inputs, **told, **beam_cache(model, generation))

    plain = model.generate(**inputs, **told)
    assert torch.equal(lighter.sequences, plain.sequences)
    torch.testing.assert_close(lighter.sequences_scores, plain.sequences_scores)
    assert len({tuple(row) for row in plain.sequences.tolist()}) > 1


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_what_keeps_no_source_of_beams_is_left_to_generate(settings):
    model = tiny.encoder_decoder()
    generation = GenerationConfig(**{"num_beams": 4, **settings})
    assert beam_cache(model, generation) == {}
    assert beam_cache(tiny.decoder(1), GenerationConfig(num_beams=4)) == {}
    assert list(beam_cache(model, GenerationConfig(num_beams=4))) == ["past_key_values"]


def test_a_chat_is_continued_where_the_assistants_last_turn_begins():
    words = tiny.chat_tokenizer(tiny.CHAT_TEMPLATE)
    turns = [
        {"role": "user", "content": "my card"},
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "the bank"},
        {"role": "assistant", "content": "bad"},
    ]
    prompts = CausalLanguageModeling(max_length=40).prompts(Dataset.from_list([{"messages": turns}]), words)
    written = words.decode(prompts.input_ids[0])
    assert prompts.references == ["bad"]
    assert "the bank" in written
    assert "bad" not in written


def test_plain_text_cannot_be_written_after():
    with pytest.raises(RecipeError, match="plain text has no prompt"):
        CausalLanguageModeling().prompts(Dataset.from_dict({"text": ["a card"]}), tiny.chat_tokenizer())


def test_a_trained_bpe_tokenizer_gives_every_text_back_and_is_the_same_each_time():
    texts = ["It's  a  T-shirt, 12.5% of «déjà-vu» — 東京!", *tiny.rows(40)["text"]]
    first, second = (train_tokenizer(lambda: iter(texts), 300, kind="bpe") for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert first.decode(first(texts[0])["input_ids"], skip_special_tokens=True) == texts[0]
    assert first("a")["input_ids"][:: len(first("a")["input_ids"]) - 1] == [first.bos_token_id, first.eos_token_id]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "bpe", "lowercase": True}, "lowercase"),
        ({"kind": "bpe", "vocab_size": 200}, "vocab_size"),
        ({"kind": "unigram"}, "kind"),
    ],
)
def test_a_tokenizer_that_cannot_be_trained_is_refused(options, told):
    with pytest.raises(HfDistillError, match=rf"student\.tokenizer\.{told}"):
        train_tokenizer(lambda: iter(["a card"]), **options)


def recipe(**changes) -> dict:
    shape = {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    shape |= {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0}
    training = {"learning_rate": 3e-3, "per_device_train_batch_size": 16, "use_cpu": True}
    training |= {"eval_strategy": "no", "save_strategy": "no"}
    student = {"config": {"model_type": "marian", **shape}, "tokenizer": {"kind": "bpe", "vocab_size": 300}}
    return {
        "version": 1,
        "name": "reverse",
        "task": {"name": "translation", "max_length": 64, "max_target_length": 64},
        "data": {"path": "tests.helpers.data:translations", "arguments": {"train": 96, "test": 8}},
        "teacher": {"recipe": {"student": student, "training": {**training, "num_train_epochs": 3}}},
        "student": {"layers": {"decoder": [0]}},
        "objectives": [{"kind": "labels", "weight": 0.5}, {"kind": "logits"}, {"kind": "hidden"}],
        "training": {**training, "num_train_epochs": 1},
        "evaluate": {"resamples": 100, "generation": {"num_beams": 2, "max_new_tokens": 24}},
        **changes,
    }


@pytest.mark.slow
def test_a_translation_recipe_gives_a_student_that_plain_transformers_loads_and_a_card_that_tells_bleu(tmp_path):
    result = run(recipe(), runs=tmp_path, report=lambda line: None)
    models = result.results["models"]
    assert result.results["comparison"]["primary_metric"] == "bleu"
    assert {"bleu", "chrf", "loss", "kl_to_teacher"} <= models["student"]["metrics"].keys()
    assert result.results["speed"]["written_tokens"] > 2
    assert models["student"]["parameters"] < models["teacher"]["parameters"]
    assert "sacrebleu" in result.results["versions"]
    model = AutoModelForSeq2SeqLM.from_pretrained(result.student)
    tokenizer = AutoTokenizer.from_pretrained(result.student)
    assert (model.generation_config.num_beams, model.generation_config.max_new_tokens) == (2, 24)
    assert model.config.decoder_layers == 1
    ids = tokenizer(["the card"], return_tensors="pt")
    assert tokenizer.batch_decode(model.generate(**ids), skip_special_tokens=True)[0]
    card = (result.student / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM" in card
    assert "bleu" in card
    analysis = json.loads((result.folder / "analysis.json").read_text())
    assert {"text", "reference", "teacher", "student"} <= analysis["written"][0].keys()


@pytest.mark.slow
def test_a_cached_teacher_that_keeps_all_trains_the_student_of_the_live_one(tmp_path):
    losses = {}
    for kind in ("live", "cached"):
        more = {"kind": "cached", "cache": {"scheme": "top_k", "k": 300, "verify": 2}} if kind == "cached" else {}
        settings = recipe(name=kind, evaluate={"resamples": 100, "control": False, "scorers": ["exact_match"]})
        settings["teacher"] |= more
        settings["training"] |= {"max_steps": 4, "logging_steps": 1}
        result = run(settings, runs=tmp_path, report=lambda line: None)
        history = json.loads((result.folder / "checkpoints" / "student.json").read_text())["log_history"]
        losses[kind] = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses["live"]) == 4
    assert losses["cached"] == pytest.approx(losses["live"], abs=2e-3)


def test_what_is_written_is_judged_on_all_rows():
    model = tiny.encoder_decoder("marian")
    data = reversed_pairs(5)
    written = write_and_score(model, bound(model), tiny.chat_tokenizer(), data, ["exact_match"], {}, 2)
    assert len(written.texts) == len(written.references) == 5
    assert written.score(np.ones((1, 5)))["exact_match"][0] == 0.0


def test_a_model_that_writes_the_same_about_everything_is_told_of():
    def scores(*texts: str) -> TokenScores:
        written = judged(texts, SimpleNamespace(references=["a", "b", "c"]), ["exact_match"])
        ones = np.ones(3)
        figures = {"tokens": ones, "loss": ones, "correct": ones, "bytes": ones, "confidence": np.zeros((3, 15))}
        return TokenScores(vocabulary=9, written=written, **figures)

    models = {"teacher": scores("a card", "my bank", "a river"), "student": scores(*["the the"] * 3)}
    *_, warning = models["student"].analysis(models, SimpleNamespace(texts=["x", "y", "z"]))["summary"]
    assert warning.startswith("The student wrote 1 different texts on 3 rows, of which the references have 3")
