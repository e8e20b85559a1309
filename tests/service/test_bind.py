"""A bind from end to end: what is recorded and when, what a caller is told, and what a lost COMMIT does."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import exc

from bindings import errors
from bindings.domain.binding import EventKind, Mode, Reason, State
from bindings.provider.simulator import Simulator
from bindings.store import settle
from tests.service.world import APP, POOL, A, B, C, D, World, wait_for

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from bindings.store.database import Database, Transaction


def test_a_binding_is_recorded_with_everything_the_provider_said(world: World) -> None:
    made = world.bind(A, B, reference="order-42")
    assert made == world.service.get(made.id)
    assert (made.state, made.mode, made.app_id, made.pool_number) == (State.ACTIVE, Mode.AXB, APP, POOL)
    assert (made.phone_a.digits, made.phone_b.digits, made.reference) == (A, B, "order-42")
    entry = world.entry(made)
    assert (made.middle_number_a, made.middle_number_b) == (entry.middle_number_a, entry.middle_number_b)
    assert world.kinds(made) == [EventKind.REQUESTED, EventKind.ACTIVATED]


def test_axb_shows_one_middle_number_and_axxb_two(world: World) -> None:
    axb, axxb = world.bind(A, B), world.bind(C, D, "AXXB")
    assert axb.middle_number_a == axb.middle_number_b
    assert axxb.middle_number_a != axxb.middle_number_b


def test_I2_a_binding_that_the_provider_made_is_known_here_by_its_id(world: World) -> None:
    made = world.bind(A, B), world.bind(C, D, "AXXB")
    assert {entry.bind_id for entry in world.simulator.ledger} == {int(b.bind_id or 0) for b in made}


def test_I6_a_binding_is_told_to_end_no_later_than_the_provider_may_end_it(service: BindingService) -> None:
    """On real clocks: sent_at is before the provider's acceptance, answered_at after it."""
    ledger = _ledger(service)
    for number in range(5):
        made = service.bind(phone_a=A, phone_b=f"918806780{number}", pool_number=POOL, expire_s=60, mode="AXXB")
        entry = ledger.ledger.get(int(made.bind_id or 0))
        assert entry is not None
        assert made.sent_at is not None
        assert made.answered_at is not None
        assert made.expires_at is not None
        assert made.expires_at.timestamp() <= entry.expires_at
        assert made.held_until.timestamp() >= entry.expires_at + 5
        assert made.sent_at.timestamp() <= entry.accepted_at <= made.answered_at.timestamp()
        assert made.expires_at == made.sent_at + timedelta(seconds=60)
        assert made.held_until == made.answered_at + timedelta(seconds=65)


def _ledger(service: BindingService) -> Simulator:
    return _SIMULATORS[service.settings.provider_url]


_SIMULATORS: dict[str, Simulator] = {}


@pytest.fixture(autouse=True)
def _known_simulators(simulator: Simulator) -> None:
    _SIMULATORS[simulator.url] = simulator


def test_I3_the_intent_is_committed_before_the_request_is_sent_and_no_transaction_is_open(world: World) -> None:
    """While the provider thinks, another replica can read the intent, and write."""
    world.simulator.script("delay_before", times=1, seconds=1.0)
    replica = world.open()
    thread = threading.Thread(target=lambda: world.bind(A, B), daemon=True)
    thread.start()
    wait_for(lambda: world.received("bind") == 1)
    (intent,) = replica.search().data
    assert (intent.state, intent.bind_id) == (State.PENDING, None)
    replica.expire_due()
    with pytest.raises(errors.PhoneInUse):
        replica.bind(phone_a=A, phone_b=C, pool_number=POOL, expire_s=60, mode="AXB")
    thread.join(10)
    assert replica.get(intent.id).state is State.ACTIVE
    assert world.received("bind") == 1


def test_nothing_is_sent_and_nothing_written_for_an_invalid_request(world: World) -> None:
    with pytest.raises(errors.InvalidRequest) as refused:
        world.bind("x", "y", "z", expire_s=0, pool_number="")
    assert {fault.field for fault in refused.value.field_errors} == {
        "phone_a",
        "phone_b",
        "mode",
        "expire_s",
        "pool_number",
    }
    assert world.received("bind") == 0
    assert not world.service.search().data


def test_without_an_account_a_bind_is_refused_and_questions_are_answered(world: World) -> None:
    poor = world.open(provider_api_key=None, provider_api_secret=None)
    assert not poor.calls_provider
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_PROVIDER_API_KEY"):
        poor.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
    assert poor.lookup(phone=A) == []
    assert poor.recover().in_doubt == 0


REFUSALS = [
    ("-1", errors.ProviderAccountRefused, Reason.ACCOUNT),
    ("-2", errors.ProviderAccountRefused, Reason.ACCOUNT),
    ("-16", errors.ProviderAccountRefused, Reason.CLOCK),
    ("-22", errors.ProviderRefused, Reason.REQUEST),
    ("-29", errors.ProviderAccountRefused, Reason.ACCOUNT),
    ("-30", errors.ProviderAccountRefused, Reason.ACCOUNT),
    ("-31", errors.ProviderAccountRefused, Reason.ACCOUNT),
    ("-35", errors.PhoneInUseAtProvider, Reason.IN_USE),
    ("-41", errors.NoMiddleNumber, Reason.NO_NUMBER),
]


