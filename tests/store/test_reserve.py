"""Reserve and settle, statement by statement: what tests of the service cannot reach."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from bindings.domain.binding import Binding, BindRequest, Caller, EventKind, Mode, Reason, State
from bindings.domain.conflict import Policy
from bindings.domain.phone import Phone
from bindings.store import bindings, events, holds, settle
from bindings.store import reserve as reserving
from bindings.store.database import Database
from tests.service.harness import APP, NOON, POOL, A, B, C, Clock, D

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLER = Caller(actor="test")
TERMS = reserving.BindLimits(
    scope="default",
    policy=Policy.LITERAL,
    call_timeout_s=10,
    tolerance_s=300,
    guard_for=lambda _: 6.0,
    warn_s=None,
)


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    database = Database(database_url, read_clock=clock)
    yield database
    database.close()


def request(a: str = A, b: str = B, mode: Mode = Mode.AXB, **changed: Any) -> BindRequest:
    bind_request = BindRequest(
        phone_a=Phone(a), phone_b=Phone(b), pool_number=POOL, expire_s=600, mode=mode, app_id=APP
    )
    return replace(bind_request, **changed)


def reserve(
    database: Database,
    bind_request: BindRequest,
    *,
    name: str | None = None,
    terms: reserving.BindLimits = TERMS,
    caller: Caller = CALLER,
) -> reserving.Reserved | reserving.Replayed | reserving.Conflict | reserving.FullScanRequired:
    binding_id = name or str(uuid7())
    return database.write(lambda tx: reserving.reserve(tx, binding_id, bind_request, terms, caller))


def reserved(database: Database, bind_request: BindRequest) -> Binding:
    result = reserve(database, bind_request)
    assert isinstance(result, reserving.Reserved), result
    return result.binding


def in_use(database: Database, intent: Binding, policy: Policy = Policy.LITERAL) -> Binding:
    return database.write(lambda tx: settle.settle_in_use(tx, intent, CALLER, status="-35", policy=policy))


def success(bind_id: str = "1002", *, at: datetime = NOON, **changed: Any) -> settle.Success:
    outcome = settle.Success(
        bind_id=bind_id,
        middle_number_a="9188061024",
        middle_number_b="9188061024",
        sent_at=at,
        answered_at=at + timedelta(seconds=1),
        expires_at=at + timedelta(seconds=600),
        held_until=at + timedelta(seconds=607),
        warn_s=None,
    )
    return outcome._replace(**changed)


def kinds(database: Database, binding: Binding) -> list[str]:
    return [event.kind for event in database.read(events.history, binding.id)]


def test_I3_intent_is_committed_with_all_its_deadlines(database: Database) -> None:
    intent = reserved(database, request())
    assert intent.state is State.PENDING
    assert intent.requested_at == NOON
    assert intent.send_by == NOON + timedelta(seconds=5)
    assert intent.settle_by == intent.send_by + timedelta(seconds=10 + 1)
    assert intent.held_until == intent.send_by + timedelta(seconds=300 + 600 + 6)
    assert (intent.sent_at, intent.answered_at, intent.expires_at, intent.ended_at) == (None,) * 4
    assert kinds(database, intent) == [EventKind.REQUESTED]
    assert database.read(bindings.find, intent.id) == intent


def test_conflict_names_the_holder_and_writes_nothing(database: Database) -> None:
    intent = reserved(database, request(reference="order-42"))
    result = reserve(database, request(C, B))
    assert isinstance(result, reserving.Conflict)
    assert (result.holder.id, result.holder.reference) == (intent.id, "order-42")
    assert (result.holder.mode, result.holder.state) == (Mode.AXB, State.PENDING)
    assert result.holder.held_until == intent.held_until
    assert result.holder.retry_after_s == 911
    assert not result.holder.foreign
    assert len(database.read(events.feed, after=(0, 0), limit=200)) == (
        1 if not database.postgres else len(_final(database))
    )


def _final(database: Database) -> list[Any]:
    return database.read(events.feed, after=(0, 0), limit=200)


def test_conflict_with_several_holders_names_the_longest(database: Database, clock: Clock) -> None:
    reserved(database, request(A, C))
    clock.advance(1)
    later = reserved(database, request(B, D))
    result = reserve(database, request(A, B))
    assert isinstance(result, reserving.Conflict)
    assert result.holder.id == later.id


def test_bindings_of_different_scopes_do_not_conflict(database: Database) -> None:
    reserved(database, request())
    assert isinstance(reserve(database, request(), terms=replace(TERMS, scope="x")), reserving.Reserved)


def test_I3_repeated_reserve_finds_the_row_of_its_first_attempt(database: Database) -> None:
    """A COMMIT without a response may have committed: the repeat has the same id and must not insert twice."""
    name = str(uuid7())
    bind_request = request(idempotency_key="k")

    def second_attempt(tx: Any) -> Any:
        tx.attempt = 2
        return reserving.reserve(tx, name, bind_request, TERMS, CALLER)

    first = reserve(database, bind_request, name=name)
    second = database.write(second_attempt)
    assert first == second
    assert isinstance(second, reserving.Reserved)
    assert kinds(database, second.binding) == [EventKind.REQUESTED]


def test_I3_repeated_reserve_inserts_if_the_first_attempt_did_not_commit(database: Database) -> None:
    def second_attempt(tx: Any) -> Any:
        tx.attempt = 2
        return reserving.reserve(tx, str(uuid7()), request(), TERMS, CALLER)

    assert isinstance(database.write(second_attempt), reserving.Reserved)


def test_I8_used_key_is_replayed_although_its_binding_holds_the_phones(database: Database) -> None:
    intent = reserved(database, request(idempotency_key="k"))
    assert reserve(database, request(idempotency_key="k")) == reserving.Replayed(binding=intent, same=True)


@pytest.mark.parametrize(
    "other",
    [
        {"pool_number": "918807"},
        {"expire_s": 601},
        {"mode": Mode.AXXB},
        {"reference": "x"},
        {"phone_b": Phone(C)},
        {"phone_a": Phone(B), "phone_b": Phone(A)},
    ],
)
def test_different_request_with_the_same_key_is_not_the_same(database: Database, other: dict[str, Any]) -> None:
    reserved(database, request(idempotency_key="k"))
    result = reserve(database, request(idempotency_key="k", **other))
    assert isinstance(result, reserving.Replayed)
    assert not result.same


def test_same_key_of_another_application_is_independent(database: Database) -> None:
    reserved(database, request(idempotency_key="k"))
    assert isinstance(reserve(database, request(C, D, idempotency_key="k", app_id="other")), reserving.Reserved)


def test_I1_of_crossing_binds_exactly_one_passes_without_deadlock(database_url: str) -> None:
    """A/B and B/A concurrently, by the connections of two replicas."""
    replicas = Database(database_url), Database(database_url)
    winners: list[int] = []
    for _ in range(15):
        together = threading.Barrier(4)
        reservations: list[Binding] = []

        def run(
            replica: Database, a: str, b: str, together: Any = together, reservations: Any = reservations
        ) -> None:
            together.wait(300)
            result = reserve(replica, request(a, b))
            if isinstance(result, reserving.Reserved):
                reservations.append(result.binding)

        pairs = [(A, B), (B, A), (A, C), (C, B)]
        threads = [
            threading.Thread(target=run, args=(replicas[number % 2], *pair), daemon=True)
            for number, pair in enumerate(pairs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        winners.append(len(reservations))
        fail(replicas[0], reservations[0])
    assert winners == [1] * 15
    for replica in replicas:
        replica.close()


def fail(database: Database, binding: Binding, reason: str = Reason.NEVER_SENT) -> Binding:
    return database.write(
        lambda tx: settle.settle_failed(tx, binding.id, CALLER, reason=reason, status=None, detail={})
    )


@pytest.mark.postgres
def test_I1_conflict_check_sees_commits_made_during_the_lock_wait(postgres_url: str) -> None:
    """The check is a separate statement: a snapshot is older than the lock that its statement waits for."""
    first, second = Database(postgres_url), Database(postgres_url)
    holding, go_on = threading.Event(), threading.Event()
    results: list[Any] = []

    def slow(tx: Any) -> Any:
        reservation = reserving.reserve(tx, str(uuid7()), request(), TERMS, CALLER)
        holding.set()
        assert go_on.wait(300)
        return reservation

    holder = threading.Thread(target=lambda: first.write(slow), daemon=True)
    waiter = threading.Thread(target=lambda: results.append(reserve(second, request(B, C))), daemon=True)
    holder.start()
    assert holding.wait(300)
    waiter.start()
    _wait_for_lock(first)
    go_on.set()
    holder.join(300)
    waiter.join(300)
    assert isinstance(results[0], reserving.Conflict)
    first.close()
    second.close()


def _wait_for_lock(database: Database) -> None:
    from sqlalchemy import text

    from tests.service.harness import wait_for

    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    wait_for(lambda: bool(database.read(lambda connection: connection.execute(waiting).scalar())))


@pytest.mark.postgres
def test_lock_not_free_within_the_send_window_raises_busy(postgres_url: str) -> None:
    from bindings.errors import Busy

    first, second = Database(postgres_url), Database(postgres_url)
    holding, go_on = threading.Event(), threading.Event()

    def slow(tx: Any) -> Any:
        reserving.reserve(tx, str(uuid7()), request(), TERMS, CALLER)
        holding.set()
        assert go_on.wait(300)

    holder = threading.Thread(target=lambda: first.write(slow), daemon=True)
    holder.start()
    assert holding.wait(300)
    try:
        with pytest.raises(Busy):
            reserve(second, request())
    finally:
        go_on.set()
        holder.join(300)
    first.close()
    second.close()


def test_I4_only_a_definite_success_lowers_held_until(database: Database) -> None:
    intent = reserved(database, request())
    in_doubt = database.write(
        lambda tx: settle.settle_unknown(tx, intent.id, CALLER, reason="no_clear_answer", status="-18", message="")
    )
    assert (in_doubt.state, in_doubt.held_until) == (State.IN_DOUBT, intent.held_until)
    late = database.write(lambda tx: settle.settle_success(tx, intent, success(), CALLER))
    assert (late.state, late.held_until) == (State.ACTIVE, success().held_until)
    assert late.held_until < intent.held_until


def test_I4_failed_binding_releases_its_phones_immediately(database: Database) -> None:
    intent = reserved(database, request())
    failed = fail(database, intent)
    assert (failed.state, failed.held_until, failed.ended_at) == (State.FAILED, NOON, NOON)
    assert isinstance(reserve(database, request()), reserving.Reserved)


SETTLERS: dict[str, Any] = {
    "success": lambda tx, intent: settle.settle_success(tx, intent, success(), CALLER),
    "failed": lambda tx, intent: settle.settle_failed(
        tx, intent.id, CALLER, reason="request", status="-22", detail={}
    ),
    "unknown": lambda tx, intent: settle.settle_unknown(
        tx, intent.id, CALLER, reason="no_clear_answer", status=None, message=""
    ),
}


@pytest.mark.parametrize("outcome", SETTLERS)
def test_I5_settling_twice_changes_nothing_the_second_time(database: Database, outcome: str) -> None:
    intent = reserved(database, request())
    first = database.write(lambda tx: SETTLERS[outcome](tx, intent))
    second = database.write(lambda tx: SETTLERS[outcome](tx, intent))
    assert first == second
    assert len(kinds(database, intent)) == 2


@pytest.mark.parametrize("changed_since", [False, True], ids=["as_recorded", "changed_since"])
def test_activate_returns_the_row_as_it_is(database: Database, *, changed_since: bool) -> None:
    """It is not read back if its version shows that it was not changed since the intent."""
    asked = request(reference="order 1", idempotency_key="key", warn_s=60, max_expire_s=900)
    intent = reserved(database, asked)
    if changed_since:
        database.write(lambda tx: settle.request_unbind(tx, intent.id, CALLER, "asked"))
    outcome = success(provider_expires_at=NOON + timedelta(seconds=900), warn_s=60)
    active = database.write(lambda tx: settle.activate(tx, intent, outcome, CALLER))
    assert active is not None
    assert (active.state, active.version) == (State.ACTIVE, 3 if changed_since else 2)
    assert (active.unbind_requested_at is not None) == changed_since
    assert database.read(bindings.find, intent.id) == active


def test_I7_activated_event_has_every_value_of_the_success(database: Database) -> None:
    intent = reserved(database, request(max_expire_s=900))
    outcome = success(provider_expires_at=NOON + timedelta(seconds=900))
    active = database.write(lambda tx: settle.settle_success(tx, intent, outcome, CALLER))
    detail = database.read(events.history, intent.id)[-1].detail
    assert detail.keys() == outcome.facts().keys()
    for name, value in detail.items():
        stored = getattr(active, name)
        assert (datetime.fromisoformat(value) if isinstance(stored, datetime) else value) == stored


def test_I5_late_failure_or_unknown_outcome_changes_no_active_binding(database: Database) -> None:
    intent = reserved(database, request())
    active = database.write(lambda tx: settle.settle_success(tx, intent, success(), CALLER))
    for outcome in ("failed", "unknown"):
        assert database.write(lambda tx, outcome=outcome: SETTLERS[outcome](tx, intent)) == active  # type: ignore[misc]
    assert in_use(database, intent) == active
    assert not database.read(holds.live, "default", NOON)


def test_I2_success_for_a_failed_binding_becomes_a_hold(database: Database) -> None:
    intent = reserved(database, request())
    failed = fail(database, intent, Reason.ABSENT)
    after = database.write(lambda tx: settle.settle_success(tx, intent, success("77"), CALLER))
    assert (after.state, after.bind_id) == (State.FAILED, None)
    assert after.ended_at == failed.ended_at
    assert kinds(database, intent) == [EventKind.REQUESTED, EventKind.FAILED, EventKind.LATE_SUCCESS]
    held = database.read(holds.live, "default", NOON)
    assert {hold.phone for hold in held} == {intent.phone_a, intent.phone_b}
    assert {(hold.bind_id, hold.origin_id, hold.why, hold.held_until) for hold in held} == {
        ("77", intent.id, "late_success", success().held_until)
    }
    result = reserve(database, request(C, B))
    assert isinstance(result, reserving.Conflict)
    assert result.holder.foreign


def test_I2_repeated_late_success_writes_one_event(database: Database) -> None:
    intent = reserved(database, request())
    fail(database, intent)
    for _ in range(2):
        database.write(lambda tx: settle.settle_success(tx, intent, success("77"), CALLER))
    assert kinds(database, intent).count(EventKind.LATE_SUCCESS) == 1


def test_hold_that_two_processes_end_is_ended_once(database: Database, clock: Clock) -> None:
    intent = reserved(database, request())
    fail(database, intent)
    database.write(lambda tx: settle.settle_success(tx, intent, success("77"), CALLER))
    read_by_both = database.read(holds.live, "default", clock())

    def end() -> int:
        return database.write(lambda tx: holds.end_holds(tx, CALLER, read_by_both, reason="unbound"))

    assert end() == 2
    ended = database.read(holds.of_phone, intent.phone_a)
    clock.advance(60)
    assert end() == 0
    assert database.read(holds.of_phone, intent.phone_a) == ended


def test_I2_second_success_for_an_active_binding_becomes_a_hold(database: Database) -> None:
    intent = reserved(database, request())
    database.write(lambda tx: settle.settle_success(tx, intent, success("1002"), CALLER))
    after = database.write(lambda tx: settle.settle_success(tx, intent, success("1003"), CALLER))
    assert (after.state, after.bind_id) == (State.ACTIVE, "1002")
    assert kinds(database, intent)[-1] is EventKind.LATE_SUCCESS


def test_repeated_refusals_double_the_hold_up_to_an_hour(database: Database, clock: Clock) -> None:
    seconds = []
    for _ in range(8):
        intent = reserved(database, request())
        in_use(database, intent)
        held = database.read(holds.live, "default", clock())
        assert len({hold.held_until for hold in held}) == 1
        seconds.append((held[0].held_until - clock()).total_seconds())
        clock.at = held[0].held_until
    assert seconds == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]
    clock.advance(3_601)
    intent = reserved(database, request())
    in_use(database, intent)
    held = database.read(holds.live, "default", clock())
    assert (held[0].held_until - clock()).total_seconds() == 60


@pytest.mark.parametrize(("policy", "explained"), [(Policy.STRICT, True), (Policy.LITERAL, False)])
def test_refusal_explained_by_our_binding_is_recorded_without_a_hold(
    database: Database, policy: Policy, explained: bool
) -> None:
    own = reserved(database, request(A, C, Mode.AXXB))
    database.write(lambda tx: settle.settle_success(tx, own, success(), CALLER))
    intent = reserved(database, request(A, B))
    failed = in_use(database, intent, policy)
    assert failed.state is State.FAILED
    event = database.read(events.history, intent.id)[-1]
    assert [holder["id"] for holder in event.detail["met"]] == [own.id]
    assert [holder["id"] for holder in event.detail["own"]] == ([own.id] if explained else [])
    assert event.detail["mode"] == "AXB"
    held = database.read(holds.live, "default", NOON)
    assert {hold.phone.digits for hold in held} == (set() if explained else {A, B})


def test_hold_is_never_shortened(database: Database) -> None:
    def orphan(tx: Any, seconds: int) -> bool:
        return holds.hold_orphan(
            tx,
            CALLER,
            phones=(Phone(A), Phone(B)),
            scope="default",
            app_id=APP,
            bind_id="9",
            origin_id=None,
            held_until=NOON + timedelta(seconds=seconds),
        )

    added = [database.write(lambda tx, s=seconds: orphan(tx, s)) for seconds in (100, 50, 200)]  # type: ignore[misc]
    assert added == [True, False, False]
    held = database.read(holds.live, "default", NOON)
    assert {hold.held_until for hold in held} == {NOON + timedelta(seconds=200)}
