"""Response times of a period: which calls are measured, and how they are grouped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.monitoring.bind_outcomes import BindFilter
from bindings.monitoring.chart_range import TimeRange
from bindings.monitoring.response_times import ResponseTimes, Share, response_times
from tests.service.harness import APP, POOL, A, B, C, D, E, F, feed_has_caught_up

if TYPE_CHECKING:
    from tests.service.harness import ServiceHarness

ALL_BINDS = BindFilter()


def shown(
    harness: ServiceHarness, bind_filter: BindFilter = ALL_BINDS, span: TimeRange = TimeRange.HOUR
) -> ResponseTimes:
    return response_times(harness.database, span.chart_range(harness.clock()).period, bind_filter=bind_filter)


def test_only_calls_that_the_provider_accepted_are_measured(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(C, D)
    harness.simulator.script("refuse:-41", times=1, on="bind")
    with pytest.raises(errors.NoMiddleNumber):
        harness.bind(E, F)
    harness.clock.advance(400)
    assert harness.service.reconcile().adopted == 1
    feed_has_caught_up(harness.service)
    harness.service.update_statistics()
    times = shown(harness)
    assert (times.binds, times.calls, times.requested, times.is_sample) == (3, 1, 3, False)
    assert 0 <= times.percentile(99) == times.percentile(50) < 60
    assert sum(share.calls for share in times.shares[-2:]) == 1


@pytest.mark.parametrize(
    ("of", "binds"),
    [
        (BindFilter(app_id=APP), 1),
        (BindFilter(app_id=APP, pool_number=POOL), 1),
        (BindFilter(pool_number="other"), 0),
        (BindFilter(app_id="other"), 0),
    ],
)
def test_application_and_pool_narrow_the_calls(harness: ServiceHarness, of: BindFilter, binds: int) -> None:
    harness.bind(A, B)
    times = shown(harness, of)
    assert (times.binds, times.calls) == (binds, binds)


def test_bind_that_is_not_counted_yet_is_measured(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    assert (shown(harness).calls, shown(harness).requested) == (1, 0)


def test_shares_are_those_of_the_response_times() -> None:
    times = ResponseTimes(binds=6, requested=6, is_sample=False, durations_s=(0.05, 0.1, 0.2, 2.0, 10.0, 11.0))
    assert times.shares == [
        Share(0.1, 2),
        Share(0.3, 3),
        Share(1.0, 3),
        Share(3.0, 4),
        Share(10.0, 5),
        Share(None, 1),
    ]
