"""What the documents at the root promise: tests that are there, links that lead somewhere."""

from __future__ import annotations

import re

import pytest

from tests.helpers.command_line import ROOT

SECURITY = (ROOT / "SECURITY.md").read_text()


def test_every_promise_of_security_names_tests_that_are_there():
    promised = SECURITY.partition("## Whom you need not trust")[2].partition("## What is not promised")[0]
    promises = promised.split("\n* ")[1:]
    assert len(promises) > 10
    for promise in promises:
        tests = re.findall(r"`(tests/[\w/]+\.py)`", promise)
        assert tests, promise
        assert [name for name in tests if not (ROOT / name).is_file()] == []


PAGES = ["README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/errors.md", "docs/speech_and_images.md"]


@pytest.mark.parametrize("name", PAGES)
def test_links_to_files_lead_somewhere(name):
    links = re.findall(r"\]\((?!https?://|#)([^)\s#]+)", (ROOT / name).read_text())
    assert [link for link in links if not ((ROOT / name).parent / link).exists()] == []
