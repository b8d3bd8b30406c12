"""What of the data, and of the machine that it was made on, leaves with a student."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hf_distill.names import in_texts, portable
from hf_distill.recipe import Recipe

QUOTED = 4
"""How many rows a card quotes at most."""

QUOTES = ("rows", "written", "examples")
"""What of an analysis holds texts of rows, and what models wrote on them."""

CLASSES = ("labels", "label", "out_of_scope")
"""Keys of results and recipes that hold names of classes, which are no paths, whatever they look like."""


def without_rows(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """An analysis that holds nothing of a row but its label."""
    return {key: value for key, value in analysis.items() if key not in QUOTES}


def card_facts(recipe: Recipe, analysis: Mapping[str, Any], labels: int) -> dict[str, Any]:
    """What a card of this analysis holds of the data, and the student beside it, for ``results.json``."""
    quoted = {row["text"] for key in QUOTES for row in analysis.get(key, ())[:QUOTED]}
    return {"quoted_rows": len(quoted), "labels": labels, "words": recipe.takes_words_of_the_data}


def contents(results: Mapping[str, Any]) -> str:
    """What a student's folder holds of the data, in one line for whoever pushes it."""
    if "card" not in results:
        return "the card is of an earlier release and may quote rows of the data; write it anew (hf-distill evaluate)"
    card, data = results["card"], results["data"]
    count, of = card["quoted_rows"], f"the {data['evaluated_split']} split of {data['source']}"
    line = (
        f"the card quotes {count} {'row' if count == 1 else 'rows'} of {of}"
        if count
        else (f"the card holds no rows of {data['source']}")
    )
    line += f"; it names {card['labels']:,} labels" if card["labels"] else ""
    return line + ("; the tokenizer holds words of the data's texts" if card["words"] else "")


def portable_facts(value: Any, key: str = "") -> Any:
    """Results, or a recipe as plain data, without the folders of this machine and the addresses of servers."""
    if isinstance(value, Mapping):
        return {in_texts(name, portable): portable_facts(item, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable_facts(item, key) for item in value]
    if not isinstance(value, str) or key in CLASSES:
        return value
    return re.sub(r"//[^/]*", "//HOST", value, count=1) if key == "url" else portable(value)
