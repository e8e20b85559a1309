"""The end of a binding is announced in time, once, and only where somebody can still act on it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bindings import errors
from bindings.domain.binding import EventKind, State
from bindings.jobs import expiry_warnings
from bindings.store import settle
from tests.service.world import A, B, C, D, in_threads

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from tests.service.world import World

SOON = EventKind.EXPIRES_SOON


def warnings(world: World, binding: Binding) -> int:
    return world.kinds(binding).count(SOON)


def test_an_end_is_announced_at_its_lead_time_once_and_not_before(world: World) -> None:
    binding = world.bind(expire_s=600, warn_s=60)
    assert binding.warn_s == 60
    world.clock.advance(539)
    assert world.service.warn_due().warned == 0
    world.clock.advance(2)
    assert world.service.warn_due().warned == 1
    assert world.service.warn_due().warned == 0
    assert world.kinds(binding)[-1] is SOON
    world.clock.advance(60)
    world.service.expire_due()
    assert world.kinds(binding)[-2:] == [SOON, EventKind.EXPIRED]


def test_the_event_tells_the_end_that_it_announces(world: World) -> None:
    bindings = [world.bind(A, B, expire_s=600, warn_s=60), world.bind(C, D, expire_s=601, warn_s=61)]
    world.clock.advance(541)
    world.service.warn_due()
    for binding in bindings:
        event = world.service.history(binding.id)[-1]
        assert event.kind is SOON
        assert list(event.detail) == ["expires_at"]
        assert datetime.fromisoformat(event.detail["expires_at"]) == binding.expires_at


def test_the_settings_lead_is_for_binds_that_name_none_and_outlast_it(world: World) -> None:
    service = world.open(warn_s=60)
    given: dict[str, Any] = {"pool_number": "918806", "mode": "AXB"}
    assert service.bind(phone_a=A, phone_b=B, expire_s=61, **given).warn_s == 60
    assert service.bind(phone_a=C, phone_b=D, expire_s=60, **given).warn_s is None
    assert service.bind(phone_a="9188067711", phone_b="9188067712", expire_s=90, warn_s=5, **given).warn_s == 5
    assert service.bind(phone_a="9188067713", phone_b="9188067714", expire_s=90, warn_s=0, **given).warn_s is None


def end_sooner(world: World, binding: Binding, at: datetime) -> None:
    by = world.service._caller
    world.database.write(lambda tx: settle.apply_drift(tx, binding, by, expires_at=at, held_until=None))


@pytest.mark.parametrize("warn_s", [600, 601, -1, 1.5, True, "60", 10**12])
def test_a_lead_that_is_no_shorter_than_the_life_is_refused_before_anything_is_sent(
    world: World, warn_s: Any
) -> None:
    with pytest.raises(errors.InvalidRequest) as refused:
        world.bind(expire_s=600, warn_s=warn_s)
    assert [fault.field for fault in refused.value.faults] == ["warn_s"]
    assert world.received("bind") == 0


def test_nothing_is_announced_that_has_ended_is_over_or_is_to_be_unbound(world: World) -> None:
    unbound = world.bind(A, B, expire_s=600, warn_s=60)
    world.service.unbind(unbound.id)
    wished = world.bind(C, D, expire_s=600, warn_s=60)
    world.simulator.script("reset_before", times=1, on="unbind")
    with pytest.raises((errors.OutcomeUnknown, errors.ProviderUnreachable)):
        world.service.unbind(wished.id)
    over = world.bind("9188067711", "9188067712", expire_s=100, warn_s=60)
    world.clock.advance(590)
    assert world.service.warn_due().warned == 0
    assert [warnings(world, each) for each in (unbound, wished, over)] == [0, 0, 0]


def test_an_adopted_binding_is_announced_too(world: World) -> None:
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(expire_s=600, warn_s=500)
    world.clock.advance(20)
    world.service.reconcile()
    assert world.service.get(unknown.value.binding.id).state is State.ACTIVE
    assert world.service.warn_due().warned == 0
    world.clock.advance(85)
    assert world.service.warn_due().warned == 1


def test_an_end_that_comes_sooner_is_announced_sooner_and_never_twice(world: World) -> None:
    announced = world.bind(A, B, expire_s=600, warn_s=60)
    world.clock.advance(545)
    world.service.warn_due()
    later = world.bind(C, D, expire_s=600, warn_s=60)
    for binding in (announced, later):
        sooner = (binding.expires_at or world.clock.at) - timedelta(seconds=20)
        end_sooner(world, binding, sooner)
    assert world.service.warn_due().warned == 0
    world.clock.advance(521)
    assert world.service.warn_due().warned == 1
    assert [warnings(world, each) for each in (announced, later)] == [1, 1]


def test_a_repeated_key_keeps_the_first_lead(world: World) -> None:
    first = world.bind(expire_s=600, warn_s=60, idempotency_key="k")
    again = world.bind(expire_s=600, warn_s=120, idempotency_key="k")
    assert (again.id, again.warn_s) == (first.id, 60)


def test_replicas_that_announce_side_by_side_write_one_event_each(world: World) -> None:
    made = [
        world.bind(f"91880671{number:02}", f"91880672{number:02}", expire_s=600, warn_s=500)
        for number in range(20)
    ]
    world.clock.advance(101)
    replicas = [world.service, world.open(), world.open()]
    run = [lambda each=each: expiry_warnings.warn(each._database, each._caller, batch=3) for each in replicas]
    assert in_threads(*run) == []
    assert [warnings(world, binding) for binding in made] == [1] * 20


def test_a_pass_that_runs_out_of_time_says_so_and_the_next_one_goes_on(world: World) -> None:
    for number in range(3):
        world.bind(f"91880671{number:02}", f"91880672{number:02}", expire_s=600, warn_s=500)
    world.clock.advance(101)
    first = expiry_warnings.warn(world.database, world.service._caller, batch=1, budget_s=-1)
    assert (first.warned, first.finished) == (1, False)
    assert world.service.warn_due() == expiry_warnings.ExpiryWarningsResult(warned=2, batches=1, finished=True)
