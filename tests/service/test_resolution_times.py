"""The time after which a caller asks again for a binding without a clear answer."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.jobs.registry import RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.lifecycle.resolution_times import first_look_result
from tests.service.harness import A, B, ServiceHarness

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding


def unknown_of(call: Callable[[], Binding]) -> errors.OutcomeUnknown:
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        call()
    return excinfo.value


def test_unknown_outcome_says_when_the_scheduler_acts_next(harness: ServiceHarness) -> None:
    service = harness.open(reconcile_interval_s=300)

    def bind() -> Binding:
        return harness.bind(A, B, mode="AXXB", idempotency_key="order-1/1")

    harness.simulator.script("lost_reply", times=1, on="bind")
    assert unknown_of(bind).retry_after_s is None, "no scheduler has run"
    harness.simulator.list_as(next(iter(harness.simulator.ledger)).bind_id, hidden=True)
    JobRunner(service.runtime).run_once_per_period(RECONCILE, 300)
    for passed_s, seconds in ((0, 300), (100, 200), (199, 2), (301, 2), (301, None)):
        harness.clock.advance(passed_s)
        replay = unknown_of(bind)
        assert (replay.replayed, replay.retry_after_s) == (True, seconds)
    assert "the outcome may be known later" in replay.next_step()


def test_unknown_outcome_of_an_axb_says_when_it_is_looked_for(harness: ServiceHarness) -> None:
    service = harness.open(reconcile_interval_s=300)
    JobRunner(service.runtime).run_once_per_period(RECONCILE, 300)

    def bind() -> Binding:
        return harness.bind(A, B, idempotency_key="order-1/1")

    harness.simulator.script("reset_before", times=1, on="bind")
    first = unknown_of(bind)
    seconds_to_result = (first_look_result(service.settings, first.binding) - harness.clock()).total_seconds()
    assert first.retry_after_s == ceil(seconds_to_result) < 20
    for passed_s, seconds in ((20, 20), (20, 40), (200, 60), (30, 30)):
        harness.clock.advance(passed_s)
        assert abs((unknown_of(bind).retry_after_s or 0) - seconds) <= 11, "later ones are further apart"


def test_unclear_unbind_says_when_it_is_repeated(harness: ServiceHarness) -> None:
    bound = harness.bind(A, B)
    harness.simulator.script("lost_reply", times=1, on="unbind")
    unknown = unknown_of(lambda: harness.service.unbind(bound.id))
    assert (unknown.retry_after_s, unknown.problem()["retry_after_s"]) == (10, 10)
    assert "the outcome may be known in 10 s" in unknown.next_step()
