"""Chat templates that a recipe names."""

from __future__ import annotations

import json
from pathlib import Path

from hf_distill.errors import ModelError, RecipeError
from hf_distill.tokenizers.processors import load_tokenizer


def read_template(given: str) -> str:
    """A chat template: the text itself, that of a file, or that of a tokenizer's folder or Hub id.

    Of a JSON file it is what stands under ``chat_template``; of several templates the one named ``default``.
    """
    if "{" in given or "\n" in given:
        return given
    if given.endswith((".jinja", ".jinja2", ".j2", ".json", ".txt")) or Path(given).is_file():
        try:
            text = Path(given).read_text(encoding="utf-8")
            template = json.loads(text)["chat_template"] if given.endswith(".json") else text
        except (OSError, ValueError, LookupError, TypeError) as error:
            told = f"{given} cannot be read: {error or type(error).__name__}"
            raise RecipeError(f"task.chat_template: {told}; name a file that is there and holds a template") from None
    else:
        try:
            template = load_tokenizer(given).chat_template
        except ModelError as error:
            raise RecipeError(
                f"task.chat_template: {error}; or give the template itself, or a file that holds it (.jinja)"
            ) from error
    template = template.get("default") if isinstance(template, dict) else template
    if not isinstance(template, str):
        raise RecipeError(f"task.chat_template: {given} has no (default) template; name another, or give the template")
    return template
