"""A pool that runs dry is announced in time, once, and again only after it had room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from bindings import errors
from bindings.domain.binding import EventKind, State
from bindings.jobs.pool_usage import with_capacity
from bindings.store import events
from bindings.store.pools import Pool
from tests.service.world import APP, NOON, POOL, A, B, in_threads

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from tests.service.world import World


def bind(world: World, number: int, service: BindingService | None = None, **asked: Any) -> Binding:
    given: dict[str, Any] = {"pool_number": POOL, "expire_s": 600, "mode": "AXB"} | asked
    a, b = f"91880671{number:02}", f"91880672{number:02}"
    return (service or world.service).bind(phone_a=a, phone_b=b, **given)


def told(world: World) -> list[dict[str, Any]]:
    """What every pool_low event says, also of those that the feed does not show yet."""
    written = select(*events.COLUMNS).order_by(events.COLUMNS[1])
    rows = world.database.read(lambda found: found.execute(written).all())
    every = [events.to_event(row) for row in rows]
    assert all(event.binding_id is None for event in every if event.kind is EventKind.POOL_LOW)
    return [event.detail for event in every if event.kind is EventKind.POOL_LOW]


def pool(world: World) -> Pool:
    (found,) = world.service.pools()
    return found


def test_a_pool_that_the_provider_lists_is_announced_once_when_little_is_left(world: World) -> None:
    world.simulator.change(pool_size=10, max_concurrency=1)
    made = [bind(world, number) for number in range(8)]
    assert world.service.count_pools().low == 0
    made.append(bind(world, 8))
    assert [world.service.count_pools().warned for _ in range(3)] == [1, 0, 0]
    fact = {"app_id": APP, "pool_number": POOL, "live": 9, "capacity": 10, "why": "share"}
    assert told(world) == [fact]
    world.service.unbind(made[0].id)
    assert world.service.count_pools().low == 1, "8 of 10 is not yet room again"
    world.service.unbind(made[1].id)
    assert world.service.count_pools().low == 0
    for number in (20, 21):
        bind(world, number)
    assert world.service.count_pools().warned == 1
    assert len(told(world)) == 2


def test_no_number_left_warns_at_once_and_teaches_what_fits(world: World) -> None:
    world.simulator.script("refuse:-1", rate=1.0, on="pools")
    for number in range(4):
        bind(world, number)
    world.service.count_pools()
    assert pool(world).capacity is None, "an account may lack the list"
    for number in (10, 11):
        world.simulator.script("refuse:-41", times=1, on="bind")
        with pytest.raises(errors.NoMiddleNumber):
            bind(world, number)
    assert told(world) == [{"app_id": APP, "pool_number": POOL, "live": 4, "why": "no_number"}]
    world.clock.advance(1)
    world.service.count_pools()
    assert (pool(world).capacity, pool(world).low_at) == (4, NOON)
    world.clock.advance(700)
    world.service.expire_due()
    world.service.count_pools()
    assert (pool(world).live, pool(world).capacity, pool(world).low_at) == (0, 4, None)
    for number in range(20, 24):
        bind(world, number)
    world.clock.advance(1)
    assert world.service.count_pools().warned == 1
    assert told(world)[-1] == {"app_id": APP, "pool_number": POOL, "live": 4, "capacity": 4, "why": "share"}
    bind(world, 24)
    world.clock.advance(1)
    world.service.count_pools()
    assert pool(world).capacity is None, "more lives there than fitted: the pool has grown"


def test_a_refused_list_of_pools_stops_no_bind(world: World) -> None:
    world.simulator.script("refuse:-30", rate=1.0, on="pools")
    world.service.count_pools()
    assert bind(world, 1).state is State.ACTIVE


def test_a_pool_that_nobody_uses_and_nothing_is_known_of_is_forgotten(world: World) -> None:
    world.simulator.script("bad_gateway", rate=1.0, on="pools")
    binding = bind(world, 1)
    assert world.service.count_pools().pools == 1
    world.service.unbind(binding.id)
    assert world.service.count_pools().pools == 0
    assert world.service.pools() == []


def test_applications_that_share_a_pool_are_counted_together(world: World) -> None:
    world.simulator.change(pool_size=4, max_concurrency=1)
    for number in range(4):
        bind(world, number, app_id=("one", "two")[number % 2])
    assert world.service.count_pools().low == 2
    assert [(found.app_id, found.live) for found in world.service.pools()] == [("one", 2), ("two", 2)]


def test_refusals_and_counts_side_by_side_warn_once(world: World) -> None:
    bind(world, 0)
    world.simulator.script("refuse:-41", rate=1.0, on="bind")
    replicas = [world.service, world.open()]

    def refused(number: int) -> None:
        with pytest.raises(errors.NoMiddleNumber):
            bind(world, number, replicas[number % 2])

    binds = [lambda number=number: refused(number) for number in range(1, 9)]
    assert in_threads(*binds, *(each.count_pools for each in replicas)) == []
    assert len(told(world)) == 1
    world.simulator.clear_faults()


def test_the_provider_s_list_does_not_outweigh_what_it_answered() -> None:
    known: dict[str, Any] = {"app_id": APP, "pool_number": POOL, "counted_at": NOON, "refused_at": None}
    before = Pool(**known | {"live": 5, "capacity": 5, "refused_at": NOON.replace(hour=11), "low_at": NOON})
    now = NOON.replace(hour=13)
    assert with_capacity(before, before, 5, 100, now=now, share=0.9).capacity == 5
    assert with_capacity(before, before, 6, 100, now=now, share=0.9).capacity == 100
    assert with_capacity(before, before, 3, 100, now=now, share=0.9).low_at is None


def test_the_share_is_a_setting(world: World) -> None:
    world.simulator.change(pool_size=10, max_concurrency=1)
    early = world.open(pool_low_share=0.2)
    early.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=600, mode="AXB")
    assert early.count_pools().warned == 0
    bind(world, 1)
    assert early.count_pools().warned == 1
