"""A service without a key: the link that works once, and which requests count as those of this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bindings.web.console import security
from bindings.web.first_sign_in import PATH, FirstSignIn
from tests.web.browser import Browser
from tests.web.conftest import run
from tests.web.wire import speak, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService
    from tests.web.conftest import Running

OTHER_ORIGINS = [
    {"Host": "bindings.example"},
    {"Host": "127.0.0.1.bindings.example"},
    {"Host": "localhost.bindings.example:80"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://bindings.example"},
    {"Origin": "null"},
    *(
        {name: "203.0.113.7"}
        for name in (
            *("X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Forwarder-For", "Forwarded", "Via"),
            *("X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "X-ProxyUser-Ip", "X-Original-Host"),
            *(
                "True-Client-IP",
                "CF-Connecting-IP",
                "Cf-Ray",
                "X-Amzn-Trace-Id",
                "X-Amz-Cf-Id",
                "Fastly-Client-IP",
            ),
            *("Fly-Client-IP", "X-Cloud-Trace-Context", "X-Envoy-External-Address", "Tailscale-User-Login"),
            *("X-Azure-ClientIP", "X-Appengine-User-IP", "X-Varnish", "CDN-Loop", "X-Request-Start"),
        )
    ),
]


@pytest.fixture
def link() -> FirstSignIn:
    return FirstSignIn()


@pytest.fixture
def keyless(service: BindingService, link: FirstSignIn) -> Iterator[Running]:
    """Run a service that has no key and has printed its link."""
    yield from run(service, local_admin=False, first_sign_in=link)


def test_link_opens_the_console_once_and_for_one_browser(keyless: Running, link: FirstSignIn) -> None:
    browser = Browser(keyless)
    assert browser.get("/").status_code == 303, "without the link a browser of this host has to sign in"
    response = browser.get(link.path)
    assert (response.status_code, response.headers["Location"]) == (303, "/")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert link.path.removeprefix(PATH) not in cookie
    page = browser.get("/").text
    assert "bindings keys create --name NAME --role admin" in page
    assert browser.get("/overview").status_code == 200
    again = Browser(keyless).get(link.path)
    assert (again.status_code, "was used before" in again.text) == (401, True)
    assert Browser(keyless).get("/overview").status_code == 303
    assert browser.get("/overview").status_code == 200


def test_first_key_ends_the_link_and_its_session_immediately(keyless: Running, link: FirstSignIn) -> None:
    browser = Browser(keyless)
    browser.get(link.path)
    assert browser.get("/overview").status_code == 200
    keyless.service.api_keys.create(name="ops", role="admin")
    assert browser.get("/overview").status_code == 303
    revoked = keyless.service.api_keys.list()[0].id
    keyless.service.api_keys.revoke(revoked)
    assert browser.get("/overview").status_code == 303, "also if the key is revoked again"


def test_link_is_refused_once_a_key_exists(keyless: Running, link: FirstSignIn) -> None:
    keyless.service.api_keys.create(name="ops", role="admin")
    assert Browser(keyless).get(link.path).status_code == 401


def test_link_and_session_expire(keyless: Running, link: FirstSignIn) -> None:
    browser, late = Browser(keyless), Browser(keyless)
    browser.get(link.path)
    assert link._session is not None
    link._session._ends_at = float("-inf")
    assert browser.get("/overview").status_code == 303
    link._session, link._link._ends_at = None, float("-inf")
    assert late.get(link.path).status_code == 401


def test_wrong_token_opens_nothing(keyless: Running, link: FirstSignIn) -> None:
    for path in (PATH, f"{PATH}x", f"{PATH}\N{SNOWMAN}", FirstSignIn().path, link.path.lower()):
        assert Browser(keyless).get(path).status_code == 401
    assert Browser(keyless).get(link.path).status_code == 303, "a wrong token does not use up the link"


def test_link_is_neither_opened_nor_used_up_for_other_hosts(keyless: Running, link: FirstSignIn) -> None:
    browser = Browser(keyless)
    for headers in (*OTHER_ORIGINS, {"Sec-Purpose": "prefetch;prerender"}):
        assert browser.get(link.path, headers).status_code in (401, 403), headers
    assert browser.get("/overview").status_code == 303
    assert browser.get(link.path).headers["Location"] == "/"
    for headers in OTHER_ORIGINS:
        assert browser.get("/overview", headers).status_code == 303, headers
    assert browser.get("/overview").status_code == 200


def test_session_of_the_link_is_no_key(keyless: Running, link: FirstSignIn) -> None:
    browser = Browser(keyless)
    browser.get(link.path)
    session_token = browser.session.cookies[security.COOKIE]
    for token in (session_token, link.path.removeprefix(PATH)):
        assert keyless.get("/v1/bindings", {"Authorization": f"Bearer {token}"}).status_code == 401
    assert keyless.get("/v1/bindings", {"Cookie": f"{security.COOKIE}={session_token}"}).status_code == 401


def test_local_admin_refuses_requests_of_other_hosts(running: Running) -> None:
    for headers in OTHER_ORIGINS:
        assert running.get("/v1/bindings", headers).status_code == 401, headers
    assert running.get("/v1/bindings").status_code == 200


# What a stock proxy sends to this service, byte by byte, for a request of another host.
PROXIES = {
    "nginx": ("HTTP/1.0", "Host: 127.0.0.1:8000"),
    "nginx, Host $host": ("HTTP/1.0", "Host: bindings.example"),
    "HAProxy": ("HTTP/1.1", "host: bindings.example"),
    "HAProxy, forwardfor": ("HTTP/1.1", "host: localhost\r\nx-forwarded-for: 203.0.113.7"),
    "Apache": ("HTTP/1.1", "Host: 127.0.0.1:8000\r\nX-Forwarded-Host: bindings.example"),
    "no host": ("HTTP/1.0", "accept: */*"),
}


def test_stock_proxy_in_front_makes_no_client_an_admin(running: Running) -> None:
    for proxy, (version, head) in PROXIES.items():
        request = f"GET /v1/bindings {version}\r\n{head}\r\nConnection: close\r\n\r\n"
        assert status(speak(running, request.encode())) == 401, proxy


def test_local_admin_accepts_every_name_of_this_host(running: Running) -> None:
    for host in ("127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]", "[::1]:8000", "127.0.0.2"):
        assert running.get("/v1/bindings", {"Host": host}).status_code == 200, host
