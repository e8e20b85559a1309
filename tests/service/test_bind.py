"""Binds from end to end: rows and events, errors for each outcome, and lost replies of COMMIT."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import exc

from bindings import errors
from bindings.domain.binding import EventKind, Mode, Reason, State
from bindings.store import settle
from bindings.store.database import Transaction
from bindings.store.reserve_call import ReserveCall
from tests.service.harness import APP, POOL, A, B, C, D, ServiceHarness, hold_answers, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.provider.simulator import Simulator
    from bindings.service import BindingService
    from bindings.store.database import Database


def test_bind_records_everything_that_the_provider_returned(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, reference="order-42")
    assert binding == harness.service.get(binding.id)
    assert (binding.state, binding.mode, binding.app_id, binding.pool_number) == (
        State.ACTIVE,
        Mode.AXB,
        APP,
        POOL,
    )
    assert (binding.phone_a.digits, binding.phone_b.digits, binding.reference) == (A, B, "order-42")
    entry = harness.entry(binding)
    assert (binding.middle_number_a, binding.middle_number_b) == (entry.middle_number_a, entry.middle_number_b)
    assert harness.kinds(binding) == [EventKind.REQUESTED, EventKind.ACTIVATED]


def test_axb_binding_has_one_middle_number_and_axxb_two(harness: ServiceHarness) -> None:
    axb, axxb = harness.bind(A, B), harness.bind(C, D, "AXXB")
    assert axb.middle_number_a == axb.middle_number_b
    assert axxb.middle_number_a != axxb.middle_number_b


def test_I2_every_binding_at_the_provider_is_recorded_with_its_bind_id(harness: ServiceHarness) -> None:
    bindings = harness.bind(A, B), harness.bind(C, D, "AXXB")
    assert {entry.bind_id for entry in harness.simulator.ledger} == {
        int(binding.bind_id or 0) for binding in bindings
    }


def test_I6_expires_at_is_never_after_the_end_at_the_provider(service: BindingService) -> None:
    """Runs on real clocks: sent_at is before the provider's acceptance, answered_at after it."""
    ledger = _ledger(service)
    for number in range(5):
        binding = service.bind(phone_a=A, phone_b=f"918806780{number}", pool_number=POOL, expire_s=60, mode="AXXB")
        entry = ledger.ledger.get(int(binding.bind_id or 0))
        assert entry is not None
        assert binding.sent_at is not None
        assert binding.answered_at is not None
        assert binding.expires_at is not None
        assert binding.expires_at.timestamp() <= entry.expires_at
        assert binding.held_until.timestamp() >= entry.expires_at + 5
        assert binding.sent_at.timestamp() <= entry.accepted_at <= binding.answered_at.timestamp()
        assert binding.expires_at == binding.sent_at + timedelta(seconds=60)
        assert binding.answered_at + timedelta(seconds=65) <= binding.held_until
        activated = service.history(binding.id)[-1]
        assert datetime.fromisoformat(activated.detail["held_until"]) == binding.held_until, "I7"


def _ledger(service: BindingService) -> Simulator:
    return _SIMULATORS[service.settings.provider_url]


_SIMULATORS: dict[str, Simulator] = {}


@pytest.fixture(autouse=True)
def _known_simulators(simulator: Simulator) -> None:
    _SIMULATORS[simulator.url] = simulator


def test_I3_intent_is_committed_before_the_request_is_sent_and_no_transaction_is_open(
    harness: ServiceHarness,
) -> None:
    """While the provider delays its response, another replica can read the intent, and write."""
    answer = hold_answers(harness.simulator)
    replica = harness.open()
    thread = threading.Thread(target=lambda: harness.bind(A, B), daemon=True)
    thread.start()
    wait_for(lambda: harness.received("bind") == 1)
    (intent,) = replica.search().data
    assert (intent.state, intent.bind_id) == (State.PENDING, None)
    replica.expire_due()
    with pytest.raises(errors.PhoneInUse):
        replica.bind(phone_a=A, phone_b=C, pool_number=POOL, expire_s=60, mode="AXB")
    answer.set()
    thread.join(300)
    assert replica.get(intent.id).state is State.ACTIVE
    assert harness.received("bind") == 1


def test_invalid_request_sends_and_writes_nothing(harness: ServiceHarness) -> None:
    with pytest.raises(errors.InvalidRequest) as excinfo:
        harness.bind("x", "y", "z", expire_s=0, pool_number="")
    assert {fault.field for fault in excinfo.value.field_errors} == {
        "phone_a",
        "phone_b",
        "mode",
        "expire_s",
        "pool_number",
    }
    assert harness.received("bind") == 0
    assert not harness.service.search().data


def test_service_without_account_refuses_binds_and_answers_queries(harness: ServiceHarness) -> None:
    without_account = harness.open(provider_api_key=None, provider_api_secret=None)
    assert without_account.runtime.client is None
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_PROVIDER_API_KEY"):
        without_account.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
    assert without_account.lookup(phone=A) == []
    assert without_account.recover().in_doubt == 0


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
def test_I4_definite_refusal_fails_the_binding_and_frees_its_phones_immediately(
    harness: ServiceHarness, status: str, kind: type[errors.BindingsError], reason: Reason
) -> None:
    harness.simulator.script(f"refuse:{status}", times=1, on="bind")
    with pytest.raises(errors.BindingsError) as excinfo:
        harness.bind(A, B)
    assert type(excinfo.value) is kind
    failed = harness.service.get(str(excinfo.value.binding_id))
    assert (failed.state, failed.provider_status, failed.reason) == (State.FAILED, status, reason)
    assert failed.held_until == failed.ended_at == harness.clock()
    if excinfo.value.http_status in (409, 503):
        assert (excinfo.value.retry_after_s or 0) >= 1
    if reason is not Reason.IN_USE:
        assert harness.service.check(phone_a=A, phone_b=B, mode="AXB") == []


