"""Promised ends: extended, shortened, and released at the provider when they come before its own end."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text

from bindings import errors
from bindings.clock import HostClock
from bindings.domain.binding import EventKind, Reason, State
from bindings.monitoring.activity_checks import RELEASE_WARN_S, of_releases
from bindings.monitoring.check import Level
from bindings.monitoring.health_metrics import health_metrics
from bindings.store import replicas, settle
from bindings.store.schema import bindings
from tests.service.harness import A, B, C, D, in_threads

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from tests.service.harness import ServiceHarness

HOUR = 3_600
READING_APART = timedelta(seconds=1)  # a statement reads the clock for each of its values


def bind(harness: ServiceHarness, phone_a: str = A, phone_b: str = B, **overrides: Any) -> Binding:
    return harness.bind(phone_a, phone_b, **({"expire_s": HOUR, "max_expire_s": 4 * HOUR} | overrides))


def is_held(harness: ServiceHarness, phone_a: str = A, phone_b: str = B) -> bool:
    return bool(harness.service.check(phone_a=phone_a, phone_b=phone_b, mode="AXB"))


def seconds_left(harness: ServiceHarness, binding: Binding) -> float:
    assert binding.expires_at is not None
    return (binding.expires_at - harness.clock.at).total_seconds()


def expire(harness: ServiceHarness, binding: Binding) -> Binding:
    """Let the promised end come, and mark the binding as expired."""
    harness.clock.advance(seconds_left(harness, binding) + 1)
    assert harness.service.expire_due().expired == 1
    return harness.service.get(binding.id)


def test_provider_is_asked_for_the_longest_time_and_the_caller_is_promised_less(harness: ServiceHarness) -> None:
    binding = bind(harness)
    assert binding.expires_at is not None
    assert binding.sent_at is not None
    assert (binding.expire_s, binding.max_expire_s) == (HOUR, 4 * HOUR)
    assert binding.expires_at - binding.sent_at == timedelta(seconds=HOUR)
    assert binding.provider_expires_at == binding.sent_at + timedelta(seconds=4 * HOUR)
    assert binding.held_until.timestamp() >= harness.entry(binding).expires_at, "I4"


def test_without_a_longest_time_nothing_differs(harness: ServiceHarness) -> None:
    binding = harness.bind(expire_s=HOUR)
    assert (binding.max_expire_s, binding.provider_expires_at) == (None, None)
    assert binding.provider_end == binding.expires_at
    harness.clock.advance(60)
    with pytest.raises(errors.InvalidRequest, match=r"expire_s must be at most \d+ now"):
        harness.service.extend(binding.id, expire_s=HOUR)


@pytest.mark.parametrize(
    ("change_at_min", "change", "active_min", "held_min"),
    [
        pytest.param(25, {"extend": 3600}, 85, 85, id="extended"),
        pytest.param(15, {"unbind": 600}, 25, 25, id="shortened"),
        pytest.param(15, {"unbind": None}, 15, 15, id="unbound"),
        pytest.param(0, {}, 30, 240, id="without a scheduler"),
    ],
)
def test_binding_is_active_and_held_as_drawn_in_the_how_to(
    harness: ServiceHarness, change_at_min: int, change: dict[str, Any], active_min: int, held_min: int
) -> None:
    """The rows of docs/images/ends.svg: a binding of 1800 s for which the provider was asked for 14400 s."""
    service = harness.service
    binding = bind(harness, expire_s=1800, max_expire_s=14400)
    if active_min > change_at_min > 0:
        harness.clock.advance(change_at_min * 60 - 1)
    if "extend" in change:
        service.extend(binding.id, expire_s=change["extend"])
    elif "unbind" in change:
        service.unbind(binding.id, after_s=change["unbind"])
    if active_min > change_at_min:
        harness.clock.advance((active_min - change_at_min) * 60 - 2)
        assert [active.id for active in service.lookup(phone=A)] == [binding.id]
        harness.clock.advance(4)
    assert service.lookup(phone=A) == []
    if held_min == active_min:
        service.expire_due()
        service.recover()
    else:
        harness.clock.advance((held_min - active_min) * 60 - 8)
        assert is_held(harness)
        harness.clock.advance(8 + 60)  # the longest guard
    assert not is_held(harness)


def test_extend_moves_the_end_without_a_call(harness: ServiceHarness) -> None:
    binding = bind(harness)
    calls = sum(harness.simulator.counts.received.values())
    harness.clock.advance(1_800)
    extended = harness.service.extend(binding.id, expire_s=2 * HOUR)
    assert seconds_left(harness, extended) == 2 * HOUR
    assert extended.provider_expires_at == binding.provider_expires_at
    assert sum(harness.simulator.counts.received.values()) == calls
    event = harness.service.history(binding.id)[-1]
    assert (event.kind, event.detail["expire_s"]) == (EventKind.EXTENDED, 2 * HOUR)
    harness.clock.advance(2 * HOUR - 1)
    assert harness.service.expire_due().expired == 0
    assert [found.id for found in harness.service.lookup(phone=A)] == [binding.id]
    harness.clock.advance(1)
    assert harness.service.lookup(phone=A) == []


def test_extend_never_moves_the_end_to_an_earlier_instant(harness: ServiceHarness) -> None:
    binding = bind(harness)
    assert harness.service.extend(binding.id, expire_s=60) == binding
    assert harness.kinds(binding)[-1] is EventKind.ACTIVATED


def test_extend_past_the_provider_end_names_the_latest_time(harness: ServiceHarness) -> None:
    binding = bind(harness)
    harness.clock.advance(1_000)
    with pytest.raises(errors.InvalidRequest) as refused:
        harness.service.extend(binding.id, expire_s=4 * HOUR)
    message = re.fullmatch(
        r"expire_s must be at most (\d+) now: .* at 2026-03-01T16:00:\d\dZ; .*", str(refused.value)
    )
    assert message is not None
    assert harness.service.get(binding.id) == binding
    longest_s = int(message[1])
    assert 13_400 <= longest_s <= 13_460
    assert seconds_left(harness, harness.service.extend(binding.id, expire_s=longest_s)) == longest_s


def test_extension_that_is_attempted_again_after_a_lost_response_is_no_refusal(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the second attempt the time asked for would end past the provider's end; the first one has moved it."""
    service = harness.open(host_clock=HostClock(wall=harness.clock.unix, monotonic=harness.clock.unix))
    binding = bind(harness)
    assert binding.provider_end is not None
    longest_s = int((binding.provider_end - harness.clock.at).total_seconds())
    write, first_attempts = harness.database.write, []

    def write_again(work: Any, **options: Any) -> Any:
        first_attempts.append(write(work, **options))
        harness.clock.advance(10)
        return write(work)

    monkeypatch.setattr(harness.database, "write", write_again)
    extended = service.extend(binding.id, expire_s=longest_s)
    assert [extended] == first_attempts
    assert harness.kinds(binding)[-1] is EventKind.EXTENDED


