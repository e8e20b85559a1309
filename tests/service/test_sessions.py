"""Lifetime of a console session: an hour without use, twelve hours at most, never beyond its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from bindings.access.sessions import Search
from bindings.domain.phone import Phone
from bindings.store.schema import searches, sessions
from tests.service.harness import A, feed_has_caught_up

if TYPE_CHECKING:
    from tests.service.harness import ServiceHarness

HOUR_S = 3_600


@pytest.fixture
def token(harness: ServiceHarness) -> str:
    """Return the token of a new session."""
    return harness.service.sessions.create(harness.service.api_keys.create(name="eve", role="auditor").record.id)


def is_valid(harness: ServiceHarness, token: str) -> bool:
    """Return whether the session is valid; a valid one is renewed by this."""
    return harness.service.sessions.authenticate(token) is not None


def test_session_ends_after_an_hour_without_use(harness: ServiceHarness, token: str) -> None:
    harness.clock.advance(HOUR_S)
    assert is_valid(harness, token)
    harness.clock.advance(HOUR_S + 1)
    assert not is_valid(harness, token)


def test_expired_session_is_not_renewed_by_a_request(harness: ServiceHarness, token: str) -> None:
    harness.clock.advance(HOUR_S + 1)
    assert not is_valid(harness, token)
    assert not is_valid(harness, token), "the failed attempt renewed it"


def test_use_on_one_replica_counts_on_every_other(harness: ServiceHarness, token: str) -> None:
    other = harness.open()
    harness.clock.advance(HOUR_S - 60)
    assert is_valid(harness, token)
    harness.clock.advance(HOUR_S - 60)
    assert other.sessions.authenticate(token) is not None


def test_session_in_constant_use_ends_after_twelve_hours(harness: ServiceHarness, token: str) -> None:
    for _ in range(23):
        harness.clock.advance(HOUR_S / 2)
        assert is_valid(harness, token)
    harness.clock.advance(HOUR_S / 2 - 1)
    assert is_valid(harness, token)
    harness.clock.advance(1)
    assert not is_valid(harness, token)


def test_session_ends_when_its_key_expires(harness: ServiceHarness) -> None:
    key = harness.service.api_keys.create(
        name="eve", role="auditor", expires_at=harness.clock.at.replace(hour=12, minute=30)
    )
    token = harness.service.sessions.create(key.record.id)
    harness.clock.advance(HOUR_S / 2 - 1)
    assert is_valid(harness, token)
    harness.clock.advance(1)
    assert not is_valid(harness, token)


def test_saved_search_expires_after_an_hour_and_expired_rows_are_deleted(
    harness: ServiceHarness, token: str
) -> None:
    service = harness.service
    search_id = service.sessions.save_search(token, Search(number=Phone(A)))
    harness.clock.advance(HOUR_S - 1)
    assert service.sessions.get_search(token, search_id) is not None
    harness.clock.advance(1)
    assert service.sessions.get_search(token, search_id) is None
    assert stored_rows(harness) == (1, 1)
    service.sessions.delete_expired()
    assert stored_rows(harness) == (0, 1)
    harness.clock.advance(11 * HOUR_S)
    service.sessions.delete_expired()
    assert stored_rows(harness) == (0, 0)


def stored_rows(harness: ServiceHarness) -> tuple[int, ...]:
    """Return the numbers of stored searches and sessions."""
    counts = [select(func.count()).select_from(table) for table in (searches, sessions)]
    return tuple(
        harness.database.read(lambda connection: [connection.execute(query).scalar_one() for query in counts])
    )


def test_sign_in_and_sign_out_are_events_of_the_key_and_expiry_is_none(harness: ServiceHarness) -> None:
    service = harness.service
    key_id = service.api_keys.create(name="eve", role="auditor").record.id
    for request_id in ("req-1", "req-2"):
        token = service.sessions.create(key_id, request_id=request_id)
        if request_id == "req-2":
            for _ in range(2):
                service.sessions.end(token, request_id="req-3")
    harness.clock.advance(HOUR_S * 13)
    service.sessions.delete_expired()
    feed_has_caught_up(service)
    entries = service.access_log.entries(kind="session").data[::-1]
    assert [(entry.act, entry.request_id) for entry in entries] == [
        ("session.began", "req-1"),
        ("session.began", "req-2"),
        ("session.ended", "req-3"),
    ]
    assert {(entry.actor, entry.key_id) for entry in entries} == {("key:eve", key_id)}
    events = [event for event in service.export_events() if str(event.detail.get("act")).startswith("session.")]
    assert [event.detail["key_id"] for event in events] == [key_id] * 3
