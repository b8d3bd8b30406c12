"""The part of a card that tells how the student is used: what to paste, by what it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Template
from typing import Any

from hf_distill.report.markdown import escaped, fenced
from hf_distill.tasks import task_class

NAMED = 8
"""How many labels are named."""

USAGES: dict[str, tuple[str, str]] = {
    "pipeline": (
        """
from transformers import pipeline

model = pipeline("$pipeline", "USER/$name")
model($text)
""",
        "Nothing but Transformers is needed.$labels",
    ),
    # Transformers has no pipeline for these two any more.
    "question-answering": (
        """
from transformers import $loader, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("USER/$name")
model = $loader.from_pretrained("USER/$name")
read = tokenizer("your question", "your context", return_tensors="pt")
found = model(**read)
first, last = found.start_logits.argmax(), found.end_logits.argmax()
print(tokenizer.decode(read["input_ids"][0, first : last + 1]))
""",
        "Nothing but Transformers is needed. The scores below are of the likeliest part of the context, over windows "
        "of long ones.",
    ),
    "generate": (
        """
from transformers import AutoTokenizer, $loader

tokenizer = AutoTokenizer.from_pretrained("USER/$name")
model = $loader.from_pretrained("USER/$name")
written = model.generate(**tokenizer("your text", return_tensors="pt"))
print(tokenizer.decode(written[0], skip_special_tokens=True))
""",
        "Nothing but Transformers is needed; how it writes is in its generation_config.json.",
    ),
    "sentence-transformers": (
        """
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("USER/$name")
vectors = model.encode(["your text", "another"])
print(model.similarity(vectors, vectors))
""",
        "Transformers loads the same folder with AutoModel, which gives the last hidden states; how they become a "
        "vector is in 1_Pooling and the folders after it.",
    ),
    # Labels are said, for Transformers takes the config of the model beside which the adapters learned.
    "adapters": (
        """
from transformers import AutoTokenizer, $loader

model = $loader.from_pretrained("USER/$name"$config)
tokenizer = AutoTokenizer.from_pretrained("USER/$name")
""",
        "These are LoRA adapters: Transformers loads the model beside which they learned, and needs peft for it. What "
        "is told of disk space below is theirs alone.$labels",
    ),
}
"""Code and a remark by a task's ``usage``."""


def usage(results: Mapping[str, Any]) -> str:
    """The section, with code for what this student does."""
    task, labels = task_class(results["task"]), dict(enumerate(results["data"]["labels"]))
    code, remark = USAGES["adapters" if results["models"]["student"].get("adapters") else task.usage]
    names = {name: i for i, name in labels.items()}
    known = ""
    if labels and results["problem_type"] != "regression":
        more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
        known = f" It knows {len(labels)} labels: {', '.join(map(escaped, list(names)[:NAMED]))}{more}."
    facts = {
        "name": re.sub(r"[^\w.-]+", "-", results["name"]),
        "pipeline": results["pipeline_tag"],
        "loader": getattr(task.auto_model, "__name__", ""),
        "text": task.example,
        "config": f", ignore_mismatched_sizes=True, id2label={labels!r}, label2id={names!r}" if labels else "",
        "labels": known,
    }
    filled = fenced(Template(code.strip()).substitute(facts), "python")
    return f"## Use\n\n{filled}\n\n{Template(remark).substitute(facts)}"
