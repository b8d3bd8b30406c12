"""The recipes that ``same_results.py`` runs: one for each kind of task, teacher, objective and student."""

from __future__ import annotations

from typing import Any

from benchmarks.same_results.material import SPLITS, Row

LABELS: Row = {"kind": "labels"}
LOGITS: Row = {"kind": "logits", "temperature": 2.0}
HIDDEN: Row = {"kind": "hidden", "weight": 3.0}
BOTH = [LABELS, LOGITS]
PLAIN = [LABELS, {**LOGITS, "temperature": 1.0}]
MOVING = {**LOGITS, "weight": {"from": 1.0, "to": 0.1, "shape": "cosine"}}
MSE = {"kind": "logits", "divergence": "mse"}
REVERSE = {**LOGITS, "divergence": "reverse_kl", "temperature": 1.0}
SIMILARITY = [{"kind": "similarity"}, {"kind": "contrastive", "weight": 0.1}]
ON_POLICY = {"share": 1.0, "max_new_tokens": 6}
TRAINING: Row = {
    **{"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "logging_steps": 2, "use_cpu": True},
    **{"eval_strategy": "no", "save_strategy": "no"},
}
LONGER = {"max_steps": 60, "per_device_train_batch_size": 32, "learning_rate": 4e-3, "logging_steps": 20}
SAVING = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
FRESH: Row = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
MODERN = {**FRESH, "model_type": "modernbert", "num_hidden_layers": 2, "hidden_size": 32}
SMALL = {"config": FRESH}
ONE_DECODER = {"layers": {"decoder": [0]}}
SEQUENCE: Row = {"task_": {"max_target_length": 24}, "evaluate_": {"generation": {"max_new_tokens": 12}}}
MEMBERS = [{"name": name, "model": f"teachers/{model}"} for name, model in (("de", "classifier"), ("en", "second"))]
SERVER = {"url": "http://127.0.0.1:1/v1", "model": "tiny-llama", "tokenizer": "teachers/completer", "top_k": 8}


def case(task: str, data: str, teacher: Any, student: Any, objectives: list[Row], **more: Any) -> Row:
    """A recipe; ``task_`` and ``data_`` add keys to its sections."""
    lengths = {"name": task, "max_length": 32}
    files = {split: f"data/{data}-{split}.jsonl" for split in SPLITS}
    terms = {"objectives": objectives} if objectives else {}
    return {
        **{"version": 1, "seed": 3, "task": {**lengths, **more.pop("task_", {})}},
        "data": {"files": files, **more.pop("data_", {})},
        "teacher": {"model": f"teachers/{teacher}"} if isinstance(teacher, str) else teacher,
        **{"student": {"layers": student} if isinstance(student, int) else student, **terms},
        "training": {**TRAINING, **more.pop("training_", {})},
        **{"evaluate": {"resamples": 100, **more.pop("evaluate_", {})}, **more},
    }


def classes(teacher: Any, student: Any = 2, objectives: list[Row] = BOTH, **more: Any) -> Row:
    return case("text-classification", "classes", teacher, student, objectives, **more)


def language(data: str, teacher: Any, student: Any = 2, objectives: list[Row] = PLAIN, **more: Any) -> Row:
    return case("causal-lm", data, teacher, student, objectives, **more)


def by_recipe(**config: Any) -> Row:
    student = {"config": {**MODERN, **config}, "tokenizer": {"vocab_size": 120}}
    return {"recipe": {"student": student, "training": {**TRAINING, **LONGER}}}


def cached(name: str, **keys: Any) -> Row:
    return {"model": f"teachers/{name}", "kind": "cached", **({"cache": keys} if keys else {})}


CASES: dict[str, Row] = {
    "classes": classes("classifier", 2, [LABELS, MOVING], evaluate_={"floor": True, "start": True}),
    "several": case("text-classification", "several", by_recipe(), SMALL, BOTH),
    "scores": case("text-classification", "scores", by_recipe(), 1, [LABELS, MSE]),
    "tags": case("token-classification", "tags", "tagger", 2, [*BOTH, HIDDEN], training_=SAVING),
    "questions": case("question-answering", "questions", "reader", 2, BOTH, task_={"doc_stride": 8}),
    "vectors": case("embeddings", "pairs", cached("encoder"), SMALL, SIMILARITY, task_={"dimensions": 8}),
    "masks": case("masked-lm", "texts", "masked", 2, BOTH, task_={"mask_probability": 0.3}),
    "texts": language("texts", "plain"),
    "chats": language("chats", "chatter", evaluate_={"scorers": ["rouge"], "generation": {"max_new_tokens": 8}}),
    "translations": case("translation", "translations", "translator", ONE_DECODER, [*BOTH, HIDDEN], **SEQUENCE),
    "by_recipe": classes(by_recipe(model_type="bert"), SMALL),
    "cached": classes(cached("classifier")),
    "cached_top_k": language("completions", cached("completer", scheme="top_k", k=6)),
    "cached_sampled": language("texts", cached("plain"), task_={"packing": False}),
    "mixed": classes({"ensemble": [{**MEMBERS[0], "weight": 2.0}, MEMBERS[1]]}),
    "routed": classes({"ensemble": MEMBERS, "route": "language"}),
    "served": language("completions", {"server": SERVER}, {"pretrained": "teachers/plain", "layers": 1}),
    "objectives": classes("classifier", 4, [LABELS, HIDDEN, {"kind": "relation"}, {"kind": "attention"}]),
    "label": case(
        *("summarization", "translations", "translator", ONE_DECODER, BOTH),
        label={"generation": {"num_beams": 2, "max_new_tokens": 12}, "filters": {"repetition": 0.9}},
        **SEQUENCE,
    ),
    "rollout": language("completions", "completer", objectives=[REVERSE], rollout=ON_POLICY),
    "stages": language(
        *("completions", "completer", 2, []),
        stages=[
            {"name": "off-policy", "objectives": PLAIN},
            {"name": "on-policy", "objectives": [REVERSE], "rollout": ON_POLICY, "training": {"max_steps": 3}},
        ],
    ),
    "other_tokens": language(
        *("texts", "bytes", {"pretrained": "teachers/other-bytes"}),
        [LABELS, {**LOGITS, "cross_tokenizer": True}],
        task_={"packing": False, "max_length": 64},
    ),
    "adapters": classes("classifier", {"pretrained": "teachers/second", "lora": {"r": 4, "alpha": 8}}),
    "width": classes("classifier", {"width": {"target": 0.6}, "disable_dropout": True}),
    "vocabulary": classes("classifier", {"layers": 2, "vocabulary": {"keep": "used"}}),
    "sweep": classes("classifier"),
}
