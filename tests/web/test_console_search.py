"""The search page: ids lead to their binding, a number with a time to its holder; no URL contains a number."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from sqlalchemy import func, select

from bindings.domain.phone import mask
from bindings.errors import PhoneInUse
from bindings.store import sessions
from bindings.store.schema import searches
from bindings.web.console.pasted_text import digits_of_number
from tests.service.harness import POOL, A, B, C, D
from tests.web.browser import Browser

if TYPE_CHECKING:
    from bindings.service import BindingService
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")


BIND: dict[str, Any] = {"phone_a": A, "phone_b": B, "pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}


def bind(service: BindingService, **fields: Any) -> Any:
    return service.as_caller(actor="key:rides", request_id="req-1").bind(
        **BIND | {"reference": "order-42"} | fields
    )


def test_name_of_a_single_binding_redirects_to_the_binding(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    for name in (binding.id, binding.id.upper(), binding.bind_id, "order-42", "req-1"):
        assert browser.post("/find", {"q": name}).headers["Location"] == f"/bindings/{binding.id}", name


@pytest.mark.parametrize("name", ["1234567", "4711-2026-11", "+49 30 1234"])
def test_digits_that_were_never_a_number_are_searched_as_a_name(running: Running, name: str) -> None:
    binding = bind(running.service, reference=name)
    browser = Browser(running).sign_in("auditor")
    assert browser.post("/find", {"q": name}).headers["Location"] == f"/bindings/{binding.id}"
    bind(running.service, reference=name, phone_a=C, phone_b=D)
    assert "2 bindings" in browser.submit("/find", {"q": name}).text
    running.service.bind(**BIND | {"phone_a": "9188067771", "phone_b": "9188067772", "reference": A})
    assert "9188067771" not in browser.submit("/find", {"q": A}).text
    assert mask(A) in browser.submit("/find", {"q": A}).text, (
        "digits that were used as a number are searched as a number"
    )


WAYS_OF_WRITING = [
    "+91 88067-70{end}",
    "(+91) 88067 70{end}",
    "+91 (0) 880-67-70{end}",
    "91/88067.70{end}",
    "\u202a+918806770{end}\u202c",
    "\u2068918806770{end}\u2069",
    "\ufeff91\u00a08806\u202f7\u201170{end}\u200b",
    "+91\ufe0f8806770{end}",
    "\uff0b\uff19\uff11\u3000\uff188067\uff0d70{end}",
    "\u0669\u0661\u0668806770{end}",
    "tel:+91-880-67-70{end}",
    "\u202atel:+918806770{end}",
    "'918806770{end}",
    " 918806770{end}\t",
]


@pytest.mark.parametrize("written", WAYS_OF_WRITING)
def test_number_is_found_in_every_way_of_writing_it(running: Running, written: str) -> None:
    binding = bind(running.service, phone_a="9188067701", phone_b="9188067702")
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": written.format(end="1")})
    assert (page.status_code, binding.id in page.text) == (200, True)
    at_now = {"q": binding.middle_number_a, "time": "now"}
    for end, is_holder in (("2", True), ("3", False)):
        page = browser.submit("/find", at_now | {"party": written.format(end=end)})
        assert page.status_code == 200
        assert ("One binding had this number" in page.text) is is_holder


@pytest.mark.parametrize(
    "text", ["", "+", "()", "12a45", "12'345", "order 12345", "12345\x00", "+12+345", "\u00bd", "-1,5"]
)
def test_text_that_is_not_a_number_is_not_read_as_one(text: str) -> None:
    assert digits_of_number(text) is None


@pytest.mark.parametrize("pasted", ["\u202aorder-42\u202c", "order-42\u200b", "\ufefforder-42 ", "order-42\u00a0"])
def test_name_is_found_if_copying_has_added_invisible_characters(running: Running, pasted: str) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    assert browser.post("/find", {"q": pasted}).headers["Location"] == f"/bindings/{binding.id}"


def test_search_with_a_control_character_is_refused_as_such(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    response = browser.post("/find", {"q": "order\u202e42"})
    assert response.status_code == 422
    assert "must not contain control characters" in response.text
    assert "is required" not in response.text


def test_number_that_begins_with_0_is_a_middle_number_or_a_name_or_refused_with_advice(running: Running) -> None:
    binding = bind(running.service, pool_number="075566")
    browser = Browser(running).sign_in("auditor")
    assert binding.middle_number_a.startswith("0")
    assert binding.id in browser.submit("/find", {"q": binding.middle_number_a}).text
    named = bind(running.service, phone_a=C, phone_b=D, reference="0049301234")
    assert browser.post("/find", {"q": "0049301234"}).headers["Location"] == f"/bindings/{named.id}"
    response = browser.post("/find", {"q": f"00{A}"})
    assert response.status_code == 422
    assert "begins with 0: give it with its country code, without 00 or the national 0" in response.text


def test_name_of_several_bindings_lists_them_and_an_unknown_name_has_no_matches(running: Running) -> None:
    bind(running.service)
    bind(running.service, phone_a=C, phone_b=D)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": "order-42"}).text
    assert "2 bindings" in page
    assert A not in page
    assert "No matches" in browser.submit("/find", {"q": "order-43"}).text


def test_request_id_of_a_refused_request_shows_the_refusal_and_the_holder(running: Running) -> None:
    holder = bind(running.service)
    with pytest.raises(PhoneInUse):
        running.service.as_caller(actor="key:food", request_id="req-2").bind(**BIND)
    page = Browser(running).sign_in("auditor").submit("/find", {"q": "req-2"}).text
    assert "Refused before the call" in page
    assert holder.id in page


def test_middle_number_with_a_time_shows_its_holder_with_masked_phones(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    for party in ("", A, f"+{B}"):
        page = browser.submit("/find", {"q": binding.middle_number_a, "time": "now", "party": party}).text
        assert "One binding had this number" in page
        assert "certain" in page
        assert f"/bindings/{binding.id}" in page
        assert binding.middle_number_a in page
        assert mask(A) in page
        assert A not in page
        assert B not in page
    assert (
        "No binding recorded here with this party at this time"
        in browser.submit("/find", {"q": binding.middle_number_a, "time": "now", "party": C}).text
    )


def test_phone_with_a_time_shows_its_binding(running: Running) -> None:
    binding = bind(running.service)
    page = Browser(running).sign_in("auditor").submit("/find", {"q": f"+{A}", "time": "now"}).text
    assert f"/bindings/{binding.id}" in page
    assert A not in page


def test_time_without_a_holder_shows_the_previous_and_the_next_binding(running: Running) -> None:
    binding = bind(running.service)
    running.service.unbind(binding.id)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": binding.middle_number_a, "time": "now"}).text
    assert "No binding recorded here at this time" in page
    assert "The last one ended at" in page
    before = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    page = browser.submit("/find", {"q": binding.middle_number_a, "time": before}).text
    assert "began" in page
    assert f"/bindings/{binding.id}" in page


def test_no_url_and_no_log_line_contains_a_number(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "bindings")
    binding = bind(running.service)
    browser = Browser(running).sign_in("investigator")
    for form in ({"q": A, "time": "now"}, {"q": binding.middle_number_a, "time": "now", "party": B}, {"q": B}):
        response = browser.post("/find", form)
        assert response.headers["Location"].startswith("/find/")
        assert browser.get(response.headers["Location"]).status_code in (200, 303)
    for number in (A, B, binding.middle_number_a):
        assert number not in " ".join(browser.addresses)
        assert number not in caplog.text


def test_search_results_are_available_to_the_same_session_only(running: Running) -> None:
    binding = bind(running.service)
    browser, other = Browser(running).sign_in("auditor"), Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": binding.middle_number_a, "time": "now"}).headers["Location"]
    assert [browser.get(path).status_code for _ in range(2)] == [200, 200]
    assert other.get(path).status_code == 404
    browser.post("/sign-out")
    assert browser.sign_in("auditor").get(path).status_code == 404


def test_empty_fields_of_a_refined_search_keep_their_values(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": A, "time": "now", "party": B}).headers["Location"]
    refined = {"search_id": path.rpartition("/")[2], "time": "now"}
    assert f"/bindings/{binding.id}" in browser.submit("/find", refined).text
    page = browser.submit("/find", refined | {"party": C}).text
    assert "No binding recorded here with this party at this time" in page
    assert f"/bindings/{binding.id}" in browser.submit("/find", refined | {"any_party": "1"}).text


@pytest.mark.parametrize("search_id", ["\0", "a\0b", "é", "x" * 33, "no such search"])
def test_id_that_no_search_has_is_an_expired_search(running: Running, search_id: str) -> None:
    browser = Browser(running).sign_in("auditor")
    assert browser.post("/find", {"search_id": search_id, "time": "now"}).status_code == 404
    assert browser.get(f"/find/{quote(search_id)}").status_code == 404


def test_party_that_no_holder_has_does_not_hide_the_holders(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": binding.middle_number_a, "time": "now", "party": C}).headers["Location"]
    page = browser.get(path).text
    assert "No binding recorded here with this party at this time" in page
    assert "1 binding with other parties had this number at that time." in page
    assert "No earlier binding" not in page
    assert str(binding.middle_number_a) in page  # a middle number is not masked
    shown = {"search_id": path.rpartition("/")[2], "time": "now", "any_party": "1"}
    assert f"/bindings/{binding.id}" in browser.submit("/find", shown).text
    running.service.unbind(binding.id)
    later = {"q": str(binding.middle_number_a), "time": "now", "party": C}
    page = browser.submit("/find", later).text
    assert "with other parties" not in page
    assert "No earlier binding with this party is recorded." in page


def test_search_is_unavailable_after_it_expires_and_then_deleted_by_retention(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SEARCH_LIFETIME", timedelta(seconds=-1))
    browser = Browser(running).sign_in("auditor")
    path = browser.post("/find", {"q": A, "time": "now"}).headers["Location"]
    assert browser.get(path).status_code == 404
    database = running.service.runtime.database
    count = select(func.count()).select_from(searches)
    assert database.read(lambda connection: connection.execute(count).scalar()) == 1
    running.service.apply_retention()
    assert database.read(lambda connection: connection.execute(count).scalar()) == 0


@pytest.mark.parametrize(
    ("form", "label"),
    [
        ({}, "Number or name"),
        ({"q": "x" * 256}, "Number or name"),
        ({"q": A, "time": "25:00"}, "Time"),
        ({"q": A, "time": "soon"}, "Time"),
        ({"q": A, "time": "0001-01-01 00:00", "zone": "+05:30"}, "Time"),
        ({"q": A, "time": "9999-12-31 23:59", "zone": "America/New_York"}, "Time"),
        ({"q": A, "time": "9999-12-31T23:59Z"}, "Time"),
        ({"q": A, "zone": "Mars/Olympus"}, "Time zone"),
        ({"q": A, "zone": "../../etc/passwd"}, "Time zone"),
        ({"q": A, "time": "now", "party": "me"}, "Other party"),
        ({"q": A, "time": "now", "party": "00" + B}, "Other party"),
        ({"q": "00" + B}, "Number or name"),
        ({"q": A, "time": "2026-03-29 02:30", "zone": "Europe/Berlin"}, "Time"),
    ],
)
def test_invalid_field_is_named_in_the_error(running: Running, form: dict[str, str], label: str) -> None:
    response = Browser(running).post("/find", form)
    assert response.status_code == 422
    assert f"<strong>{label}</strong>" in response.text
    for text in form.values():
        assert f'value="{text}"' in response.text, "the form keeps what was entered"
    assert A not in "".join(response.headers.values())


def test_app_key_finds_only_its_own_bindings_with_full_phones(running: Running) -> None:
    own, other = Browser(running).sign_in("app", "rides"), Browser(running).sign_in("app", "food")
    binding = bind(running.service)
    form = {"q": binding.middle_number_a, "time": "now"}
    assert A in own.submit("/find", form).text
    assert binding.id not in other.submit("/find", form).text
    for name in (binding.id, binding.bind_id, "order-42", "req-1"):
        assert binding.id not in other.post("/find", {"q": name}).headers["Location"]


def test_refined_search_keeps_its_values_on_an_error(running: Running) -> None:
    binding = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    search_id = browser.post("/find", {"q": A, "time": "now"}).headers["Location"].rpartition("/")[2]
    refused = browser.post("/find", {"search_id": search_id, "time": "25:00"})
    assert refused.status_code == 422
    assert f'name="search_id" value="{search_id}"' in refused.text
    assert mask(A) in refused.text
    assert A not in refused.text
    assert f"/bindings/{binding.id}" in browser.submit("/find", {"search_id": search_id, "time": "now"}).text


@pytest.mark.parametrize("time", ["", "now"])
def test_reference_that_is_also_a_number_in_use_is_offered_beside_it(running: Running, time: str) -> None:
    number = str(bind(running.service).middle_number_a)
    named = bind(running.service, phone_a=C, phone_b=D, reference=number)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": number, "time": time})
    assert "Middle number" in page.text
    link = re.search(r'href="(/find/[^"]+/names)"', page.text)
    assert link
    matches = browser.get(link[1]).text
    assert f"/bindings/{named.id}" in matches
    export = re.search(r'action="(/find/[^"]+/names/export)"', matches)
    assert export
    assert named.id in browser.post(export[1]).text
    other = browser.submit("/find", {"q": A, "time": time}).text
    assert "/names" not in other
