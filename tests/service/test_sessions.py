"""How long a session of the console lasts: an hour without use, twelve hours at most, never past its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from bindings.access.sessions import Search
from bindings.domain.phone import Phone
from bindings.store.schema import searches, sessions
from tests.service.world import A

if TYPE_CHECKING:
    from tests.service.world import World

HOUR_S = 3_600


@pytest.fixture
def token(world: World) -> str:
    """A session that has just begun."""
    return world.service.sessions.create(world.service.keys.create(name="eve", role="auditor").record.id)


def lives(world: World, token: str) -> bool:
    """Whether the session is recognised; where it is, that counts as use."""
    return world.service.sessions.authenticate(token) is not None


def test_a_session_ends_after_an_hour_without_use(world: World, token: str) -> None:
    world.clock.advance(HOUR_S)
    assert lives(world, token)
    world.clock.advance(HOUR_S + 1)
    assert not lives(world, token)


def test_a_session_that_was_left_alone_too_long_does_not_come_back(world: World, token: str) -> None:
    world.clock.advance(HOUR_S + 1)
    assert not lives(world, token)
    assert not lives(world, token), "looking at it was taken for use"


def test_use_on_one_replica_counts_on_every_other(world: World, token: str) -> None:
    other = world.open()
    world.clock.advance(HOUR_S - 60)
    assert lives(world, token)
    world.clock.advance(HOUR_S - 60)
    assert other.sessions.authenticate(token) is not None


def test_a_session_that_is_used_all_the_time_ends_after_twelve_hours(world: World, token: str) -> None:
    for _ in range(23):
        world.clock.advance(HOUR_S / 2)
        assert lives(world, token)
    world.clock.advance(HOUR_S / 2 - 1)
    assert lives(world, token)
    world.clock.advance(1)
    assert not lives(world, token)


def test_a_session_ends_when_its_key_expires(world: World) -> None:
    key = world.service.keys.create(
        name="eve", role="auditor", expires_at=world.clock.at.replace(hour=12, minute=30)
    )
    token = world.service.sessions.create(key.record.id)
    world.clock.advance(HOUR_S / 2 - 1)
    assert lives(world, token)
    world.clock.advance(1)
    assert not lives(world, token)


def test_a_search_is_forgotten_after_an_hour_and_what_is_over_is_thrown_away(world: World, token: str) -> None:
    service = world.service
    search_id = service.sessions.save_search(token, Search(number=Phone(A)))
    world.clock.advance(HOUR_S - 1)
    assert service.sessions.get_search(token, search_id) is not None
    world.clock.advance(1)
    assert service.sessions.get_search(token, search_id) is None
    assert rows(world) == (1, 1)
    service.sessions.delete_expired()
    assert rows(world) == (0, 1)
    world.clock.advance(11 * HOUR_S)
    service.sessions.delete_expired()
    assert rows(world) == (0, 0)


def rows(world: World) -> tuple[int, ...]:
    """How many searches and sessions are stored."""
    counts = [select(func.count()).select_from(table) for table in (searches, sessions)]
    return tuple(world.database.read(lambda found: [found.execute(one).scalar_one() for one in counts]))
