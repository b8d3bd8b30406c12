"""The part of a card that tells how the student is used: what to paste, by what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hf_distill.report.markdown import escaped
from hf_distill.tasks import task_class

NAMED = 8
"""How many labels are named."""


def usage(results: Mapping[str, Any]) -> str:
    """The section, with code for what this student does."""
    if results["models"]["student"].get("adapters"):
        return _usage_of_adapters(results)
    return USAGES[task_class(results["task"]).usage](results)


def _usage_of_pipelines(results: Mapping[str, Any]) -> str:
    masked = results["pipeline_tag"] == "fill-mask"
    text = 'f"your {model.tokenizer.mask_token} text"' if masked else '"your text"'
    return (
        "## Use\n\n```python\nfrom transformers import pipeline\n\n"
        f'model = pipeline("{results["pipeline_tag"]}", "USER/{results["name"]}")\n'
        f"model({text})\n```\n\nNothing but Transformers is needed.{_answers(results)}"
    )


def _usage_of_readers(results: Mapping[str, Any]) -> str:
    """Transformers has no pipeline for them any more."""
    return (
        "## Use\n\n```python\nfrom transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("USER/{results["name"]}")\n'
        f'model = AutoModelForQuestionAnswering.from_pretrained("USER/{results["name"]}")\n'
        'read = tokenizer("your question", "your context", return_tensors="pt")\n'
        "found = model(**read)\n"
        "first, last = found.start_logits.argmax(), found.end_logits.argmax()\n"
        'print(tokenizer.decode(read["input_ids"][0, first : last + 1]))\n```\n\n'
        "Nothing but Transformers is needed. The scores below are of the likeliest part of the context, over windows "
        "of long ones."
    )


def _usage_of_vectors(results: Mapping[str, Any]) -> str:
    return (
        "## Use\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("USER/{results["name"]}")\n'
        'vectors = model.encode(["your text", "another"])\n'
        "print(model.similarity(vectors, vectors))\n```\n\n"
        "Transformers loads the same folder with AutoModel, which gives the last hidden states; how they become a "
        "vector is in 1_Pooling and the folders after it."
    )


def _usage_of_writers(results: Mapping[str, Any]) -> str:
    """Transformers has no pipeline for them any more."""
    loader = task_class(results["task"]).auto_model.__name__
    return (
        f"## Use\n\n```python\nfrom transformers import AutoTokenizer, {loader}\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("USER/{results["name"]}")\n'
        f'model = {loader}.from_pretrained("USER/{results["name"]}")\n'
        'written = model.generate(**tokenizer("your text", return_tensors="pt"))\n'
        "print(tokenizer.decode(written[0], skip_special_tokens=True))\n```\n\n"
        "Nothing but Transformers is needed; how it writes is in its generation_config.json."
    )


def _usage_of_adapters(results: Mapping[str, Any]) -> str:
    """Labels are said, for Transformers takes the config of the model beside which the adapters learned."""
    loader, labels = task_class(results["task"]).auto_model.__name__, dict(enumerate(results["data"]["labels"]))
    names = {name: i for i, name in labels.items()}
    told = f", ignore_mismatched_sizes=True, id2label={labels!r}, label2id={names!r}" if labels else ""
    return (
        f"## Use\n\n```python\nfrom transformers import AutoTokenizer, {loader}\n\n"
        f'model = {loader}.from_pretrained("USER/{results["name"]}"{told})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("USER/{results["name"]}")\n```\n\n'
        "These are LoRA adapters: Transformers loads the model beside which they learned, and needs peft for it. "
        f"What is told of disk space below is theirs alone.{_answers(results)}"
    )


def _answers(results: Mapping[str, Any]) -> str:
    labels = results["data"]["labels"]
    if results["problem_type"] == "regression" or not labels:
        return ""
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return f" It knows {len(labels)} labels: {', '.join(map(escaped, labels[:NAMED]))}{more}."


USAGES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "pipeline": _usage_of_pipelines,
    "question-answering": _usage_of_readers,
    "sentence-transformers": _usage_of_vectors,
    "generate": _usage_of_writers,
}
"""The section by a task's ``usage``."""
