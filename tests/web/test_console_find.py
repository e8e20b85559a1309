"""Find: any id leads to its binding, a number with a time to who was behind it, no number into an address."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from bindings.domain.phone import mask
from bindings.errors import PhoneInUse
from bindings.store import sessions
from bindings.store.schema import searches
from tests.service.harness import POOL, A, B, C, D
from tests.web.browser import Browser

if TYPE_CHECKING:
    from bindings.service import BindingService
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")


BIND: dict[str, Any] = {"phone_a": A, "phone_b": B, "pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}


def bound(service: BindingService, **asked: Any) -> Any:
    return service.as_caller(actor="key:rides", request_id="req-1").bind(
        **BIND | {"reference": "order-42"} | asked
    )


def test_any_name_of_a_binding_leads_straight_to_it(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("auditor")
    for name in (made.id, made.id.upper(), made.bind_id, "order-42", "req-1"):
        assert browser.post("/find", {"q": name}).headers["Location"] == f"/bindings/{made.id}", name


@pytest.mark.parametrize("name", ["1234567", "4711-2026-11", "+49 30 1234"])
def test_digits_that_were_never_a_number_are_tried_as_a_name(running: Running, name: str) -> None:
    made = bound(running.service, reference=name)
    browser = Browser(running).sign_in("auditor")
    assert browser.post("/find", {"q": name}).headers["Location"] == f"/bindings/{made.id}"
    bound(running.service, reference=name, phone_a=C, phone_b=D)
    assert "2 bindings" in browser.submit("/find", {"q": name}).text
    running.service.bind(**BIND | {"phone_a": "9188067771", "phone_b": "9188067772", "reference": A})
    assert "9188067771" not in browser.submit("/find", {"q": A}).text
    assert mask(A) in browser.submit("/find", {"q": A}).text, "a number that was used is a number first"


def test_several_bindings_of_a_name_are_listed_and_a_name_of_nothing_says_what_to_do(running: Running) -> None:
    bound(running.service)
    bound(running.service, phone_a=C, phone_b=D)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": "order-42"}).text
    assert "2 bindings" in page
    assert A not in page
    assert "Nothing has this name" in browser.submit("/find", {"q": "order-43"}).text


def test_a_request_that_was_refused_before_the_call_is_found(running: Running) -> None:
    held = bound(running.service)
    with pytest.raises(PhoneInUse):
        running.service.as_caller(actor="key:food", request_id="req-2").bind(**BIND)
    page = Browser(running).sign_in("auditor").submit("/find", {"q": "req-2"}).text
    assert "Refused before the call" in page
    assert held.id in page


def test_a_middle_number_at_a_time_shows_its_holder_with_masked_phones(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("auditor")
    for party in ("", A, f"+{B}"):
        page = browser.submit("/find", {"q": made.middle_number_a, "time": "now", "party": party}).text
        assert "One binding had it" in page
        assert "certain" in page
        assert f"/bindings/{made.id}" in page
        assert made.middle_number_a in page
        assert mask(A) in page
        assert A not in page
        assert B not in page
    assert (
        "No binding then" in browser.submit("/find", {"q": made.middle_number_a, "time": "now", "party": C}).text
    )


def test_a_phone_at_a_time_is_found_in_the_same_way(running: Running) -> None:
    made = bound(running.service)
    page = Browser(running).sign_in("auditor").submit("/find", {"q": f"+{A}", "time": "now"}).text
    assert f"/bindings/{made.id}" in page
    assert A not in page


def test_where_there_was_none_the_last_that_ended_and_the_next_are_told(running: Running) -> None:
    made = bound(running.service)
    running.service.unbind(made.id)
    browser = Browser(running).sign_in("auditor")
    after = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    page = browser.submit("/find", {"q": made.middle_number_a, "time": after}).text
    assert "No binding then" in page
    assert "The last one ended at" in page
    before = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    page = browser.submit("/find", {"q": made.middle_number_a, "time": before}).text
    assert "began" in page
    assert f"/bindings/{made.id}" in page


def test_no_number_stands_in_an_address_or_a_log_line(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "bindings")
    made = bound(running.service)
    browser = Browser(running).sign_in("investigator")
    for form in ({"q": A, "time": "now"}, {"q": made.middle_number_a, "time": "now", "party": B}, {"q": B}):
        answer = browser.post("/find", form)
        assert answer.headers["Location"].startswith("/find/")
        assert browser.get(answer.headers["Location"]).status_code in (200, 303)
    for number in (A, B, made.middle_number_a):
        assert number not in " ".join(browser.addresses)
        assert number not in caplog.text


def test_an_answer_is_there_again_for_its_browser_and_for_no_other(running: Running) -> None:
    made = bound(running.service)
    browser, other = Browser(running).sign_in("auditor"), Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": made.middle_number_a, "time": "now"}).headers["Location"]
    assert [browser.get(path).status_code for _ in range(2)] == [200, 200]
    assert other.get(path).status_code == 404
    browser.post("/sign-out")
    assert browser.sign_in("auditor").get(path).status_code == 404


def test_what_is_left_empty_stays_as_it_was(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": A, "time": "now", "party": B}).headers["Location"]
    again = {"again": path.rpartition("/")[2], "time": "now"}
    assert f"/bindings/{made.id}" in browser.submit("/find", again).text
    assert "No binding then" in browser.submit("/find", again | {"party": C}).text
    assert f"/bindings/{made.id}" in browser.submit("/find", again | {"anybody": "1"}).text


def test_what_was_looked_for_is_forgotten_when_its_hour_is_over(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SEARCH_LASTS", timedelta(seconds=-1))
    browser = Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": A, "time": "now"}).headers["Location"]
    assert browser.get(path).status_code == 404
    database = running.service.runtime.database
    left = select(func.count()).select_from(searches)
    assert database.read(lambda connection: connection.execute(left).scalar()) == 1
    running.service.apply_retention()
    assert database.read(lambda connection: connection.execute(left).scalar()) == 0


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        ({}, "Who or what"),
        ({"q": "x" * 256}, "Who or what"),
        ({"q": A, "time": "25:00"}, "Time"),
        ({"q": A, "time": "soon"}, "Time"),
        ({"q": A, "time": "0001-01-01 00:00", "zone": "+05:30"}, "Time"),
        ({"q": A, "time": "9999-12-31 23:59", "zone": "America/New_York"}, "Time"),
        ({"q": A, "time": "9999-12-31T23:59Z"}, "Time"),
        ({"q": A, "zone": "Mars/Olympus"}, "Zone"),
        ({"q": A, "zone": "../../etc/passwd"}, "Zone"),
        ({"q": A, "time": "now", "party": "me"}, "The other party"),
        ({"q": A, "time": "2026-03-29 02:30", "zone": "Europe/Berlin"}, "Time"),
    ],
)
def test_what_is_wrong_is_named(running: Running, form: dict[str, str], fault: str) -> None:
    answer = Browser(running).post("/find", form)
    assert answer.status_code == 422
    assert f"<strong>{fault}</strong>" in answer.text
    assert A not in answer.text


def test_an_app_finds_what_it_asked_for_in_full_and_nothing_of_others(running: Running) -> None:
    mine, theirs = Browser(running).sign_in("app", "rides"), Browser(running).sign_in("app", "food")
    made = bound(running.service)
    form = {"q": made.middle_number_a, "time": "now"}
    assert A in mine.submit("/find", form).text
    assert made.id not in theirs.submit("/find", form).text
    for name in (made.id, made.bind_id, "order-42", "req-1"):
        assert made.id not in theirs.post("/find", {"q": name}).headers["Location"]