@pytest.mark.parametrize(("status", "kind", "reason"), REFUSALS)
def test_I4_a_definite_refusal_fails_the_binding_and_frees_the_phones_at_once(
    world: World, status: str, kind: type[errors.BindingsError], reason: Reason
) -> None:
    world.simulator.script(f"refuse:{status}", times=1, on="bind")
    with pytest.raises(errors.BindingsError) as refused:
        world.bind(A, B)
    assert type(refused.value) is kind
    failed = world.service.get(str(refused.value.binding_id))
    assert (failed.state, failed.provider_status, failed.reason) == (State.FAILED, status, reason)
    assert failed.held_until == failed.ended_at == world.clock()
    if refused.value.http_status in (409, 503):
        assert (refused.value.retry_after_s or 0) >= 1
    if reason is not Reason.IN_USE:
        assert world.service.check(phone_a=A, phone_b=B, mode="AXB") == []


def test_I4_what_was_never_sent_frees_the_phones_at_once(world: World) -> None:
    world.service.lookup(phone=A)
    world.simulator.stop()
    with pytest.raises(errors.ProviderUnreachable) as unreachable:
        world.bind(A, B)
    failed = world.service.get(str(unreachable.value.binding_id))
    assert (failed.state, failed.reason) == (State.FAILED, Reason.NEVER_SENT)
    assert failed.held_until == world.clock()
    world.simulator.start()
    assert world.bind(A, B).state is State.ACTIVE


def test_I3_an_intent_that_could_not_leave_in_time_is_never_sent(world: World) -> None:
    client = world.service._client
    assert client is not None
    client._monotonic = lambda: 1e12  # the process was paused between the intent and the send
    with pytest.raises(errors.ProviderUnreachable, match="never sent"):
        world.bind(A, B)
    assert world.received("bind") == 0


def test_a_stamp_that_is_too_old_fails_once_and_the_next_one_is_corrected(world: World) -> None:
    world.simulator.change(clock_offset_s=40, timestamp_tolerance_s=20)
    with pytest.raises(errors.ProviderAccountRefused) as refused:
        world.bind(A, B)
    assert refused.value.status == "-16"
    assert world.bind(A, B).state is State.ACTIVE


def test_a_bind_id_that_another_binding_has_becomes_a_doubt_and_no_crash(world: World) -> None:
    first = world.bind(A, B)
    with Simulator(clock=world.clock.unix) as other:  # counts from the same first id
        replica = world.open(provider_url=other.url)
        with pytest.raises(errors.OutcomeUnknown) as unknown:
            replica.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=60, mode="AXB")
    doubt = world.service.get(unknown.value.binding.id)
    assert (doubt.state, doubt.bind_id) == (State.IN_DOUBT, None)
    assert world.service.get(first.id) == first


def lose_the_reply_of_a_commit(database: Database, monkeypatch: pytest.MonkeyPatch, *, nth: int) -> list[int]:
    """The nth COMMIT from now on is carried out, and its reply is lost; a yes commits by itself on PostgreSQL."""
    dialect = database._engine.dialect
    real, activate, seen = dialect.do_commit, settle.activate, [0]
    kind: type[Exception] = dialect.dbapi.OperationalError  # type: ignore[union-attr]

    def lose() -> None:
        seen[0] += 1
        if seen[0] == nth:
            raise kind("server closed the connection unexpectedly")

    def do_commit(connection: object) -> None:
        real(connection)  # type: ignore[arg-type]
        lose()

    def in_one_statement(tx: Transaction, *given: Any) -> Binding | None:
        done = activate(tx, *given)
        if tx.connection.engine is database._autocommit_writer:
            try:
                lose()
            except kind as lost:
                raise exc.OperationalError("UPDATE", {}, lost) from lost
        return done

    monkeypatch.setattr(dialect, "do_commit", do_commit)
    monkeypatch.setattr(settle, "activate", in_one_statement)
    return seen


@pytest.mark.parametrize("nth", [1, 2])
def test_I3_a_commit_whose_reply_is_lost_is_neither_inserted_nor_sent_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The first is T1's, the second T2's."""
    commits = lose_the_reply_of_a_commit(world.database, monkeypatch, nth=nth)
    made = world.bind(A, B)
    assert commits[0] == 3
    assert made.state is State.ACTIVE
    assert len(world.service.search().data) == 1
    assert world.kinds(made) == [EventKind.REQUESTED, EventKind.ACTIVATED]
    assert world.received("bind") == 1


def test_where_the_answer_cannot_be_recorded_the_caller_is_told_that_it_is_unknown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise errors.Busy

    monkeypatch.setattr(settle, "activate", away)
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(A, B)
    monkeypatch.undo()
    assert world.service.get(unknown.value.binding.id).state is State.PENDING
    world.clock.advance(60)
    assert world.service.reconcile().adopted == 1
    assert world.service.get(unknown.value.binding.id).state is State.ACTIVE


def test_I2_a_yes_that_comes_after_the_binding_ended_is_held_and_then_unbound(world: World) -> None:
    world.simulator.script("delay", times=1, seconds=0.5, on="bind")
    caught: list[BaseException] = []

    def bind() -> None:
        try:
            world.bind(A, B)
        except errors.BindingsError as error:
            caught.append(error)

    thread = threading.Thread(target=bind, daemon=True)
    thread.start()
    wait_for(lambda: len(world.simulator.ledger) == 1)
    (intent,) = world.service.search().data
    caller = world.service._caller
    world.database.write(
        lambda tx: settle.settle_failed(
            tx, intent.id, caller, reason=Reason.ABSENT, status=None, detail={"said": ""}
        )
    )
    thread.join(10)
    assert isinstance(caught[0], errors.BindingsError)
    assert EventKind.LATE_SUCCESS in world.kinds(intent)
    with pytest.raises(errors.PhoneInUseAtProvider):
        world.bind(A, C)
    assert world.service.recover().unbound == 1
    (entry,) = world.simulator.ledger
    assert entry.unbound_at is not None
    assert world.service.check(phone_a=A, phone_b=B, mode="AXB") == []
    assert EventKind.HOLD_ENDED in world.all_kinds()
