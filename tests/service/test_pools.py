"""Pool usage: a pool that runs out of numbers is announced in time, once, and again only after it had room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from bindings import errors
from bindings.domain.binding import EventKind
from bindings.jobs.pool_usage import with_capacity
from bindings.store import events
from bindings.store.pools import Pool
from tests.service.harness import APP, NOON, POOL, in_threads

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from tests.service.harness import ServiceHarness


def bind(harness: ServiceHarness, number: int, service: BindingService | None = None, **overrides: Any) -> Binding:
    arguments: dict[str, Any] = {"pool_number": POOL, "expire_s": 600, "mode": "AXB"} | overrides
    a, b = f"91880671{number:02}", f"91880672{number:02}"
    return (service or harness.service).bind(phone_a=a, phone_b=b, **arguments)


def pool_low_details(harness: ServiceHarness) -> list[dict[str, Any]]:
    """Return the detail of every pool_low event, also of those that the feed does not return yet."""
    query = select(*events.COLUMNS).order_by(events.COLUMNS[1])
    rows = harness.database.read(lambda connection: connection.execute(query).all())
    all_events = [events.to_event(row) for row in rows]
    assert all(event.binding_id is None for event in all_events if event.kind is EventKind.POOL_LOW)
    return [event.detail for event in all_events if event.kind is EventKind.POOL_LOW]


def single_pool(harness: ServiceHarness) -> Pool:
    (pool,) = harness.service.pools()
    return pool


def run_out(harness: ServiceHarness, number: int) -> None:
    """Let a bind find no number, and count: what is live then is the capacity."""
    harness.simulator.script("refuse:-41", times=1, on="bind")
    with pytest.raises(errors.NoMiddleNumber):
        bind(harness, number)
    harness.clock.advance(1)
    harness.service.count_pools()
    harness.clock.advance(1)


def test_pool_of_known_capacity_is_announced_once_when_few_numbers_are_left(harness: ServiceHarness) -> None:
    bindings = [bind(harness, number) for number in range(10)]
    run_out(harness, 40)
    for binding in bindings[:3]:
        harness.service.unbind(binding.id)
    assert harness.service.count_pools().low == 0
    bind(harness, 50)
    assert harness.service.count_pools().low == 0
    bind(harness, 51)
    assert [harness.service.count_pools().warned for _ in range(3)] == [1, 0, 0]
    detail = {"app_id": APP, "pool_number": POOL, "live": 9, "capacity": 10, "why": "share"}
    assert pool_low_details(harness)[1:] == [detail]
    harness.service.unbind(bindings[3].id)
    assert harness.service.count_pools().low == 1, "8 of 10 in use is still too few free numbers"
    harness.service.unbind(bindings[4].id)
    assert harness.service.count_pools().low == 0


@pytest.mark.parametrize("max_concurrency", [1, 1_000])
def test_concurrency_in_the_list_of_pools_is_no_capacity(harness: ServiceHarness, max_concurrency: int) -> None:
    harness.simulator.change(pool_size=4, max_concurrency=max_concurrency)
    for number in range(4):
        bind(harness, number)
    counts = harness.service.count_pools()
    assert (counts.pools, counts.low, counts.warned) == (1, 0, 0)
    assert single_pool(harness).capacity is None
    assert pool_low_details(harness) == []
    assert harness.received("pools") == 0, "nothing is read that says nothing"


def test_exhausted_pool_is_announced_immediately_and_sets_its_capacity(harness: ServiceHarness) -> None:
    for number in range(4):
        bind(harness, number)
    harness.service.count_pools()
    assert single_pool(harness).capacity is None
    for number in (10, 11):
        harness.simulator.script("refuse:-41", times=1, on="bind")
        with pytest.raises(errors.NoMiddleNumber):
            bind(harness, number)
    assert pool_low_details(harness) == [{"app_id": APP, "pool_number": POOL, "live": 4, "why": "no_number"}]
    harness.clock.advance(1)
    harness.service.count_pools()
    assert (single_pool(harness).capacity, single_pool(harness).low_at) == (4, NOON)
    harness.clock.advance(700)
    harness.service.expire_due()
    harness.service.count_pools()
    assert (single_pool(harness).live, single_pool(harness).capacity, single_pool(harness).low_at) == (0, 4, None)
    for number in range(20, 24):
        bind(harness, number)
    harness.clock.advance(1)
    assert harness.service.count_pools().warned == 1
    assert pool_low_details(harness)[-1] == {
        "app_id": APP,
        "pool_number": POOL,
        "live": 4,
        "capacity": 4,
        "why": "share",
    }
    bind(harness, 24)
    harness.clock.advance(1)
    harness.service.count_pools()
    assert single_pool(harness).capacity is None, "more bindings are live than the capacity, so the pool has grown"


def test_unused_pool_of_unknown_capacity_is_deleted(harness: ServiceHarness) -> None:
    binding = bind(harness, 1)
    assert harness.service.count_pools().pools == 1
    harness.service.unbind(binding.id)
    assert harness.service.count_pools().pools == 0
    assert harness.service.pools() == []


def test_applications_that_share_a_pool_are_counted_together(harness: ServiceHarness) -> None:
    for number in range(4):
        bind(harness, number, app_id=("one", "two")[number % 2])
    harness.simulator.script("refuse:-41", times=2, on="bind")
    for app_id in ("one", "two"):
        with pytest.raises(errors.NoMiddleNumber):
            bind(harness, 40, app_id=app_id)
    harness.clock.advance(1)
    assert harness.service.count_pools().low == 2
    assert [(pool.live, pool.capacity) for pool in harness.service.pools()] == [(2, 4), (2, 4)]


def test_concurrent_refusals_and_counts_announce_a_pool_once(harness: ServiceHarness) -> None:
    bind(harness, 0)
    harness.simulator.script("refuse:-41", rate=1.0, on="bind")
    replicas = [harness.service, harness.open()]

    def bind_refused(number: int) -> None:
        with pytest.raises(errors.NoMiddleNumber):
            bind(harness, number, replicas[number % 2])

    binds = [lambda number=number: bind_refused(number) for number in range(1, 9)]
    assert in_threads(*binds, *(replica.count_pools for replica in replicas)) == []
    assert len(pool_low_details(harness)) == 1
    harness.simulator.clear_faults()


def test_more_in_use_than_the_capacity_disproves_it() -> None:
    fields: dict[str, Any] = {"app_id": APP, "pool_number": POOL, "counted_at": NOON}
    before = Pool(**fields | {"live": 5, "capacity": 5, "refused_at": NOON.replace(hour=11), "low_at": NOON})
    now = NOON.replace(hour=13)
    assert with_capacity(before, before, 5, now=now, share=0.9).capacity == 5
    assert with_capacity(before, before, 6, now=now, share=0.9).capacity is None
    assert with_capacity(before, before, 3, now=now, share=0.9).low_at is None
    listed_before = Pool(**fields | {"live": 5, "capacity": 6, "refused_at": None, "low_at": NOON})
    assert with_capacity(listed_before, listed_before, 5, now=now, share=0.9).capacity is None


def test_pool_low_share_is_a_setting(harness: ServiceHarness) -> None:
    bindings = [bind(harness, number) for number in range(10)]
    run_out(harness, 40)
    for binding in bindings:
        harness.service.unbind(binding.id)
    early = harness.open(pool_low_share=0.2)
    early.count_pools()
    bind(harness, 50)
    assert (early.count_pools().low, early.count_pools().warned) == (0, 0)
    bind(harness, 51)
    assert early.count_pools().warned == 1
