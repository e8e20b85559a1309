"""The access log over HTTP and in the console: filters in the address, the same view in the export, and roles."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.service.harness import A, C, D
from tests.web.browser import Browser

if TYPE_CHECKING:
    from tests.web.conftest import Running


@pytest.fixture
def binding_id(running: Running) -> str:
    """Reveal two bindings, one of them for a complaint, and return the id of that."""
    eve = running.key("admin", "eve")
    complained = running.bind(eve, reference="order-42").json()["id"]
    other = running.bind(eve, phone_a=C, phone_b=D).json()["id"]
    running.post(f"/v1/bindings/{complained}/reveal", {"reason": "complaint 118"}, eve)
    running.post(f"/v1/bindings/{other}/reveal", {"reason": "court order"}, eve)
    return str(complained)


def test_form_leads_to_an_address_that_shows_and_exports_the_view(running: Running, binding_id: str) -> None:
    browser = Browser(running).sign_in("auditor")
    form = {"kind": "reveal", "actor": "key:eve", "reason_prefix": "compl", "since": "2020-01-02", "actor_id": "x"}
    address = browser.post("/access", form).headers["Location"]
    assert parse_qs(urlsplit(address).query) == {
        "kind": ["reveal"],
        "actor": ["key:eve"],
        "reason_prefix": ["compl"],
        "since": ["2020-01-02T00:00:00Z"],
    }
    page = browser.get(address).text
    assert (page.count("complaint 118"), "court order" in page) == (1, False)
    assert f'<a href="/bindings/{binding_id}">phones of a binding: order-42</a>' in page
    assert 'href="/keys#key-' in page
    file = browser.post(address.replace("/access", "/access/export")).text
    assert [row["reason"] for row in csv.DictReader(io.StringIO(file.lstrip("\ufeff")))] == ["complaint 118"]
    export = running.service.access_log.entries(limit=1).data[0]
    assert running.service.access_log.get_export(str(export.export_id)).filter["reason_prefix"] == "compl"
    signed_out = Browser(running).get(address)
    assert signed_out.headers["Location"] == f"/sign-in?next={quote(address)}"


def test_preset_keeps_the_other_filters(running: Running, binding_id: str) -> None:
    browser = Browser(running).sign_in("auditor")
    page = browser.get(f"/access?binding_id={binding_id}&since=2020-01-02")
    assert "complaint 118" in page.text
    assert f'href="/access?binding_id={binding_id}&amp;span=24h"' in page.text
    assert "complaint 118" in browser.get(f"/access?binding_id={binding_id}&span=24h").text


@pytest.mark.parametrize("reason", [A, f"complaint of +{A}", "91880 67701"])
def test_number_gets_into_no_address(running: Running, reason: str) -> None:
    browser = Browser(running).sign_in("auditor")
    refused = browser.post("/access", {"reason_prefix": reason})
    assert (refused.status_code, "Location" in refused.headers) == (422, False)
    assert browser.get(f"/access?reason_prefix={quote(reason)}").status_code == 422


@pytest.mark.parametrize(
    ("name", "value"), [("kind", "all"), ("key_id", "1"), ("binding_id", "x"), ("since", "soon"), ("span", "1y")]
)
def test_wrong_filter_is_refused_by_page_form_and_export(running: Running, name: str, value: str) -> None:
    browser = Browser(running).sign_in("auditor")
    for refused in (
        browser.get(f"/access?{name}={value}"),
        browser.post("/access", {name: value}),
        browser.post(f"/access/export?{name}={value}"),
    ):
        assert refused.status_code == 422
        assert "note bad" in refused.text
        assert f'href="/access?{name}={value}' not in refused.text, "no link leads to what is refused"
    assert {entry.kind for entry in running.service.access_log.entries().data} == {"act", "session"}


def test_search_over_http_is_for_readers(running: Running, binding_id: str) -> None:
    filters = {"kind": "reveal", "binding_id": binding_id}
    page = running.post("/v1/access-log/search", filters, running.key("auditor")).json()
    assert [(entry["reason"], entry["reference"], entry["kind"]) for entry in page["data"]] == [
        ("complaint 118", "order-42", "reveal")
    ]
    assert (page["next_cursor"], page["searched_to"]) == (None, None)
    for role in ("app", "router"):
        assert running.post("/v1/access-log/search", filters, running.key(role)).status_code == 403
    wrong = running.post("/v1/access-log/search", {"kind": "all", "cursor": "x"}, running.key("auditor", "second"))
    assert (wrong.status_code, [error["field"] for error in wrong.json()["errors"]]) == (422, ["kind"])
