"""Access to the console: sessions, roles, forged forms, rate-limited sign-in, and the headers of every page."""

from __future__ import annotations

import html
import re
from ipaddress import ip_network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import requests

from bindings.web.console import security
from bindings.web.console.page_context import HEADERS
from bindings.web.proxies import TrustedProxies
from bindings.web.rate_limit import ATTEMPTS
from tests.web.browser import HTML, Browser

if TYPE_CHECKING:
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")


def test_local_browser_needs_no_key_until_a_key_exists(running: Running) -> None:
    browser = Browser(running)
    assert "local admin" in browser.get("/").text
    running.key("admin")
    response = browser.get("/")
    assert (response.status_code, response.headers["Location"]) == (303, "/sign-in?next=/")


@pytest.mark.parametrize("role", ["app", "auditor", "investigator", "admin"])
def test_sign_in_with_a_key_redirects_to_the_requested_page(running: Running, role: str) -> None:
    key = running.key(role, "eve")["Authorization"].removeprefix("Bearer ")
    browser = Browser(running)
    response = browser.post("/sign-in", {"key": f" {key} ", "next": "/bindings/1"})
    assert (response.status_code, response.headers["Location"]) == (303, "/bindings/1")
    page = browser.get("/").text
    assert "eve" in page
    assert role in page
    assert key not in page


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example/", "/\\evil.example", "//[", "/\r\nX: y", "evil", ""]
)
def test_sign_in_does_not_redirect_to_another_site(running: Running, target: str) -> None:
    assert Browser(running).get(f"/sign-in?{urlencode({'next': target})}").status_code == 200
    key = running.key("auditor")["Authorization"].removeprefix("Bearer ")
    assert Browser(running).post("/sign-in", {"key": key, "next": target}).headers["Location"] == "/"


def test_sign_in_with_the_key_of_a_router_is_refused(running: Running) -> None:
    key = running.key("router")["Authorization"].removeprefix("Bearer ")
    browser = Browser(running)
    response = browser.post("/sign-in", {"key": key})
    assert (response.status_code, "role of this key" in response.text, key in response.text) == (403, True, False)
    assert browser.get("/").headers["Location"] == "/sign-in?next=/"


def test_sign_in_with_an_unknown_key_is_refused_without_echoing_the_key(running: Running) -> None:
    running.key("auditor")
    response = Browser(running).post("/sign-in", {"key": "bnd_nothing"})
    assert (response.status_code, "not known" in response.text, "bnd_nothing" in response.text) == (
        401,
        True,
        False,
    )


def test_sign_in_replaces_the_token_and_sets_an_http_only_cookie(running: Running) -> None:
    browser = Browser(running)
    before = browser.get("/sign-in").cookies[security.COOKIE]
    key = running.key("auditor")["Authorization"].removeprefix("Bearer ")
    response = browser.post("/sign-in", {"key": key})
    cookie = response.headers["Set-Cookie"]
    assert before not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie  # over plain HTTP the browser would not send it


