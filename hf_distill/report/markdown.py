"""What cards are written with: tables, code, and text of others that means nothing in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hf_distill.names import one_line, seen

_ADDRESS = re.compile(r"(?<=[\w.+-])@(?=[\w.-]*\.[\w.-]*[^\W\d])")
"""The sign of an e-mail address, of which GitHub makes a link even where it is escaped."""

_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
"""What begins a numbered list."""

_MARKS = re.compile(
    r"""[\\`*\[\]<>|~&$#]                   # emphasis, code, links, tags, cells, entities, formulas, headings
    | (?<![^\W_])_ | _(?![^\W_])            # emphasis, which words with an underscore inside are not
    | ^[-+](?=\s|$|[-+]) | ^=               # lists, rules and underlines
    | (?<!\w)@                             # mentions
    | :(?=//) | (?<=mailto): | (?<=xmpp): | /(?=/) | (?<=/)/
    | (?<=\w)\.(?=[^\W\d]) | (?<=www)\.    # addresses, of which links are made without being asked
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""What could mean something in CommonMark, or where it is extended as on GitHub and on the Hub."""


def escaped(text: Any) -> str:
    """Text of others, in one line and without a meaning in Markdown; every value that is not ours goes through it."""
    shown = _MARKS.sub(r"\\\g<0>", _ADDRESS.sub("@ ", one_line(text)))
    return _NUMBERED.sub(r"\1\\\2", shown)


def code(text: Any) -> str:
    """Text of others as code in a line of ours, whatever backticks it has."""
    shown = one_line(text)
    marks = "`" * (_longest_run(shown) + 1)
    blank = " " * (shown.startswith("`") or shown.endswith("`"))
    return f"{marks}{blank}{shown}{blank}{marks}" if shown else ""


def fenced(text: str, language: str) -> str:
    """A block of code, whose fence is longer than any run of backticks inside."""
    shown = "\n".join(seen(line.expandtabs(4)) for line in text.splitlines())
    marks = "`" * max(3, _longest_run(shown) + 1)
    return f"{marks}{language}\n{shown}\n{marks}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; what its cells hold is shown as it is."""
    lines = [list(map(escaped, head)), ["---"] * len(head), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
