"""Every page of the console, by name: how to reach it when there is much to see, and when there is nothing."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import Console
    from tests.browser.stage import Day

    Way = str | Callable[[Console, Day], None]


def _behind(console: Console, day: Day) -> None:
    at = day.ride.requested_at + timedelta(minutes=10)
    console.find(q=str(day.ride.middle_number_a), time=_clock(at), zone="UTC", party=str(day.ride.phone_a.digits))


def _missed(console: Console, day: Day) -> None:
    assert day.ride.ended_at is not None
    at = day.ride.ended_at + timedelta(seconds=60)
    console.find(q=str(day.ride.middle_number_a), time=_clock(at), zone="UTC")


def _named(console: Console, _day: Day) -> None:
    console.find(q="order-9999")


def _faulty(console: Console, _day: Day) -> None:
    console.find(q="order-1", zone="Mars")


def _clock(at: object) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"  # type: ignore[attr-defined]  # a datetime


def _revealed(console: Console, day: Day) -> None:
    console.open(f"/bindings/{day.ride.id}")
    console.window.fill("#reason", "complaint 118")
    console.window.click("form[action$='/reveal'] button")
    console.window.wait("document.body.innerText.includes('Shown in full this once')")


def _exported(console: Console, day: Day) -> None:
    export_id = console.running.service.access_log.start_export(
        view="number history", narrowed={"number": str(day.ride.phone_a)}, format="csv", reason=None
    )
    console.running.service.access_log.finish_export(export_id, row_count=6, sha256="0" * 64)
    console.open(f"/exports/{export_id}")


def _vouched(console: Console, day: Day) -> None:
    console.open(f"/doubts/{day.doubt.id}/absent")
    console.window.fill("#reason", "ticket 4711")
    console.window.click("main button.main")
    console.window.wait("document.body.innerText.includes('What would change')")


def _resolved(console: Console, _day: Day) -> None:
    console.open("/doubts")
    console.window.fill("#reason", "ticket 4711")
    console.window.click("form[action='/doubts/resolve'] button")
    console.window.wait("document.body.innerText.includes('What it would do')")


def _report(console: Console, _day: Day) -> None:
    console.open(f"/reports/{console.running.service.reports().data[0].id}")


FULL: dict[str, Way] = {
    "find": "/",
    "behind": _behind,
    "missed": _missed,
    "named": _named,
    "faulty": _faulty,
    "binding": "/bindings/{ride}",
    "failed": "/bindings/{failed}",
    "doubt": "/bindings/{doubt}",
    "revealed": _revealed,
    "history": "/bindings/{ride}/numbers/middle_number_a",
    "access": "/access",
    "export": _exported,
    "exports": "/exports",
    "not-here": "/nothing/here",
    "overview": "/overview",
    "failures": "/failures",
    "failure": "/failures/failed/-41",
    "doubts": "/doubts",
    "absent": _vouched,
    "resolved": _resolved,
    "pools": "/pools",
    "reports": "/reports",
    "report": _report,
}
EMPTY: dict[str, Way] = {
    "find": "/",
    "access": "/access",
    "sign-in": "/sign-in",
    "overview": "/overview",
    "failures": "/failures",
    "doubts": "/doubts",
    "pools": "/pools",
    "reports": "/reports",
}


def reach(console: Console, way: Way) -> None:
    """Open a page."""
    day = console.day
    if isinstance(way, str):
        ids = {} if day is None else {"ride": day.ride.id, "failed": day.failed.id, "doubt": day.doubt.id}
        console.open(way.format(**ids))
    elif day is not None:
        way(console, day)
