"""A bind_id names one living binding: the provider may give it again after its binding has ended.

The second provider of these tests begins to count its ids again, as a sandbox does that is set up anew.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from bindings import errors
from bindings.domain.binding import Reason, State
from bindings.jobs import reconcile_orphans, recover
from bindings.lifecycle import unbind as unbind_calls
from bindings.provider.simulator import Simulator
from bindings.store import holds, settle
from tests.service.harness import APP, A, B, C, D, E, F, in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from tests.service.harness import ServiceHarness


@pytest.fixture
def again(harness: ServiceHarness) -> Iterator[Simulator]:
    """Provide a provider that begins with the first id again."""
    with Simulator(clock=harness.clock.unix, pool_size=200) as simulator:
        yield simulator


@pytest.fixture
def service(harness: ServiceHarness, again: Simulator) -> BindingService:
    """Open a service that calls that provider, beside the one of the harness."""
    if not harness.services:
        harness.open()
    return harness.open(provider_url=again.url)


def bind(service: BindingService, phone_a: str, phone_b: str, **options: object) -> Binding:
    return service.bind(
        phone_a=phone_a,
        phone_b=phone_b,
        **({"pool_number": "918806", "expire_s": 3_600, "mode": "AXB"} | options),  # type: ignore[arg-type]
    )


def test_id_of_an_ended_binding_may_be_given_again(harness: ServiceHarness, service: BindingService) -> None:
    first = harness.bind(A, B)
    harness.service.unbind(first.id)
    second = bind(service, C, D)
    assert second.bind_id == first.bind_id
    assert [found.id for found in service.lookup(phone=C)] == [second.id]
    assert service.unbind(second.id).state is State.UNBOUND
    assert {found.id for found in service.search(bind_id=first.bind_id).data} == {first.id, second.id}


def test_binding_whose_id_was_given_again_is_replaced_without_an_unbind(
    harness: ServiceHarness, service: BindingService, again: Simulator
) -> None:
    """Its phones are still held for the guard time, and an unbind would end the new binding."""
    first = harness.bind(A, B)
    harness.clock.advance(3_601)
    harness.service.expire_due()
    second = bind(service, C, D)
    assert second.bind_id == first.bind_id
    successor = service.replace(first.id)
    assert (successor.state, successor.replaces) == (State.ACTIVE, first.id)
    assert service.get(second.id) == second
    assert again.counts.received.get("unbind", 0) == 0


def test_yes_with_the_id_of_an_active_binding_ends_that_one(
    harness: ServiceHarness, service: BindingService, again: Simulator
) -> None:
    first = harness.bind(A, B)
    harness.simulator.script("lost_reply", times=1, on="unbind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.service.unbind(first.id)
    second = bind(service, C, D)
    assert (second.state, second.bind_id) == (State.ACTIVE, first.bind_id)
    ended = service.get(first.id)
    assert (ended.state, ended.reason) == (State.UNBOUND, Reason.GONE_AT_PROVIDER)
    assert service.check(phone_a=A, phone_b=B, mode="AXB") == [], "the provider holds its phones no more"
    service.recover()
    assert again.counts.received.get("unbind", 0) == 0, "an unbind would end the new binding"
    assert service.get(second.id).state is State.ACTIVE


@pytest.mark.parametrize("action", ["hold", "release"])
def test_I4_row_with_the_id_of_a_living_binding_and_other_phones_holds_them(
    harness: ServiceHarness, action: str
) -> None:
    """A response named another binding, or the list does: nothing is ended here, and nothing is unbound there."""
    binding = harness.bind(A, B)
    harness.bind(E, F)  # without a living binding no scan proves that a row is gone
    values = {"phone_a": C, "phone_b": B, "ends_at": "2030-01-01 00:00:00"}
    harness.simulator.list_as(str(binding.bind_id), values)
    harness.clock.advance(61)
    service = harness.open(on_orphan=action)
    counts = [service.reconcile() for _ in range(2)]
    assert [(c.orphans, c.ghosts, c.drifted) for c in counts] == [(1, 0, 0), (0, 0, 0)]
    assert {holder.why for holder in service.check(phone_a=C, phone_b=D, mode="AXB")} == {"orphan"}
    assert [hold.phone for hold in service.holds(phone=B)] == []
    assert service.get(binding.id) == binding
    assert harness.simulator.counts.received.get("unbind", 0) == 0
    service.unbind(binding.id)
    harness.clock.advance(61)
    service.reconcile()
    assert service.check(phone_a=C, phone_b=D, mode="AXB") == []


def test_row_that_has_its_own_phones_again_frees_the_phones_it_had(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    values = {"phone_a": C, "phone_b": B, "ends_at": "2030-01-01 00:00:00"}
    harness.simulator.list_as(str(binding.bind_id), values)
    assert harness.service.reconcile().orphans == 1
    assert harness.service.reconcile().holds_ended == 0
    harness.simulator.list_as(str(binding.bind_id))
    assert harness.service.reconcile().holds_ended == 1
    assert [hold.in_force for hold in harness.service.holds(phone=C)] == [False]
    assert harness.service.get(binding.id) == binding


@pytest.mark.parametrize("problem", [{"phone_a": C}, {"phone_a": None}])
def test_I4_hold_of_a_row_that_still_differs_remains(
    harness: ServiceHarness, problem: dict[str, str | None]
) -> None:
    binding = harness.bind(A, B)
    harness.simulator.list_as(str(binding.bind_id), {"phone_a": C})
    harness.service.reconcile()
    harness.simulator.list_as(str(binding.bind_id), problem)
    harness.service.reconcile()
    assert [hold.in_force for hold in harness.service.holds(phone=C)] == [True]


def test_row_with_the_id_of_a_living_binding_and_one_phone_of_it_twice_holds_nothing(
    harness: ServiceHarness,
) -> None:
    binding = harness.bind(A, B)
    harness.simulator.list_as(str(binding.bind_id), {"phone_b": A})
    assert [harness.service.reconcile().orphans for _ in range(2)] == [0, 0]
    assert harness.service.holds(phone=A) == []


def test_yes_with_the_id_of_a_hold_ends_the_hold(
    harness: ServiceHarness, service: BindingService, again: Simulator
) -> None:
    """A late success is owed an unbind, which would end the new binding."""
    first = harness.bind(A, B)
    harness.service.unbind(first.id)
    settled = harness.service.get(first.id)

    def hold(tx: object) -> None:
        holds.hold_orphan(
            tx,  # type: ignore[arg-type]
            harness.service.runtime.caller,
            phones=(settled.phone_a, settled.phone_b),
            scope=settled.scope,
            app_id=settled.app_id,
            bind_id=str(settled.bind_id),
            origin_id=first.id,
            held_until=settled.expires_at or harness.clock(),
        )

    harness.database.write(hold)
    assert {holder.why for holder in service.check(phone_a=A, phone_b=B, mode="AXB")} == {"orphan"}
    second = bind(service, C, D)
    assert (second.state, second.bind_id) == (State.ACTIVE, first.bind_id)
    assert service.check(phone_a=A, phone_b=B, mode="AXB") == []
    service.recover()
    assert again.counts.received.get("unbind", 0) == 0


def hold_late_success(harness: ServiceHarness, binding: Binding) -> None:
    late = settle.Success(
        bind_id=str(binding.bind_id),
        middle_number_a=str(binding.middle_number_a),
        middle_number_b=str(binding.middle_number_b),
        sent_at=binding.requested_at,
        answered_at=harness.clock(),
        expires_at=harness.clock() + timedelta(hours=1),
        held_until=harness.clock() + timedelta(hours=1),
        warn_s=None,
    )
    caller = harness.service.runtime.caller
    harness.database.write(lambda tx: holds.hold_success_of_lost_intent(tx, binding, late, caller))


def test_hold_of_a_late_success_is_owed_no_unbind_when_its_id_is_given_again(
    harness: ServiceHarness, service: BindingService, again: Simulator
) -> None:
    """The unbind would end the new binding."""
    first = harness.bind(A, B)
    harness.service.unbind(first.id)
    hold_late_success(harness, first)
    second = bind(service, C, D)
    assert second.bind_id == first.bind_id
    service.recover()
    assert again.counts.received.get("unbind", 0) == 0
    assert [found.id for found in service.lookup(phone=C)] == [second.id]


def end_all_holds(harness: ServiceHarness) -> None:
    caller, scope = harness.service.runtime.caller, harness.service.runtime.settings.scope
    in_force = harness.database.read(holds.live, scope, harness.clock())
    harness.database.write(lambda tx: holds.end_holds(tx, caller, in_force, reason="bind_id_used_again"))


def test_hold_of_a_late_success_that_ends_during_a_run_is_owed_no_unbind(harness: ServiceHarness) -> None:
    for first in (harness.bind(A, B), harness.bind(C, D)):
        harness.service.unbind(first.id)
        hold_late_success(harness, first)
    unbind = unbind_calls.call_provider

    def unbind_first(*args: Any, **options: Any) -> Any:
        end_all_holds(harness)
        return unbind(*args, **options)

    with mock.patch.object(recover, "call_provider", side_effect=unbind_first) as calls:
        result = harness.service.recover()
    assert calls.call_count == 1, "the other unbind could end a new binding"
    assert (result.unbound, result.still_unclear) == (1, 0)


@pytest.mark.parametrize("repeats", ["recover", "unbind_all"])
def test_unbind_is_not_sent_when_its_id_is_given_again_during_the_run(
    harness: ServiceHarness, service: BindingService, repeats: str
) -> None:
    first, second = (harness.bind(*pair, reference="order") for pair in ((A, B), (C, D)))
    harness.simulator.script("lost_reply", times=2, on="unbind")
    for binding in (first, second):
        with pytest.raises(errors.OutcomeUnknown):
            harness.service.unbind(binding.id)
    given_again: list[Binding] = []
    unbind = unbind_calls.call_provider

    def unbind_first(*args: Any, **options: Any) -> Any:
        given_again.extend(bind(service, *pair) for pair in ((E, F), ("9188067791", "9188067792")))
        return unbind(*args, **options)

    with mock.patch.object(unbind_calls, "call_provider", side_effect=unbind_first) as calls:
        if repeats == "recover":
            harness.service.recover()
        else:
            harness.service.unbind_all(reference="order", reason="asked")
    assert {binding.bind_id for binding in given_again} == {first.bind_id, second.bind_id}
    assert calls.call_count == 1, "the other unbind would end a new binding"
    states = [service.get(binding.id).state for binding in (first, second, *given_again)]
    assert states == [State.UNBOUND, State.UNBOUND, State.ACTIVE, State.ACTIVE]


def test_hold_of_an_orphan_that_ends_during_a_scan_is_not_released(harness: ServiceHarness) -> None:
    releaser = harness.open(on_orphan="release")
    for phones in ((A, B), (C, D)):
        harness.simulator.add_foreign_binding(phone_a=phones[0], phone_b=phones[1], app_id=APP, expire_s=3_600)
    unbind = unbind_calls.call_provider

    def unbind_first(*args: Any, **options: Any) -> Any:
        end_all_holds(harness)
        return unbind(*args, **options)

    with mock.patch.object(reconcile_orphans, "call_provider", side_effect=unbind_first) as calls:
        releaser.reconcile()
    assert calls.call_count == 1, "the other unbind could end a new binding"


def test_expired_binding_is_owed_no_release_when_its_id_is_given_again(
    harness: ServiceHarness, service: BindingService, again: Simulator
) -> None:
    """The release would end the new binding."""
    first = harness.bind(A, B, expire_s=60, max_expire_s=3_600)
    harness.clock.advance(61)
    assert service.expire_due().expired == 1
    assert service.get(first.id).is_release_owed(harness.clock())
    second = bind(service, C, D)
    assert second.bind_id == first.bind_id
    assert not service.get(first.id).is_release_owed(harness.clock())
    assert service.check(phone_a=A, phone_b=B, mode="AXB") == []
    assert service.recover().released == 0
    service.unbind(first.id)
    assert again.counts.received.get("unbind", 0) == 0


def test_of_two_simultaneous_successes_with_one_id_one_is_active(
    harness: ServiceHarness, service: BindingService
) -> None:
    bound: list[Binding] = []
    failures = in_threads(lambda: bound.append(harness.bind(A, B)), lambda: bound.append(bind(service, C, D)))
    assert failures == []
    assert len({binding.bind_id for binding in bound}) == 1
    states = [service.get(binding.id).state for binding in bound]
    assert sorted(states) == [State.ACTIVE, State.UNBOUND]


def test_scan_judges_the_zone_by_living_bindings_and_adopts_a_doubt_beside_them(
    harness: ServiceHarness, service: BindingService, again: Simulator
) -> None:
    ended = [harness.bind(*pair, expire_s=60) for pair in ((A, B), (C, D))]
    harness.clock.advance(600)
    harness.service.expire_due()
    living = bind(service, A, B)
    assert living.bind_id == ended[0].bind_id
    again.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        bind(service, E, F)
    harness.clock.advance(60)
    result = service.reconcile()
    assert (result.zone_misfit_s, result.adopted, result.drifted, result.orphans) == (0.0, 1, 0, 0)
    adopted = service.get(unknown.value.binding.id)
    assert (adopted.state, adopted.bind_id) == (State.ACTIVE, ended[1].bind_id)
    assert service.get(living.id).state is State.ACTIVE
    assert service.get(ended[0].id).held_until == ended[0].held_until


def test_doubt_is_adopted_by_a_row_with_the_id_of_an_ended_binding_of_its_pair(
    harness: ServiceHarness, service: BindingService, again: Simulator
) -> None:
    first = harness.bind(A, B, expire_s=60)
    harness.clock.advance(600)
    harness.service.expire_due()
    again.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        bind(service, A, B)
    harness.clock.advance(60)
    assert service.reconcile().adopted == 1
    adopted = service.get(unknown.value.binding.id)
    assert (adopted.state, adopted.bind_id) == (State.ACTIVE, first.bind_id)
    assert service.get(first.id).held_until == first.held_until


def test_foreign_row_with_the_id_of_an_ended_binding_of_another_pair_is_an_orphan(
    harness: ServiceHarness, service: BindingService, again: Simulator
) -> None:
    first = harness.bind(A, B)
    harness.service.unbind(first.id)
    again.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
    harness.clock.advance(120)
    result = service.reconcile()
    assert result.orphans == 1
    assert {holder.why for holder in service.check(phone_a=C, phone_b=D, mode="AXB")} == {"orphan"}
    assert service.check(phone_a=A, phone_b=B, mode="AXB") == []
