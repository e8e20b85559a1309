"""The page of all bindings: filters in the address, counts, paging, roles, and the export of exactly the view."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bindings.domain.binding import EventKind
from bindings.domain.phone import mask
from bindings.errors import NoMiddleNumber
from bindings.provider.simulator import Fault, FaultKind
from bindings.store import binding_list
from bindings.web.console import binding_list as page_module
from tests.service.harness import POOL, A, B, C, D, E, F, feed_has_caught_up
from tests.web.browser import Browser
from tests.web.pages import Page

if TYPE_CHECKING:
    import requests

    from bindings.domain.access_log import AccessLogEntry
    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from bindings.service import BindingService
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

PAIRS = ((A, B), (C, D), (E, F))


def bind(service: BindingService, actor: str = "key:rides", **fields: Any) -> Binding:
    defaults: dict[str, Any] = {"phone_a": A, "phone_b": B, "pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}
    return service.as_caller(actor=actor).bind(**defaults | fields)


def bind_pairs(service: BindingService, actor: str = "key:rides") -> list[Binding]:
    """Bind three pairs: the last one in another mode and with another end."""
    bound = [
        bind(service, actor, phone_a=a, phone_b=b, reference=f"ride-{number}", expire_s=3_600 - number)
        for number, (a, b) in enumerate(PAIRS[:2])
    ]
    a, b = PAIRS[2]
    return [*bound, bind(service, actor, phone_a=a, phone_b=b, mode="AXXB", reference="meal-2", expire_s=600)]


def shown(response: requests.Response) -> list[str]:
    """Return the ids of the bindings in the order of the rows."""
    assert response.status_code == 200, response.text
    return re.findall(r'<tr data-href="/bindings/([0-9a-f-]{36})">', response.text)


def ids(bindings: list[Binding]) -> list[str]:
    return [binding.id for binding in bindings]


def filtered(browser: Browser, **form: str) -> str:
    """Send the form of filters and return the address that it leads to."""
    response = browser.post("/bindings", form)
    assert response.status_code == 303, response.text
    return str(response.headers["Location"])


def test_form_leads_to_an_address_that_shows_the_matching_bindings(running: Running) -> None:
    bound = bind_pairs(running.service)
    running.service.unbind(bound[0].id)
    browser = Browser(running).sign_in("auditor")
    assert shown(browser.get("/bindings")) == ids(bound[::-1])
    for form, expected in (
        ({"state": "unbound"}, bound[:1]),
        ({"mode": "AXXB"}, bound[2:]),
        ({"active": "true"}, bound[:0:-1]),
        ({"reference_prefix": "ride-"}, bound[1::-1]),
        ({"pool_number": POOL, "state_reason": "asked"}, bound[:1]),
        ({"actor": "key:rides", "provider_status": ""}, bound[::-1]),
        ({"app_id": "other"}, []),
        ({"order": "oldest"}, bound),
        ({"order": "ends_soonest", "active": "true"}, [bound[2], bound[1]]),
        ({"period": "7d"}, bound[::-1]),
        ({"period": "today", "mode": "AXXB"}, bound[2:]),
        ({"period": "yesterday"}, []),
    ):
        address = filtered(browser, **form)
        wanted = {name: [value] for name, value in form.items() if value}
        assert parse_qs(urlsplit(address).query) == wanted, form
        assert shown(browser.get(address)) == ids(expected), form


def test_page_masks_phones_and_every_row_opens_its_binding(running: Running) -> None:
    bound = bind(running.service, reference="ride-1")
    page = Browser(running).sign_in("auditor").get("/bindings").text
    for phone in (A, B):
        assert phone not in page
        assert mask(phone) in page
    assert str(bound.middle_number_a) in page
    assert f'<a href="/bindings/{bound.id}">' in page
    parsed = Page(page)
    assert parsed.errors == []
    assert f"/bindings/{bound.id}" in parsed.links


def test_address_has_times_that_mean_the_same_in_every_zone(running: Running) -> None:
    bound = bind(running.service)
    browser = Browser(running).sign_in("auditor")
    browser.post("/zone", {"zone": "+05:30", "next": "/"})
    day = (datetime.now(UTC) + timedelta(hours=5, minutes=30)).strftime("%Y-%m-%d")
    address = filtered(browser, **{"from": day, "to": f"{day} 23:59:59", "period": ""})
    start = datetime.fromisoformat(f"{day}T00:00:00+05:30").astimezone(UTC)
    assert parse_qs(urlsplit(address).query)["from"] == [start.isoformat().replace("+00:00", "Z")]
    page = browser.get(address)
    assert shown(page) == [bound.id]
    assert f'value="{day} 00:00:00"' in page.text
    response = browser.post("/zone", {"zone": "UTC", "next": address})
    assert response.headers["Location"] == address, "the view survives a change of the zone"
    in_utc = browser.get(address)
    assert shown(in_utc) == [bound.id]
    assert f'value="{start:%Y-%m-%d %H:%M:%S}"' in in_utc.text


def test_shared_address_survives_the_sign_in(running: Running) -> None:
    bound = bind_pairs(running.service)
    address = "/bindings?mode=AXXB&reference_prefix=meal-"
    browser = Browser(running)
    key = running.key("auditor")["Authorization"].removeprefix("Bearer ")
    sign_in = browser.get(address)
    assert sign_in.status_code == 303
    form = next(
        form for form in Page(browser.get(sign_in.headers["Location"]).text).forms if "next" in form.fields
    )
    response = browser.post("/sign-in", {"key": key, "next": form.fields["next"]})
    assert response.headers["Location"] == address
    assert shown(browser.get(address)) == [bound[2].id]


def test_wrong_filters_are_named_and_what_was_entered_is_kept(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    wrong = {
        "state": "lost",
        "mode": "AB",
        "pool_number": "a b",
        "period": "",
        "from": "yesterday-ish",
        "reference_prefix": "kept",
        "order": "ends_soonest",
    }
    response = browser.post("/bindings", wrong)
    assert response.status_code == 422
    for label in ("State", "Mode", "Pool", "From", "Order"):
        assert f"<strong>{label}</strong>" in response.text, label
    for value in ("kept", "a b", "yesterday-ish"):
        assert f'value="{value}"' in response.text
    assert '<details class="filters" open>' in response.text
    assert "<table" not in response.text
    by_address = browser.get("/bindings?mode=AB&period=month&unknown=1&cursor=x")
    assert by_address.status_code == 422
    assert "unknown" in by_address.text
    for field in ("mode", "period", "cursor"):
        assert browser.get(f"/bindings?{field}=x").status_code == 422, field
    assert "is given more than once" in browser.get("/bindings?mode=AXB&mode=AXXB").text
    later = {"from": "2026-03-02", "to": "2026-03-01"}
    assert "must be earlier than to" in browser.post("/bindings", later).text


@pytest.mark.parametrize("field", page_module.FILTERS)
@pytest.mark.parametrize("number", [A, f"+{A}", f"{A[:4]} {A[4:]}", "919860836112"])
def test_no_phone_gets_into_an_address(running: Running, field: str, number: str) -> None:
    bind(running.service)
    browser = Browser(running).sign_in("auditor")
    response = browser.post("/bindings", {field: number})
    assert response.status_code == 422
    assert page_module.NUMBER_ERROR in response.text
    assert 'href="/"' in response.text
    assert not any(number[-6:] in address for address in browser.addresses)


def test_no_middle_number_gets_into_an_address_but_numbers_that_are_references_and_pools_do(
    running: Running,
) -> None:
    bound = bind(running.service, reference="20261128001", pool_number="9188067")
    also_number = bind(running.service, phone_a=C, phone_b=D, reference=str(bound.middle_number_a))
    running.service.count_pools()
    browser = Browser(running).sign_in("auditor")
    assert shown(browser.get(filtered(browser, reference_prefix="2026112"))) == [bound.id]
    assert shown(browser.get(filtered(browser, pool_number="9188067"))) == [bound.id]
    response = browser.post("/bindings", {"reference_prefix": str(also_number.reference)})
    assert (response.status_code, page_module.NUMBER_ERROR in response.text) == (422, True)


def test_counts_lead_to_the_narrowed_view_and_back(running: Running, simulator: Simulator) -> None:
    bind_pairs(running.service)
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-41"))
    with pytest.raises(NoMiddleNumber):
        bind(running.service, "key:meals", phone_a="919812300001", phone_b="919812300002")
    browser = Browser(running).sign_in("auditor")
    links = dict(
        re.findall(r'<a href="(/bindings[^"]*)">(\S+) <span class="muted">(?=\d)', browser.get("/bindings").text)
    )
    by_text = {text: address for address, text in links.items()}
    assert {"active", "failed", "AXB", "AXXB", "-41", "key:rides", "key:meals", POOL} <= set(by_text)
    failed = running.service.search(state="failed").data[0]
    page = browser.get(by_text["-41"].replace("&amp;", "&"))
    assert shown(page) == [failed.id]
    assert '<a href="/bindings" aria-current="true">-41 <span class="muted">1</span></a>' in page.text
    assert '<a href="/bindings" title="Remove this filter">Provider status: <strong>-41</strong>' in page.text
    assert "AXXB <span" not in page.text, "no AXXB binding has this status"


def test_pages_follow_each_other_in_both_directions_of_time(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "PER_PAGE", 2)
    bound = bind_pairs(running.service)
    browser = Browser(running).sign_in("auditor")
    for query, expected, label in (("", bound[::-1], "Older"), ("?order=oldest", bound, "Later")):
        first = browser.get(f"/bindings{query}")
        (following,) = re.findall(rf'<a href="([^"]*)" rel="next">{label}</a>', first.text)
        second = browser.get(following.replace("&amp;", "&"))
        assert shown(first) + shown(second) == ids(expected)
        assert 'rel="next"' not in second.text
        assert f'<a href="/bindings{query}">First page</a>' in second.text


def test_filter_that_reads_much_says_how_far_it_has_looked(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding_list, "ROWS_READ", 2)
    monkeypatch.setattr(page_module, "MAX_READ", 2)
    bound = bind_pairs(running.service)
    running.service.unbind(bound[0].id)
    browser = Browser(running).sign_in("auditor")
    page = browser.get("/bindings?state=unbound")
    assert shown(page) == []
    assert "2 bindings were looked at, requests back to " in page.text
    assert "none of them matches" in page.text
    assert "<h2>No binding matches" not in page.text
    assert "2+</span>" in page.text, "the counts say that there may be more"
    (following,) = re.findall(r'<a href="([^"]*)" rel="next">Continue with older ones</a>', page.text)
    assert shown(browser.get(following.replace("&amp;", "&"))) == [bound[0].id]


def test_empty_list_says_why_and_what_to_do(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    assert "No bindings yet" in browser.get("/bindings").text
    bind(running.service)
    page = browser.get("/bindings?mode=AXXB").text
    assert "No binding matches these filters" in page
    assert 'href="/failures"' in page


def test_app_sees_its_own_bindings_only(running: Running) -> None:
    own, other = bind(running.service, "key:rides"), bind(running.service, "key:meals", phone_a=C, phone_b=D)
    browser = Browser(running).sign_in("app", "rides")
    page = browser.get("/bindings")
    assert shown(page) == [own.id]
    assert other.id not in page.text
    assert "key:meals" not in page.text
    assert A in page.text, "it has sent the phones itself"
    assert shown(browser.get("/bindings?actor=key:meals")) == [own.id]
    exported = browser.post("/bindings/export?actor=key:meals", {"format": "csv"})
    (row,) = rows(exported)
    assert (row["id"], row["phone_a"], row["version"]) == (own.id, f"'{A}", "0"), (
        "reveals are counted in the version"
    )
    assert Browser(running).get("/bindings").status_code == 303, "without a key"


def exports(running: Running) -> list[AccessLogEntry]:
    return [entry for entry in running.service.access_log.entries().data if entry.export_id is not None]


def rows(response: requests.Response) -> list[dict[str, str]]:
    assert response.status_code == 200, response.text
    return list(csv.DictReader(io.StringIO(response.content.decode("utf-8-sig"))))


def test_export_has_exactly_the_view_and_is_recorded(running: Running) -> None:
    bound = bind_pairs(running.service)
    browser = Browser(running).sign_in("auditor", "ann")
    address = filtered(browser, mode="AXB", order="oldest", reference_prefix="ride-")
    page = browser.get(address)
    form = next(form for form in Page(page.text).forms if form.action.startswith("/bindings/export"))
    exported = browser.post(form.action, {"format": "csv"})
    assert [row["id"] for row in rows(exported)] == shown(page) == ids(bound[:2])
    assert A not in exported.text
    (entry,) = exports(running)
    assert (entry.actor, entry.row_count, entry.reason, entry.complete) == ("key:ann", 2, None, True)
    manifest = running.service.access_log.get_export(str(entry.export_id))
    assert manifest.filter == {"mode": "AXB", "order": "oldest", "reference_prefix": "ride-"}
    assert browser.post(form.action, {"format": "csv", "reason": "x"}).status_code == 403


@pytest.mark.parametrize(
    ("path", "form"), [("/bindings/export?order=oldest", {}), ("/exports", {"what": "bindings"})]
)
def test_export_of_an_administrator_has_only_its_own_phones_in_full(
    running: Running, path: str, form: dict[str, str]
) -> None:
    bind(running.service, "key:boss")
    bind(running.service, "key:meals", phone_a=C, phone_b=D)
    own, other = rows(Browser(running).sign_in("admin", "boss").post(path, {"format": "csv"} | form))
    assert (own["phone_a"], own["phone_b"], own["version"]) == (f"'{A}", f"'{B}", "2")
    assert (other["phone_a"], other["phone_b"]) == (mask(C), mask(D))


def test_export_in_full_is_in_the_record_of_the_bindings_that_it_may_have_had_only(running: Running) -> None:
    ride, _, meal = bind_pairs(running.service)
    browser = Browser(running).sign_in("investigator", "eve")
    exported = browser.post("/bindings/export?reference_prefix=ride-", {"format": "csv", "reason": "claim 7"})
    assert A in exported.text
    reveals = running.service.investigation.reveals_of([ride])
    assert [(event.kind, event.actor, event.detail["reason"]) for event in reveals] == [
        (EventKind.REVEALED, "key:eve", "claim 7")
    ]
    assert running.service.investigation.reveals_of([meal]) == []
    for query, reason in (("mode=AB", "claim 8"), ("mode=AXB", "x" * 256)):
        response = browser.post(f"/bindings/export?{query}", {"format": "csv", "reason": reason})
        assert response.status_code == 422
    assert len(exports(running)) == 1, "nothing more was exported"


def test_failures_overview_and_pools_lead_to_their_bindings(running: Running, simulator: Simulator) -> None:
    bound = bind_pairs(running.service)
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-41"))
    with pytest.raises(NoMiddleNumber):
        bind(running.service, phone_a="919812300001", phone_b="919812300002")
    failed = running.service.search(state="failed").data[0]
    feed_has_caught_up(running.service)
    running.service.update_statistics()
    running.service.count_pools()
    browser = Browser(running).sign_in("auditor")
    for path, start, expected in (
        ("/failures", "/bindings?state=failed", [failed.id]),
        ("/failures/failed/-41", "/bindings?state=failed", [failed.id]),
        ("/overview", "/bindings?state=active", ids(bound[::-1])),
        ("/pools", "/bindings?app_id=", ids(bound[::-1])),
    ):
        links = [link for link in Page(browser.get(path).text).links if link.startswith(start)]
        assert links, path
        assert shown(browser.get(links[0])) == expected, path
    last_refusal = [link for link in Page(browser.get("/pools").text).links if "provider_status" in link]
    assert shown(browser.get(last_refusal[0])) == [failed.id]
