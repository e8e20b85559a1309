"""I8: one idempotency key always yields the same binding, and nothing is sent twice."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from bindings import errors
from bindings.domain.binding import Binding, EventKind, State
from tests.service.harness import POOL, A, B, C, D, E, F, ServiceHarness, wait_for

KEYED: dict[str, Any] = {"pool_number": POOL, "expire_s": 60, "mode": "AXB", "idempotency_key": "order-9"}


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
def test_I8_key_of_a_failed_binding_raises_the_original_error_without_another_call(
    harness: ServiceHarness, fault: str, kind: type[errors.BindingsError]
) -> None:
    harness.simulator.script(fault, times=1, on="bind")
    raised = []
    for _ in range(3):
        with pytest.raises(errors.BindingsError) as excinfo:
            harness.bind(idempotency_key="k")
        raised.append((type(excinfo.value), excinfo.value.binding_id, excinfo.value.http_status))
        assert getattr(excinfo.value, "status", fault[7:]) == fault[7:]
        if excinfo.value.http_status in (409, 503):
            assert excinfo.value.retry_after_s
    assert {kind} == {error_class for error_class, _, _ in raised}
    assert len(set(raised)) == 1
    assert harness.received("bind") == 1


def test_I8_key_of_an_unreachable_bind_raises_the_same_error(harness: ServiceHarness) -> None:
    harness.service.lookup(phone=A)
    harness.simulator.stop()
    for _ in range(2):
        with pytest.raises(errors.ProviderUnreachable):
            harness.bind(idempotency_key="k")
    harness.simulator.start()
    with pytest.raises(errors.ProviderUnreachable):
        harness.bind(idempotency_key="k")
    assert harness.bind(idempotency_key="k2").state is State.ACTIVE


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
    """The unique index that replicas of the release before need lets one of them in; the others wait for it."""
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
