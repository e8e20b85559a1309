"""axe-core finds nothing to complain of on any page, light and dark, wide and narrow, full and empty."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.pages import EMPTY, FULL, reach

if TYPE_CHECKING:
    from tests.browser.conftest import Console

pytestmark = pytest.mark.browser

AXE = Path(__file__).with_name("axe")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {runOnly: {type: "tag", values: arguments[0]}}).then(
  found => done(found.violations.map(v => [v.id, v.nodes.map(n => n.target.join(" ") + ": " + n.failureSummary)])),
  error => done([["error", [String(error)]]]));
"""


def violations(console: Console) -> Any:
    console.window.run((AXE / "axe.min.js").read_text(encoding="utf-8") + "\nwindow.axe = axe;")
    return console.window.run_later(RUN, RULES)


LOOKS = [("light", 1_280), ("dark", 1_280), ("light", 390), ("dark", 390)]


@pytest.mark.parametrize("name", FULL)
def test_a_full_page_has_no_violation(console: Console, name: str) -> None:
    reach(console, FULL[name])
    _check(console)


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_page_has_no_violation(empty: Console, name: str) -> None:
    reach(empty, EMPTY[name])
    _check(empty)


def _check(console: Console) -> None:
    found = {}
    for scheme, width in LOOKS:
        console.window.look_like(scheme, width)
        if wrong := violations(console):
            found[scheme, width] = wrong
        too_wide = console.window.run("return document.documentElement.scrollWidth - window.innerWidth")
        assert too_wide <= 0, f"{width}: the page scrolls sideways by {too_wide} px"
    assert found == {}


def test_the_vendored_file_is_the_one_that_its_readme_names() -> None:
    said = (AXE / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((AXE / "axe.min.js").read_bytes()).hexdigest() in said