def test_I4_request_that_was_never_sent_frees_its_phones_immediately(harness: ServiceHarness) -> None:
    harness.service.lookup(phone=A)
    harness.simulator.stop()
    with pytest.raises(errors.ProviderUnreachable) as excinfo:
        harness.bind(A, B)
    failed = harness.service.get(str(excinfo.value.binding_id))
    assert (failed.state, failed.reason) == (State.FAILED, Reason.NEVER_SENT)
    assert failed.held_until == harness.clock()
    harness.simulator.start()
    assert harness.bind(A, B).state is State.ACTIVE


def test_I3_intent_past_its_send_by_is_never_sent(harness: ServiceHarness) -> None:
    client = harness.service.runtime.client
    assert client is not None
    client._monotonic = lambda: 1e12  # as if the process was paused between intent and send
    with pytest.raises(errors.ProviderUnreachable, match="never sent"):
        harness.bind(A, B)
    assert harness.received("bind") == 0


def test_stale_timestamp_fails_once_and_the_next_bind_is_corrected(harness: ServiceHarness) -> None:
    harness.simulator.change(clock_offset_s=40, timestamp_tolerance_s=20)
    with pytest.raises(errors.ProviderAccountRefused) as excinfo:
        harness.bind(A, B)
    assert excinfo.value.status == "-16"
    assert harness.bind(A, B).state is State.ACTIVE


def lose_reply_of_commit(database: Database, monkeypatch: pytest.MonkeyPatch, *, nth: int) -> list[int]:
    """Execute the nth COMMIT from now on but lose its reply; return the count of commits.

    On PostgreSQL the statements of a plain bind commit by themselves, so they count as commits too.
    """
    dialect = database._engine.dialect
    do_original_commit, commits = dialect.do_commit, [0]
    kind: type[Exception] = dialect.dbapi.OperationalError  # type: ignore[union-attr]

    def lose() -> None:
        commits[0] += 1
        if commits[0] == nth:
            raise kind("server closed the connection unexpectedly")

    def do_commit(connection: object) -> None:
        do_original_commit(connection)  # type: ignore[arg-type]
        lose()

    def lose_reply(change: Callable[..., Any]) -> Callable[..., Any]:
        def in_one_statement(*arguments: Any, **values: Any) -> Any:
            result = change(*arguments, **values)
            (tx,) = (argument for argument in arguments if isinstance(argument, Transaction))
            if getattr(tx.connection.connection.driver_connection, "autocommit", False):
                try:
                    lose()
                except kind as error:
                    raise exc.OperationalError("SELECT", {}, error) from error
            return result

        return in_one_statement

    monkeypatch.setattr(dialect, "do_commit", do_commit)
    monkeypatch.setattr(settle, "activate", lose_reply(settle.activate))
    monkeypatch.setattr(ReserveCall, "reserve", lose_reply(ReserveCall.reserve))
    return commits


@pytest.mark.parametrize("nth", [1, 2])
def test_I3_lost_reply_of_a_commit_causes_no_second_insert_or_send(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Commit 1 is that of the intent, commit 2 that of the outcome."""
    commits = lose_reply_of_commit(harness.database, monkeypatch, nth=nth)
    binding = harness.bind(A, B)
    assert commits[0] == 3
    assert binding.state is State.ACTIVE
    assert len(harness.service.search().data) == 1
    assert harness.kinds(binding) == [EventKind.REQUESTED, EventKind.ACTIVATED]
    assert harness.received("bind") == 1


def test_response_that_cannot_be_recorded_raises_outcome_unknown(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise errors.Busy

    monkeypatch.setattr(settle, "activate", fail)
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(A, B)
    monkeypatch.undo()
    assert harness.service.get(excinfo.value.binding.id).state is State.PENDING
    harness.clock.advance(60)
    assert harness.service.reconcile().adopted == 1
    assert harness.service.get(excinfo.value.binding.id).state is State.ACTIVE


def test_I2_success_after_the_binding_ended_is_held_and_then_unbound(harness: ServiceHarness) -> None:
    answer = hold_answers(harness.simulator, "delay")
    raised: list[BaseException] = []

    def bind() -> None:
        try:
            harness.bind(A, B)
        except errors.BindingsError as error:
            raised.append(error)

    thread = threading.Thread(target=bind, daemon=True)
    thread.start()
    wait_for(lambda: len(harness.simulator.ledger) == 1)
    (intent,) = harness.service.search().data
    caller = harness.service.runtime.caller
    harness.database.write(
        lambda tx: settle.settle_failed(
            tx, intent.id, caller, reason=Reason.ABSENT, status=None, detail={"said": ""}
        )
    )
    answer.set()
    thread.join(300)
    assert isinstance(raised[0], errors.BindingsError)
    assert EventKind.LATE_SUCCESS in harness.kinds(intent)
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, C)
    assert harness.service.recover().unbound == 1
    (entry,) = harness.simulator.ledger
    assert entry.unbound_at is not None
    assert harness.service.check(phone_a=A, phone_b=B, mode="AXB") == []
    assert EventKind.HOLD_ENDED in harness.all_kinds()
