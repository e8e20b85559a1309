"""Each promise of the documentation still stands in its page and has a test.

That each test exists is checked by `test_docs.test_every_test_that_is_named_as_a_proof_exists`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
SECTION = re.compile(r"^## (\S+\.md)\n\n\| promise \| tests \|\n\|---\|---\|\n((?:\|.*\|\n)+)", re.MULTILINE)
ROW = re.compile(r"\| ([^|]+) \| (\[test_\w+\]\(\S+\)(?:, \[test_\w+\]\(\S+\))*) \|")
LIST = (DOCS / "maintainers" / "promises.md").read_text(encoding="utf-8")
SECTIONS = {page: rows.splitlines() for page, rows in SECTION.findall(LIST)}


@pytest.mark.parametrize("page", SECTIONS)
def test_every_promise_stands_in_its_page_and_names_a_test(page: str) -> None:
    text = " ".join((DOCS / page).read_text(encoding="utf-8").split())
    for row in SECTIONS[page]:
        match = ROW.fullmatch(row)
        assert match, f"not a sentence and its tests: {row}"
        assert match[1] in text, f"{page} no longer says: {match[1]}"


def test_every_section_of_the_list_is_read() -> None:
    assert len(SECTIONS) == LIST.count("\n## ") >= 6
