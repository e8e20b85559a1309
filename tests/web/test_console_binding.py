"""A binding's page, a number's history, the access log, exports: masked, revealed on the record, role by role."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.binding import EventKind
from bindings.domain.phone import mask
from bindings.errors import NoMiddleNumber
from bindings.provider.simulator import Fault, FaultKind
from tests.service.harness import POOL, A, B, C, D
from tests.web.browser import Browser

if TYPE_CHECKING:
    import requests

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from bindings.service import BindingService
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

WHY = {"reason": "complaint 118"}


def bound(service: BindingService, **asked: Any) -> Binding:
    given: dict[str, Any] = {"phone_a": A, "phone_b": B, "pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}
    return service.as_caller(actor="key:rides", request_id="req-1").bind(**given | asked)


def test_a_page_tells_the_whole_life_of_a_binding_with_its_phones_masked(running: Running) -> None:
    made = bound(running.service, reference="order-42")
    running.service.unbind(made.id, reason="trip ended")
    page = Browser(running).sign_in("auditor").get(f"/bindings/{made.id}").text
    for told in (made.id, "order-42", "key:rides", "req-1", made.bind_id, made.middle_number_a, mask(A), mask(B)):
        assert str(told) in page
    for told in (
        "The provider made it",
        "trip ended",
        "It ended early: unbind requested, and confirmed by the provider.",
    ):
        assert told in page
    assert A not in page
    assert B not in page


def test_a_binding_that_the_provider_refused_shows_its_reply(running: Running, simulator: Simulator) -> None:
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-41"))
    with pytest.raises(NoMiddleNumber):
        bound(running.service)
    failed = running.service.search(state="failed").data[0]
    page = Browser(running).sign_in("auditor").get(f"/bindings/{failed.id}").text
    assert "Nothing came into being" in page
    assert "The provider: status -41" in page
    assert "failed, or never known" in page  # what the colour of its bar means
    assert "<dt>Sent</dt>" not in page  # that is kept of what came into being


def test_a_reveal_is_recorded_and_shown_once(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("investigator", "eve")
    revealed = browser.post(f"/bindings/{made.id}/reveal", WHY)
    assert revealed.status_code == 200
    assert A in revealed.text
    assert B in revealed.text
    told = [event for event in running.service.history(made.id) if event.kind is EventKind.REVEALED]
    assert [(event.actor, event.detail["reason"], bool(event.request_id)) for event in told] == [
        ("key:eve", "complaint 118", True)
    ]
    again = browser.get(f"/bindings/{made.id}").text
    assert A not in again
    assert "complaint 118" in again


def test_a_reveal_without_a_reason_shows_and_records_nothing(running: Running) -> None:
    made = bound(running.service)
    answer = Browser(running).sign_in("investigator").post(f"/bindings/{made.id}/reveal", {"reason": " "})
    assert (answer.status_code, "Reason" in answer.text, A in answer.text) == (422, True, False)
    assert running.service.history(made.id)[-1].kind is EventKind.ACTIVATED


ROUTES: list[tuple[str, str, dict[str, str] | None]] = [
    ("GET", "/", None),
    ("GET", "/bindings/{id}", None),
    ("GET", "/bindings/{id}/raw", None),
    ("GET", "/bindings/{id}/numbers/phone_a", None),
    ("POST", "/bindings/{id}/export", {}),
    ("POST", "/bindings/{id}/numbers/phone_a/export", {}),
    ("POST", "/bindings/{id}/reveal", WHY),
    ("POST", "/bindings/{id}/numbers/phone_a/export", WHY),
    ("GET", "/access", None),
    ("POST", "/access/export", {}),
    ("GET", "/exports", None),
    ("POST", "/exports", {}),
    ("POST", "/exports", WHY),
]
# In the order of ROUTES.
ALLOWED = {
    "app": [200, 404, 404, 404, 404, 404, 403, 404, 403, 403, 403, 403, 403],
    "auditor": [200, 200, 200, 200, 200, 200, 403, 403, 200, 200, 200, 200, 403],
    "investigator": [200] * 13,
    "admin": [200] * 13,
}


@pytest.mark.parametrize("role", ALLOWED)
def test_a_role_sees_the_pages_it_is_for_and_no_other(running: Running, role: str) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in(role, "somebody else")
    seen = []
    for method, path, form in ROUTES:
        there = path.format(id=made.id)
        answer = browser.get(there) if method == "GET" else browser.post(there, form)
        seen.append(answer.status_code)
        assert A not in answer.text or form == WHY
    assert seen == ALLOWED[role]


def test_an_app_sees_its_own_binding_in_full(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("app", "rides")
    for path in ("", "/raw", "/numbers/phone_a"):
        assert A in browser.get(f"/bindings/{made.id}{path}").text


def test_the_raw_json_is_the_apis(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("auditor")
    raw = browser.get(f"/bindings/{made.id}/raw")
    assert raw.headers["Content-Type"].startswith("application/json")
    assert raw.json()["binding"]["phone_a"] == mask(A)
    assert [event["kind"] for event in raw.json()["events"]] == ["requested", "activated"]


def test_a_numbers_history_shows_every_binding_and_what_is_odd(running: Running) -> None:
    service = running.service
    first = bound(service, mode="AXXB", reference="order-1")
    second = bound(service, phone_b=C, mode="AXXB", reference="order-2")  # the same phone at the same time
    browser = Browser(running).sign_in("investigator")
    page = browser.get(f"/bindings/{first.id}/numbers/phone_a").text
    assert "2 bindings" in page
    assert "Overlap" in page
    assert A not in page
    assert "Nobody was shown the phones" in page
    browser.post(f"/bindings/{second.id}/reveal", WHY)
    page = browser.get(f"/bindings/{first.id}/numbers/phone_a").text
    assert "complaint 118" in page
    assert browser.get(f"/bindings/{first.id}/numbers/nothing").status_code == 404


def test_a_number_that_was_looked_for_has_a_history_too(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": A})
    assert page.url.endswith("/history")
    assert f"/bindings/{made.id}" in page.text
    assert "never used" in browser.submit("/find", {"q": C}).text


def rows_of(answer: requests.Response) -> list[dict[str, str]]:
    if "csv" in answer.headers["Content-Type"]:
        return list(csv.DictReader(io.StringIO(answer.text)))
    return [json.loads(line) for line in answer.text.splitlines()]


def manifest(browser: Browser, answer: requests.Response) -> dict[str, Any]:
    found = re.match(r"<(/exports/[^>]+)>", answer.headers["Link"])
    assert found
    assert browser.get(found[1]).status_code == 200
    told: dict[str, Any] = browser.get(f"{found[1]}?as=json").json()
    return told


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_an_export_holds_the_view_masked_and_its_manifest_is_right(running: Running, kind: str) -> None:
    made = [bound(running.service, mode="AXXB", phone_b=other, reference="=1+1") for other in (B, C, D)]
    browser = Browser(running).sign_in("auditor")
    answer = browser.post(f"/bindings/{made[0].id}/numbers/phone_a/export", {"format": kind})
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="number-history-')
    rows = rows_of(answer)
    assert {row["id"] for row in rows} == {one.id for one in made}
    assert {row["phone_a"] for row in rows} == {mask(A)}
    assert {row["reference"] for row in rows} == {"'=1+1" if kind == "csv" else "=1+1"}
    assert A not in answer.text
    told = manifest(browser, answer)
    assert told["sha256"] == hashlib.sha256(answer.content).hexdigest()
    assert (told["row_count"], told["phones"], told["format"]) == (3, "masked", kind)
    assert told["filter"]["number"] == mask(A)


def test_an_export_in_full_is_recorded_at_each_binding_in_it(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("investigator", "eve")
    for path in (f"/bindings/{made.id}/numbers/phone_a/export", "/exports"):
        answer = browser.post(path, WHY)
        assert [row["phone_a"] for row in rows_of(answer)] == [A]
        assert manifest(browser, answer)["reason"] == "complaint 118"
    assert running.service.history(made.id)[-1].kind is EventKind.REVEALED
    page = browser.get("/access").text
    assert page.count("complaint 118") == 4  # two exports, the binding in the one, the period of the other
    assert A not in page


def test_an_answer_can_be_taken_away_with_how_each_binding_stands_to_it(running: Running) -> None:
    made = bound(running.service, reference="order-42")
    bound(running.service, phone_a=C, phone_b=D, reference="order-42")
    browser = Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": str(made.middle_number_a), "time": "now", "party": A}).headers["Location"]
    rows = rows_of(browser.post(f"{path}/export"))
    assert [(row["relation"], row["id"]) for row in rows] == [("certain", made.id)]
    path = browser.post("/find", {"q": "order-42"}).headers["Location"]
    assert len(rows_of(browser.post(f"{path}/export"))) == 2


def test_what_is_wrong_with_an_export_is_told_before_it_begins(running: Running) -> None:
    made = bound(running.service)
    browser = Browser(running).sign_in("investigator")
    for path, form in (
        (f"/bindings/{made.id}/export", {"format": "xls"}),
        ("/exports", {"from": "soon"}),
        ("/exports", {"reason": "x" * 256}),
    ):
        assert browser.post(path, form).status_code == 422
    assert running.service.access_log.entries().data == ()
    assert browser.get("/exports/nothing").status_code == 404


def test_the_access_log_is_read_page_by_page_without_loss(running: Running) -> None:
    made = bound(running.service)
    service = running.service.as_caller(actor="key:eve")
    for number in range(7):
        service.reveal([made.id], reason=f"reveal {number}")
        service.access_log.start_export(view=f"view {number}", narrowed={}, format="csv", reason=None)
    seen: list[str] = []
    cursor = None
    while True:
        page = service.access_log.entries(cursor=cursor, limit=3)
        seen += [one.reason or one.description for one in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 14
    assert {each for each in seen if each.startswith("reveal")} == {f"reveal {number}" for number in range(7)}
    answer = Browser(running).sign_in("auditor").get("/access?cursor=nonsense")
    assert answer.status_code == 422
