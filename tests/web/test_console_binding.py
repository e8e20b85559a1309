"""The pages of a binding, a number, the access log and exports: masked phones, recorded reveals, roles."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from bindings.domain.binding import EventKind
from bindings.domain.phone import mask
from bindings.errors import NoMiddleNumber
from bindings.provider.simulator import Fault, FaultKind
from bindings.web.console import security
from bindings.web.console.page_context import EXPORT_COOKIE, REVEAL_COOKIE
from tests.service.harness import POOL, A, B, C, D
from tests.web.browser import HTML, Browser

if TYPE_CHECKING:
    import requests

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from bindings.service import BindingService
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

REASON = {"reason": "complaint 118"}


def bind(service: BindingService, **fields: Any) -> Binding:
    defaults: dict[str, Any] = {"phone_a": A, "phone_b": B, "pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}
    return service.as_caller(actor="key:rides", request_id="req-1").bind(**defaults | fields)


def test_binding_page_shows_data_and_history_with_masked_phones(running: Running) -> None:
    binding = bind(running.service, reference="order-42")
    running.service.unbind(binding.id, reason="trip ended")
    page = Browser(running).sign_in("auditor").get(f"/bindings/{binding.id}").text
    for text in (
        binding.id,
        "order-42",
        "key:rides",
        "req-1",
        binding.bind_id,
        binding.middle_number_a,
        mask(A),
        mask(B),
    ):
        assert str(text) in page
    for text in (
        "The provider created the binding",
        "trip ended",
        "It ended early: unbind requested, and confirmed by the provider.",
    ):
        assert text in page
    assert A not in page
    assert B not in page


def test_binding_that_the_provider_refused_shows_the_response(running: Running, simulator: Simulator) -> None:
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-41"))
    with pytest.raises(NoMiddleNumber):
        bind(running.service)
    failed = running.service.search(state="failed").data[0]
    page = Browser(running).sign_in("auditor").get(f"/bindings/{failed.id}").text
    assert "No binding was created" in page
    assert "Provider response: status -41" in page
    assert "failed, or outcome never known" in page  # the legend of its bar
    assert "<dt>Sent</dt>" not in page  # only bindings that were created have it


def test_reveal_is_recorded_and_shows_the_phones_once(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("investigator", "eve")
    response = browser.post(f"/bindings/{binding.id}/reveal", REASON)
    assert (response.status_code, response.headers["Location"]) == (303, f"/bindings/{binding.id}")
    assert not any(phone in str(response.headers) for phone in (A, B))
    revealed = browser.get(response.headers["Location"])
    assert A in revealed.text
    assert B in revealed.text
    reveals = [event for event in running.service.history(binding.id) if event.kind is EventKind.REVEALED]
    assert [(event.actor, event.detail["reason"], bool(event.request_id)) for event in reveals] == [
        ("key:eve", "complaint 118", True)
    ]
    reloaded = browser.get(f"/bindings/{binding.id}").text
    assert A not in reloaded
    assert "complaint 118" in reloaded
    assert len(running.service.history(binding.id)) == 3, "a reload records no second reveal"


def test_proof_of_a_reveal_serves_its_session_its_binding_its_role_and_a_minute_only(running: Running) -> None:
    binding, other = bind(running.service), bind(running.service, phone_a=C, phone_b=D)
    eve, mallory = Browser(running).sign_in("investigator", "eve"), Browser(running).sign_in("investigator")
    eve.post(f"/bindings/{binding.id}/reveal", REASON)
    cookie = next(cookie for cookie in eve.session.cookies if cookie.name == REVEAL_COOKIE)
    assert (cookie.path, A in str(cookie.value)) == (f"/bindings/{binding.id}", False)
    proof = {"Cookie": f"{REVEAL_COOKIE}={cookie.value}; {security.COOKIE}="}
    for browser, shown in ((eve, binding), (eve, other), (mallory, binding)):
        token = str(browser.session.cookies[security.COOKIE])
        page = running.get(f"/bindings/{shown.id}", HTML | {"Cookie": proof["Cookie"] + token})
        assert page.status_code == 200
        assert ("Shown in full once" in page.text) == (browser is eve and shown is binding)
    token = str(eve.session.cookies[security.COOKIE])
    past, future = int(time.time()) - 1, int(time.time()) + 1_000
    assert security.is_reveal_proof(token, "id", security.reveal_proof(token, "id", future), future)
    assert not security.is_reveal_proof(token, "id", security.reveal_proof(token, "id", past), past + 1)
    for forged in ("", ".", "1e9.x", f"{future}.", security.reveal_proof(token, "id", past)):
        assert not security.is_reveal_proof(token, "id", forged, past + 1)


def test_reveal_without_a_reason_shows_and_records_nothing(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("investigator")
    for reason in (" ", "x" * 256):
        response = browser.post(f"/bindings/{binding.id}/reveal", {"reason": reason})
        assert (response.status_code, "Reason" in response.text, A in response.text) == (422, True, False)
        assert f'value="{reason.strip()}"' in response.text, "the form keeps the reason"
    assert running.service.history(binding.id)[-1].kind is EventKind.ACTIVATED


ROUTES: list[tuple[str, str, dict[str, str] | None]] = [
    ("GET", "/", None),
    ("GET", "/bindings/{id}", None),
    ("GET", "/bindings/{id}/raw", None),
    ("GET", "/bindings/{id}/numbers/phone_a", None),
    ("POST", "/bindings/{id}/export", {}),
    ("POST", "/bindings/{id}/numbers/phone_a/export", {}),
    ("POST", "/bindings/{id}/reveal", REASON),
    ("POST", "/bindings/{id}/numbers/phone_a/export", REASON),
    ("GET", "/access", None),
    ("POST", "/access/export", {}),
    ("GET", "/exports", None),
    ("POST", "/exports", {}),
    ("POST", "/exports", REASON),
]
# In the order of ROUTES.
ALLOWED = {
    "app": [200, 404, 404, 404, 404, 404, 403, 404, 403, 403, 403, 403, 403],
    "auditor": [200, 200, 200, 200, 200, 200, 403, 403, 200, 200, 200, 200, 403],
    "investigator": [200] * 6 + [303] + [200] * 6,
    "admin": [200] * 6 + [303] + [200] * 6,
}


@pytest.mark.parametrize("role", ALLOWED)
def test_role_may_use_exactly_its_routes(running: Running, role: str) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in(role, "other caller")
    statuses = []
    for method, path, form in ROUTES:
        url_path = path.format(id=binding.id)
        response = browser.get(url_path) if method == "GET" else browser.post(url_path, form)
        statuses.append(response.status_code)
        assert A not in response.text or form == REASON
    assert statuses == ALLOWED[role]


def test_app_key_sees_its_own_binding_with_full_phones(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("app", "rides")
    for path in ("", "/raw", "/numbers/phone_a"):
        assert A in browser.get(f"/bindings/{binding.id}{path}").text


def test_raw_json_has_the_format_of_the_api(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    raw = browser.get(f"/bindings/{binding.id}/raw")
    assert raw.headers["Content-Type"].startswith("application/json")
    assert raw.json()["binding"]["phone_a"] == mask(A)
    assert [event["kind"] for event in raw.json()["events"]] == ["requested", "activated"]


def test_number_history_shows_all_bindings_anomalies_and_reveals(running: Running) -> None:
    service = running.service
    first = bind(service, mode="AXXB", reference="order-1")
    second = bind(service, phone_b=C, mode="AXXB", reference="order-2")  # the same phone at the same time
    bind(service, phone_a=C, phone_b=D, mode="AXXB", reference="order-3")
    browser = Browser(running).sign_in("investigator")
    page = browser.get(f"/bindings/{first.id}/numbers/phone_a").text
    assert "2 bindings" in page
    assert "<strong>Allowed overlap, 1 on this page.</strong>" in page
    assert "The conflict policy in force does not allow it" not in page
    assert page.index(">order-2</a> <span") < page.index(">order-1</a> <span"), "the newest start is first"
    assert A not in page
    assert "No reveal and no export in full of these bindings is recorded." in page
    browser.post(f"/bindings/{second.id}/reveal", REASON)
    page = browser.get(f"/bindings/{first.id}/numbers/phone_a").text
    assert "complaint 118" in page
    assert browser.get(f"/bindings/{first.id}/numbers/nothing").status_code == 404


def test_number_history_names_the_exports_in_full_of_its_bindings(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("investigator")
    after = (binding.requested_at + timedelta(microseconds=1)).isoformat()
    for form in ({"to": binding.requested_at.isoformat()}, {"from": after}, {"what": "events"}, {"masked": ""}):
        reason = {} if "masked" in form else {"reason": "other period"}
        assert browser.post("/exports", form | reason).status_code == 200
    page = browser.get(f"/bindings/{binding.id}/numbers/phone_a").text
    assert "No reveal and no export in full of these bindings is recorded." in page
    exports: tuple[dict[str, str], ...] = ({}, {"from": binding.requested_at.isoformat()}, {"to": after})
    for number, form in enumerate(exports):
        assert browser.post("/exports", form | {"reason": f"regulator audit {number}"}).status_code == 200
    page = browser.get(f"/bindings/{binding.id}/numbers/phone_a").text
    assert all(f"regulator audit {number}" in page for number in range(len(exports)))
    assert "export of bindings from - to -" in page
    assert "other period" not in page


def test_search_for_a_number_without_a_time_shows_its_history(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": A})
    assert page.url.endswith("/history")
    assert f"/bindings/{binding.id}" in page.text
    assert "No binding recorded here has this number" in browser.submit("/find", {"q": C}).text


def parse_rows(response: requests.Response) -> list[dict[str, str]]:
    if "csv" in response.headers["Content-Type"]:
        assert response.content.startswith(b"\xef\xbb\xbf"), "Excel needs the mark of UTF-8"
        return list(csv.DictReader(io.StringIO(response.content.decode("utf-8-sig"))))
    return [json.loads(line) for line in response.text.splitlines()]


def get_manifest(browser: Browser, response: requests.Response) -> dict[str, Any]:
    link = re.match(r"<(/exports/[^>]+)>", response.headers["Link"])
    assert link
    assert browser.get(link[1]).status_code == 200
    manifest: dict[str, Any] = browser.get(f"{link[1]}?as=json").json()
    return manifest


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_export_has_the_rows_of_the_page_masked_and_a_correct_manifest(running: Running, kind: str) -> None:
    bindings = [bind(running.service, mode="AXXB", phone_b=other, reference="=1+1") for other in (B, C, D)]
    browser = Browser(running).sign_in("auditor")
    response = browser.post(f"/bindings/{bindings[0].id}/numbers/phone_a/export", {"format": kind})
    assert response.headers["Content-Disposition"].startswith('attachment; filename="number-history-')
    rows = parse_rows(response)
    assert {row["id"] for row in rows} == {binding.id for binding in bindings}
    assert {row["phone_a"] for row in rows} == {mask(A)}
    assert {row["reference"] for row in rows} == {"'=1+1" if kind == "csv" else "=1+1"}
    assert A not in response.text
    manifest = get_manifest(browser, response)
    assert manifest["sha256"] == hashlib.sha256(response.content).hexdigest()
    assert (manifest["row_count"], manifest["phones"], manifest["format"]) == (3, "masked", kind)
    assert manifest["filter"]["number"] == mask(A)
    assert manifest["file"] in response.headers["Content-Disposition"]


def test_manifest_has_a_middle_number_in_full_and_the_start_of_a_period_first(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    number = str(binding.middle_number_a)
    search_path = browser.post("/find", {"q": number, "time": "now"}).headers["Location"]
    for path in (
        f"/bindings/{binding.id}/numbers/middle_number_a/export",
        f"{search_path}/export",
        f"{search_path}/history/export",
    ):
        assert get_manifest(browser, browser.post(path))["filter"]["middle_number"] == number, path
    response = browser.post("/exports", {"from": "2026-11-01", "to": "2026-12-01 12:00"})
    page = browser.get(re.findall("/exports/[^>]+", response.headers["Link"])[0]).text
    assert page.index("<dt>From</dt>") < page.index("<dt>To</dt>")
    assert "2026-11-01 00:00:00" in page


def test_export_page_names_the_last_export_and_keeps_what_was_entered_on_an_error(running: Running) -> None:
    browser = Browser(running).sign_in("investigator")
    assert "Last export" not in browser.get("/exports").text
    response = browser.post("/exports", {"what": "events"})
    export_id = browser.session.cookies[EXPORT_COOKIE]
    assert f"</exports/{export_id}>" in response.headers["Link"]
    page = browser.get("/exports").text
    assert "Last export of this browser: events" in page
    assert f'href="/exports/{export_id}"' in page
    form = {"what": "events", "from": "2026-11-02", "to": "soon", "format": "ndjson", "reason": "audit 7"}
    refused = browser.post("/exports", form)
    assert refused.status_code == 422
    for text in (
        'value="events" checked',
        'value="2026-11-02"',
        'value="soon"',
        'value="ndjson" checked',
        "audit 7",
    ):
        assert text in refused.text
    for end in ("2026-11-02", "2026-11-01 10:00"):
        reversed_period = browser.post("/exports", form | {"to": end})
        assert reversed_period.status_code == 422
        assert "<strong>From</strong> must be earlier than to" in reversed_period.text
        assert "<strong>To</strong> must be later than from" in reversed_period.text


def test_export_with_full_phones_is_recorded_at_each_binding(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("investigator", "eve")
    for path in (f"/bindings/{binding.id}/numbers/phone_a/export", "/exports"):
        response = browser.post(path, REASON)
        assert [row["phone_a"] for row in parse_rows(response)] == [f"'{A}"]
        assert get_manifest(browser, response)["reason"] == "complaint 118"
    assert running.service.history(binding.id)[-1].kind is EventKind.REVEALED
    page = browser.get("/access").text
    assert page.count("complaint 118") == 4  # two exports, the binding in the one, the period of the other
    assert A not in page


def test_hash_of_a_file_with_full_phones_is_hidden_from_roles_that_see_masks(running: Running) -> None:
    service = running.service
    created = running.bind(running.key("app", "rides")).json()
    auditor = Browser(running).sign_in("auditor", "anna")
    eve = Browser(running).sign_in("investigator", "eve")
    rides = Browser(running).sign_in("app", "rides")
    number = f"/bindings/{created['id']}/numbers/phone_a/export"
    for browser, form in ((eve, REASON), (rides, {})):
        response = browser.post(number, form)
        assert A in response.text
        link = response.headers["Link"].partition(">")[0].removeprefix("<")
        digest = hashlib.sha256(response.content).hexdigest()
        for path in (link, f"{link}?as=json", "/access"):
            assert digest not in auditor.get(path).text
        assert auditor.get(f"{link}?as=json").json()["sha256"] is None
        assert digest in eve.get(link).text
        assert eve.get(f"{link}?as=json").json()["sha256"] == digest
    assert rides.get(f"{link}?as=json").json()["sha256"] == digest
    assert rides.get(f"{link}?as=json").json()["filter"]["phones of own bindings"] == "in full"
    events = eve.post(f"/bindings/{created['id']}/export")
    assert get_manifest(auditor, events)["sha256"] == hashlib.sha256(events.content).hexdigest()
    assert service.access_log.get_export(link.rpartition("/")[2]).sha256 == digest


def test_search_results_are_exported_with_the_relation_of_each_binding(running: Running) -> None:
    binding = bind(running.service, reference="order-42")
    bind(running.service, phone_a=C, phone_b=D, reference="order-42")
    browser = Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": str(binding.middle_number_a), "time": "now", "party": A}).headers[
        "Location"
    ]
    rows = parse_rows(browser.post(f"{path}/export"))
    assert [(row["relation"], row["id"]) for row in rows] == [("certain", binding.id)]
    path = browser.post("/find", {"q": "order-42"}).headers["Location"]
    assert len(parse_rows(browser.post(f"{path}/export"))) == 2


def test_invalid_export_request_is_refused_and_not_recorded(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("investigator")
    for path, form in (
        (f"/bindings/{binding.id}/export", {"format": "xls"}),
        ("/exports", {"from": "soon"}),
        ("/exports", {"reason": "x" * 256}),
    ):
        assert browser.post(path, form).status_code == 422
    acts = [entry.act for entry in running.service.access_log.entries().data]
    assert acts == ["session.began", "key.created"], "no export"
    assert browser.get("/exports/nothing").status_code == 404


def test_exported_access_log_keeps_the_names_of_its_columns(running: Running) -> None:
    running.service.access_log.start_export(view="bindings", filters={}, format="csv", reason=None)
    rows = parse_rows(Browser(running).sign_in("auditor").post("/access/export", {}))
    assert list(rows[0]) == [
        "at",
        "actor",
        "what",
        "reason",
        "binding_id",
        "export_id",
        "row_count",
        "whole",
        "request_id",
        "act",
        "key_id",
        "kind",
        "reference",
    ]
    assert (rows[-1]["what"], rows[-1]["whole"]) == ("export of bindings, csv", "false")


def test_access_log_pages_contain_every_entry_once(running: Running) -> None:
    binding = bind(running.service)
    service = running.service.as_caller(actor="key:eve")
    for number in range(7):
        service.reveal([binding.id], reason=f"reveal {number}")
        service.access_log.start_export(view=f"view {number}", filters={}, format="csv", reason=None)
        service.api_keys.create(name=f"name-{number}", role="app")
    descriptions: list[str] = []
    cursor = None
    while True:
        page = service.access_log.entries(cursor=cursor, limit=3)
        descriptions += [entry.reason or entry.description for entry in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(descriptions) == len(set(descriptions)) == 21
    assert {text for text in descriptions if text.startswith("reveal")} == {
        f"reveal {number}" for number in range(7)
    }


def test_two_keys_of_one_name_are_told_apart_on_the_pages(running: Running) -> None:
    first, second = (running.key("admin", "ann") for _ in range(2))
    binding_id = running.bind(first).json()["id"]
    running.post(f"/v1/bindings/{binding_id}/reveal", {"reason": "complaint 118"}, second)
    auditor = Browser(running).sign_in("auditor")
    second_id, first_id = [key.id for key in running.service.api_keys.list() if key.name == "ann"]
    history = running.get(f"/v1/bindings/{binding_id}/events", first).json()["data"]
    assert [event["key_id"] for event in history] == [first_id, first_id, second_id]
    page = auditor.get(f"/bindings/{binding_id}").text
    assert (page.count(f"key …{first_id[-8:]}"), page.count(f"key …{second_id[-8:]}")) == (2, 1)
    [reveal] = [entry for entry in running.service.access_log.entries().data if entry.act is None]
    assert (reveal.actor, reveal.key_id) == ("key:ann", second_id)
    assert f"key …{second_id[-8:]}" in auditor.get("/access").text


ACCESS_LOG_CURSORS = (
    "nonsense",
    "[" * 20_000,
    '[["2026-01-01T00:00:00+00:00", 9223372036854775808], null]',
    '[["2026-01-01T00:00:00+00:00", 1e400], null]',
    '[["2026-01-01T00:00:00+00:00", -1], null]',
    '[["2026-01-01T00:00:00+00:00", true], null]',
    '[["0001-01-01T00:00:00+14:00", 1], null]',
    '[["9999-12-31T23:59:59-14:00", 1], null]',
    '[["2026-01-01T00:00:00", 1], null]',
    '[null, ["2026-01-01T00:00:00+00:00", "x"]]',
    '[null, ["2026-01-01T00:00:00+00:00", {"a": 1}]]',
    '{"a": 1, "b": 2}',
    "[1, 2]",
    "[null]",
)


def test_forged_cursor_of_the_access_log_is_refused(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    for cursor in ACCESS_LOG_CURSORS:
        for sent in (cursor[:5_000], base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("=")):
            assert browser.get(f"/access?cursor={quote(sent)}").status_code == 422, cursor[:80]
