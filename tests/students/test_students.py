"""Students: layers of the teacher, a config, a pretrained model; and their tokenizers."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.models.longformer import modeling_longformer as longformer

from hf_distill.errors import LabelError, ModelError, StudentError
from hf_distill.models import loading as models
from hf_distill.models.fingerprints import license_of
from hf_distill.models.sizes import position_limit
from hf_distill.recipe import StudentConfig
from hf_distill.recipe.parse import read
from hf_distill.students import Student, build_student, chosen_cuts
from hf_distill.students.label_heads import output_layer
from hf_distill.students.layer_choice import choose_layers
from hf_distill.students.layers import cut
from hf_distill.tokenizers.processors import load_tokenizer
from hf_distill.tokenizers.trained import train_tokenizer
from tests.helpers import tiny

NAMES = ("angry", "happy", "sad")
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Don't stop: it's 12% faster!",
    "the dog sleeps, the fox reads",
]
SMALL = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 200}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": SMALL,
    "xlm-roberta": SMALL,
    "distilbert": {"dim": 32, "n_heads": 2, "hidden_dim": 48, "vocab_size": 200},
    "modernbert": {
        **SMALL,
        "global_attn_every_n_layers": 2,
        "local_attention": 4,
        **{f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")},
    },
    "deberta-v2": {
        **SMALL,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 8,
        "conv_kernel_size": 3,
        "type_vocab_size": 0,
    },
    "electra": {**SMALL, "embedding_size": 16},
    "mpnet": SMALL,
    "longformer": {**SMALL, "attention_window": [4, 8, 4, 8, 16, 8]},
    "xlnet": {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48, "vocab_size": 200},
    "esm": {**SMALL, "pad_token_id": 0, "mask_token_id": 4, "position_embedding_type": "rotary"},
}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0},
    "qwen2": {
        **SMALL,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "layer_types": ["full_attention", "sliding_attention"] * 3,
        "use_sliding_window": True,
        "sliding_window": 3,
    },
    "gpt2": {"n_embd": 32, "n_head": 2, "vocab_size": 200, "pad_token_id": 0},
}
ALL = [*ENCODERS, *DECODERS]


def make_teacher(kind: str = "bert", layers: int = 6, names: tuple[str, ...] = NAMES, **more: Any) -> PreTrainedModel:
    settings = {**{**ENCODERS, **DECODERS}.get(kind, SMALL), "num_hidden_layers": layers, **more}
    config = transformers.AutoConfig.for_model(kind, **settings)
    config.use_cache = False
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def options(*names: str, problem_type: str = "single_label_classification") -> dict[str, Any]:
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": problem_type,
    }


def build(
    teacher: PreTrainedModel | None = None,
    labels: dict[str, Any] | None = None,
    tokenizer_of_teacher: Any = None,
    texts: list[str] = SENTENCES,
    **keys: Any,
) -> Student:
    auto_model = keys.pop("auto_model", AutoModelForSequenceClassification)
    return build_student(
        read(StudentConfig, keys, "recipe.student"),
        auto_model=auto_model,
        teacher=teacher,
        teacher_tokenizer=tokenizer_of_teacher,
        texts=lambda: iter(texts),
        model_options=labels or options(*NAMES),
    )


def logits(model: PreTrainedModel, length: int = 24) -> torch.Tensor:
    torch.manual_seed(1)
    ids = torch.randint(5, 200, (2, length))
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(lambda: SENTENCES * 3, vocab_size=120)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# ---- choosing layers


@pytest.mark.parametrize(
    ("chosen", "total", "kept"),
    [
        (3, 6, (0, 2, 5)),
        (6, 12, (0, 2, 4, 7, 9, 11)),
        (4, 4, (0, 1, 2, 3)),
        (2, 12, (0, 11)),
        (1, 12, (0,)),
        ([0, 2, 5], 6, (0, 2, 5)),
        ([0, -1], 6, (0, 5)),
        ([-6, -1], 6, (0, 5)),
        ([0, 1, -2], 12, (0, 1, 10)),
    ],
)
def test_layers_are_spaced_or_listed_and_negative_ones_count_from_the_end(
    chosen: int | list[int], total: int, kept: tuple[int, ...]
) -> None:
    assert choose_layers(chosen, total) == kept


@pytest.mark.parametrize("total", range(1, 25))
def test_any_number_of_spaced_layers_is_that_many_with_both_ends(total: int) -> None:
    for count in range(1, total + 1):
        layers = choose_layers(count, total)
        assert len(set(layers)) == count
        assert layers[0] == 0
        assert layers[-1] == total - 1 or count == 1


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (7, "expected 1 to 6"),
        (0, "expected 1 to 6"),
        ([0, 6], "no layer 6; expected 0 to 5, or -6 to -1"),
        ([-7], "no layer -7"),
        ([], "at least one"),
        ([0, 5, -1], r"each layer once.*write \[0, 5\]"),
        ([5, 0], r"in the teacher's order.*write \[0, 5\]"),
    ],
)
def test_layers_out_of_range_twice_or_out_of_order_are_refused(chosen: int | list[int], message: str) -> None:
    with pytest.raises(StudentError, match=message):
        choose_layers(chosen, 6)


# ---- layers of the teacher


@pytest.mark.parametrize("kind", ALL)
def test_keeping_all_layers_gives_the_logits_of_the_teacher(kind: str) -> None:
    teacher = make_teacher(kind)
    assert torch.equal(logits(cut(teacher, chosen_cuts(teacher, 6))), logits(teacher))


@pytest.mark.parametrize("kind", ALL)
def test_a_student_computes_what_the_teacher_computes_without_the_dropped_layers(kind: str) -> None:
    teacher = make_teacher(kind)
    (chosen,) = chosen_cuts(teacher, [0, 3, 4])
    student, stack = cut(teacher, [chosen]), chosen.stack
    shortened = copy.deepcopy(teacher)
    blocks = shortened.get_submodule(stack)
    shortened.config.num_hidden_layers = 3
    if hasattr(shortened.config, "layer_types"):
        shortened.config.layer_types = [teacher.config.layer_types[i] for i in (0, 3, 4)]
    parent, _, name = stack.rpartition(".")
    setattr(shortened.get_submodule(parent), name, torch.nn.ModuleList(blocks[i] for i in (0, 3, 4)))
    assert not torch.equal(logits(student), logits(teacher))
    assert torch.equal(logits(student), logits(shortened))


@pytest.mark.parametrize("kind", ALL)
def test_a_student_loads_again_with_nothing_of_ours(kind: str, tmp_path: Any, tokenizer: Any) -> None:
    student = build(make_teacher(kind), layers=[0, 2, -1], tokenizer_of_teacher=tokenizer)
    student.model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits(loaded), logits(student.model))
    assert loaded.config.num_hidden_layers == 3
    assert loaded.config.id2label == dict(enumerate(NAMES))


def test_every_tensor_of_a_chosen_layer_equals_its_source(tokenizer: Any) -> None:
    teacher = make_teacher("bert")
    student = build(teacher, layers=[1, -1], tokenizer_of_teacher=tokenizer)
    own, sources = student.model.state_dict(), teacher.state_dict()
    for i, source in enumerate((1, 5)):
        names = [name for name in own if f"layer.{i}." in name]
        assert len(names) == 16
        for name in names:
            assert torch.equal(own[name], sources[name.replace(f"layer.{i}.", f"layer.{source}.")])
    assert student.layer_map == {"": (1, 5)}
    assert student.origin == "layers 1, 5 of 6 of the teacher"


def test_layers_know_their_new_place(tokenizer: Any) -> None:
    student = build(make_teacher("bert"), layers=[0, 5], tokenizer_of_teacher=tokenizer).model
    indices = [module.layer_idx for module in student.modules() if hasattr(module, "layer_idx")]
    assert indices == [0, 1]


def test_a_student_of_a_bfloat16_teacher_is_float32_and_trainable(tokenizer: Any) -> None:
    teacher = make_teacher("bert").to(torch.bfloat16).requires_grad_(False)
    student = build(teacher, layers=2, tokenizer_of_teacher=tokenizer).model
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}


def test_the_teacher_is_left_as_it_was(tokenizer: Any) -> None:
    teacher = make_teacher("distilbert")
    before, config = logits(teacher), teacher.config.to_dict()
    student = build(teacher, options("sad", "happy", "angry"), layers=2, tokenizer_of_teacher=tokenizer)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.zero_()
    assert torch.equal(logits(teacher), before)
    assert teacher.config.to_dict() == config


@pytest.mark.parametrize("chosen", [(0, 1, 3), (0, 2, 4), (0, 3, 5)])
def test_the_attention_of_each_modernbert_layer_follows_its_source(chosen: tuple[int, ...]) -> None:
    teacher = make_teacher("modernbert")
    kinds = ["full_attention", "sliding_attention"] * 3
    assert teacher.config.layer_types == kinds
    student = cut(teacher, chosen_cuts(teacher, list(chosen)))
    assert student.config.layer_types == [kinds[i] for i in chosen]
    assert [layer.attention_type for layer in student.model.layers] == [kinds[i] for i in chosen]


def test_modernbert_without_its_first_layer_is_refused_since_that_one_is_built_otherwise(tokenizer: Any) -> None:
    with pytest.raises(
        StudentError, match=r"layer 1 cannot be layer 0.*attn_norm is Identity and not LayerNorm.*keep layer 0"
    ):
        build(make_teacher("modernbert"), layers=[1, 3], tokenizer_of_teacher=tokenizer)


def test_a_layer_whose_attention_would_change_at_its_new_place_is_refused(monkeypatch) -> None:
    made = longformer.LongformerSelfAttention.__init__

    def of_its_place(self: Any, config: Any, layer_id: int) -> None:
        made(self, config, layer_id)
        self.one_sided_attn_window_size = 4 + layer_id

    monkeypatch.setattr(longformer.LongformerSelfAttention, "__init__", of_its_place)
    teacher = make_teacher("longformer")
    with pytest.raises(StudentError, match=r"layer 3 cannot be layer 1.*one_sided_attn_window_size is 5 and not 7"):
        cut(teacher, chosen_cuts(teacher, [0, 3]))


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        (
            "albert",
            {"embedding_size": 16, "num_hidden_layers": 2},
            "AlbertForSequenceClassification uses the same layer at every depth",
        ),
        ("xlm", {"emb_dim": 32, "n_heads": 2, "n_layers": 2}, "found several"),
        ("funnel", {"d_model": 32, "block_sizes": [1, 2]}, "found none"),
    ],
)
def test_models_without_one_stack_of_layers_are_refused_with_the_reason(
    kind: str, more: dict[str, Any], message: str
) -> None:
    config = transformers.AutoConfig.for_model(kind, vocab_size=50, **more)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(StudentError, match=message):
        chosen_cuts(model, 1)


def test_layers_without_a_teacher_or_with_another_tokenizer_are_refused(tokenizer: Any) -> None:
    with pytest.raises(StudentError, match="needs a teacher"):
        build(None, layers=2)
    with pytest.raises(StudentError, match="keeps its embeddings"):
        build(make_teacher(), layers=2, tokenizer_of_teacher=tokenizer, tokenizer={"vocab_size": 100})


# ---- layers of encoder-decoders

ENCODER_DECODERS = ["bart", "mbart", "marian", "m2m_100", "pegasus", "blenderbot", "led", "t5", "mt5", "umt5", "longt5"]
SOURCE = torch.randint(4, 90, (2, 12), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(4, 90, (2, 7), generator=torch.Generator().manual_seed(1))


def answers(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=SOURCE, decoder_input_ids=TARGET).logits


def layers_of(model: PreTrainedModel, side: str) -> torch.nn.ModuleList:
    part = model.get_encoder() if side == "encoder" else model.get_decoder()
    return next(module for module in part.children() if isinstance(module, torch.nn.ModuleList))


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_an_encoder_decoder_with_all_layers_kept_is_its_teacher_bit_for_bit(kind: str) -> None:
    teacher = tiny.encoder_decoder(kind)
    student = cut(teacher, chosen_cuts(teacher, {"encoder": 4, "decoder": [0, 1, 2]}))
    assert torch.equal(answers(student), answers(teacher))
    own, source = student.state_dict(), teacher.state_dict()
    assert own.keys() == source.keys()
    assert all(torch.equal(tensor, source[name]) for name, tensor in own.items())


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_an_encoder_decoder_computes_what_its_teacher_computes_without_the_dropped_layers(kind: str) -> None:
    teacher = tiny.encoder_decoder(kind)
    student = cut(teacher, chosen_cuts(teacher, {"encoder": [0, 2, 3], "decoder": [0, -1]}))
    shortened = copy.deepcopy(teacher)
    for side, kept in (("encoder", (0, 2, 3)), ("decoder", (0, 2))):
        layers = layers_of(shortened, side)
        left = [layers[i] for i in kept]
        del layers[len(kept) :]
        for i, layer in enumerate(left):
            layers[i] = layer
    assert not torch.equal(answers(student), answers(teacher))
    assert torch.equal(answers(student), answers(shortened))


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_layers_of_an_encoder_decoder_generate_the_same_with_a_cache_and_without_when_saved_and_loaded(
    kind: str, tmp_path: Any, tokenizer: Any
) -> None:
    teacher = tiny.encoder_decoder(kind)
    teacher.generation_config.no_repeat_ngram_size = 3
    student = build(
        teacher,
        {"num_labels": 2},
        auto_model=AutoModelForSeq2SeqLM,
        layers={"encoder": [1, 3], "decoder": [1, 2]},
        tokenizer_of_teacher=tokenizer,
    )
    student.model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert torch.equal(answers(loaded), answers(student.model))
    assert loaded.generation_config.no_repeat_ngram_size == 3
    assert (len(layers_of(loaded, "encoder")), len(layers_of(loaded, "decoder"))) == (2, 2)
    cached = loaded.generate(SOURCE, min_new_tokens=8, use_cache=True)
    assert cached.shape[1] > 8
    assert torch.equal(cached, loaded.generate(SOURCE, min_new_tokens=8, use_cache=False))


@pytest.mark.parametrize("kind", ["bart", "marian", "t5"])
def test_every_layer_of_a_decoder_knows_its_new_place_in_self_and_cross_attention(kind: str) -> None:
    teacher = tiny.encoder_decoder(kind)
    student = cut(teacher, chosen_cuts(teacher, {"decoder": [1, 2]}))
    for i, layer in enumerate(layers_of(student, "decoder")):
        places = [module.layer_idx for module in layer.modules() if getattr(module, "layer_idx", None) is not None]
        assert places == [i, i]
    assert len(layers_of(student, "encoder")) == 4


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_a_t5_without_its_first_layer_keeps_the_table_of_positions_that_lay_in_it(kind: str) -> None:
    teacher = tiny.encoder_decoder(kind)
    student = cut(teacher, chosen_cuts(teacher, {"encoder": [1, 3], "decoder": [2]}))
    for side, source in (("encoder", 1), ("decoder", 2)):
        own, others = layers_of(student, side)[0].layer[0].SelfAttention, layers_of(teacher, side)
        first = others[0].layer[0].SelfAttention
        assert torch.equal(own.relative_attention_bias.weight, first.relative_attention_bias.weight)
        assert torch.equal(own.q.weight, others[source].layer[0].SelfAttention.q.weight)


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_an_encoder_decoder_without_weights_is_cut_to_its_shape(kind: str) -> None:
    real = tiny.encoder_decoder(kind)
    with torch.device("meta"):
        teacher = AutoModelForSeq2SeqLM.from_config(real.config)
        planned = cut(teacher, chosen_cuts(teacher, {"encoder": 2, "decoder": 1}))
    made = cut(real, chosen_cuts(real, {"encoder": 2, "decoder": 1}))
    assert planned.num_parameters() == made.num_parameters() < real.num_parameters()


def test_the_origin_of_an_encoder_decoder_names_both_sides(tokenizer: Any) -> None:
    student = build(
        tiny.encoder_decoder(), {"num_labels": 2}, layers={"decoder": [0, -1]}, tokenizer_of_teacher=tokenizer
    )
    assert student.origin == "encoder layers 0, 1, 2, 3 of 4 and decoder layers 0, 2 of 3 of the teacher"
    assert student.layer_map == {"encoder": (0, 1, 2, 3), "decoder": (0, 2)}


@pytest.mark.parametrize(
    ("model", "chosen", "message"),
    [
        (tiny.encoder_decoder, [0, 1], r"sides are chosen apart; expected a mapping.*got \[0, 1\]"),
        (tiny.encoder_decoder, 2, "sides are chosen apart"),
        (tiny.encoder_decoder, {"decoder": 9}, "student.layers.decoder: expected 1 to 3"),
        (tiny.encoder_decoder, {"encoder": [4]}, "student.layers.encoder: the teacher has no layer 4"),
        (tiny.bert, {"encoder": 1}, "BertForSequenceClassification has one stack of layers.*a number or a list"),
    ],
)
def test_the_wrong_form_of_layers_is_refused_with_the_right_one(model: Any, chosen: Any, message: str) -> None:
    with pytest.raises(StudentError, match=message):
        chosen_cuts(model(), chosen)


# ---- labels of the head


@pytest.mark.parametrize("kind", ALL)
def test_the_head_is_put_in_the_order_of_the_data(kind: str, tokenizer: Any) -> None:
    teacher = make_teacher(kind)
    student = build(teacher, options(" Sad", "ANGRY", "happy"), layers=6, tokenizer_of_teacher=tokenizer).model
    assert torch.equal(logits(student), logits(teacher)[:, [2, 0, 1]])
    assert student.config.id2label == {0: " Sad", 1: "ANGRY", 2: "happy"}
    assert student.config.problem_type == "single_label_classification"


def test_the_output_layer_is_found_where_the_layer_before_it_has_as_many_outputs() -> None:
    names = tuple(f"class {i}" for i in range(32))
    teacher = make_teacher("roberta", names=names)
    assert output_layer(teacher) is teacher.classifier.out_proj


def test_a_teacher_with_generic_names_keeps_its_order(tokenizer: Any) -> None:
    teacher = make_teacher(names=("LABEL_0", "LABEL_1", "LABEL_2"))
    student = build(teacher, layers=6, tokenizer_of_teacher=tokenizer).model
    assert torch.equal(logits(student), logits(teacher))
    assert student.config.id2label == dict(enumerate(NAMES))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), "3 outputs; the data has 2 labels"),
        (("a", "b", "c"), "labels are angry, happy, sad; the data's are a, b, c"),
    ],
)
def test_a_head_of_other_labels_is_refused(names: tuple[str, ...], message: str, tokenizer: Any) -> None:
    with pytest.raises(LabelError, match=message):
        build(make_teacher(), options(*names), layers=2, tokenizer_of_teacher=tokenizer)


def test_the_head_of_a_regression_is_kept_whatever_its_output_is_called(tokenizer: Any) -> None:
    teacher = make_teacher(names=("similarity",))
    student = build(teacher, options("score", problem_type="regression"), layers=6, tokenizer_of_teacher=tokenizer)
    assert torch.equal(logits(student.model), logits(teacher))


# ---- config


def test_changes_on_the_config_of_the_teacher_give_a_fresh_smaller_model(tokenizer: Any) -> None:
    teacher = make_teacher("distilbert", attention_dropout=0.25)
    student = build(teacher, config={"num_hidden_layers": 2, "hidden_size": 16}, tokenizer_of_teacher=tokenizer)
    assert type(student.model) is type(teacher)
    assert (student.model.config.n_layers, student.model.config.dim) == (2, 16)
    assert student.model.config.attention_dropout == 0.25
    assert student.model.config.vocab_size == 200
    assert student.origin == "fresh distilbert, 2 layers, hidden size 16"
    assert student.layer_map is None
    assert logits(student.model).shape == (2, 3)


@pytest.mark.parametrize("depth", [3, 8])
def test_lists_with_one_entry_a_layer_follow_a_new_depth(depth: int, tokenizer: Any) -> None:
    student = build(make_teacher("modernbert"), config={"num_hidden_layers": depth}, tokenizer_of_teacher=tokenizer)
    assert student.model.config.layer_types == (["full_attention", "sliding_attention"] * 4)[:depth]
    assert logits(student.model).shape == (2, 3)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert", "deberta-v2", "electra", "mpnet"])
def test_a_model_type_gives_a_new_model_for_a_trained_tokenizer_without_a_teacher(kind: str, tmp_path: Any) -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 40}
    student = build(config={"model_type": kind, **sizes}, tokenizer={"vocab_size": 90, "lowercase": True})
    config, tokens = student.model.config, student.tokenizer
    assert config.vocab_size == len(tokens)
    assert config.pad_token_id == tokens.pad_token_id
    assert config.bos_token_id in (tokens.cls_token_id, None)
    long = [" ".join(SENTENCES * 9)] * 2
    batch = tokens(long, long, truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape[1] == tokens.model_max_length <= 40
    assert student.model(**batch).logits.isfinite().all()
    student.model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.allclose(loaded(**batch).logits, student.model.eval()(**batch).logits, atol=1e-6)


@pytest.mark.parametrize(("segments", "names"), [(1, 2), (2, 3)])
def test_segment_ids_are_left_out_where_the_model_knows_one_segment(segments: int, names: int, tokenizer: Any) -> None:
    teacher = make_teacher("roberta", type_vocab_size=segments)
    student = build(teacher, layers=1, tokenizer_of_teacher=tokenizer)
    batch = student.tokenizer(["the dog"], ["the fox"], return_tensors="pt")
    assert len(batch) == names
    assert student.model(**batch).logits.isfinite().all()
    assert "token_type_ids" in tokenizer.model_input_names


def test_the_same_seed_gives_the_same_fresh_student() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        student = build(config={"model_type": "bert", **sizes}, tokenizer={"vocab_size": 90})
        weights.append(student.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_hiden_layers": 2},
            "config.num_hiden_layers: BertConfig has no such key; did you mean num_hidden_layers",
        ),
        ({"hidden_size": 33}, "hidden_size 33 cannot be shared by 2 attention heads; .* 1 for instance"),
        ({"hidden_size": "32"}, "expected int, got str"),
        ({"hidden_act": "gulp"}, "cannot build it"),
        ({"num_labels": 7}, "config.num_labels: is set from the data"),
        ({"vocab_size": 7}, "student.tokenizer.vocab_size"),
        ({"pad_token_id": 7}, "config.pad_token_id: is set from"),
        ({"model_type": "burt"}, "knows no 'burt'; did you mean bert"),
        ({"model_type": "bert", "dim": 3}, "BertConfig has no such key"),
        ({"model_type": "vit"}, "cannot build it"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_in_one_line(
    changes: dict[str, Any], message: str, tokenizer: Any
) -> None:
    with pytest.raises(StudentError, match=message) as refusal:
        build(make_teacher(), config=changes, tokenizer_of_teacher=tokenizer)
    assert "\n" not in str(refusal.value)


def test_a_config_needs_a_model_type_and_a_tokenizer_where_there_is_no_teacher() -> None:
    with pytest.raises(StudentError, match="add model_type"):
        build(config={"hidden_size": 32}, tokenizer={"vocab_size": 90})
    with pytest.raises(StudentError, match="without a teacher it must be said"):
        build(config={"model_type": "bert"})


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(StudentError, match=r"table of tokens has 20 rows"):
        build(make_teacher(vocab_size=20), layers=2, tokenizer_of_teacher=tokenizer)


# ---- tokenizers


def test_a_trained_tokenizer_is_the_same_when_saved_and_loaded(tokenizer: Any, tmp_path: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*SENTENCES, "Unseen: naïve «déjà-vu» 東京 zebra?", ""]
    first, second = tokenizer(texts, texts, padding=True), loaded(texts, texts, padding=True)
    assert dict(first) == dict(second)
    assert tokenizer.get_vocab() == loaded.get_vocab()
    assert load_tokenizer(str(tmp_path))(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_a_trained_processor_marks_texts_and_pairs_and_keeps_punctuation(tokenizer: Any) -> None:
    encoded = tokenizer("the dog.", "the fox!")
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens == ["[CLS]", "the", "dog", ".", "[SEP]", "the", "fox", "!", "[SEP]"]
    assert encoded["token_type_ids"] == [0] * 5 + [1] * 4
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == "the dog. the fox!"
    assert tokenizer("The DÓG")["input_ids"] == tokenizer("the dog")["input_ids"]


def test_a_cased_tokenizer_tells_case_apart() -> None:
    cased = train_tokenizer(lambda: SENTENCES * 3, vocab_size=120, lowercase=False)
    assert cased("The")["input_ids"] != cased("the")["input_ids"]


def test_the_same_texts_always_give_the_same_tokenizer() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(400)]
    texts = [" ".join(draw.choices(words, k=8)) for _ in range(300)]
    # The library's trainer alone gives another vocabulary at each of these calls.
    first, *others = [train_tokenizer(lambda: texts, vocab_size=150).get_vocab() for _ in range(5)]
    assert len(first) == 150
    assert others == [first] * 4


@pytest.mark.parametrize(
    ("setting", "texts", "message"),
    [
        ({"vocab_size": 5}, SENTENCES, "expected at least 10, got 5"),
        ({"vocab_size": 100}, ["", "  "], "hold no word"),
        ({"vocab_size": 100, "lower": True}, SENTENCES, "tokenizer.lower: no such key"),
    ],
)
def test_a_tokenizer_that_cannot_be_trained_is_refused(setting: dict[str, Any], texts: list[str], message: str) -> None:
    with pytest.raises(StudentError, match=message):
        build(config={"model_type": "bert"}, tokenizer=setting, texts=texts)


def test_a_tokenizer_cuts_what_the_model_cannot_read_and_the_one_of_the_teacher_stays(tokenizer: Any) -> None:
    teacher = make_teacher("roberta", max_position_embeddings=34)
    student = build(teacher, layers=2, tokenizer_of_teacher=tokenizer)
    assert position_limit(teacher) == student.tokenizer.model_max_length == 32
    assert tokenizer.model_max_length > 32
    assert logits(student.model, length=32).isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        logits(student.model, length=33)


# ---- pretrained


@pytest.fixture
def saved(tmp_path: Any, tokenizer: Any) -> Any:
    make_teacher("electra").to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_pretrained_student_is_float32_with_its_own_tokenizer_and_a_new_head_for_other_labels(
    saved: Any, tokenizer: Any
) -> None:
    student = build(labels=options("one", "two", "three", "four", "five"), pretrained=str(saved))
    assert logits(student.model).shape == (2, 5)
    assert student.model.dtype == torch.float32
    assert student.model.config.id2label[4] == "five"
    assert student.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert student.origin == saved.name
    source = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.float32).state_dict()
    for name, tensor in student.model.electra.state_dict().items():
        assert torch.equal(tensor, source["electra." + name])


def test_a_pretrained_head_of_the_same_labels_is_put_in_the_order_of_the_data(saved: Any) -> None:
    source = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.float32)
    student = build(labels=options("sad", "angry", "happy"), pretrained=str(saved))
    assert torch.equal(logits(student.model), logits(source)[:, [2, 0, 1]])


def test_layers_of_a_pretrained_model_are_its_own_and_not_the_teachers(saved: Any) -> None:
    student = build(make_teacher("electra"), pretrained=str(saved), layers=[0, -1])
    source = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.float32).electra.encoder.layer
    assert student.layer_map == {"": (0, len(source) - 1)}
    assert student.origin == f"layers 0, {len(source) - 1} of {len(source)} of {saved.name}"
    for own, other in zip(student.model.electra.encoder.layer, (source[0], source[-1]), strict=True):
        for name, tensor in own.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])


def test_a_tokenizer_is_not_trained_for_a_pretrained_student(saved: Any) -> None:
    with pytest.raises(StudentError, match="knows its own tokens only"):
        build(pretrained=str(saved), tokenizer={"vocab_size": 90})


# ---- loading


def test_an_unknown_folder_is_refused() -> None:
    with pytest.raises(ModelError, match=r"there is no folder \./nothing"):
        models.load_config("./nothing")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("load", [models.load_config, load_tokenizer, models.model_folder])
def test_a_model_that_is_not_there_while_offline_is_refused_in_one_line(load: Any) -> None:
    with pytest.raises(ModelError, match=r"^someone/some-model@v1: .*Hub cannot be reached") as refusal:
        load("someone/some-model", "v1")
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("offline")
def test_a_student_from_a_model_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(ModelError, match="Hub cannot be reached"):
        build(pretrained="someone/some-model")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(saved: Any) -> None:
    torch.save(make_teacher("electra").state_dict(), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickled.*use_safetensors=False.*save_pretrained"):
        models.load_model(AutoModelForSequenceClassification, str(saved))


def test_a_folder_without_weights_is_refused(saved: Any) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        models.load_model(AutoModelForSequenceClassification, str(saved))


def test_a_broken_file_is_refused(saved: Any) -> None:
    with (saved / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load_model(AutoModelForSequenceClassification, str(saved))
    (saved / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not a valid JSON"):
        models.load_config(str(saved))


def test_a_folder_without_a_tokenizer_is_refused(saved: Any) -> None:
    for file in saved.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(str(saved))


def test_a_model_without_a_trained_head_is_refused_unless_a_new_one_is_wanted(saved: Any) -> None:
    make_teacher("electra").electra.save_pretrained(saved)
    with pytest.raises(ModelError, match=r"no trained head for this task \(classifier"):
        models.load_model(AutoModelForSequenceClassification, str(saved))
    assert logits(build(pretrained=str(saved)).model).shape == (2, 3)


def test_a_model_whose_weights_are_those_of_another_architecture_is_refused(saved: Any) -> None:
    model = make_teacher("electra")
    state = {name.replace("electra.", "other."): tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(saved, state_dict=state)
    with pytest.raises(ModelError, match="its weights lack electra"):
        build(pretrained=str(saved))


def test_a_model_that_needs_its_own_code_is_refused(saved: Any) -> None:
    code = '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}'
    (saved / "config.json").write_text(code)
    with pytest.raises(ModelError, match="code from its repository"):
        models.load_config(str(saved))


def test_the_licence_is_read_from_the_card(saved: Any) -> None:
    assert license_of(models.model_folder(str(saved))) == {"license": None}
    (saved / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert license_of(models.model_folder(str(saved))) == {"license": "mit"}
    (saved / "README.md").write_text("---\nlicense: other\nlicense_name: open-x\nlicense_link: LICENSE\n---\n")
    other = {"license": "other", "license_name": "open-x", "license_link": "LICENSE"}
    assert license_of(models.model_folder(str(saved))) == other
