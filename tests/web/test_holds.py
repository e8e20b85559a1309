"""Holds in the answers about a number over HTTP and in the console, and what an application sees of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert
from uuid_utils.compat import uuid7

from bindings.domain.hold import HoldReason, round_up
from bindings.domain.phone import Phone, mask
from bindings.store.schema import holds
from tests.service.harness import APP, A, C, D
from tests.web.browser import Browser

if TYPE_CHECKING:
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

BIND_ID = "770077"


def put_hold(
    running: Running,
    *,
    phone: str = C,
    why: str = HoldReason.ORPHAN,
    origin: dict[str, Any] | None = None,
    until_s: float = 3_000,
) -> datetime:
    """Write a hold, that of a revenant if there is an `origin`; return its end."""
    now = datetime.now(UTC)
    row = {
        "id": str(uuid7()),
        "scope": "default",
        "phone": Phone(phone),
        "why": why,
        "app_id": APP,
        "bind_id": None if why == HoldReason.REFUSED else BIND_ID if origin is None else origin["bind_id"],
        "origin_id": None if origin is None else origin["id"],
        "held_until": now + timedelta(seconds=until_s),
        "strikes": 0,
        "created_at": now - timedelta(hours=2),
    }
    running.service.runtime.database.write(lambda tx: tx.connection.execute(insert(holds).values(row)))
    return now + timedelta(seconds=until_s)


def ended(running: Running, headers: dict[str, str], **fields: Any) -> dict[str, Any]:
    """Bind and unbind; return the binding."""
    binding: dict[str, Any] = running.bind(headers, **fields).json()
    assert running.post(f"/v1/bindings/{binding['id']}/unbind", headers=headers).status_code == 200
    return binding


def now() -> str:
    return datetime.now(UTC).isoformat()


@pytest.mark.parametrize("why", list(HoldReason))
def test_search_trace_and_pages_show_the_hold_of_a_phone_without_bindings(
    running: Running, why: HoldReason
) -> None:
    until = put_hold(running, why=why)
    auditor = running.key("auditor")
    found = running.post("/v1/bindings/search", {"phone": C}, auditor).json()
    traced = running.post("/v1/trace", {"middle_number": "1", "at": now(), "party": C}, auditor).json()
    assert (found["data"], traced["holders"]) == ([], [])
    for (hold,) in (found["holds"], traced["holds"]):
        assert (hold["phone"], hold["why"], hold["in_force"]) == (mask(C), why, True)
        assert datetime.fromisoformat(hold["held_until"]) == until
        assert hold["cause"]
        assert hold["ends_by"]
        assert hold["bind_id"] == (None if why is HoldReason.REFUSED else BIND_ID)
    browser = Browser(running).sign_in("auditor")
    for form in ({"q": C}, {"q": C, "time": "now"}, {"q": "918806999", "time": "now", "party": C}):
        page = browser.submit("/find", form).text
        assert "Held until" in page, form
        assert "in force" in page
        assert (BIND_ID in page) == (why is not HoldReason.REFUSED)
        assert C not in page
        assert "no hold" not in page
        assert "`" not in page


def test_answers_about_a_number_without_holds_say_what_was_searched(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    assert (
        "No binding and no refused bind recorded here and no hold has this number."
        in browser.submit("/find", {"q": D}).text
    )
    page = browser.submit("/find", {"q": D, "time": "now"}).text
    assert "is recorded before or after that time, and no hold around it" in page
    assert running.post("/v1/bindings/search", {"phone": D}, running.key("auditor")).json()["holds"] == []


def test_ended_hold_is_in_the_history_of_its_phone_only(running: Running) -> None:
    put_hold(running, until_s=-3_600)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": C}).text
    assert BIND_ID in page
    assert "in force" not in page.replace("a binding in force here", "")
    assert BIND_ID not in browser.submit("/find", {"q": C, "time": "now"}).text
    (hold,) = running.post("/v1/bindings/search", {"phone": C}, running.key("auditor")).json()["holds"]
    assert (hold["in_force"], hold["ends_by"]) == (False, None)


def test_middle_number_of_a_binding_that_lives_on_at_the_provider_has_its_hold(running: Running) -> None:
    rides = running.key("app", "rides")
    binding = ended(running, rides)
    put_hold(running, phone=A, origin=binding)
    auditor, number = running.key("auditor"), binding["middle_number_a"]
    found = running.post("/v1/bindings/search", {"middle_number": number}, auditor).json()
    traced = running.post("/v1/trace", {"middle_number": number, "at": now()}, auditor).json()
    for (hold,) in (found["holds"], traced["holds"]):
        assert (hold["binding_id"], hold["bind_id"]) == (binding["id"], binding["bind_id"])
        assert "ended here" in hold["cause"]
    browser = Browser(running).sign_in("auditor", "second")
    for form in ({"q": number}, {"q": number, "time": "now"}):
        page = browser.submit("/find", form).text
        assert f"Binding {binding['id'][-8:]}" in page
        assert f"bindId {binding['bind_id']}" in page


def test_app_sees_its_own_hold_and_of_others_what_a_check_shows(running: Running) -> None:
    rides, food = running.key("app", "rides"), running.key("app", "food")
    binding = ended(running, rides)
    until = put_hold(running, phone=A, origin=binding)
    (own,) = running.post("/v1/bindings/search", {"phone": A}, rides).json()["holds"]
    assert (own["binding_id"], own["actor"]) == (binding["id"], "key:rides")
    pair = {"phone_a": A, "phone_b": D, "mode": "AXB"}
    (checked,) = running.post("/v1/bindings/check", pair, food).json()["data"]
    trace = {"middle_number": binding["middle_number_a"], "at": now()}
    (found,) = running.post("/v1/bindings/search", {"phone": A}, food).json()["holds"]
    (traced,) = running.post("/v1/trace", trace | {"party": A}, food).json()["holds"]
    for hold in (found, traced):
        shown = {name: value for name, value in hold.items() if value is not None}
        assert shown.keys() == {"phone", "why", "cause", "in_force", "held_until"}
        assert (hold["why"], hold["held_until"]) == (checked["why"], checked["held_until"])
        assert datetime.fromisoformat(hold["held_until"]) == round_up(until)
    assert running.post("/v1/trace", trace, food).json()["holds"] == [], "it did not give the phone"
    page = Browser(running).sign_in("app", "food").submit("/find", {"q": A}).text
    assert binding["id"] not in page
    assert "something that you may not see" in page
