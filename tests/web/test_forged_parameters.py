"""Forged cursors, limits and ids in URLs and bodies: refused by the field's name, on every path that takes one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.service.test_forged_positions import ID, TEXTS
from tests.web.browser import Browser

if TYPE_CHECKING:
    import requests

    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

PAGES = (
    *("/access?cursor=", "/doubts?after=", "/reports?after=", "/failures?span="),
    *("/bindings/", "/reports/", "/exports/", "/failures/", "/doubts/reconcile/"),
)
CALLS = {
    "/v1/bindings?cursor=": "cursor",
    "/v1/bindings?limit=": "limit",
    "/v1/bindings?requested_from=": "requested_from",
    "/v1/events?after=": "after",
    "/v1/events?limit=": "limit",
    "/v1/events?wait_s=": "wait_s",
    "/v1/bindings/": "",
}
SENT = [text for text in TEXTS if len(text) <= 6_000 and "\ud800" not in text]
NUMBERS = (
    "-1",
    "0",
    "201",
    "9223372036854775808",
    "1e400",
    "-1e400",
    "1.5",
    "9" * 4_000,
    "true",
    "null",
    "[1]",
    "{}",
)


def fields_of(response: requests.Response) -> list[str]:
    return [error["field"] for error in response.json()["errors"]]


@pytest.mark.parametrize("page", PAGES)
def test_page_of_the_console_refuses_a_forged_parameter(running: Running, page: str) -> None:
    browser = Browser(running).sign_in("admin")
    for text in SENT:
        response = browser.get(page + quote(text, safe=""))
        assert response.status_code in (200, 303, 404, 422), (page, text[:80])
        assert "Traceback" not in response.text


def test_history_of_a_number_refuses_a_forged_cursor(running: Running) -> None:
    binding = running.bind().json()
    browser = Browser(running).sign_in("admin")
    for text in SENT:
        response = browser.get(f"/bindings/{binding['id']}/numbers/phone_a?cursor={quote(text, safe='')}")
        assert response.status_code in (200, 422), text[:80]


@pytest.mark.parametrize("call", CALLS)
def test_call_refuses_a_forged_parameter_by_its_name(running: Running, call: str) -> None:
    key = running.key("admin", rate_limit=100_000)
    for text in (*SENT, *NUMBERS):
        response = running.get(call + quote(text, safe=""), key)
        assert response.status_code in (200, 404, 422), (call, text[:80])
        if response.status_code == 422:
            assert fields_of(response) == [CALLS[call]]


@pytest.mark.parametrize("field", ["cursor", "limit"])
def test_search_refuses_a_forged_field_of_its_body_by_name(running: Running, field: str) -> None:
    key = {**running.key("admin", rate_limit=100_000), "Content-Type": "application/json"}
    values = [*NUMBERS, *(json.dumps(text) for text in SENT), "[" * 7_500 + "]" * 7_500, f'"{ID}"']
    for value in values:
        body = f'{{"{field}": {value}}}'
        response = running.session.post(running.url + "/v1/bindings/search", body, headers=key, timeout=300)
        assert response.status_code in (200, 400, 422), value[:80]
        if response.status_code == 422:
            assert fields_of(response) == [field]
