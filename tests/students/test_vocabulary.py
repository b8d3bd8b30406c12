"""Students that know fewer tokens: what is kept, and that texts are cut and read as before."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizer,
)
from transformers.utils import logging

from hf_distill import check, load_recipe, run
from hf_distill.errors import RecipeError, StudentError
from hf_distill.recipe import StudentConfig, WidthConfig
from hf_distill.recipe.parse import read
from hf_distill.students import build_student
from hf_distill.tokenizers.compare import same_tokenizer
from hf_distill.tokenizers.trained import train_tokenizer
from tests.helpers import tiny, whispers

GENERAL = [
    "The quick brown fox jumps over the lazy dog, and the slower foxes jumped over quicker dogs.",
    "Don't stop: it's 12% faster! A naïve café opened in the old town near the river.",
    "Some reading, some writing, much rewriting and overreading of unreadable writings.",
    "Zebras quarrel in quiet quarries; wizards vex jolly boxers while pianos play.",
]
CORPUS = ["the fox jumps over the river", "some reading near the old dog", "it's the quick fox, don't stop"]


def wordpiece() -> Any:
    return train_tokenizer(lambda: GENERAL * 5, vocab_size=250)


def bytes_bpe() -> Any:
    return train_tokenizer(lambda: GENERAL * 5, vocab_size=400, kind="bpe")


def bert() -> Any:
    vocabulary = wordpiece().get_vocab()
    return BertTokenizer(vocab=dict(sorted(vocabulary.items(), key=lambda pair: pair[1])), model_max_length=64)


def gpt2() -> Any:
    content = json.loads(bytes_bpe().backend_tokenizer.to_str())["model"]
    vocabulary = {**content["vocab"], "<|endoftext|>": len(content["vocab"])}
    return GPT2Tokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in content["merges"]], model_max_length=64)


def unigram_pieces() -> list[tuple[str, float]]:
    fast = Tokenizer(models.Unigram())
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.train_from_iterator(
        GENERAL * 5, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>")
    )
    pieces = json.loads(fast.to_str())["model"]["vocab"]
    return [(token, score) for token, score in pieces if token != "<unk>"]


def xlm_roberta() -> Any:
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*special, *unigram_pieces(), ("<mask>", 0.0)], model_max_length=64)


def unigram() -> Any:
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    fast = Tokenizer(models.Unigram([*special, *unigram_pieces()], unk_id=2))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    made.add_tokens(["<extra_0>", "fox"])
    return made


def sentencepiece_bpe() -> Any:
    """As Llama 2 has it: every way to make a piece is a merge, and unknown characters are bytes."""
    pieces = [token for token, _ in unigram_pieces()]
    kept = set(pieces)
    merges = [(p[:i], p[i:]) for p in pieces for i in range(1, len(p)) if p[:i] in kept and p[i:] in kept]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    model = models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True)
    fast = Tokenizer(model)
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="</s>", bos_token="<s>", unk_token="<unk>")


TOKENIZERS = {
    each.__name__: each for each in (wordpiece, bytes_bpe, bert, gpt2, xlm_roberta, unigram, sentencepiece_bpe)
}


def make(tokenizer: Any, kind: str = "bert", auto_model: Any = AutoModelForSequenceClassification, **more: Any) -> Any:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("pad", "bos", "eos")
        if getattr(tokenizer, f"{name}_token_id") is not None
    }
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_head": 2, "n_layer": 2}
    config = transformers.AutoConfig.for_model(
        kind, **{**sizes, **ids, "vocab_size": len(tokenizer) + 3, "max_position_embeddings": 130, **more}
    )
    torch.manual_seed(0)
    return auto_model.from_config(config, attn_implementation="eager").eval()


def build(teacher: Any, own: Any, texts: Any = CORPUS, auto_model: Any = None, **keys: Any) -> Any:
    return build_student(
        read(StudentConfig, {"vocabulary": {"keep": "used"}, **keys}, "recipe.student"),
        auto_model=auto_model or AutoModelForSequenceClassification,
        teacher=teacher,
        teacher_tokenizer=own,
        texts=lambda: iter(texts),
        model_options={},
    )


def logits(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    encoded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits


# ---- every kind of tokenizer


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_of_the_corpus_are_cut_and_read_as_before(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    teacher = make(tokenizer)
    student = build(teacher, tokenizer)
    assert len(student.tokenizer) < len(tokenizer)
    assert student.model.get_input_embeddings().weight.shape[0] == len(student.tokenizer)
    for text in CORPUS:
        before, after = tokenizer(text)["input_ids"], student.tokenizer(text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(before) == student.tokenizer.convert_ids_to_tokens(after)
        assert torch.equal(logits(student.model, student.tokenizer, text), logits(teacher, tokenizer, text))
        assert student.tokenizer.decode(after) == tokenizer.decode(before)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_other_text_can_still_be_encoded(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    student = build(make(tokenizer), tokenizer).tokenizer
    for text in GENERAL:
        ids = student(text)["input_ids"]
        unknown = tokenizer(text)["input_ids"].count(tokenizer.unk_token_id)
        assert ids.count(student.unk_token_id) <= unknown
        if student.unk_token_id is None or not unknown:
            assert student.decode(ids, skip_special_tokens=True) == tokenizer.decode(
                tokenizer(text)["input_ids"], skip_special_tokens=True
            )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_smaller_tokenizer_and_its_model_load_again_without_a_warning(
    name: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    TOKENIZERS[name]().save_pretrained(tmp_path / "old")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "old")  # As a teacher's is: loaded.
    student = build(make(tokenizer), tokenizer)
    student.model.save_pretrained(tmp_path / "new")
    student.tokenizer.save_pretrained(tmp_path / "new")
    logging.enable_propagation()
    try:
        caplog.clear()
        again = AutoTokenizer.from_pretrained(tmp_path / "new")
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "new", attn_implementation="eager")
    finally:
        logging.disable_propagation()
    assert not [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert again.get_vocab() == student.tokenizer.get_vocab()
    weights = student.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    for text in [*CORPUS, *GENERAL]:
        assert again(text)["input_ids"] == student.tokenizer(text)["input_ids"]
        torch.testing.assert_close(logits(loaded, again, text), logits(student.model, student.tokenizer, text))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_and_added_tokens_stay_special_with_their_new_ids(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    student = build(make(tokenizer), tokenizer)
    assert student.tokenizer.special_tokens_map == tokenizer.special_tokens_map
    assert {str(token) for token in student.tokenizer.added_tokens_decoder.values()} == {
        str(token) for token in tokenizer.added_tokens_decoder.values()
    }
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(tokenizer, key) is not None:
            assert getattr(student.model.config, key) == getattr(student.tokenizer, key)
    assert student.tokenizer.all_special_ids == student.tokenizer.convert_tokens_to_ids(tokenizer.all_special_tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_size_is_met_with_the_most_frequent_tokens_and_what_they_are_made_of(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    least = build(make(tokenizer), tokenizer, vocabulary={"keep": "used", "minimum": 10**9})
    size = len(least.tokenizer) + 12
    student = build(make(tokenizer), tokenizer, vocabulary={"size": size})
    assert size - 2 <= len(student.tokenizer) <= size
    assert least.tokenizer.get_vocab().keys() < student.tokenizer.get_vocab().keys()
    for text in [*CORPUS, *GENERAL]:
        assert (
            tokenizer.decode(tokenizer(text)["input_ids"])
            == student.tokenizer.decode(student.tokenizer(text)["input_ids"])
            or tokenizer.unk_token_id in tokenizer(text)["input_ids"]
        )


# ---- models


def test_a_head_over_the_vocabulary_gives_the_kept_tokens_their_logits() -> None:
    tokenizer = wordpiece()
    teacher = make(tokenizer, "bert", AutoModelForMaskedLM)
    with torch.no_grad():
        teacher.cls.predictions.bias.normal_()
    student = build(teacher, tokenizer, auto_model=AutoModelForMaskedLM)
    tokens = student.tokenizer.convert_ids_to_tokens(range(len(student.tokenizer)))
    old = tokenizer.convert_tokens_to_ids(tokens)
    after, before = logits(student.model, student.tokenizer, CORPUS[0]), logits(teacher, tokenizer, CORPUS[0])
    assert torch.equal(after, before[..., old])
    assert student.model.get_output_embeddings().weight is student.model.get_input_embeddings().weight


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_writes_the_same_and_ends_with_the_same_token(kind: str, tied: bool) -> None:
    tokenizer = gpt2()
    tokenizer.pad_token = tokenizer.eos_token
    teacher = make(tokenizer, kind, AutoModelForCausalLM, tie_word_embeddings=tied)
    teacher.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.get_vocab()["Ġthe"]]
    teacher.generation_config.suppress_tokens = [tokenizer.get_vocab()["Ġthe"], tokenizer.get_vocab()["Ġquar"]]
    student = build(teacher, tokenizer, auto_model=AutoModelForCausalLM)
    made, new = student.model, student.tokenizer.get_vocab()
    assert "Ġquar" not in new
    assert made.generation_config.eos_token_id == [new[tokenizer.eos_token], new["Ġthe"]]
    assert made.generation_config.suppress_tokens == [new["Ġthe"]]
    same = made.get_output_embeddings().weight is made.get_input_embeddings().weight
    assert same == tied
    before = logits(teacher, tokenizer, CORPUS[0])
    old = [tokenizer.get_vocab()[token] for token, _ in sorted(new.items(), key=lambda pair: pair[1])]
    torch.testing.assert_close(logits(made, student.tokenizer, CORPUS[0]), before[..., old])


def test_roberta_counts_its_positions_as_before() -> None:
    tokenizer = xlm_roberta()
    teacher = make(tokenizer, "xlm-roberta")
    student = build(teacher, tokenizer)
    assert student.model.config.pad_token_id == teacher.config.pad_token_id == 1
    assert torch.equal(logits(student.model, student.tokenizer, CORPUS[1]), logits(teacher, tokenizer, CORPUS[1]))


def test_what_a_chat_template_writes_is_kept() -> None:
    tokenizer = gpt2()
    assert "Ġquar" not in build(make(tokenizer, "gpt2"), tokenizer).tokenizer.get_vocab()
    tokenizer.chat_template = "{% for m in messages %} quar: {{ m.content }}{% endfor %}"
    kept = build(make(tokenizer, "gpt2"), tokenizer).tokenizer
    turns = [{"role": "user", "content": CORPUS[0]}]
    assert kept.tokenize(kept.apply_chat_template(turns, tokenize=False))[0] == "Ġquar"


def test_layers_width_and_vocabulary_go_together_and_are_told() -> None:
    tokenizer = wordpiece()
    teacher = make(tokenizer)
    student = build(teacher, tokenizer, layers=[1], width=WidthConfig(heads=1))
    total = len(tokenizer)
    saved = (total + 3 - len(student.tokenizer)) * 8
    assert student.origin == (
        f"{len(student.tokenizer)} of {total} tokens ({saved:,} parameters fewer) of width 8 of 16, 1 of 2 heads, "
        "24 of 24 units a layer, by activation on 3 texts, of layers 1 of 2 of the teacher"
    )
    assert student.report["vocabulary"] == {
        "tokens": len(student.tokenizer),
        "of": total,
        "parameters_saved": saved,
    }
    assert student.model.config.vocab_size == len(student.tokenizer)
    assert student.layer_map == {"": (1,)}


def test_a_vocabulary_cut_makes_another_tokenizer_and_leaves_the_teachers() -> None:
    tokenizer = wordpiece()
    vocabulary = tokenizer.get_vocab()
    student = build(make(tokenizer), tokenizer)
    assert not same_tokenizer(student.tokenizer, tokenizer)
    assert tokenizer.get_vocab() == vocabulary


def test_a_tokenizer_of_whole_words_keeps_those_of_the_corpus() -> None:
    tokenizer = tiny.tokenizer()
    kept = build(make(tokenizer), tokenizer, texts=["the good card"]).tokenizer
    assert kept.get_vocab() == {
        token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "card", "good", "the"])
    }


# ---- refused


def test_what_cannot_be_cut_is_refused() -> None:
    tokenizer = bytes_bpe()
    teacher = make(tokenizer)
    with pytest.raises(StudentError, match=r"vocabulary.size: expected 261 \(special tokens.*to \d+ tokens.*got 100"):
        build(teacher, tokenizer, vocabulary={"size": 100})
    with pytest.raises(StudentError, match="got 50,000"):
        build(teacher, tokenizer, vocabulary={"size": 50_000})
    with pytest.raises(StudentError, match="hold no token to keep"):
        build(teacher, tokenizer, texts=[""])
    with pytest.raises(StudentError, match="needs a teacher to take vocabulary from"):
        build(None, None)
    with pytest.raises(StudentError, match="keeps its embeddings"):
        build(teacher, tokenizer, tokenizer="another")


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow(transformers.PreTrainedTokenizer):  # type: ignore[misc]
        vocab_size = 3

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 1, "c": 2}

    with pytest.raises(StudentError, match="Slow is a slow tokenizer"):
        build(make(tiny.tokenizer()), Slow())


def test_tokens_with_an_affix_are_refused() -> None:
    fast = Tokenizer(models.BPE({"a</w>": 0, "a": 1}, [], end_of_word_suffix="</w>"))
    with pytest.raises(StudentError, match="BPE with '</w>'"):
        build(make(tiny.tokenizer()), PreTrainedTokenizerFast(tokenizer_object=fast))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"vocabulary": {}}, "exactly one of keep and size"),
        ({"vocabulary": {"keep": "used", "size": 9}}, "exactly one of keep and size"),
        ({"vocabulary": {"size": 9, "minimum": 2}}, "minimum: does nothing beside size"),
        ({"vocabulary": {"keep": "used", "minimum": 0}}, "minimum: expected at least 1"),
        ({"vocabulary": {"size": 0}}, "size: expected at least 1"),
        ({"vocabulary": {"keep": "all"}}, "keep: expected one of used"),
        ({"vocabulary": {"size": 9}, "config": {"hidden_size": 8}}, "fresh weights have the vocabulary of"),
        ({"vocabulary": {"size": 9}, "lora": {}}, "vocabulary make a new one"),
    ],
)
def test_vocabularies_that_make_no_sense_are_refused(student: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny.recipe(student=student))


# ---- recipes


def trained_teacher(folder: Any) -> None:
    """A BERT that has learnt which words are good, saved with its tokenizer."""
    tokenizer = train_tokenizer(lambda: [*GENERAL, *tiny.rows(64)["text"]], vocab_size=250)
    model, rows = tiny.bert(1, 16, vocab_size=len(tokenizer)), tiny.rows(96)[:]
    encoded = tokenizer(rows["text"], padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(25):
        model(**encoded, labels=torch.tensor(rows["label"])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_a_student_of_fewer_tokens_learns_from_a_teacher_that_reads_its_own(tmp_path: Any) -> None:
    trained_teacher(tmp_path / "teacher")
    recipe = tiny.recipe(
        data={"path": "tests.helpers.tiny:splits", "arguments": {"train": 48, "test": 32}},
        teacher={"model": str(tmp_path / "teacher")},
        student={"width": {"heads": 2}, "vocabulary": {"keep": "used"}},
        objectives=[{"kind": "labels"}, {"kind": "logits"}],
        training={"max_steps": 2, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1},
        evaluate={"resamples": 100, "control": False},
    )
    lines: list[str] = []
    check(recipe, report=lines.append)
    result = run(recipe, runs=tmp_path / "runs", report=lambda line: None)
    kept = result.results["training"]["student"]["kept"]["vocabulary"]
    assert kept["tokens"] < kept["of"]
    assert len(AutoTokenizer.from_pretrained(result.student)) == kept["tokens"]
    parameters = result.results["models"]["student"]["parameters"]
    assert any(line.startswith(f"student: bert, {parameters / 1e6:.1f} million parameters") for line in lines)


def test_tokenizers_of_a_short_limit_are_compared_without_a_warning(monkeypatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(
        "transformers.tokenization_utils_base.logger.warning", lambda line, *_, **__: warned.append(line)
    )
    first, second = whispers.processor(longest=8).tokenizer, whispers.processor(longest=8).tokenizer
    assert same_tokenizer(first, second)
    assert not warned
    first("one two three four five six seven eight nine")
    assert len(warned) == 1  # It is told where a limit matters.
