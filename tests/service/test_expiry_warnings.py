"""Expiry warnings: written in time, once, and only if the binding can still be acted on."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bindings import errors
from bindings.domain.binding import EventKind, State
from bindings.jobs import expiry_warnings
from bindings.store import settle
from tests.service.harness import A, B, C, D, due_batches, in_threads

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness

SOON = EventKind.EXPIRES_SOON


def count_warnings(harness: ServiceHarness, binding: Binding) -> int:
    return harness.kinds(binding).count(SOON)


def test_warning_is_written_once_at_its_lead_time_and_not_before(harness: ServiceHarness) -> None:
    binding = harness.bind(expire_s=600, warn_s=60)
    assert binding.warn_s == 60
    harness.clock.advance(539)
    assert harness.service.warn_due().warned == 0
    harness.clock.advance(2)
    assert harness.service.warn_due().warned == 1
    assert harness.service.warn_due().warned == 0
    assert harness.kinds(binding)[-1] is SOON
    harness.clock.advance(60)
    harness.service.expire_due()
    assert harness.kinds(binding)[-2:] == [SOON, EventKind.EXPIRED]


def test_warning_event_contains_the_end_that_it_announces(harness: ServiceHarness) -> None:
    bindings = [harness.bind(A, B, expire_s=600, warn_s=60), harness.bind(C, D, expire_s=601, warn_s=61)]
    harness.clock.advance(541)
    harness.service.warn_due()
    for binding in bindings:
        event = harness.service.history(binding.id)[-1]
        assert event.kind is SOON
        assert list(event.detail) == ["expires_at"]
        assert datetime.fromisoformat(event.detail["expires_at"]) == binding.expires_at


def test_default_lead_time_applies_to_binds_without_one_that_last_longer(harness: ServiceHarness) -> None:
    service = harness.open(warn_s=60)
    arguments: dict[str, Any] = {"pool_number": "918806", "mode": "AXB"}
    assert service.bind(phone_a=A, phone_b=B, expire_s=61, **arguments).warn_s == 60
    assert service.bind(phone_a=C, phone_b=D, expire_s=60, **arguments).warn_s is None
    assert service.bind(phone_a="9188067711", phone_b="9188067712", expire_s=90, warn_s=5, **arguments).warn_s == 5
    assert (
        service.bind(phone_a="9188067713", phone_b="9188067714", expire_s=90, warn_s=0, **arguments).warn_s is None
    )


def move_end(harness: ServiceHarness, binding: Binding, at: datetime) -> None:
    by = harness.service.runtime.caller
    harness.database.write(lambda tx: settle.apply_drift(tx, binding, by, provider_end=at, held_until=None))


@pytest.mark.parametrize("warn_s", [600, 601, -1, 1.5, True, "60", 10**12])
def test_lead_time_that_is_invalid_or_not_below_the_life_is_refused_before_sending(
    harness: ServiceHarness, warn_s: Any
) -> None:
    with pytest.raises(errors.InvalidRequest) as excinfo:
        harness.bind(expire_s=600, warn_s=warn_s)
    assert [fault.field for fault in excinfo.value.field_errors] == ["warn_s"]
    assert harness.received("bind") == 0


def test_ended_overdue_or_unbinding_binding_gets_no_warning(harness: ServiceHarness) -> None:
    unbound = harness.bind(A, B, expire_s=600, warn_s=60)
    harness.service.unbind(unbound.id)
    unbind_requested = harness.bind(C, D, expire_s=600, warn_s=60)
    harness.simulator.script("reset_before", times=1, on="unbind")
    with pytest.raises((errors.OutcomeUnknown, errors.ProviderUnreachable)):
        harness.service.unbind(unbind_requested.id)
    overdue = harness.bind("9188067711", "9188067712", expire_s=100, warn_s=60)
    harness.clock.advance(590)
    assert harness.service.warn_due().warned == 0
    assert [count_warnings(harness, binding) for binding in (unbound, unbind_requested, overdue)] == [0, 0, 0]


def test_adopted_binding_gets_a_warning(harness: ServiceHarness) -> None:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(expire_s=600, warn_s=500)
    harness.clock.advance(20)
    harness.service.reconcile()
    assert harness.service.get(excinfo.value.binding.id).state is State.ACTIVE
    assert harness.service.warn_due().warned == 0
    harness.clock.advance(85)
    assert harness.service.warn_due().warned == 1


def test_earlier_end_moves_the_warning_and_never_repeats_it(harness: ServiceHarness) -> None:
    announced = harness.bind(A, B, expire_s=600, warn_s=60)
    harness.clock.advance(545)
    harness.service.warn_due()
    later = harness.bind(C, D, expire_s=600, warn_s=60)
    for binding in (announced, later):
        sooner = (binding.expires_at or harness.clock.at) - timedelta(seconds=20)
        move_end(harness, binding, sooner)
    assert harness.service.warn_due().warned == 0
    harness.clock.advance(521)
    assert harness.service.warn_due().warned == 1
    assert [count_warnings(harness, binding) for binding in (announced, later)] == [1, 1]


def test_idempotent_replay_keeps_the_first_lead_time(harness: ServiceHarness) -> None:
    first = harness.bind(expire_s=600, warn_s=60, idempotency_key="k")
    replay = harness.bind(expire_s=600, warn_s=120, idempotency_key="k")
    assert (replay.id, replay.warn_s) == (first.id, 60)


def test_concurrent_replicas_write_one_warning_per_binding(harness: ServiceHarness) -> None:
    bindings = [
        harness.bind(f"91880671{number:02}", f"91880672{number:02}", expire_s=600, warn_s=500)
        for number in range(20)
    ]
    harness.clock.advance(101)
    replicas = [harness.service, harness.open(), harness.open()]
    jobs = [
        lambda replica=replica: expiry_warnings.warn_due(due_batches(replica, batch=3)) for replica in replicas
    ]
    assert in_threads(*jobs) == []
    assert [count_warnings(harness, binding) for binding in bindings] == [1] * 20


def test_job_that_runs_out_of_time_reports_it_and_the_next_run_continues(harness: ServiceHarness) -> None:
    for number in range(3):
        harness.bind(f"91880671{number:02}", f"91880672{number:02}", expire_s=600, warn_s=500)
    harness.clock.advance(101)
    first = expiry_warnings.warn_due(due_batches(harness.service, batch=1, budget_s=-1))
    assert (first.warned, first.finished) == (1, False)
    assert harness.service.warn_due() == expiry_warnings.ExpiryWarningsResult(warned=2, batches=1, finished=True)
