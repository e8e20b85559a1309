"""Sign-in of people by a proxy: who is believed, what a client can smuggle, and what a person may do.

The requests are written to a socket as a proxy writes them, from an address that is trusted or from another one.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import pytest

from bindings.service import BindingService
from tests.service.harness import POOL, A, B, account_settings
from tests.web.conftest import run
from tests.web.pages import Page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

PROXY, CLIENT = "127.0.0.1", "127.0.0.2"
SETTINGS = {
    "trusted_proxies": PROXY,
    "identity_header": "X-Bindings-User",
    "roles_header": "X-Bindings-Groups",
    "role_of": "ops=admin,fraud team=investigator,audit=auditor",
}
EVE = ("X-Bindings-User", "eve@example.com")
OPS, FRAUD, AUDIT = (("X-Bindings-Groups", group) for group in ("ops", "fraud team", "audit"))

Header = tuple[str, str]


@pytest.fixture
def running(database_url: str, simulator: Simulator) -> Iterator[Running]:
    """Provide a service behind a proxy that signs people in; a key exists."""
    with BindingService.open(
        database_url=database_url,
        **account_settings(simulator.url),
        **SETTINGS,  # type: ignore[arg-type]
    ) as service:
        for running in run(service, local_admin=False):
            running.key("admin", "ops")
            yield running


@dataclass(frozen=True, kw_only=True)
class Response:
    status: int
    headers: str
    text: str

    @property
    def location(self) -> str:
        match = re.search(r"^location: (.*)\r$", self.headers, re.IGNORECASE | re.MULTILINE)
        return match[1] if match else ""


@dataclass
class ProxiedBrowser:
    """A browser behind a proxy that adds `headers` to its requests; it keeps the session cookie."""

    running: Running
    headers: Sequence[Header] = (EVE, AUDIT)
    source: str = PROXY
    cookie: str = ""

    def get(self, path: str, *headers: Header) -> Response:
        return self._exchange("GET", path, (*self.headers, *headers), "")

    def post(self, path: str, form: dict[str, str], *headers: Header) -> Response:
        """Send a form with the token of a page, unless `form` has one."""
        fields = {"csrf": self.csrf()} | form
        body = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in fields.items())
        kind = ("Content-Type", "application/x-www-form-urlencoded")
        return self._exchange("POST", path, (*self.headers, kind, *headers), body)

    def csrf(self) -> str:
        """Return the token of the forms of this browser and this user."""
        match = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get("/").text)
        return match[1] if match else ""

    def _exchange(self, method: str, path: str, headers: Sequence[Header], body: str) -> Response:
        host, _, port = self.running.url.removeprefix("http://").rpartition(":")
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", "Accept: text/html", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += [f"Cookie: {self.cookie}"] * bool(self.cookie) + [f"Content-Length: {len(body)}"] * bool(body)
        data = "\r\n".join((*lines, "", body)).encode()
        with socket.create_connection((host, int(port)), timeout=300, source_address=(self.source, 0)) as sock:
            sock.sendall(data)
            answer = b""
            while part := sock.recv(65_536):
                answer += part
        head, _, text = answer.decode().partition("\r\n\r\n")
        cookie = re.search(
            r"^set-cookie: ((?:__Host-)?bindings_session=[^;]+)", head, re.IGNORECASE | re.MULTILINE
        )
        self.cookie = cookie[1] if cookie else self.cookie
        return Response(status=int(head.split()[1]), headers=head + "\r\n", text=text)


def bind(running: Running) -> Binding:
    return running.service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=3_600, mode="AXB")


def test_person_acts_by_name_with_the_role_of_a_group(running: Running) -> None:
    binding = bind(running)
    browser = ProxiedBrowser(running, (EVE, FRAUD))
    page = browser.get("/")
    assert "eve@example.com" in page.text
    assert "Sign out there" in page.text
    assert "/sign-out" not in page.text
    assert "no key yet" not in page.text
    assert browser.post(f"/bindings/{binding.id}/reveal", {"reason": "complaint 118"}).status == 303
    revealed = running.service.history(binding.id)[-1]
    assert (revealed.kind, revealed.actor) == ("revealed", "person:eve@example.com")
    assert browser.get("/keys/create").status == 403
    created = {"id": binding.id, "name": "dispatch", "role": "app"}
    assert browser.post("/keys/create", created).status == 403
    admin = ProxiedBrowser(running, (EVE, OPS))
    assert admin.post("/keys/create", created).status == 200
    assert running.service.api_keys.get(binding.id).created_by == "person:eve@example.com"
    assert "API key created" in admin.get("/access").text
    assert admin.get("/access").text.count("person:eve@example.com") >= 2


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        ("audit", "auditor"),
        ("fraud team", "investigator"),
        ("audit,ops", "admin"),
        (" guests , audit ", "auditor"),
        ("ops2", None),
        ("OPS", None),
        ("ops;audit", None),
        ("", None),
        ("ops=admin", None),
        ("admin", None),
    ],
)
def test_highest_role_of_the_groups_counts_and_an_unknown_group_has_none(
    running: Running, groups: str, role: str | None
) -> None:
    page = ProxiedBrowser(running, (EVE, ("X-Bindings-Groups", groups))).get("/overview")
    if role is None:
        assert (page.status, "none of your groups has a role here" in page.text) == (403, True)
    else:
        assert (page.status, f'<span class="muted">{role}</span>' in page.text) == (200, True)


def test_person_without_a_group_header_has_no_access(running: Running) -> None:
    browser = ProxiedBrowser(running, (EVE,))
    assert [browser.get(path).status for path in ("/", "/sign-in", "/keys", "/overview")] == [403] * 4
    assert browser.post("/sign-in", {"csrf": "0" * 64}).status == 403


@pytest.mark.parametrize("spelling", ["X-Bindings-User", "x-bindings-user", "X-BINDINGS-USER"])
def test_headers_of_an_address_that_is_not_trusted_are_ignored(running: Running, spelling: str) -> None:
    headers = ((spelling, "eve@example.com"), OPS, ("X-Forwarded-For", PROXY), ("Forwarded", f"for={PROXY}"))
    browser = ProxiedBrowser(running, headers, source=CLIENT)
    page = browser.get("/overview")
    assert (page.status, page.location) == (303, "/sign-in?next=/overview")
    assert 'name="key"' in browser.get("/sign-in").text
    assert ProxiedBrowser(running, headers).get("/overview").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        (EVE, ("X-Bindings-User", "root@example.com"), OPS),
        (EVE, EVE, OPS),
        (EVE, ("x-bindings-user", "root@example.com"), OPS),
        (EVE, ("X-Bindings-User", ""), OPS),
        (EVE, OPS, AUDIT),
        (EVE, AUDIT, ("x-bindings-groups", "ops")),
        (("X-Bindings-User", "root@example.com, eve@example.com"), OPS),
        (("X-Bindings-User", "eve example"), OPS),
        (("X-Bindings-User", "<b>eve</b>"), OPS),
        (("X-Bindings-User", "\N{RIGHT-TO-LEFT OVERRIDE}eve"), OPS),
        (("X-Bindings-User", "e" * 101), OPS),
    ],
)
def test_repeated_header_or_a_user_that_no_proxy_sends_refuses_the_request(
    running: Running, headers: Sequence[Header]
) -> None:
    for path in ("/overview", "/sign-in", "/nothing/here"):
        page = ProxiedBrowser(running, headers).get(path)
        assert page.status == (404 if path == "/nothing/here" else 400)
        assert "Sign out there" not in page.text


@pytest.mark.parametrize(
    "headers",
    [
        (OPS,),
        (("X-Bindings-User", ""), OPS),
        (("X-Bindings-User", "  "), OPS),
        (("X_Bindings_User", "eve@example.com"), OPS),
        (("X-Bindings_User", "eve@example.com"), OPS),
        (("X-Bindings-User-", "eve@example.com"), OPS),
        (("X-Forwarded-User", "eve@example.com"), OPS),
        (("Remote-User", "eve@example.com"), OPS),
    ],
)
def test_empty_user_and_other_spellings_of_the_header_are_no_user(
    running: Running, headers: Sequence[Header]
) -> None:
    page = ProxiedBrowser(running, headers).get("/overview")
    assert (page.status, page.location) == (303, "/sign-in?next=/overview")


def test_other_spelling_beside_the_header_changes_nothing(running: Running) -> None:
    smuggled = (("X_Bindings_User", "root@example.com"), ("X_Bindings_Groups", "ops"))
    page = ProxiedBrowser(running, (EVE, AUDIT, *smuggled)).get("/overview")
    assert (page.status, "root@example.com" in page.text) == (200, False)
    assert '<span class="muted">auditor</span>' in page.text


def test_header_in_a_trailer_is_no_user(running: Running) -> None:
    host, _, port = running.url.removeprefix("http://").rpartition(":")
    request = (
        f"GET /overview HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/html\r\nConnection: close\r\n"
        "Transfer-Encoding: chunked\r\nTrailer: X-Bindings-User, X-Bindings-Groups\r\n\r\n"
        "0\r\nX-Bindings-User: eve@example.com\r\nX-Bindings-Groups: ops\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=300) as sock:
        sock.sendall(request.encode())
        answer = b""
        while part := sock.recv(65_536):
            answer += part
    assert answer.split()[1] in (b"303", b"400")


def test_person_has_no_access_to_the_api(running: Running) -> None:
    browser = ProxiedBrowser(running, (EVE, OPS))
    assert [browser.get(path).status for path in ("/v1/bindings", "/v1/events")] == [401, 401]


def test_session_of_a_key_does_not_replace_the_person(running: Running) -> None:
    key = running.key("admin", "root")["Authorization"].removeprefix("Bearer ")
    browser = ProxiedBrowser(running, ())
    csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', browser.get("/sign-in").text)
    assert csrf
    assert browser.post("/sign-in", {"csrf": csrf[1], "key": key}).status == 303
    assert '<span class="muted">admin</span>' in browser.get("/overview").text
    browser.headers = (EVE, AUDIT)
    assert '<span class="muted">auditor</span>' in browser.get("/overview").text
    assert browser.post("/sign-in", {"key": key}).location == "/"
    assert '<span class="muted">auditor</span>' in browser.get("/overview").text
    browser.headers = (EVE,)
    assert browser.get("/overview").status == 403


def test_sign_in_page_of_a_person_leads_to_the_page_and_signing_out_ends_nothing_here(running: Running) -> None:
    browser = ProxiedBrowser(running)
    assert browser.get("/sign-in?next=/overview").location == "/overview"
    assert browser.get("/sign-in?next=//evil.example").location == "/"
    assert browser.post("/sign-out", {}).status == 303
    assert browser.get("/overview").status == 200
    assert "the proxy ends theirs" in browser.get("/sessions").text


def test_lost_group_ends_the_access_with_the_next_request(running: Running) -> None:
    browser = ProxiedBrowser(running, (EVE, OPS))
    form = {"id": "01890000-0000-7000-8000-000000000000", "name": "x", "role": "app", "csrf": browser.csrf()}
    browser.headers = (EVE, AUDIT)
    assert browser.post("/keys/create", form).status == 403
    browser.headers = (EVE, ("X-Bindings-Groups", "guests"))
    assert browser.get("/overview").status == 403


def test_form_of_another_site_or_another_user_is_refused(running: Running) -> None:
    browser = ProxiedBrowser(running, (EVE, OPS))
    token, zone = browser.csrf(), {"zone": "Asia/Kolkata", "next": "/"}
    assert browser.post("/zone", zone | {"csrf": token}).status == 303
    for header in (("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example")):
        assert browser.post("/zone", zone, header).status == 403
    assert browser.post("/zone", zone | {"csrf": ""}).status == 403
    browser.headers = (("X-Bindings-User", "mallory@example.com"), OPS)
    assert browser.csrf() != token
    assert browser.post("/zone", zone | {"csrf": token}).status == 403, "the same cookie, another user"


def test_search_of_a_person_is_not_shown_to_another_one_with_the_same_browser(running: Running) -> None:
    browser = ProxiedBrowser(running, (EVE, AUDIT))
    address = browser.post("/find", {"q": "order-42"}).location
    assert browser.get(address).status == 200
    browser.headers = (("X-Bindings-User", "mallory@example.com"), AUDIT)
    assert browser.get(address).status == 404


def test_every_page_of_a_person_is_well_formed(running: Running) -> None:
    browser = ProxiedBrowser(running, (EVE, OPS))
    for path in ("/", "/keys", "/keys/create", "/sessions", "/webhooks", "/holds", "/access"):
        assert Page(browser.get(path).text).errors == []


HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "sign-in-behind-a-proxy.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", HOW_TO.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def passed_on(location: str, sent: Sequence[Header], variables: dict[str, str]) -> list[Header]:
    """Return the headers that nginx passes on from this location, for a request with the headers `sent`."""
    settings = re.findall(r'proxy_set_header (\S+) "?([^";]*)"?;', location)
    values = [(name, variables.get(value.removeprefix("$"), value)) for name, value in settings]
    replaced = {name.lower() for name, _ in settings}
    kept = [header for header in sent if header[0].lower() not in replaced and "_" not in header[0]]
    return [header for header in (*kept, *values) if header[1] and header[0] != "Host"]


def test_documented_proxy_signs_people_in_and_passes_nothing_of_the_client_on(
    database_url: str, simulator: Simulator
) -> None:
    (settings,), (configuration,) = blocks("sh"), blocks("nginx")
    environment = dict(line.removeprefix("export ").split("=", 1) for line in settings.splitlines())
    names = {name.removeprefix("BINDINGS_").lower(): value for name, value in environment.items()}
    locations = [part for part in configuration.split("location ") if "127.0.0.1:8000" in part]
    assert len(locations) == 2
    pages, api = locations
    assert "auth_request_set $user $upstream_http_x_auth_request_email;" in pages
    forged = [
        ("X-Bindings-User", "root@example.com"),
        ("X_Bindings_User", "root"),
        ("X-Bindings-Groups", "platform"),
    ]
    person = {"user": "eve@example.com", "groups": "support,everyone", "remote_addr": "203.0.113.7"}
    no_one = {"user": "", "groups": "", "remote_addr": "203.0.113.7"}
    with BindingService.open(database_url=database_url, provider_url=simulator.url, **names) as service:  # type: ignore[arg-type]
        for running in run(service, local_admin=False):
            running.key("admin", "ops")
            page = ProxiedBrowser(running, passed_on(pages, forged, person)).get("/overview")
            assert (page.status, "eve@example.com" in page.text, "root" in page.text) == (200, True, False)
            assert '<span class="muted">auditor</span>' in page.text
            assert "Secure" in page.headers
            for location, variables in ((pages, no_one), (api, person)):
                page = ProxiedBrowser(running, passed_on(location, forged, variables)).get("/overview")
                assert (page.status, page.location) == (303, "/sign-in?next=/overview")
            key = running.key("auditor", "probe")["Authorization"]
            headers = passed_on(api, [*forged, ("Authorization", key)], no_one)
            assert ProxiedBrowser(running, headers).get("/v1/bindings").status == 200
