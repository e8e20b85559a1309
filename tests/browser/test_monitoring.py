"""Operation of the service in a real browser: overview, bindings in doubt, reports."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import State

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import Console
    from tests.browser.seed_data import Day

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("no_console_errors")]


def wait_for_text(console: Console, text: str) -> None:
    console.window.wait(f"document.body.innerText.includes('{text}')")


@pytest.mark.parametrize("scripts", [True, False])
def test_binding_is_marked_absent_after_a_dry_run(console: Console, day: Day, *, scripts: bool) -> None:
    console.sign_in("admin", "ann")
    console.window.scripts(on=scripts)
    console.open(f"/doubts/{day.doubt.id}/absent")
    console.window.fill("#reason", "not in their console, ticket 4711")
    console.window.click("main button.main")
    wait_for_text(console, "nothing has changed yet")
    service = console.running.service
    assert service.get(day.doubt.id).state is State.IN_DOUBT
    console.window.click("main button.danger")
    console.window.wait("location.pathname.startsWith('/bindings/')")
    assert service.get(day.doubt.id).state is State.FAILED
    last = service.history(day.doubt.id)[-1]
    assert (last.actor, last.detail["because"]) == ("key:ann", "not in their console, ticket 4711")


def test_reconciliation_runs_after_a_dry_run_and_its_report_can_be_downloaded(
    console: Console, day: Day, downloads: Path
) -> None:
    console.sign_in("admin", "ann")
    console.open("/doubts")
    assert str(day.doubt.reference) in console.window.text
    console.window.fill("#reason", "ticket 4711")
    console.window.click("form[action='/doubts/resolve'] button")
    wait_for_text(console, "no binding was changed")
    console.window.click("form[action='/doubts/resolve'] button.main")
    wait_for_text(console, "Reconciliation results")
    console.window.click("main a[href^='/reports/']")
    wait_for_text(console, "SHA-256")
    report = console.running.service.reports().data[0]
    assert (report.actor, report.counts["reason"], report.counts["dry_run"]) == ("key:ann", "ticket 4711", False)
    console.window.click("a[download]")
    console.window.wait("true")
    name = f"report-{report.began_at:%Y%m%dT%H%M%SZ}-{report.id[-8:]}.json"
    for _ in range(100):
        if (downloads / name).exists():
            break
        console.window.run_async("setTimeout(arguments[arguments.length - 1], 50)")
    assert hashlib.sha256((downloads / name).read_bytes()).hexdigest() in console.window.text


@pytest.mark.parametrize("role", ["auditor", "investigator"])
def test_role_without_manage_permission_is_offered_no_action_and_refused_it(
    console: Console, day: Day, role: str
) -> None:
    console.sign_in(role)
    console.open("/doubts")
    assert str(day.doubt.reference) in console.window.text
    assert not console.window.has("form[action='/doubts/resolve']")
    assert not console.window.has("a[href$='/absent']")
    console.open(f"/doubts/{day.doubt.id}/absent")
    wait_for_text(console, "does not allow this page")
    assert console.running.service.get(day.doubt.id).state is State.IN_DOUBT


REFRESH_COUNT = "Number(document.getElementById('live').dataset.refreshed || 0)"
BECOME = (
    "Object.defineProperty(document, 'visibilityState', {configurable: true, get: () => 'VISIBILITY'});"
    "document.dispatchEvent(new Event('visibilitychange'));"
)
HIDE, SHOW = BECOME.replace("VISIBILITY", "hidden"), BECOME.replace("VISIBILITY", "visible")


def wait_for_status(console: Console, text: str) -> None:
    console.window.wait(f"document.querySelector('.live span').textContent.startsWith('{text}')")


def test_overview_refreshes_unless_it_is_paused_or_hidden(console: Console) -> None:
    console.sign_in("auditor")
    console.open("/overview")
    assert console.window.has(".live button")
    console.window.run(HIDE)
    before = console.window.run(f"return {REFRESH_COUNT}")
    console.window.run(SHOW)
    console.window.wait(f"{REFRESH_COUNT} === {before} + 1")
    console.window.click(".live button")
    assert "Paused" in console.window.text
    console.window.run(SHOW)
    console.window.run_async("setTimeout(arguments[arguments.length - 1], 300)")
    assert console.window.run(f"return {REFRESH_COUNT}") == before + 1


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        ("Promise.reject(new TypeError('no network'))", "No response from the service; trying again"),
        ("Promise.resolve(new Response('', {status: 503}))", "The service responded with the error 503; trying"),
    ],
)
def test_overview_reports_a_failed_refresh_until_the_next_success(
    console: Console, failure: str, status: str
) -> None:
    console.sign_in("auditor")
    console.open("/overview")
    wait_for_status(console, "Refreshes every 10 s")
    console.window.run(f"window.realFetch = fetch; window.fetch = () => {failure}; {SHOW}")
    wait_for_status(console, status)
    console.window.run(f"window.fetch = realFetch; {SHOW}")
    wait_for_status(console, "Refreshes every 10 s")
    console.window.wait(f"{REFRESH_COUNT} >= 1")


def test_overview_says_that_it_pauses_while_the_focus_is_inside(console: Console) -> None:
    console.sign_in("auditor")
    console.open("/overview")
    console.window.click("#figures summary")
    wait_for_status(console, "Paused while the focus is inside")
    before = console.window.run(f"return {REFRESH_COUNT}")
    console.window.run(SHOW)
    console.window.run_async("setTimeout(arguments[arguments.length - 1], 300)")
    assert console.window.run(f"return {REFRESH_COUNT}") == before
    console.window.run("document.activeElement.blur()")
    wait_for_status(console, "Refreshes every 10 s")
    console.window.wait(f"{REFRESH_COUNT} > {before}")
    assert console.window.run("return document.getElementById('figures').open")
