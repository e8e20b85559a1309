"""Who gets into the console: sessions, roles, forged forms, throttled tries, and what every page carries."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import TYPE_CHECKING
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


def test_without_any_key_the_local_caller_is_let_in_and_with_one_nobody_is_without_it(running: Running) -> None:
    browser = Browser(running)
    assert "local admin" in browser.get("/").text
    running.key("admin")
    answer = browser.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in?next=/")


@pytest.mark.parametrize("role", ["app", "auditor", "investigator", "admin"])
def test_a_key_of_any_role_signs_in_and_is_led_back(running: Running, role: str) -> None:
    key = running.key(role, "eve")["Authorization"].removeprefix("Bearer ")
    browser = Browser(running)
    answer = browser.post("/sign-in", {"key": f" {key} ", "next": "/bindings/1"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/bindings/1")
    page = browser.get("/").text
    assert "eve" in page
    assert role in page
    assert key not in page


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "https://evil.example/", "/\\evil.example", "//[", "/\r\nX: y", "evil", ""]
)
def test_nobody_is_led_elsewhere_after_signing_in(running: Running, elsewhere: str) -> None:
    assert Browser(running).get(f"/sign-in?{urlencode({'next': elsewhere})}").status_code == 200
    key = running.key("auditor")["Authorization"].removeprefix("Bearer ")
    assert Browser(running).post("/sign-in", {"key": key, "next": elsewhere}).headers["Location"] == "/"


def test_a_key_that_is_no_good_does_not_sign_in(running: Running) -> None:
    running.key("auditor")
    answer = Browser(running).post("/sign-in", {"key": "bnd_nothing"})
    assert (answer.status_code, "not known" in answer.text, "bnd_nothing" in answer.text) == (401, True, False)


def test_the_token_changes_with_signing_in_and_is_kept_from_scripts(running: Running) -> None:
    browser = Browser(running)
    before = browser.get("/sign-in").cookies[security.COOKIE]
    key = running.key("auditor")["Authorization"].removeprefix("Bearer ")
    answer = browser.post("/sign-in", {"key": key})
    given = answer.headers["Set-Cookie"]
    assert before not in given
    assert "HttpOnly" in given
    assert "SameSite=lax" in given
    assert "Secure" not in given  # over plain HTTP it would never come back


def test_signing_out_ends_the_session_also_for_whoever_kept_its_token(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    kept = dict(browser.session.cookies)
    assert browser.post("/sign-out").headers["Location"] == "/sign-in"
    answer = requests.get(running.url + "/", cookies=kept, headers=HTML, allow_redirects=False, timeout=30)
    assert answer.status_code == 303


def test_revoking_a_key_ends_its_sessions_at_once(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    assert browser.get("/").status_code == 200
    running.service.api_keys.revoke(running.service.api_keys.list()[0].id)
    assert browser.get("/").status_code == 303


def test_a_form_from_elsewhere_is_refused(running: Running) -> None:
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


def test_a_form_is_read_on_pages_only_and_json_under_v1_only(running: Running) -> None:
    browser = Browser(running)
    json = running.session.post(running.url + "/find", json={"q": "x"}, timeout=30)
    assert json.status_code == 415
    assert browser.post("/v1/lookup", {"phone": "1"}).status_code == 415


def test_many_tries_with_a_bad_key_are_slowed_down_and_good_ones_are_not(running: Running) -> None:
    key = running.key("auditor")["Authorization"].removeprefix("Bearer ")
    browser = Browser(running)
    assert all(browser.post("/sign-in", {"key": key}).status_code == 303 for _ in range(ATTEMPTS + 2))
    answers = [browser.post("/sign-in", {"key": "bnd_x"}) for _ in range(ATTEMPTS + 1)]
    assert [each.status_code for each in answers] == [401] * ATTEMPTS + [429]
    assert answers[-1].headers["Retry-After"]
    assert browser.post("/sign-in", {"key": key}).status_code == 429


PAGES = ["/", "/sign-in", "/nothing/here", "/find/unknown"]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_carries_the_headers_and_nothing_from_elsewhere(running: Running, path: str) -> None:
    answer = Browser(running).get(path)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Strict-Transport-Security" not in answer.headers
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert not re.search(r'https?://|style="|<script>|\son\w+="', answer.text)


@pytest.mark.parametrize("path", ["/", "/overview", "/doubts/resolve", "/bindings/1/reveal", "/sign-in"])
def test_what_methods_a_page_takes_is_no_secret(running: Running, path: str) -> None:
    running.key("admin")
    answer = running.session.options(running.url + path, timeout=30)
    assert answer.status_code == 204
    assert "OPTIONS" in answer.headers["Allow"]


def test_a_program_gets_a_problem_where_a_browser_gets_a_page(running: Running) -> None:
    for path in ("/nothing", "/find/unknown"):
        page, problem = Browser(running).get(path), running.get(path)
        assert (page.status_code, problem.status_code) == (404, 404)
        assert problem.headers["Content-Type"] == "application/problem+json"
        assert page.headers["Content-Type"].startswith("text/html")
    problem = running.get("/v1/nothing", HTML)
    assert problem.headers["Content-Type"] == "application/problem+json"


def test_over_tls_the_cookie_is_secure_only_if_a_trusted_proxy_says_so(running: Running) -> None:
    running.key("admin")
    told = {"X-Forwarded-Proto": "https"}
    plain = Browser(running).get("/sign-in", told)
    assert "Secure" not in plain.headers["Set-Cookie"]
    assert "Strict-Transport-Security" not in plain.headers
    running.app_state.proxies = TrustedProxies((ip_network("127.0.0.0/8"),))
    secure = Browser(running).get("/sign-in", told)
    assert secure.headers["Set-Cookie"].startswith("__Host-")
    assert "Secure" in secure.headers["Set-Cookie"]
    assert secure.headers["Strict-Transport-Security"]


def test_the_address_behind_proxies_is_the_last_that_is_none_of_them(running: Running) -> None:
    proxies = TrustedProxies((ip_network("10.0.0.0/8"),))
    forwarded = [(b"x-forwarded-for", b"1.2.3.4, 5.6.7.8, 10.0.0.2")]
    assert proxies.address({"client": ("10.0.0.1", 1), "headers": forwarded}) == "5.6.7.8"
    assert proxies.address({"client": ("9.9.9.9", 1), "headers": forwarded}) == "9.9.9.9"
    assert proxies.address({"client": ("10.0.0.1", 1), "headers": []}) == "10.0.0.1"