@pytest.mark.parametrize("expire_s", [0, -1, 1.5, "60", True, 259_201, None])
def test_extend_refuses_a_wrong_duration_before_any_io(harness: ServiceHarness, expire_s: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="expire_s"):
        harness.service.extend("0" * 32, expire_s=expire_s)


@pytest.mark.parametrize(("expire_s", "max_expire_s"), [(60, 59), (60, 259_201), (60, 0), (60, "90")])
def test_longest_time_is_at_least_the_promised_one(
    harness: ServiceHarness, expire_s: int, max_expire_s: Any
) -> None:
    with pytest.raises(errors.InvalidRequest, match="max_expire_s"):
        harness.bind(expire_s=expire_s, max_expire_s=max_expire_s)


def test_extend_of_a_binding_that_is_not_active_says_why(harness: ServiceHarness) -> None:
    unbound, passed, unbinding = bind(harness), bind(harness, C, D), bind(harness, "9188067711", "9188067712")
    harness.service.unbind(unbound.id)
    harness.simulator.script("lost_reply", times=1, on="unbind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.service.unbind(unbinding.id)
    harness.clock.advance(HOUR + 1)
    for binding, words in ((unbound, "is unbound"), (passed, "has passed"), (unbinding, "being unbound")):
        with pytest.raises(errors.NotActive, match=words):
            harness.service.extend(binding.id, expire_s=60)
    with pytest.raises(errors.NotFound):
        harness.service.extend("01993b1e-7c5a-7d52-9b6e-2f1c8a4d7e90", expire_s=60)


def test_extend_of_another_actors_binding_is_not_found_where_only_own_ones_are_seen(
    harness: ServiceHarness,
) -> None:
    binding = bind(harness)
    with pytest.raises(errors.NotFound):
        harness.service.as_caller(actor="other").extend(binding.id, expire_s=2 * HOUR, own_only=True)
    extended = harness.service.extend(binding.id, expire_s=2 * HOUR, own_only=True)
    assert seconds_left(harness, extended) == 2 * HOUR


def test_unbind_after_some_time_shortens_and_extend_takes_it_back(harness: ServiceHarness) -> None:
    binding = bind(harness)
    shortened = harness.service.unbind(binding.id, after_s=600, reason="arrived")
    assert seconds_left(harness, shortened) == 600
    assert harness.received("unbind") == 0
    event = harness.service.history(binding.id)[-1]
    assert (event.kind, event.detail["reason"]) == (EventKind.SHORTENED, "arrived")
    assert harness.service.unbind(binding.id, after_s=700) == shortened, "never later"
    assert seconds_left(harness, harness.service.extend(binding.id, expire_s=2 * HOUR)) == 2 * HOUR


def test_shortened_binding_of_an_older_version_keeps_the_provider_end(harness: ServiceHarness) -> None:
    binding = harness.bind(expire_s=HOUR)
    shortened = harness.service.unbind(binding.id, after_s=60)
    assert shortened.provider_expires_at == binding.expires_at
    expired = expire(harness, shortened)
    assert expired.is_release_owed(harness.clock.at)
    assert harness.service.recover().released == 1
    assert not is_held(harness)


def test_rest_of_the_time_is_released_after_the_promised_end(harness: ServiceHarness) -> None:
    binding = expire(harness, bind(harness))
    assert is_held(harness), "until the release is confirmed"
    result = harness.service.recover()
    assert (result.released, result.unbound, result.still_unclear) == (1, 0, 0)
    assert harness.entry(binding).unbound_at is not None
    released = harness.service.get(binding.id)
    assert (released.state, released.provider_expires_at) == (State.EXPIRED, binding.ended_at)
    assert harness.kinds(binding)[-2:] == [EventKind.EXPIRED, EventKind.UNBIND_CONFIRMED]
    assert not is_held(harness)
    assert harness.service.recover().released == 0
    assert harness.received("unbind") == 1


def test_release_that_the_provider_does_not_know_is_not_asked_for_again(harness: ServiceHarness) -> None:
    binding = expire(harness, bind(harness))
    harness.simulator.remove_binding(str(binding.bind_id))
    assert harness.service.recover().released == 1
    guard_s = (harness.service.get(binding.id).held_until - harness.clock.at).total_seconds()
    assert 0 < guard_s <= 60
    assert harness.service.recover().released == 0
    assert harness.received("unbind") == 1


def test_release_without_a_clear_answer_is_repeated(harness: ServiceHarness) -> None:
    binding = expire(harness, bind(harness))
    harness.simulator.script("lost_reply", times=1, on="unbind")
    assert harness.service.recover().released == 0
    assert is_held(harness)
    assert harness.service.recover().released == 1
    assert harness.service.get(binding.id).provider_expires_at == binding.ended_at


def test_unbind_at_or_after_the_promised_end_releases(harness: ServiceHarness) -> None:
    by_sweep, by_unbind = bind(harness), bind(harness, C, D)
    harness.clock.advance(HOUR + 1)
    assert harness.service.unbind(by_unbind.id).state is State.EXPIRED
    assert harness.received("unbind") == 1
    assert not is_held(harness, C, D)
    harness.service.expire_due()
    assert harness.service.unbind(by_sweep.id).provider_expires_at == harness.service.get(by_sweep.id).ended_at
    assert harness.received("unbind") == 2
    harness.service.unbind(by_sweep.id)
    assert harness.received("unbind") == 2, "nothing is owed any more"


def test_no_release_is_owed_once_the_provider_end_has_passed(harness: ServiceHarness) -> None:
    binding = expire(harness, bind(harness))
    harness.clock.advance(3 * HOUR + 1)
    assert harness.service.recover().released == 0
    harness.service.unbind(binding.id)
    assert harness.received("unbind") == 0


def test_warning_is_due_again_after_an_extension(harness: ServiceHarness) -> None:
    binding = bind(harness, warn_s=60)
    harness.clock.advance(HOUR - 59)
    assert harness.service.warn_due().warned == 1
    harness.service.extend(binding.id, expire_s=HOUR)
    assert harness.service.warn_due().warned == 0
    harness.clock.advance(HOUR - 60)
    assert harness.service.warn_due().warned == 1


def test_end_that_was_announced_is_not_announced_again_when_it_is_shortened(harness: ServiceHarness) -> None:
    binding = bind(harness, warn_s=600)
    harness.clock.advance(HOUR - 599)
    assert harness.service.warn_due().warned == 1
    harness.service.unbind(binding.id, after_s=30)
    assert harness.service.warn_due().warned == 0


def test_adopted_binding_keeps_both_ends(harness: ServiceHarness) -> None:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        bind(harness)
    doubt = unknown.value.binding
    harness.clock.advance(400)
    harness.service.reconcile()
    adopted = harness.service.get(doubt.id)
    assert (adopted.state, adopted.reason) == (State.ACTIVE, Reason.ADOPTED)
    assert adopted.expires_at is not None
    assert adopted.provider_expires_at is not None
    assert adopted.sent_at is not None
    assert adopted.expires_at - adopted.sent_at == timedelta(seconds=HOUR)
    life_s = (adopted.provider_expires_at - doubt.requested_at).total_seconds()
    assert 4 * HOUR - 10 < life_s <= 4 * HOUR
    assert harness.service.extend(doubt.id, expire_s=2 * HOUR).version == adopted.version + 1


def test_drift_narrows_both_ends_so_that_no_extension_passes_the_list(harness: ServiceHarness) -> None:
    binding = bind(harness)
    earlier = harness.clock.at + timedelta(seconds=2 * HOUR)
    by = harness.service.runtime.caller
    harness.database.write(lambda tx: settle.apply_drift(tx, binding, by, provider_end=earlier, held_until=None))
    narrowed = harness.service.get(binding.id)
    assert (narrowed.expires_at, narrowed.provider_expires_at) == (binding.expires_at, earlier)
    with pytest.raises(errors.InvalidRequest, match="at most 7200 now"):
        harness.service.extend(binding.id, expire_s=3 * HOUR)
    harness.database.write(
        lambda tx: settle.apply_drift(
            tx, narrowed, by, provider_end=harness.clock.at + timedelta(seconds=60), held_until=None
        )
    )
    assert seconds_left(harness, harness.service.get(binding.id)) == 60


def test_reconcile_finds_no_drift_in_a_binding_that_was_promised_less(harness: ServiceHarness) -> None:
    bind(harness)
    harness.clock.advance(120)
    result = harness.service.reconcile()
    assert (result.drifted, result.orphans, result.revenants) == (0, 0, 0)
    harness.clock.advance(HOUR)
    harness.service.expire_due()
    result = harness.service.reconcile()
    assert (result.orphans, result.revenants) == (0, 0)


def test_same_key_with_another_longest_time_is_another_request(harness: ServiceHarness) -> None:
    first = bind(harness, idempotency_key="k")
    assert bind(harness, idempotency_key="k").id == first.id
    with pytest.raises(errors.IdempotencyMismatch):
        bind(harness, idempotency_key="k", max_expire_s=2 * HOUR)
    with pytest.raises(errors.IdempotencyMismatch):
        harness.bind(expire_s=HOUR, idempotency_key="k")


def test_nothing_moves_while_the_clock_is_in_doubt(harness: ServiceHarness) -> None:
    binding = bind(harness)
    clocks = harness.service.runtime.clocks
    clocks.observe(harness.clock.at)
    del clocks._judge  # from here on a jump puts it in doubt
    clocks.observe(harness.clock.at)
    harness.clock.advance(-600)
    with pytest.raises(errors.Busy, match="clock"):
        harness.service.extend(binding.id, expire_s=2 * HOUR)
    with pytest.raises(errors.Busy, match="clock"):
        harness.service.unbind(binding.id, after_s=60)
    assert harness.kinds(binding)[-1] is EventKind.ACTIVATED


def test_calls_are_refused_while_a_process_of_an_older_version_is_at_work(harness: ServiceHarness) -> None:
    binding = bind(harness)
    harness.database.write(replicas.record)
    harness.database.write(
        lambda tx: tx.connection.execute(text("UPDATE replicas SET schema_revision = NULL, name = 'old-host:7'"))
    )
    service = harness.open()
    refused = pytest.raises(errors.Busy, match=r"older version use the database \(old-host:7\)")
    with refused:
        service.extend(binding.id, expire_s=2 * HOUR)
    with refused:
        service.unbind(binding.id, after_s=60)
    with refused:
        service.bind(phone_a=C, phone_b=D, pool_number="1", expire_s=60, max_expire_s=90, mode="AXB")
    assert service.bind(phone_a=C, phone_b=D, pool_number="1", expire_s=60, mode="AXB").state is State.ACTIVE
    harness.clock.advance(181)
    assert service.extend(binding.id, expire_s=2 * HOUR).version == binding.version + 1


def test_replace_alone_is_refused_beside_code_that_knows_promised_ends_and_no_successors(
    harness: ServiceHarness,
) -> None:
    binding = bind(harness)
    harness.database.write(replicas.record)
    harness.database.write(
        lambda tx: tx.connection.execute(text("UPDATE replicas SET schema_revision = '0013', name = 'old-host:7'"))
    )
    service = harness.open()
    assert service.extend(binding.id, expire_s=2 * HOUR).version == binding.version + 1
    with pytest.raises(errors.Busy, match=r"older version use the database \(old-host:7\)"):
        service.replace(binding.id)
    assert service.get(binding.id).replaced_by is None
    harness.clock.advance(181)
    assert service.replace(binding.id).replaces == binding.id


def test_concurrent_extensions_end_at_the_latest(harness: ServiceHarness) -> None:
    binding = bind(harness)
    durations = [HOUR + 60 * step for step in range(1, 9)]
    raised = in_threads(
        *(partial(harness.service.extend, binding.id, expire_s=expire_s) for expire_s in durations)
    )
    assert raised == []
    assert seconds_left(harness, harness.service.get(binding.id)) == durations[-1]


def test_extend_races_with_the_end_and_one_of_them_wins(harness: ServiceHarness) -> None:
    binding = bind(harness)
    harness.clock.advance(seconds_left(harness, binding))
    raised = in_threads(lambda: harness.service.extend(binding.id, expire_s=HOUR), harness.service.expire_due)
    assert [type(error) for error in raised] == [errors.NotActive]
    assert harness.service.get(binding.id).state is State.EXPIRED


def test_ends_move_by_the_clock_of_the_database(service: BindingService) -> None:
    binding = service.bind(
        phone_a=A, phone_b=B, pool_number="1", expire_s=60, max_expire_s=HOUR, mode="AXB", warn_s=10
    )
    before = service.runtime.database.clock()
    extended = service.extend(binding.id, expire_s=600)
    after = service.runtime.database.clock()
    assert extended.expires_at is not None
    assert before <= extended.expires_at - timedelta(seconds=600) <= after
    assert extended.provider_expires_at == binding.provider_expires_at
    assert extended.held_until == binding.held_until
    warn_at = select(bindings.c.warn_at).where(bindings.c.id == binding.id)
    due_at = service.runtime.database.read(lambda connection: connection.execute(warn_at).scalar_one())
    assert extended.expires_at - due_at - timedelta(seconds=10) < READING_APART
    shortened = service.unbind(binding.id, after_s=30)
    assert shortened.expires_at is not None
    assert after <= shortened.expires_at - timedelta(seconds=30) <= service.runtime.database.clock()
    due_at = service.runtime.database.read(lambda connection: connection.execute(warn_at).scalar_one())
    assert shortened.expires_at - due_at - timedelta(seconds=10) < READING_APART
    kinds = [event.kind for event in service.history(binding.id)]
    assert kinds[-2:] == [EventKind.EXTENDED, EventKind.SHORTENED]
    details = [event.detail for event in service.history(binding.id)[-2:]]
    moved_to = [datetime.fromisoformat(detail["expires_at"]) for detail in details]
    assert moved_to == [extended.expires_at, shortened.expires_at]


def test_releases_that_wait_are_reported(harness: ServiceHarness) -> None:
    database = harness.database
    assert of_releases(database).seen == "none is owed"
    expire(harness, bind(harness))
    assert of_releases(database).level is Level.OK
    harness.clock.advance(RELEASE_WARN_S)
    check = of_releases(database)
    assert check.level is Level.WARN
    assert check.seen.startswith("1 expired binding(s) wait to be ended at the provider, the oldest for ")
    metrics = health_metrics(harness.service.runtime, harness.database)
    assert (metrics.releases_owed, metrics.oldest_release_s >= RELEASE_WARN_S) == (1, True)
    harness.service.recover()
    assert of_releases(database).seen == "none is owed"
    metrics = health_metrics(harness.service.runtime, harness.database)
    assert (metrics.releases_owed, metrics.oldest_release_s) == (0, 0.0)
