"""Names and texts of others mean nothing in cards, figures and tables, whatever stands in them."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from hf_distill.names import UNSEEN, in_texts, one_line, portable
from hf_distill.report import figures
from hf_distill.report.card import model_card
from hf_distill.report.figures import quality_against_speed, sweep_scores, training_curves
from hf_distill.report.tables import plan_table, results_table, sweep_table
from tests.report.test_card import RESULTS

LINKS = importlib.util.find_spec("linkify_it") is not None

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "end of details": "</details></code></pre><b>",
    "comment": "a <!-- b",
    "processing": "<?php x ?>",
    "cdata": "<![CDATA[x]]>",
    "entity": "&lt;script&gt; &#60;b&#62; &amp;",
    "link": "[click](https://evil.example)",
    "image link": "![x](https://evil.example/x.png)",
    "reference": "[x]: https://evil.example",
    "footnote": "[^1] [^1]: x",
    "task": "[x] done",
    "autolink": "<https://evil.example> <a@evil.example>",
    "page": "see https://evil.example/a?b=c and HTTP://evil.example",
    "bare page": "www.evil.example evil.com www.1.com",
    "scheme": "ftp://evil.example javascript:alert(1) mailto:a@localhost //evil.example //localhost",
    "mail": "someone@evil.example",
    "mention": "@someone and (@other)",
    "heading": "# heading ## heading ##",
    "heading after a line": "a\n# heading",
    "underline": "a\n===\nb\n---\nc",
    "front matter": "---\nlicense: mit\n---\nx",
    "rule": "---",
    "equals": "===",
    "stars": "* * *",
    "list": "- a",
    "plus": "+ a",
    "number": "1. a",
    "bracketed number": "12) a",
    "quote": "> a",
    "indented": "\n\n    code",
    "tick": "a ` b",
    "ticks": "a ``` b",
    "fence": "a\n```\n# heading\n<script>\n```",
    "long fence": "``````````\n</code></pre><script>",
    "tildes": "~~~\n~~struck~~ ~one~",
    "code": "`code` ``more``",
    "cells": "a | b || c |",
    "row": "|\n|---|\n| x |",
    "emphasis": "*a* **b** ***c***",
    "underscores": "_a_ __b__ a __c__ _",
    "formula": "$x$ $$\\frac{1}{2}$$ $\\undefined{",
    "backslash": "\\ \\* \\<b> a\\",
    "control": "a\x1b[31mred\x1b[0m\x07\x00b\x7f\x9b",
    "direction": "a\u202eb\u2066c\u2069\u200f",
    "no width": "a\u200bb\ufeff\u200d\u2060c",
    "separators": "a\u2028# b\u2029<b>\x85# c",
    "half": "a\ud800b",
    "rich": "[red]x[/red] [link=https://evil.example]y[/link] [/] :smile:",
    "quotes": "\"'{}%s{0}",
    "underscore first": "_hidden",
    "long": "x" * 3000,
}


NOTHING = {"value": 0, "low": 0, "high": 0}


def scored(slot: str, **facts) -> dict:
    """A model of the results, whose deciding metric is a slot, too."""
    figures = {"parameters": 10, "disk_bytes": 40, "latency_ms": 1.0, "samples_per_second": 2.0}
    known = {f"«{slot}»": {"value": 0.9, "low": 0.8, "high": 1.0}, "«other metric»": NOTHING}
    unknown = {"hub_id": None, "revision": None, "license": None}
    return {**unknown, **figures, "metrics": known, **facts}


def lessons(number: str) -> dict:
    options = {f"«option {number}»": f"«value {number}»", "temperature": 2.0}
    return {
        "objectives": [{"kind": f"«kind {number}»", "weight": 1.0, "options": options, "paper": f"«paper {number}»"}],
        "rollout": {"share": 0.5, "max_new_tokens": 8, "temperature": 1.0},
    }


MEMBER = {"name": "«member»", "model": "«member model»", "revision": "«member revision»", "origin": "«member origin»"}
ROW = {"text": "«text»", "label": "«is»", "teacher": "«by teacher»", "student": "«by student»"}
COMMON = {
    "name": "«name»",
    "command": "hf-distill run «command»",
    "recipe_sha256": "0123456789abcdef",
    "speed": {"device": "cpu", "dtype": "float32", "threads": 2, "batch_size": 32, "rounds": 5},
    "machine": {"cpu": "«cpu»", "accelerator": None},
    "versions": {"transformers": "«version»"},
    "floor": {"name": "«floor»", "accuracy": 0.5},
    "start": {"«metric»": 0.1},
    "labels": {"rows": {"asked": 3, "kept": 2, "original": 1}},
}
DATA = {
    "source": "«source»",
    "dataset_id": "«source»",
    "labels": ["«first label»", "«second label»"],
    "out_of_scope": {"label": "«out of scope»", "rows": 3},
}
BASE = {**RESULTS, **COMMON, "data": {**RESULTS["data"], **DATA}}
COMPARISON = {**RESULTS["comparison"], "primary_metric": "«metric»"}
STEPS = {"steps": 3, "seconds": 1.0, "«metric»": 0.5}
SEVERAL = {
    **BASE,
    "models": {
        "teacher": scored("metric", model="«teacher»", origin="x", license=None, members=[
            {**MEMBER, "hub_id": "«member model»", "license": "«first licence»", "weight": 0.5},
            {"name": "b", "model": "m", "revision": None, "origin": "o", "hub_id": None, "license": "«licence»"},
        ]),
        "student": scored("metric", model="m", origin="«origin»"),
        "control": scored("metric", model="c", origin="«origin»"),
    },
    "comparison": COMPARISON,
    "stages": {"«stage»": lessons("1"), "last": lessons("2")},
    "training": {
        "student": {"steps": 6, "seconds": 1.0, "stages": {"«stage»": STEPS, "last": STEPS}},
        "control": {"steps": 6, "seconds": None, "stages": {"«stage»": STEPS, "last": STEPS}},
    },
}  # fmt: skip
SINGLE = {
    **BASE,
    **lessons("1"),
    "models": {
        "teacher": scored("metric", model="«teacher»", origin="«served as»", license="«licence»", served=True),
        "student": scored("metric", model="m", origin="«origin»", hub_id="«start»", license="«licence»", adapters=True),
    },
    "comparison": {**COMPARISON, "retention": None, "size_ratio": None, "student_minus_control": None},
    "machine": {"cpu": "x", "accelerator": "«accelerator»"},
    "speed": {**COMMON["speed"], "device": "cuda"},
    "training": {"student": {"steps": 6, "seconds": 1.0}},
}
del SINGLE["models"]["teacher"]["parameters"]
ALONE = {
    **BASE,
    **lessons("1"),
    "models": {"student": scored("metric", model="m", origin="«origin»")},
    "primary_metric": "«metric»",
    "training": {"student": {"steps": 6, "seconds": 1.0}},
}
del ALONE["comparison"]
ANALYSIS = {
    "summary": ["«sentence» has few training rows", "other"],
    "measure": {"classes": "f1", "rows": "«measure»"},
    "classes": [{"label": "«class»", "support": 3, "teacher": 0.9, "student": 0.7, "difference": -0.2}],
    "confusions": [{"label": "«is»", "predicted": "«taken for»", "count": 9, "teacher_count": 3}],
    "rows": [{"text": "«text of a row»", "teacher": 0.1, "student": 0.2}],
    "written": [{"text": "«text»", "reference": "«reference»", "teacher": "«by teacher»", "student": "«by student»"}],
    "examples": [ROW],
}
RECIPE = "version: 1\nname: «recipe name»\ndata:\n  files:\n    train: «file»\n"
CASES = {"several teachers": SEVERAL, "a served teacher": SINGLE, "no teacher": ALONE}


KEYS = ("metric", "other metric", "stage", "option 1", "option 2", "first label", "second label")
"""Slots that name one of several things, and so must differ."""


def filled(content, value: str):
    """The same with a value in every slot."""

    def slot(found: re.Match) -> str:
        return value + (f" {KEYS.index(found[1])}" if found[1] in KEYS else "")

    return in_texts(content, lambda text: re.sub("«([^»]*)»", slot, text))


def card_of(results, value: str) -> ModelCard:
    return model_card(*filled([results, ANALYSIS, RECIPE], value), ["figures/training.png"])


class Page(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, sorted(attrs)))

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")

    def handle_comment(self, data):
        self.tags.append("comment")

    def handle_decl(self, decl):
        self.tags.append("declaration")

    def unknown_decl(self, data):
        self.tags.append("declaration")

    def handle_pi(self, data):
        self.tags.append("instruction")

    def handle_data(self, data):
        self.text += data


NO_PATHS = [kind for kind, value in HOSTILE.items() if portable(value) == value]
AS_THEY_ARE = [kind for kind in NO_PATHS if "@evil" not in HOSTILE[kind]]

PLAIN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
LINKING = MarkdownIt("commonmark", {"html": True, "linkify": LINKS}).enable(["table", "strikethrough", "linkify"])


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_value_of_others_makes_a_tag_a_link_or_a_heading(kind):
    for case in CASES.values():
        usual, shown = (Page(PLAIN.render(card_of(case, value).text)) for value in ("usual", HOSTILE[kind]))
        assert shown.tags == usual.tags


@pytest.mark.skipif(not LINKS, reason="linkify-it-py is not installed")
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_bare_address_of_others_makes_a_link(kind):
    for case in CASES.values():
        usual, shown = (Page(LINKING.render(card_of(case, value).text)) for value in ("usual", HOSTILE[kind]))
        assert shown.tags == usual.tags


@pytest.mark.parametrize("kind", AS_THEY_ARE)
def test_a_value_of_others_is_shown_as_it_is(kind):
    """But for what cannot be seen, for folders, and for e-mail addresses, which get a blank."""
    value = one_line(HOSTILE[kind])
    for case in CASES.values():
        usual, shown = (Page(PLAIN.render(card_of(case, each).text)).text for each in ("USUAL", value))
        # The example says what a repository may be called, and labels in code as Python does.
        usual, shown = (text.partition("How good it is")[2] for text in (usual, shown))
        expected = usual.replace("USUAL", value)
        assert shown.partition("The exact recipe")[0].split() == expected.partition("The exact recipe")[0].split()


@pytest.mark.parametrize("kind", NO_PATHS)
def test_metadata_load_and_hold_what_was_given(kind):
    value = one_line(HOSTILE[kind])
    for case in CASES.values():
        usual, found = (ModelCard(str(card_of(case, each))).data.to_dict() for each in ("USUAL", HOSTILE[kind]))
        assert found == in_texts(usual, lambda text: text.replace("USUAL", value))


@pytest.mark.parametrize("kind", ["control", "direction", "no width", "separators", "half"])
def test_a_card_holds_no_character_that_cannot_be_seen(kind):
    for case in CASES.values():
        text = str(card_of(case, HOSTILE[kind])).replace("\n", "")
        assert not {unicodedata.category(character) for character in text} & {*UNSEEN, "Zl", "Zp"}


SPEED = COMMON["speed"]
PLANNED = {"parameters": 1, "latency_ms": 1.0, "latency_quartiles": [1, 2], "samples_per_second": 1.0, "speedup": 1.0}
SWEEP = {"name": "x", "lower_is_better": False, "rows": 3, "teacher": None}


def combinations(name: str) -> list[dict]:
    return [{"values": {name: value}, "value": 0.5, "seconds": 1.0} for value in (name, "b")]


def printed(table) -> str:
    console = Console(file=StringIO(), width=20_000, force_terminal=False)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_tables_at_the_terminal_show_names_as_they_are(kind):
    name = HOSTILE[kind]
    results = filled(SEVERAL, name)
    plan = {"name": name, "speed": SPEED, "teacher": PLANNED, "students": [{"name": name, **PLANNED}]}
    sweep = {**SWEEP, "name": name, "metric": name, "axes": {name: []}, "combinations": combinations(name)}
    for table in (
        results_table(results),
        sweep_table({**sweep, "best": {"values": {name: "b"}}}),
        plan_table({**plan, "chosen": {"name": name}}),
    ):
        shown = printed(table)
        assert one_line(name) in " ".join(shown.split())
        assert not {unicodedata.category(each) for each in shown.replace("\n", "")} & {*UNSEEN, "Zl", "Zp"}


@pytest.mark.parametrize("kind", ["formula", "control", "underscore first", "long", "rich", "separators"])
def test_figures_show_names_as_they_are(kind, tmp_path, monkeypatch):
    name, save, shown = HOSTILE[kind], figures.save, []

    def seen(figure: Figure, path: Path) -> None:
        save(figure, path)
        shown.append([each.get_text().replace("\\$", "$").strip() for each in figure.findobj(Text)])

    monkeypatch.setattr(figures, "save", seen)
    history = [{"step": step, f"eval_{name}": 0.5, f"weighted_loss_{name}": 1.0} for step in (1, 2)]
    training_curves({"student": history, "control": history}, name, tmp_path / "training.png")
    quality_against_speed(filled(SEVERAL, name), tmp_path / "quality.png")
    sweep = {**SWEEP, "metric": name, "axes": {name: [name, "b"]}, "combinations": combinations(name)}
    sweep_scores(sweep, tmp_path / "sweep.png")
    for texts in shown:
        assert any(one_line(name)[:39] in text for text in texts)
        assert not {unicodedata.category(each) for each in "".join(texts).replace("\n", "")} & {*UNSEEN, "Zl", "Zp"}
    assert len(shown) == 3
