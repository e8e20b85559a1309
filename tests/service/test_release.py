"""After the promised end: the rest of the provider's time is released, once, soon, and without side effects."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import EventKind
from bindings.jobs.registry import RECOVER
from tests.service.harness import C, D
from tests.service.test_extend import HOUR, bind, expire, is_held

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness

LAG_S = 61  # more than the list's lag
MANY = 300


def test_released_binding_that_a_late_list_still_shows_is_not_held(harness: ServiceHarness) -> None:
    binding = bind(harness)
    bind(harness, C, D, expire_s=4 * HOUR)
    harness.simulator.change(list_lag_s=30)
    expire(harness, binding)
    harness.service.recover()
    for seconds in (1, 10, 40):
        harness.clock.advance(seconds)
        counts = harness.service.reconcile()
        assert (counts.ghosts, counts.revenants, counts.orphans) == (0, 0, 0), seconds
        assert not is_held(harness)


def test_released_binding_that_lives_on_at_the_provider_is_held(harness: ServiceHarness) -> None:
    binding = expire(harness, bind(harness))
    harness.service.recover()
    harness.simulator.restore_binding(int(binding.bind_id or 0))
    harness.clock.advance(LAG_S)
    assert harness.service.reconcile().revenants == 1
    assert is_held(harness)


def test_minus_35_right_after_a_release_holds_for_seconds(harness: ServiceHarness) -> None:
    expire(harness, bind(harness))
    harness.simulator.change(release_lag_s=3)
    harness.service.recover()
    with pytest.raises(errors.PhoneInUseAtProvider) as refused:
        bind(harness)
    assert (refused.value.status, refused.value.retry_after_s) == ("-35", 2)


def test_no_release_is_sent_where_the_bind_id_is_another_binding_s_by_now(harness: ServiceHarness) -> None:
    expired = expire(harness, bind(harness))
    harness.simulator.remove_binding(str(expired.bind_id))
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        bind(harness, C, D)
    created = harness.simulator.ledger.entries()[-1]
    harness.simulator.list_as(created.bind_id, {"bind_id": expired.bind_id})
    harness.clock.advance(20)
    harness.simulator.script("lost_reply", times=1, on="unbind")  # of the release that precedes the scan
    assert harness.service.reconcile().adopted == 1
    harness.service.recover()
    assert harness.received("unbind") == 1
    assert not is_held(harness)


def test_scan_that_lists_an_earlier_end_bounds_every_extension(harness: ServiceHarness) -> None:
    binding = bind(harness)
    bind(harness, C, D)
    harness.simulator.list_as(str(binding.bind_id), {"ends_at": "2026-03-01 22:00:00"})  # 14:00 UTC
    harness.clock.advance(LAG_S)
    assert harness.service.reconcile().drifted == 1
    assert harness.service.get(binding.id).expires_at == binding.expires_at
    with pytest.raises(errors.InvalidRequest, match="may end the binding at 2026-03-01T13:59"):
        harness.service.extend(binding.id, expire_s=2 * HOUR)
    extended = harness.service.extend(binding.id, expire_s=HOUR + 1_800)
    assert _end(extended) > _end(binding)


def test_many_extended_bindings_each_expire_once_at_the_new_end_and_are_released_soon(
    harness: ServiceHarness,
) -> None:
    extended = [_extended(harness, number) for number in range(MANY)]
    interval_s = RECOVER.interval_s(harness.service.settings)
    last_end = max(_end(binding) for binding in extended)
    while harness.clock.at < last_end + timedelta(seconds=2 * interval_s):
        harness.clock.advance(interval_s)
        harness.service.expire_due()
        harness.service.recover()
    for binding in extended:
        kinds = Counter(harness.kinds(binding))
        assert (kinds[EventKind.EXPIRED], kinds[EventKind.UNBIND_CONFIRMED]) == (1, 1)
        row, unbound_at = harness.service.get(binding.id), harness.entry(binding).unbound_at
        assert row.ended_at == binding.expires_at
        assert unbound_at is not None
        assert 0 <= unbound_at - _end(binding).timestamp() <= 2 * interval_s
        assert row.held_until.timestamp() == unbound_at
    assert harness.received("unbind") == MANY


def _extended(harness: ServiceHarness, number: int) -> Binding:
    phones = (f"91880{number:05d}", f"91881{number:05d}")
    binding = bind(harness, *phones, pool_number=f"91{number:04d}", expire_s=60, max_expire_s=HOUR)
    return harness.service.extend(binding.id, expire_s=300 + number % 90)


def _end(binding: Binding) -> datetime:
    assert binding.expires_at is not None
    return binding.expires_at
