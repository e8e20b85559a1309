"""I8: one idempotency key always yields the same binding, and nothing is sent twice."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from bindings import errors, failpoints
from bindings.domain.binding import Binding, EventKind, State
from bindings.lifecycle import bind
from bindings.store import reserve
from tests.service.harness import POOL, A, B, C, D, E, F, ServiceHarness, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from bindings.domain.binding import BindRequest
    from bindings.lifecycle.runtime import Runtime

KEYED: dict[str, Any] = {"pool_number": POOL, "expire_s": 60, "mode": "AXB", "idempotency_key": "order-9"}


@pytest.fixture(autouse=True)
def _no_fail_point() -> Iterator[None]:
    yield
    failpoints.install(None)


def hold_refusal(harness: ServiceHarness) -> threading.Event:
    """Refuse the next bind, and hold it back before the refusal is recorded until the returned event is set."""
    harness.simulator.script("refuse:-41", times=1, on="bind")
    released = threading.Event()

    def wait(name: str) -> None:
        if name == "bind.after_answer":
            released.wait(300)

    failpoints.install(wait)
    return released


def test_I8_twenty_concurrent_binds_with_one_key_make_one_call_and_return_equal_bindings(
    harness: ServiceHarness,
) -> None:
    harness.simulator.script("delay_before", times=1, seconds=0.3, on="bind")
    replicas = [harness.service, harness.open()]
    barrier = threading.Barrier(20)
    answers: list[Binding] = []
    raised: list[BaseException] = []

    def bind(number: int) -> None:
        barrier.wait(300)
        try:
            answers.append(
                replicas[number % 2].bind(
                    phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB", idempotency_key="k"
                )
            )
        except BaseException as error:  # noqa: BLE001 -- asserted below
            raised.append(error)

    threads = [threading.Thread(target=bind, args=(number,), daemon=True) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert raised == []
    assert len(answers) == 20
    assert len(set(answers)) == 1
    assert answers[0].state is State.ACTIVE
    assert harness.received("bind") == 1


@pytest.mark.parametrize("end_state", ["expired", "unbound"])
def test_I8_key_of_an_ended_binding_returns_that_binding(harness: ServiceHarness, end_state: str) -> None:
    binding = harness.bind(idempotency_key="k", expire_s=60)
    if end_state == "unbound":
        harness.service.unbind(binding.id)
    harness.clock.advance(10_000)
    harness.service.expire_due()
    replay = harness.bind(idempotency_key="k", expire_s=60)
    assert (replay.id, replay.state) == (binding.id, State(end_state))
    assert harness.received("bind") == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("refuse:-22", errors.ProviderRefused),
        ("refuse:-41", errors.NoMiddleNumber),
        ("refuse:-35", errors.PhoneInUseAtProvider),
        ("refuse:-1", errors.ProviderAccountRefused),
        ("refuse:-16", errors.ProviderAccountRefused),
    ],
)
def test_definite_failure_frees_the_key(
    harness: ServiceHarness, fault: str, kind: type[errors.BindingsError]
) -> None:
    harness.simulator.script(fault, times=1, on="bind")
    with pytest.raises(kind) as refused:
        harness.bind(idempotency_key="k")
    assert "idempotency key" not in str(refused.value)
    failed = harness.service.get(str(refused.value.binding_id))
    assert (failed.state, failed.idempotency_key) == (State.FAILED, None)
    assert harness.service.history(failed.id)[-1].detail["key_freed"] is True
    if kind is errors.PhoneInUseAtProvider:
        harness.clock.advance(3_601)  # the hold of the phones
    replica = harness.open()  # whose circuit is closed
    binding = replica.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=3_600, mode="AXB", idempotency_key="k")
    assert (binding.state, binding.idempotency_key) == (State.ACTIVE, "k")
    assert binding.id != failed.id
    assert harness.bind(idempotency_key="k") == binding
    assert harness.received("bind") == 2


def test_bind_that_was_never_sent_frees_the_key(harness: ServiceHarness) -> None:
    harness.service.lookup(phone=A)
    harness.simulator.stop()
    for _ in range(2):
        with pytest.raises(errors.ProviderUnreachable) as unreachable:
            harness.bind(idempotency_key="k")
        assert unreachable.value.safe_to_retry
    harness.simulator.start()
    assert harness.bind(idempotency_key="k").state is State.ACTIVE


def test_freed_key_is_free_for_another_request(harness: ServiceHarness) -> None:
    harness.simulator.script("refuse:-41", times=1, on="bind")
    with pytest.raises(errors.NoMiddleNumber):
        harness.bind(A, B, idempotency_key="k")
    binding = harness.bind(C, D, idempotency_key="k")
    with pytest.raises(errors.IdempotencyMismatch) as mismatch:
        harness.bind(A, B, idempotency_key="k")
    assert mismatch.value.binding_id == binding.id


def test_client_that_keeps_its_key_gets_through_once_the_pool_has_a_number(harness: ServiceHarness) -> None:
    harness.simulator.script("refuse:-41", times=3, on="bind")
    ids = []
    for _ in range(3):
        with pytest.raises(errors.NoMiddleNumber) as refused:
            harness.bind(idempotency_key="k")
        assert (refused.value.safe_to_retry, refused.value.replayed) == (True, False)
        ids.append(refused.value.binding_id)
    assert len(set(ids)) == 3, "each intent stays in the history"
    bound = harness.bind(idempotency_key="k")
    assert bound.state is State.ACTIVE
    assert {intent.id for intent in harness.service.search(idempotency_key="k").data} == {bound.id, *ids}


@pytest.mark.parametrize("proof", ["scan", "operator"])
def test_absence_that_was_proved_or_stated_uses_up_the_key(harness: ServiceHarness, proof: str) -> None:
    harness.bind(C, D)  # a witness
    harness.simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.bind(idempotency_key="k")
    doubt = unknown.value.binding
    harness.clock.advance(400)
    if proof == "scan":
        assert harness.service.reconcile().absent == 1
    else:
        harness.service.recover()
        harness.service.mark_absent(doubt.id, reason="seen on their console")
    for _ in range(2):
        with pytest.raises(errors.BindingsError, match="idempotency key of this bind is used up") as failed:
            harness.bind(idempotency_key="k")
        assert failed.value.binding_id == doubt.id
        assert (failed.value.safe_to_retry, failed.value.retry_after_s, failed.value.replayed) == (
            False,
            None,
            True,
        )
        assert failed.value.problem()["safe_to_retry"] is False
    assert harness.received("bind") == 2


def test_intent_that_was_to_be_unbound_keeps_its_key_when_it_is_refused(harness: ServiceHarness) -> None:
    released = hold_refusal(harness)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            harness.bind(idempotency_key="k")
        except errors.BindingsError as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    wait_for(lambda: harness.received("bind") == 1)
    [pending] = harness.service.search(state="pending").data
    with pytest.raises(errors.OutcomeUnknown):
        harness.service.unbind(pending.id)
    released.set()
    thread.join(300)
    assert [type(error) for error in raised] == [errors.NoMiddleNumber]
    assert harness.service.get(pending.id).idempotency_key == "k"
    with pytest.raises(errors.NoMiddleNumber, match="used up"):
        harness.bind(idempotency_key="k")
    assert harness.received("bind") == 1


def test_callers_that_waited_for_a_refused_intent_get_its_error_and_send_nothing(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = 6
    released = hold_refusal(harness)
    replicas = [harness.service, harness.open()]
    waiting: list[str] = []
    await_settled = bind._await_settled

    def count_and_wait(runtime: Runtime, binding: Binding) -> Binding:
        waiting.append(binding.id)
        return await_settled(runtime, binding)

    monkeypatch.setattr(bind, "_await_settled", count_and_wait)
    raised: list[errors.BindingsError] = []

    def call(number: int) -> None:
        try:
            replicas[number % 2].bind(phone_a=A, phone_b=B, **KEYED)
        except errors.BindingsError as error:
            raised.append(error)

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(callers)]
    threads[0].start()
    wait_for(lambda: harness.received("bind") == 1)
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: len(waiting) == callers - 1)
    released.set()
    for thread in threads:
        thread.join(300)
    assert [type(error) for error in raised] == [errors.NoMiddleNumber] * callers
    assert len({error.binding_id for error in raised}) == 1
    assert harness.received("bind") == 1


@pytest.mark.parametrize("phones", [(A, B), (C, D)])
def test_key_that_is_freed_before_it_is_read_makes_a_new_intent(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch, phones: tuple[str, str]
) -> None:
    """The earlier intent refuses the new one by its phones or its key, and fails before it is read by its key."""
    if not harness.database.postgres:
        return  # SQLite has one writer
    released = hold_refusal(harness)

    def fail() -> None:
        with suppress(errors.NoMiddleNumber):
            harness.service.bind(phone_a=phones[0], phone_b=phones[1], **KEYED)

    first = threading.Thread(target=fail, daemon=True)
    first.start()
    wait_for(lambda: harness.received("bind") == 1)
    read = reserve.replay

    def fail_and_read(connection: Connection, request: BindRequest, actor: str) -> Any:
        monkeypatch.setattr(reserve, "replay", read)
        released.set()
        first.join(300)
        return read(connection, request, actor)

    monkeypatch.setattr(reserve, "replay", fail_and_read)
    binding = harness.open().bind(phone_a=A, phone_b=B, **KEYED)
    assert (binding.state, binding.idempotency_key) == (State.ACTIVE, KEYED["idempotency_key"])
    assert harness.received("bind") == 2


def test_I8_key_of_a_doubt_raises_outcome_unknown_until_it_is_resolved(harness: ServiceHarness) -> None:
    harness.simulator.script("lost_reply", times=1, on="bind")
    for _ in range(2):
        with pytest.raises(errors.OutcomeUnknown) as excinfo:
            harness.bind(idempotency_key="k")
    assert harness.service.reconcile().adopted == 1
    assert harness.bind(idempotency_key="k").id == excinfo.value.binding.id
    assert harness.received("bind") == 1


def test_I8_repeat_during_the_first_call_waits_and_returns_its_result(harness: ServiceHarness) -> None:
    harness.simulator.script("delay_before", times=1, seconds=0.5, on="bind")
    first: list[Binding] = []
    thread = threading.Thread(target=lambda: first.append(harness.bind(idempotency_key="k")), daemon=True)
    thread.start()
    wait_for(lambda: harness.received("bind") == 1)
    second = harness.bind(idempotency_key="k")
    thread.join(300)
    assert second == first[0]
    assert harness.received("bind") == 1


def test_different_request_with_a_used_key_is_a_mismatch_that_names_the_binding(harness: ServiceHarness) -> None:
    binding = harness.bind(idempotency_key="k")
    with pytest.raises(errors.IdempotencyMismatch) as mismatch:
        harness.bind(A, C, idempotency_key="k")
    assert mismatch.value.binding_id == binding.id
    assert harness.received("bind") == 1


def test_same_request_in_another_notation_is_an_idempotent_replay(harness: ServiceHarness) -> None:
    binding = harness.bind("+" + A, B, idempotency_key="k")
    assert harness.bind(A, "+" + B, idempotency_key="k").id == binding.id


def test_refusal_before_the_call_does_not_use_up_the_key(harness: ServiceHarness) -> None:
    holder = harness.bind(A, C)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, B, idempotency_key="k")
    harness.service.unbind(holder.id)
    binding = harness.bind(A, B, idempotency_key="k")
    assert binding.state is State.ACTIVE
    assert harness.kinds(binding) == [EventKind.REQUESTED, EventKind.ACTIVATED]


def test_invalid_request_does_not_use_up_the_key(harness: ServiceHarness) -> None:
    with pytest.raises(errors.InvalidRequest):
        harness.bind(expire_s=0, idempotency_key="k")
    assert harness.bind(idempotency_key="k").state is State.ACTIVE


def test_key_is_scoped_to_its_application(harness: ServiceHarness) -> None:
    binding = harness.bind(idempotency_key="k")
    other = harness.bind(C, "9188067777", idempotency_key="k", app_id="other")
    assert other.id != binding.id


def test_key_belongs_to_its_actor(harness: ServiceHarness) -> None:
    """Another actor neither uses up the key nor repeats the call; what it does with the text is its own."""
    rides, food = (harness.service.as_caller(actor=f"key:{name}") for name in ("rides", "food"))
    first = rides.bind(phone_a=A, phone_b=B, **KEYED)
    with pytest.raises(errors.PhoneInUse):
        food.bind(phone_a=A, phone_b=B, **KEYED)
    second = food.bind(phone_a=C, phone_b=D, **KEYED)
    assert (first.idempotency_key, second.idempotency_key) == ("order-9", "order-9")
    assert rides.bind(phone_a=A, phone_b=B, **KEYED) == first
    assert food.bind(phone_a=C, phone_b=D, **KEYED) == second == food.get(second.id)
    for service, own in ((rides, first), (food, second)):
        with pytest.raises(errors.IdempotencyMismatch) as mismatch:
            service.bind(phone_a=E, phone_b=F, **KEYED)
        assert mismatch.value.binding_id == own.id
    assert harness.received("bind") == 2


def test_key_that_another_actor_used_is_kept_after_the_end(harness: ServiceHarness) -> None:
    harness.service.as_caller(actor="key:rides").bind(phone_a=A, phone_b=B, **KEYED)
    food = harness.service.as_caller(actor="key:food")
    binding = food.bind(phone_a=C, phone_b=D, **KEYED)
    ended = food.unbind(binding.id)
    assert (ended.state, ended.idempotency_key) == (State.UNBOUND, "order-9")
    assert food.bind(phone_a=C, phone_b=D, **KEYED) == ended
    assert harness.received("bind") == 2


def test_actors_that_use_one_key_at_the_same_time_get_a_binding_each(harness: ServiceHarness) -> None:
    """The unique index that replicas of the version before need lets one of them in; the others wait for it."""
    replicas = [harness.service, harness.open()]
    barrier = threading.Barrier(6)
    answers: list[tuple[str, str]] = []

    def bind(number: int) -> None:
        actor = f"key:{number % 3}"
        service = replicas[number % 2].as_caller(actor=actor)
        barrier.wait(300)
        binding = service.bind(phone_a=f"91880688{number % 3}0", phone_b=f"91880688{number % 3}1", **KEYED)
        answers.append((actor, binding.id))

    threads = [threading.Thread(target=bind, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(answers) == 6
    assert len(set(answers)) == len({binding_id for _, binding_id in answers}) == 3
    assert harness.received("bind") == 3


def test_used_key_returns_its_binding_while_the_circuit_is_open(harness: ServiceHarness) -> None:
    binding = harness.bind(idempotency_key="k")
    harness.simulator.change(account_status="-1")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.bind(C, "9188067777")
    assert harness.bind(idempotency_key="k").id == binding.id


def test_repeat_without_a_key_is_a_new_bind_that_the_first_hold_refuses(harness: ServiceHarness) -> None:
    harness.bind()
    with pytest.raises(errors.PhoneInUse):
        harness.bind()
