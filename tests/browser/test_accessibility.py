"""The usability of every page, with and without bindings: axe-core, keyboard, 200 %, 390 px, print, no scripts.

axe-core reports no violation in light and dark; every control is reached by Tab and shows that it has the focus;
nothing scrolls sideways at 390 px and at 200 %; the printed page has no navigation and every time in full. The
pages with bindings are opened without scripts, so their forms and links need none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.pages import EMPTY, FULL, open_page
from tests.browser.webdriver import TAB

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


APPEARANCES = [("light", 1_280), ("dark", 1_280), ("light", 320), ("dark", 320)]
HALF = 640  # a window of 1 280 px at 200 %
PAPER = 718  # pixels between the margins of A4
CONTROLS = """
const controls = [...document.querySelectorAll(
  "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"
)].filter(control => !control.disabled && control.checkVisibility());
const name = control => control.outerHTML.slice(0, 120);
"""
FOLLOW_FOCUS = (
    CONTROLS
    + """
window.reached = new Set();
window.unmarked = [];
window.hasPressedKey = false;  // until then there may be no ring
document.addEventListener("keydown", () => { window.hasPressedKey = true; }, {capture: true, once: true});
document.addEventListener("focusin", ({target}) => {
  window.reached.add(target);
  const style = getComputedStyle(target), box = target.getBoundingClientRect();
  const isInView = box.right > 0 && box.bottom > 0 && box.top < innerHeight && box.left < innerWidth;
  const isMarked = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  if (window.hasPressedKey && !(isMarked && isInView)) window.unmarked.push(name(target));
});
document.querySelector(".skip").focus();
return controls.length;
"""
)
NOT_REACHED = (
    CONTROLS
    + """
const inGroup = radio => [...radio.form.elements].filter(other => other.name === radio.name);
return controls.filter(control => !reached.has(control)
  && !(control.type === "radio" && inGroup(control).some(other => reached.has(other)))).map(name);
"""
)
WITHOUT_BUTTON = """
return [...document.forms]
  .filter(form => !form.querySelector("button:not([type=button])"))
  .map(form => form.action);
"""
WRONG_IN_PRINT = """
const controls = document.querySelectorAll(".top, .skip, nav, form, button, .button, a.right, a.small");
const shown = [...controls].filter(control => control.checkVisibility());
const times = [...document.querySelectorAll("main time")].filter(time => time.checkVisibility());
return [...shown, ...times.filter(time => !/^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d/.test(time.innerText))]
  .map(e => e.outerHTML.slice(0, 120));
"""
SIDEWAYS_PX = "return document.documentElement.scrollWidth - window.innerWidth"


@pytest.mark.parametrize("name", FULL)
def test_page_with_bindings_is_accessible_by_every_means(console: Console, name: str) -> None:
    window = console.window
    window.scripts(on=False)
    open_page(console, FULL[name])
    assert len(window.run("return document.querySelector('main').innerText")) > 40
    assert window.run(WITHOUT_BUTTON) == []
    window.scripts(on=True)  # for the checks: the page has not loaded its own
    _check(console)


@pytest.mark.parametrize("name", EMPTY)
def test_page_without_bindings_is_accessible_by_every_means(empty: Console, name: str) -> None:
    open_page(empty, EMPTY[name])
    _check(empty)


def _check(console: Console) -> None:
    _check_print(console)
    violations_by_appearance = {}
    for scheme, width in APPEARANCES:
        console.window.set_appearance(scheme, width)
        if violations := axe_violations(console):
            violations_by_appearance[scheme, width] = violations
        _check_width(console, f"{width} px")
    assert violations_by_appearance == {}
    console.window.set_appearance("light", HALF)
    _check_width(console, "200 %")
    console.window.set_appearance("light")
    _check_keyboard(console)


def _check_width(console: Console, size: str) -> None:
    overflow_px = console.window.run(SIDEWAYS_PX)
    assert overflow_px <= 0, f"{size}: the page is {overflow_px} px too wide"


def _check_keyboard(console: Console) -> None:
    """Press Tab once for each control: it reaches all of them, and each is marked while it has the focus."""
    controls = console.window.run(FOLLOW_FOCUS)
    console.window.press(TAB * (controls + 1))
    assert console.window.run(NOT_REACHED) == []
    assert console.window.run("return window.unmarked") == []


def _check_print(console: Console) -> None:
    console.window.set_appearance("light", PAPER, media="print")
    assert console.window.run(WRONG_IN_PRINT) == []
    _check_width(console, "paper")


def test_vendored_axe_has_the_hash_that_its_readme_names() -> None:
    readme = (AXE / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((AXE / "axe.min.js").read_bytes()).hexdigest() in readme
