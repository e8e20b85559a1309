"""All pages of the console by name, and how to open each with and without bindings."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from tests.browser import seed_data

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tests.browser.conftest import Console
    from tests.browser.seed_data import Day

    Opener = str | Callable[[Console, Day], None]


def _filtered(console: Console, _day: Day) -> None:
    console.open("/bindings")
    console.window.click("details.filters summary")
    console.window.run("document.querySelector('#mode').value = 'AXB'")
    console.window.click("details.filters button.main")
    console.window.wait("location.search === '?mode=AXB'")
    console.window.click("details.filters summary")
    console.window.click("details.export summary")


def _number_at(console: Console, day: Day) -> None:
    at = day.ride.requested_at + timedelta(minutes=10)
    console.find(
        q=str(day.ride.middle_number_a), time=_format_time(at), zone="UTC", party=str(day.ride.phone_a.digits)
    )


def _number_at_without_holder(console: Console, day: Day) -> None:
    assert day.ride.ended_at is not None
    at = day.ride.ended_at + timedelta(seconds=60)
    console.find(q=str(day.ride.middle_number_a), time=_format_time(at), zone="UTC")


def _statement(console: Console, day: Day) -> None:
    _number_at(console, day)
    console.window.fill("#statement-reason", "complaint 118")
    console.window.click("form.action button")
    console.window.wait("document.body.innerText.includes('Statement: who had')")


def _search_without_match(console: Console, _day: Day) -> None:
    console.find(q="order-9999")


def _invalid_search(console: Console, _day: Day) -> None:
    console.find(q="order-1", zone="Mars")


def _format_time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _revealed(console: Console, day: Day) -> None:
    console.open(f"/bindings/{day.ride.id}")
    console.window.fill("#reason", "complaint 118")
    console.window.click("form[action$='/reveal'] button")
    console.window.wait("document.body.innerText.includes('Shown in full once')")


def _export(console: Console, day: Day) -> None:
    export_id = console.running.service.access_log.start_export(
        view="number history", filters={"number": str(day.ride.phone_a)}, format="csv", reason=None
    )
    console.running.service.access_log.finish_export(export_id, row_count=6, sha256="0" * 64)
    console.open(f"/exports/{export_id}")


def _mark_absent(console: Console, day: Day) -> None:
    console.open(f"/doubts/{day.doubt.id}/absent")
    console.window.fill("#reason", "ticket 4711")
    console.window.click("main button.main")
    console.window.wait("document.body.innerText.includes('What would change')")


def _reconcile_run(console: Console, _day: Day) -> None:
    console.open("/doubts")
    console.window.fill("#reason", "ticket 4711")
    console.window.click("form[action='/doubts/resolve'] button")
    console.window.wait("document.body.innerText.includes('what would change')")


def _unbind_all(console: Console, day: Day) -> None:
    console.open(f"/bindings/{day.live.id}/numbers/phone_a/unbind")
    console.window.fill("#reason", "order cancelled")
    console.window.click("main button.main")
    console.window.wait("document.body.innerText.includes('What would be ended')")


def _unbinds(console: Console, day: Day) -> None:
    _unbind_all(console, day)
    console.window.click("main button.danger")
    console.window.wait("location.pathname.startsWith('/unbinds/')")


def _report(console: Console, _day: Day) -> None:
    console.open(f"/reports/{console.running.service.reports().data[0].id}")


def _signed_in(path: str) -> Opener:
    """Return the opener of a page that shows the key and the session of the browser."""

    def open_signed_in(console: Console, _day: Day) -> None:
        console.running.key("auditor", "eve")
        console.sign_in("admin", "ops")
        console.open(path)

    return open_signed_in


def _key_created(console: Console, _day: Day) -> None:
    console.open("/keys/create")
    console.window.fill("#name", "ops")
    console.window.click("input[name=role][value=admin]")
    console.window.click("main button.main")
    console.window.wait("document.body.innerText.includes('Copy it now')")


def _key_revoke(console: Console, _day: Day) -> None:
    console.running.key("auditor", "eve")
    console.sign_in("admin", "ops")
    console.open(f"/keys/{console.running.service.api_keys.list()[0].id}/revoke")


def _webhook(suffix: str) -> Opener:
    """Return the opener of a page of a webhook that has deliveries, some of them dead."""

    def open_webhook(console: Console, _day: Day) -> None:
        webhook = seed_data.add_webhook(console.running.service)
        console.open(f"/webhooks/{webhook.id}{suffix}")

    return open_webhook


def _webhook_secret(console: Console, _day: Day) -> None:
    console.open("/webhooks/add")
    console.window.fill("#url", "https://receiver.example/events")
    console.window.click("main button.main")
    console.window.wait("document.body.innerText.includes('Copy it now')")


def _webhooks(console: Console, _day: Day) -> None:
    seed_data.add_webhook(console.running.service)
    console.running.service.webhooks.add(url="https://other.example/events", kinds=["expired", "unbound"])
    console.open("/webhooks")


def _holds(console: Console, day: Day) -> None:
    seed_data.add_holds(console.running.service, day)
    console.open("/holds")


FULL: dict[str, Opener] = {
    "find": "/",
    "bindings": "/bindings",
    "bindings-filtered": _filtered,
    "bindings-no-match": "/bindings?mode=AXB&period=yesterday&state=lapsed",
    "bindings-invalid": "/bindings?state=lost&from=never",
    "number-at": _number_at,
    "number-at-no-holder": _number_at_without_holder,
    "statement": _statement,
    "search-no-match": _search_without_match,
    "search-invalid": _invalid_search,
    "binding": "/bindings/{ride}",
    "live": "/bindings/{live}",
    "failed": "/bindings/{failed}",
    "doubt": "/bindings/{doubt}",
    "revealed": _revealed,
    "number": "/bindings/{ride}/numbers/middle_number_a",
    "access": "/access",
    "export": _export,
    "exports": "/exports",
    "not-found": "/nothing/here",
    "overview": "/overview",
    "failures": "/failures",
    "failure": "/failures/failed/-41",
    "doubts": "/doubts",
    "mark-absent": _mark_absent,
    "reconcile-run": _reconcile_run,
    "unbind-all": _unbind_all,
    "unbinds": _unbinds,
    "pools": "/pools",
    "reports": "/reports",
    "report": _report,
    "keys": _signed_in("/keys"),
    "key-form": "/keys/create",
    "key-created": _key_created,
    "key-revoke": _key_revoke,
    "sessions": _signed_in("/sessions"),
    "webhooks": _webhooks,
    "webhook": _webhook(""),
    "webhook-form": "/webhooks/add",
    "webhook-secret": _webhook_secret,
    "webhook-rotate": _webhook("/rotate"),
    "webhook-remove": _webhook("/remove"),
    "holds": _holds,
}
EMPTY: dict[str, Opener] = {
    "find": "/",
    "bindings": "/bindings",
    "access": "/access",
    "sign-in": "/sign-in",
    "overview": "/overview",
    "failures": "/failures",
    "doubts": "/doubts",
    "pools": "/pools",
    "reports": "/reports",
    "keys": "/keys",
    "sessions": "/sessions",
    "webhooks": "/webhooks",
    "holds": "/holds",
}


def open_page(console: Console, opener: Opener) -> None:
    """Open a page by its path or its function."""
    day = console.day
    if isinstance(opener, str):
        bindings = (
            {} if day is None else {name: getattr(day, name) for name in ("ride", "live", "failed", "doubt")}
        )
        console.open(opener.format(**{name: binding.id for name, binding in bindings.items()}))
    elif day is not None:
        opener(console, day)
