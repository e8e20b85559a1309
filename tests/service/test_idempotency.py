"""The same key yields the same binding, for ever, and nothing is sent twice (I8)."""

from __future__ import annotations

import threading

import pytest

from bindings import errors
from bindings.domain.binding import Binding, EventKind, State
from tests.service.world import POOL, A, B, C, World, wait_for


def test_I8_twenty_callers_with_one_key_make_one_call_and_get_twenty_equal_answers(world: World) -> None:
    world.simulator.script("delay_before", times=1, seconds=0.3, on="bind")
    replicas = [world.service, world.open()]
    together = threading.Barrier(20)
    answers: list[Binding] = []
    errors_seen: list[BaseException] = []

    def bind(number: int) -> None:
        together.wait(10)
        try:
            answers.append(
                replicas[number % 2].bind(
                    phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB", idempotency_key="k"
                )
            )
        except BaseException as error:  # noqa: BLE001 -- shown below
            errors_seen.append(error)

    threads = [threading.Thread(target=bind, args=(number,), daemon=True) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors_seen == []
    assert len(answers) == 20
    assert len(set(answers)) == 1
    assert answers[0].state is State.ACTIVE
    assert world.received("bind") == 1


@pytest.mark.parametrize("end", ["expired", "unbound"])
def test_I8_the_key_of_a_binding_that_has_ended_gives_that_binding_again(world: World, end: str) -> None:
    made = world.bind(idempotency_key="k", expire_s=60)
    if end == "unbound":
        world.service.unbind(made.id)
    world.clock.advance(10_000)
    world.service.expire_due()
    again = world.bind(idempotency_key="k", expire_s=60)
    assert (again.id, again.state) == (made.id, State(end))
    assert world.received("bind") == 1


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
def test_I8_the_key_of_a_failed_binding_raises_the_original_class_and_never_drives_it_again(
    world: World, fault: str, kind: type[errors.BindingsError]
) -> None:
    world.simulator.script(fault, times=1, on="bind")
    seen = []
    for _ in range(3):
        with pytest.raises(errors.BindingsError) as refused:
            world.bind(idempotency_key="k")
        seen.append((type(refused.value), refused.value.binding_id, refused.value.http_status))
        assert getattr(refused.value, "status", fault[7:]) == fault[7:]
        if refused.value.http_status in (409, 503):
            assert refused.value.retry_after_s
    assert {kind} == {one[0] for one in seen}
    assert len(set(seen)) == 1
    assert world.received("bind") == 1


def test_I8_the_key_of_an_unreachable_bind_raises_it_again(world: World) -> None:
    world.service.lookup(phone=A)
    world.simulator.stop()
    for _ in range(2):
        with pytest.raises(errors.ProviderUnreachable):
            world.bind(idempotency_key="k")
    world.simulator.start()
    with pytest.raises(errors.ProviderUnreachable):
        world.bind(idempotency_key="k")
    assert world.bind(idempotency_key="k2").state is State.ACTIVE


def test_I8_the_key_of_a_doubt_is_unknown_until_the_doubt_is_resolved(world: World) -> None:
    world.simulator.script("lost_reply", times=1, on="bind")
    for _ in range(2):
        with pytest.raises(errors.OutcomeUnknown) as unknown:
            world.bind(idempotency_key="k")
    assert world.service.reconcile().adopted == 1
    assert world.bind(idempotency_key="k").id == unknown.value.binding.id
    assert world.received("bind") == 1


def test_I8_a_repeat_waits_for_the_first_call_and_gets_its_answer(world: World) -> None:
    world.simulator.script("delay_before", times=1, seconds=0.5, on="bind")
    first: list[Binding] = []
    thread = threading.Thread(target=lambda: first.append(world.bind(idempotency_key="k")), daemon=True)
    thread.start()
    wait_for(lambda: world.received("bind") == 1)
    second = world.bind(idempotency_key="k")
    thread.join(10)
    assert second == first[0]
    assert world.received("bind") == 1


def test_another_request_with_the_key_is_a_mismatch_that_names_the_binding(world: World) -> None:
    made = world.bind(idempotency_key="k")
    with pytest.raises(errors.IdempotencyMismatch) as mismatch:
        world.bind(A, C, idempotency_key="k")
    assert mismatch.value.binding_id == made.id
    assert world.received("bind") == 1


def test_the_same_request_written_otherwise_is_the_same_request(world: World) -> None:
    made = world.bind("+" + A, B, idempotency_key="k")
    assert world.bind(A, "+" + B, idempotency_key="k").id == made.id


def test_a_refusal_before_the_call_uses_up_no_key(world: World) -> None:
    holder = world.bind(A, C)
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, B, idempotency_key="k")
    world.service.unbind(holder.id)
    made = world.bind(A, B, idempotency_key="k")
    assert made.state is State.ACTIVE
    assert world.kinds(made) == [EventKind.REQUESTED, EventKind.ACTIVATED]


def test_an_invalid_request_uses_up_no_key(world: World) -> None:
    with pytest.raises(errors.InvalidRequest):
        world.bind(expire_s=0, idempotency_key="k")
    assert world.bind(idempotency_key="k").state is State.ACTIVE


def test_a_key_belongs_to_its_application(world: World) -> None:
    made = world.bind(idempotency_key="k")
    other = world.bind(C, "9188067777", idempotency_key="k", app_id="other")
    assert other.id != made.id


def test_a_known_key_is_answered_also_while_the_circuit_is_open(world: World) -> None:
    made = world.bind(idempotency_key="k")
    world.simulator.change(account_status="-1")
    with pytest.raises(errors.ProviderAccountRefused):
        world.bind(C, "9188067777")
    assert world.bind(idempotency_key="k").id == made.id


def test_without_a_key_a_repeat_is_another_bind_and_the_first_one_s_hold_refuses_it(world: World) -> None:
    world.bind()
    with pytest.raises(errors.PhoneInUse):
        world.bind()
