"""axe-core reports no violation on any page: light and dark, wide and narrow, with and without bindings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.pages import EMPTY, FULL, open_page

if TYPE_CHECKING:
    from tests.browser.conftest import Console

pytestmark = pytest.mark.browser

AXE = Path(__file__).with_name("axe")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {runOnly: {type: "tag", values: arguments[0]}}).then(
  axeResult => done(axeResult.violations
    .map(v => [v.id, v.nodes.map(n => n.target.join(" ") + ": " + n.failureSummary)])),
  error => done([["error", [String(error)]]]));
"""


def axe_violations(console: Console) -> Any:
    console.window.run((AXE / "axe.min.js").read_text(encoding="utf-8") + "\nwindow.axe = axe;")
    return console.window.run_async(RUN, RULES)


APPEARANCES = [("light", 1_280), ("dark", 1_280), ("light", 390), ("dark", 390)]


@pytest.mark.parametrize("name", FULL)
def test_page_with_bindings_has_no_violation(console: Console, name: str) -> None:
    open_page(console, FULL[name])
    _check(console)


@pytest.mark.parametrize("name", EMPTY)
def test_page_without_bindings_has_no_violation(empty: Console, name: str) -> None:
    open_page(empty, EMPTY[name])
    _check(empty)


def _check(console: Console) -> None:
    violations_by_appearance = {}
    for scheme, width in APPEARANCES:
        console.window.set_appearance(scheme, width)
        if violations := axe_violations(console):
            violations_by_appearance[scheme, width] = violations
        overflow_px = console.window.run("return document.documentElement.scrollWidth - window.innerWidth")
        assert overflow_px <= 0, f"{width}: the page scrolls sideways by {overflow_px} px"
    assert violations_by_appearance == {}


def test_vendored_axe_has_the_hash_that_its_readme_names() -> None:
    readme = (AXE / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((AXE / "axe.min.js").read_bytes()).hexdigest() in readme
