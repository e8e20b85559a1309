"""Made-up keys and sessions: they cost few queries, and keep no valid key and no valid session from working."""

from __future__ import annotations

import secrets
from collections import Counter
from contextlib import ExitStack
from ipaddress import ip_network
from typing import TYPE_CHECKING

from bindings import errors
from bindings.access import api_keys
from bindings.web.console import security
from bindings.web.proxies import TrustedProxies
from bindings.web.rate_limit import ATTEMPTS
from tests.service.harness import A
from tests.web.browser import Browser
from tests.web.wire import connect, read_until_closed

if TYPE_CHECKING:
    import pytest

    from bindings.web.credentials import CredentialLookup
    from tests.web.conftest import Running

CONNECTIONS = 300


def unknown_key() -> dict[str, str]:
    """Return a well-formed key that does not exist."""
    return {"Authorization": f"Bearer {api_keys.generate()}"}


def count_queries(monkeypatch: pytest.MonkeyPatch, lookup: CredentialLookup) -> Counter[str]:
    """Return how many lookups in the database fail from now on ("one"), and how often all digests are read."""
    counts: Counter[str] = Counter()
    find, read_all = lookup._find, lookup._read_valid_digests

    def counted_find(credential: str) -> object:
        key = find(credential)
        counts["one"] += key is None
        return key

    def counted_read_all() -> frozenset[str]:
        counts["all"] += 1
        return read_all()

    monkeypatch.setattr(lookup, "_find", counted_find)
    monkeypatch.setattr(lookup, "_read_valid_digests", counted_read_all)
    return counts


def test_requests_with_unknown_keys_are_limited_by_address(running: Running) -> None:
    good = running.key("auditor")
    answers = [running.get("/v1/bindings", unknown_key()) for _ in range(ATTEMPTS + 1)]
    assert [answer.status_code for answer in answers] == [401] * ATTEMPTS + [429]
    assert (answers[-1].json()["code"], answers[-1].headers["Retry-After"]) == ("rate-limited", "6")
    assert running.get("/v1/bindings", good).status_code == 200
    running.app_state.proxies = TrustedProxies((ip_network("127.0.0.0/8"),))
    for address in ("203.0.113.7", "2001:db8:1::7", "::ffff:203.0.113.8", "::ffff:203.0.113.9"):
        forwarded = [
            running.get("/v1/bindings", unknown_key() | {"X-Forwarded-For": address}) for _ in range(ATTEMPTS + 1)
        ]
        assert [answer.status_code for answer in forwarded] == [401] * ATTEMPTS + [429]


def test_flood_of_unknown_keys_costs_few_queries_and_delays_no_valid_key(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, fresh = running.key("auditor"), running.key("app")
    assert running.post("/v1/lookup", {"phone": A}, used).status_code == 200
    counts = count_queries(monkeypatch, running.app_state.authenticator._key_lookup)
    with ExitStack() as stack:
        flood = [stack.enter_context(connect(running)) for _ in range(CONNECTIONS)]
        for connection in flood:
            for last in (False, True):
                lines = ["GET /v1/bindings HTTP/1.1", "Host: localhost", *map(": ".join, unknown_key().items())]
                connection.sendall("\r\n".join([*lines, *["Connection: close"] * last, "", ""]).encode())
        answers = [running.post("/v1/lookup", {"phone": A}, key).status_code for key in (used, fresh) * 10]
        refused = Counter(status for connection in flood for status in statuses(read_until_closed(connection)))
    assert answers == [200] * 20
    assert set(refused) == {b"401", b"429"}
    assert refused.total() == 2 * CONNECTIONS
    assert refused[b"401"] == counts["one"]
    assert refused[b"429"] > CONNECTIONS


def statuses(answers: bytes) -> list[bytes]:
    """Return the status of each response on a connection."""
    return [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]


def test_key_that_was_never_used_is_accepted_while_others_at_its_address_are_limited(running: Running) -> None:
    running.key("auditor")
    for _ in range(ATTEMPTS + 5):
        running.get("/v1/bindings", unknown_key())
    lookup = running.app_state.authenticator._key_lookup
    lookup._refreshed_at = float("-inf")  # a second later
    created = running.key("app", "new")
    assert running.get("/v1/bindings", created).status_code == 200
    browser = Browser(running)
    assert browser.post("/sign-in", {"key": api_keys.generate()}).status_code == 429
    assert browser.post("/sign-in", {"key": created["Authorization"].removeprefix("Bearer ")}).status_code == 303


def test_revoked_key_counts_as_a_failed_attempt(running: Running) -> None:
    app, authenticator = running.key("app"), running.app_state.authenticator
    assert running.get("/v1/bindings", app).status_code == 200
    running.service.api_keys.revoke(running.service.api_keys.list()[0].id)
    authenticator._cache.clear()
    answers = [running.get("/v1/bindings", app).status_code for _ in range(ATTEMPTS + 2)]
    assert answers == [401] * (ATTEMPTS + 1) + [429]


def test_failure_of_the_database_is_no_failed_attempt(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    key = running.key("app")
    lookup = running.app_state.authenticator._key_lookup

    def away(_credential: str) -> None:
        raise errors.Busy("the database is away")

    with monkeypatch.context() as failing:
        failing.setattr(lookup, "_find", away)
        answers = [running.get("/v1/bindings", unknown_key()).status_code for _ in range(ATTEMPTS + 5)]
    assert answers == [503] * len(answers)
    assert running.get("/v1/bindings", key).status_code == 200
    assert running.get("/v1/bindings", unknown_key()).status_code == 401


def test_made_up_sessions_cost_few_queries_and_end_no_valid_session(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in = Browser(running).sign_in("auditor")
    lookup = running.app_state.authenticator._session_lookup
    counts = count_queries(monkeypatch, lookup)
    for _ in range(ATTEMPTS * 3):
        made_up = {"Cookie": f"{security.COOKIE}={secrets.token_urlsafe(32)}", "Accept": "text/html"}
        assert running.get("/overview", made_up, allow_redirects=False).status_code == 303
    assert counts["one"] == ATTEMPTS
    assert signed_in.get("/overview").status_code == 200
    lookup._refreshed_at = float("-inf")
    later = Browser(running).sign_in("auditor", "later")
    assert later.get("/overview").status_code == 200


def test_browser_without_a_session_costs_no_query(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.key("auditor")
    counts = count_queries(monkeypatch, running.app_state.authenticator._session_lookup)
    assert running.get("/overview", {"Accept": "text/html"}, allow_redirects=False).status_code == 303
    assert counts == Counter()