def test_sign_out_ends_the_session_for_every_holder_of_its_token(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    cookies = dict(browser.session.cookies)
    assert browser.post("/sign-out").headers["Location"] == "/sign-in"
    response = requests.get(running.url + "/", cookies=cookies, headers=HTML, allow_redirects=False, timeout=300)
    assert response.status_code == 303


def test_revoking_a_key_ends_its_sessions_immediately(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    assert browser.get("/").status_code == 200
    running.service.api_keys.revoke(running.service.api_keys.list()[0].id)
    assert browser.get("/").status_code == 303


def test_form_of_an_ended_session_leads_to_a_sign_in_that_says_so(running: Running) -> None:
    page = f"/bindings/{running.bind().json()['id']}"
    browser = Browser(running).sign_in("admin")
    running.service.api_keys.revoke(running.service.api_keys.list()[0].id)
    sentence = "the form was not carried out and nothing was changed"
    answer = browser.submit(f"{page}/unbind", {"reason": "order cancelled", "when": "now"})
    assert sentence in answer.text
    assert f'name="next" value="{page}"' in answer.text
    assert sentence not in browser.get(browser.get(page).headers["Location"]).text
    browser.session.cookies.clear()
    refused = browser.post(f"{page}/unbind", {"csrf": "0" * 64})
    assert (refused.status_code, f'<a href="{page}">' in refused.text) == (403, True)


def test_form_from_another_site_or_with_a_wrong_csrf_token_is_refused(running: Running) -> None:
    browser = Browser(running).sign_in("admin")
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        assert browser.post("/sign-out", headers=headers).status_code == 403
    for forged in ("", "0" * 64, "\N{SNOWMAN}"):
        assert browser.post("/sign-out", {"csrf": forged}).status_code == 403
    other = Browser(running).sign_in("admin", "other")
    assert browser.post("/sign-out", {"csrf": other.csrf()}).status_code == 403
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [
        ("https://bindings.example", "bindings.example:443", True),
        ("http://bindings.example", "Bindings.Example:80", True),
        ("http://bindings.example:8000", "bindings.example:8000", True),
        ("https://bindings.example", "bindings.example:80", False),
        ("https://bindings.example:8443", "bindings.example:443", False),
        ("null", ":None", False),
    ],
)
def test_origin_is_compared_with_the_host_that_a_proxy_passes_on(origin: str, host: str, *, is_same: bool) -> None:
    request: Any = SimpleNamespace(headers={"origin": origin, "host": host})
    assert security._is_same_origin(request) is is_same


def test_pages_refuse_json_and_the_api_refuses_forms(running: Running) -> None:
    browser = Browser(running)
    json = running.session.post(running.url + "/find", json={"q": "x"}, timeout=300)
    assert json.status_code == 415
    assert browser.post("/v1/lookup", {"phone": "1"}).status_code == 415


def test_sign_in_with_invalid_keys_is_rate_limited_and_with_valid_keys_is_not(running: Running) -> None:
    key = running.key("auditor")["Authorization"].removeprefix("Bearer ")
    browser = Browser(running)
    assert all(browser.post("/sign-in", {"key": key}).status_code == 303 for _ in range(ATTEMPTS + 2))
    responses = [browser.post("/sign-in", {"key": "bnd_x"}) for _ in range(ATTEMPTS + 1)]
    assert [response.status_code for response in responses] == [401] * ATTEMPTS + [429]
    assert responses[-1].headers["Retry-After"]
    assert browser.post("/sign-in", {"key": key}).status_code == 303, "the owner of a key is not locked out"


def test_query_string_survives_sign_in_and_a_change_of_the_zone(running: Running) -> None:
    key = running.key("auditor")["Authorization"].removeprefix("Bearer ")
    browser = Browser(running)
    for path in ("/failures?span=7d", "/access?cursor=W10&x=a%26b", "/failures/failed/a%20b?span=1h"):
        address = browser.get(path).headers["Location"]
        shown = re.search(r'name="next" value="([^"]+)"', browser.get(address).text)
        assert shown
        assert html.unescape(shown[1]) == path
        assert browser.post("/sign-in", {"key": key, "next": path}).headers["Location"] == path
        page = browser.get(path)
        for next_path in set(re.findall(r'name="next" value="([^"]+)"', page.text)):
            assert html.unescape(next_path) == path
            changed = browser.post("/zone", {"zone": "Asia/Kolkata", "next": html.unescape(next_path)})
            assert changed.headers["Location"] == path
        browser.post("/sign-out")


def test_error_page_keeps_the_navigation_of_a_browser_that_is_signed_in(running: Running) -> None:
    visitor, app = Browser(running), Browser(running).sign_in("app")
    auditor = Browser(running).sign_in("auditor")
    for path in ("/nothing", "/bindings/1/nothing"):
        assert 'href="/access"' in auditor.get(path).text
        assert "Find" in app.get(path).text
        assert 'href="/access"' not in app.get(path).text
        assert "<nav" not in visitor.get(path).text
        assert auditor.get(path).status_code == 404
    page = auditor.get("/nothing").text
    csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert csrf
    assert auditor.post("/zone", {"csrf": csrf[1], "zone": "UTC"}).status_code == 303


PAGES = ["/", "/sign-in", "/nothing/here", "/find/unknown"]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_the_security_headers_and_loads_nothing_from_other_hosts(
    running: Running, path: str
) -> None:
    response = Browser(running).get(path)
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert {name: response.headers.get(name) for name in HEADERS} == HEADERS
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "Strict-Transport-Security" not in response.headers
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert not re.search(r'https?://|style="|<script>|\son\w+="', response.text)


@pytest.mark.parametrize("path", ["/", "/overview", "/doubts/resolve", "/bindings/1/reveal", "/sign-in"])
def test_options_lists_the_methods_without_sign_in(running: Running, path: str) -> None:
    running.key("admin")
    response = running.session.options(running.url + path, timeout=300)
    assert response.status_code == 204
    assert "OPTIONS" in response.headers["Allow"]


def test_error_is_a_page_for_a_browser_and_a_problem_for_an_api_client(running: Running) -> None:
    for path in ("/nothing", "/find/unknown"):
        page, problem = Browser(running).get(path), running.get(path)
        assert (page.status_code, problem.status_code) == (404, 404)
        assert problem.headers["Content-Type"] == "application/problem+json"
        assert page.headers["Content-Type"].startswith("text/html")
    problem = running.get("/v1/nothing", HTML)
    assert problem.headers["Content-Type"] == "application/problem+json"


def test_cookie_is_secure_only_if_a_trusted_proxy_reports_tls(running: Running) -> None:
    running.key("admin")
    headers = {"X-Forwarded-Proto": "https"}
    plain = Browser(running).get("/sign-in", headers)
    assert "Secure" not in plain.headers["Set-Cookie"]
    assert "Strict-Transport-Security" not in plain.headers
    running.app_state.proxies = TrustedProxies((ip_network("127.0.0.0/8"),))
    secure = Browser(running).get("/sign-in", headers)
    assert secure.headers["Set-Cookie"].startswith("__Host-")
    assert "Secure" in secure.headers["Set-Cookie"]
    assert secure.headers["Strict-Transport-Security"]


def test_client_address_is_the_last_forwarded_one_that_is_not_a_trusted_proxy(running: Running) -> None:
    proxies = TrustedProxies((ip_network("10.0.0.0/8"),))
    forwarded = [(b"x-forwarded-for", b"1.2.3.4, 5.6.7.8, 10.0.0.2")]
    assert proxies.address({"client": ("10.0.0.1", 1), "headers": forwarded}) == "5.6.7.8"
    assert proxies.address({"client": ("9.9.9.9", 1), "headers": forwarded}) == "9.9.9.9"
    assert proxies.address({"client": ("10.0.0.1", 1), "headers": []}) == "10.0.0.1"
    of_both_protocols = [(b"x-forwarded-for", b"5.6.7.8, ::ffff:10.0.0.2")]
    assert proxies.address({"client": ("10.0.0.1", 1), "headers": of_both_protocols}) == "5.6.7.8"
