"""What whoever runs the service does with the console: sees whether all is well, ends a doubt, takes a report."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import State

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import Console
    from tests.browser.stage import Day

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("no_complaints")]


def says(console: Console, words: str) -> None:
    console.window.wait(f"document.body.innerText.includes('{words}')")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_doubt_is_marked_absent_after_a_dry_run(console: Console, day: Day, *, scripts: bool) -> None:
    console.sign_in("admin", "ann")
    console.window.scripts(on=scripts)
    console.open(f"/doubts/{day.doubt.id}/absent")
    console.window.fill("#reason", "not in their console, ticket 4711")
    console.window.click("main button.main")
    says(console, "nothing has changed yet")
    service = console.running.service
    assert service.get(day.doubt.id).state is State.IN_DOUBT
    console.window.click("main button.danger")
    console.window.wait("location.pathname.startsWith('/bindings/')")
    assert service.get(day.doubt.id).state is State.FAILED
    last = service.history(day.doubt.id)[-1]
    assert (last.actor, last.detail["because"]) == ("key:ann", "not in their console, ticket 4711")


def test_resolving_shows_first_what_it_would_do_and_leaves_a_report_to_take_away(
    console: Console, day: Day, downloads: Path
) -> None:
    console.sign_in("admin", "ann")
    console.open("/doubts")
    assert str(day.doubt.reference) in console.window.text
    console.window.fill("#reason", "ticket 4711")
    console.window.click("form[action='/doubts/resolve'] button")
    says(console, "nothing was changed")
    console.window.click("form[action='/doubts/resolve'] button.main")
    says(console, "What it did")
    console.window.click("main a[href^='/reports/']")
    says(console, "SHA-256")
    report = console.running.service.reports().data[0]
    assert (report.actor, report.counts["reason"], report.counts["dry_run"]) == ("key:ann", "ticket 4711", False)
    console.window.click("a[download]")
    console.window.wait("true")
    name = f"report-{report.began_at:%Y%m%dT%H%M%SZ}-{report.id[-8:]}.json"
    for _ in range(100):
        if (downloads / name).exists():
            break
        console.window.run_later("setTimeout(arguments[arguments.length - 1], 50)")
    assert hashlib.sha256((downloads / name).read_bytes()).hexdigest() in console.window.text


@pytest.mark.parametrize("role", ["auditor", "investigator"])
def test_whoever_may_only_look_is_offered_no_act_and_refused_it(console: Console, day: Day, role: str) -> None:
    console.sign_in(role)
    console.open("/doubts")
    assert str(day.doubt.reference) in console.window.text
    assert not console.window.has("form[action='/doubts/resolve']")
    assert not console.window.has("a[href$='/absent']")
    console.open(f"/doubts/{day.doubt.id}/absent")
    says(console, "does not allow this page")
    assert console.running.service.get(day.doubt.id).state is State.IN_DOUBT


def test_the_overview_renews_itself_until_it_is_paused_or_hidden(console: Console) -> None:
    console.sign_in("auditor")
    console.open("/overview")
    assert console.window.has(".live button")
    renewed = "Number(document.getElementById('live').dataset.renewed || 0)"
    hide = (
        "Object.defineProperty(document, 'visibilityState', {configurable: true, get: () => arguments[0]});"
        "document.dispatchEvent(new Event('visibilitychange'));"
    )
    show = hide.replace("arguments[0]", "'visible'")
    console.window.run(hide.replace("arguments[0]", "'hidden'"))
    before = console.window.run(f"return {renewed}")
    console.window.run(show)
    console.window.wait(f"{renewed} === {before} + 1")
    console.window.click(".live button")
    assert "Paused" in console.window.text
    console.window.run(show)
    console.window.run_later("setTimeout(arguments[arguments.length - 1], 300)")
    assert console.window.run(f"return {renewed}") == before + 1
