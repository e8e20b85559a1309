"""Both lists compared: ghosts, orphans, drift, holds that end, zones that do not fit, and dry runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from bindings import errors
from bindings.domain.binding import EventKind, Reason, State
from tests.service.world import APP, POOL, A, B, C, D, E, F, G, H, World


def test_two_equal_lists_change_nothing(world: World) -> None:
    world.bind(A, B)
    world.bind(C, D, "AXXB")
    world.clock.advance(60)
    before = list(world.service.export_bindings())
    counts = world.service.reconcile()
    assert (counts.apps, counts.incomplete, counts.faults) == (1, 0, ())
    assert not any((counts.adopted, counts.absent, counts.ghosts, counts.orphans, counts.drifted))
    assert list(world.service.export_bindings()) == before


def test_a_ghost_ends_as_gone_once_two_scans_missed_it(world: World) -> None:
    gone, _, _ = world.bind(A, B), world.bind(C, D), world.bind(E, F)
    world.simulator.remove_binding(str(gone.bind_id))
    world.clock.advance(60)
    counts = world.service.reconcile()
    assert (counts.ghosts, counts.scans) == (1, 2)
    ended = world.service.get(gone.id)
    assert (ended.state, ended.reason) == (State.UNBOUND, Reason.GONE_AT_PROVIDER)
    assert ended.held_until == min(gone.held_until, world.clock() + timedelta(seconds=36))


def test_without_a_witness_nothing_is_a_ghost(world: World) -> None:
    gone = world.bind(A, B)
    world.simulator.remove_binding(str(gone.bind_id))
    world.clock.advance(60)
    assert world.service.reconcile().ghosts == 0
    assert world.service.get(gone.id).state is State.ACTIVE


def test_a_binding_that_was_just_made_is_no_ghost(world: World) -> None:
    world.bind(C, D)
    world.bind(E, F)
    world.clock.advance(60)
    fresh = world.bind(A, B)
    world.simulator.remove_binding(str(fresh.bind_id))
    assert world.service.reconcile().ghosts == 0


def test_an_orphan_s_phones_are_held_until_it_ends(world: World) -> None:
    entry = world.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=600)
    assert world.service.reconcile().orphans == 1
    with pytest.raises(errors.PhoneInUseAtProvider) as held:
        world.bind(A, C)
    assert held.value.holder.why == "orphan"
    assert held.value.holder.held_until.timestamp() >= entry.expires_at
    assert world.received("bind") == 0
    assert world.service.reconcile().orphans == 0, "known by now"
    assert world.all_kinds().count(EventKind.HELD) == 1
    (holder, *_) = world.service.check(phone_a=A, phone_b=C, mode="AXB")
    world.clock.at = holder.held_until
    assert world.bind(A, C).state is State.ACTIVE


def test_the_hold_of_an_orphan_ends_when_two_scans_deny_it(world: World) -> None:
    world.bind(E, F)
    entry = world.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=3_600)
    world.service.reconcile()
    world.simulator.remove_binding(entry.bind_id)
    world.clock.advance(60)
    assert world.service.reconcile().holds_ended == 2
    assert world.bind(A, C).state is State.ACTIVE


def test_a_row_that_is_over_is_no_orphan(world: World) -> None:
    """The documents do not say whether expired rows stay listed: ignore them (provider-api, section 3)."""
    world.simulator.change(list_expired=True)
    world.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=60)
    world.clock.advance(3_600)
    assert world.service.reconcile().orphans == 0
    assert EventKind.HELD not in world.all_kinds()


def test_a_row_that_is_over_does_not_hide_the_one_that_fits_a_doubt(world: World) -> None:
    world.simulator.change(list_expired=True)
    world.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=60)
    world.clock.advance(3_600)
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        world.bind(A, B)
    world.clock.advance(60)
    assert world.service.reconcile().adopted == 1


def test_our_own_expired_rows_that_stay_listed_change_nothing(world: World) -> None:
    world.simulator.change(list_expired=True)
    world.bind(A, B, expire_s=60)
    world.clock.advance(3_600)
    world.service.expire_due()
    counts = world.service.reconcile()
    assert (counts.orphans, counts.drifted, counts.ghosts) == (0, 0, 0)


def test_a_hold_after_minus_35_ends_when_the_list_denies_it(world: World) -> None:
    world.bind(E, F)
    world.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider):
        world.bind(A, B)
    world.clock.advance(10)
    world.service.reconcile()
    assert world.bind(A, B).state is State.ACTIVE


def test_I6_an_end_that_comes_sooner_is_brought_forward(world: World) -> None:
    made, _ = world.bind(A, B), world.bind(C, D)
    ledger = world.simulator.ledger
    sooner = replace(world.entry(made), expires_at=world.entry(made).expires_at - 120)
    ledger._entries[sooner.bind_id] = sooner
    ledger._held[sooner.bind_id] = sooner
    world.clock.advance(60)
    assert world.service.reconcile().drifted == 1
    narrowed = world.service.get(made.id)
    assert narrowed.expires_at is not None
    assert narrowed.expires_at.timestamp() <= sooner.expires_at
    assert narrowed.held_until == made.held_until
    assert world.kinds(made)[-1] is EventKind.DRIFTED
    assert world.service.reconcile().drifted == 0


def test_where_every_row_lies_hours_off_the_zone_is_wrong_and_nothing_is_concluded(world: World) -> None:
    service = world.open(provider_zone="+00:00")
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=3_600, mode="AXB")
    world.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP)
    world.clock.advance(60)
    before = list(service.export_bindings())
    counts = service.reconcile()
    assert abs(counts.zone_misfit_s - 8 * 3_600) < 10
    assert (counts.orphans, counts.drifted, counts.ghosts) == (0, 0, 0)
    assert list(service.export_bindings()) == before


def test_a_dry_run_counts_and_writes_nothing(world: World) -> None:
    gone, _, _ = world.bind(A, B), world.bind(C, D), world.bind(E, F)
    world.simulator.remove_binding(str(gone.bind_id))
    world.simulator.add_foreign_binding(phone_a=G, phone_b=H, app_id=APP)
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        world.bind("9188067711", "9188067712")
    world.clock.advance(60)
    before = list(world.service.export_bindings()), len(world.all_kinds())
    counts = world.service.reconcile(dry_run=True)
    assert (counts.ghosts, counts.orphans, counts.adopted, counts.dry_run) == (1, 1, 1, True)
    assert (list(world.service.export_bindings()), len(world.all_kinds())) == before


def test_a_list_that_is_shuffled_between_its_pages_loses_and_invents_nothing(world: World) -> None:
    world.simulator.change(shuffle_pages=True)
    for number in range(130):
        world.simulator.add_foreign_binding(
            phone_a=f"91770000{number:03}", phone_b=f"91770001{number:03}", app_id=APP
        )
    made = [world.bind(A, B), world.bind(C, D), world.bind(E, F)]
    world.clock.advance(60)
    for _ in range(3):
        counts = world.service.reconcile()
        assert (counts.ghosts, counts.absent, counts.adopted) == (0, 0, 0)
    assert all(world.service.get(one.id).state is State.ACTIVE for one in made)


def test_a_long_list_is_read_to_its_end(world: World) -> None:
    for number in range(130):
        world.simulator.add_foreign_binding(
            phone_a=f"91770000{number:03}", phone_b=f"91770001{number:03}", app_id=APP
        )
    counts = world.service.reconcile()
    assert (counts.orphans, counts.incomplete) == (130, 0)
    assert world.service.reconcile().orphans == 0


def test_bindings_of_every_application_are_compared(world: World) -> None:
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        world.bind(A, B, app_id="other")
    world.clock.advance(60)
    counts = world.service.reconcile()
    assert (counts.apps, counts.adopted) == (2, 1)


def test_the_skew_to_the_provider_widens_the_match(world: World) -> None:
    world.simulator.change(clock_offset_s=25)
    world.bind(C, D)  # measures the skew
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(A, B)
    assert world.service.reconcile().adopted == 1
    adopted = world.service.get(unknown.value.binding.id)
    assert adopted.expires_at is not None
    assert adopted.expires_at <= adopted.requested_at + timedelta(seconds=3_600)
