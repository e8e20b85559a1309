"""Lists with rows of several applications: our own are recognised, and the list of the account can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import State
from bindings.store import account
from tests.service.harness import APP, POOL, A, B, C, D, E, F, G, H

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from tests.service.harness import ServiceHarness

LAG_S = 61  # more than the list's lag
OTHER = "other-app"


def bind_in_two_apps(harness: ServiceHarness) -> tuple[Binding, Binding]:
    """Return an active binding of each of two applications, both older than the list's lag."""
    own, other = harness.bind(A, B), harness.bind(C, D, app_id=OTHER)
    harness.clock.advance(LAG_S)
    return own, other


def open_account_wide(harness: ServiceHarness, **settings: object) -> BindingService:
    return harness.open(scan_scope="account", **settings)


def test_rows_of_our_other_application_are_neither_held_nor_released(harness: ServiceHarness) -> None:
    """The list ignores the application that it is asked for."""
    service = harness.open(on_orphan="release")
    harness.simulator.change(list_all_apps=True)
    own, other = bind_in_two_apps(harness)
    counts = service.reconcile()
    assert (counts.apps, counts.orphans, counts.revenants, counts.drifted) == (2, 0, 0, 0)
    assert harness.received("unbind") == 0
    assert service.get(own.id).state is service.get(other.id).state is State.ACTIVE
    service.unbind(other.id)
    assert service.reconcile().orphans == 0


def test_doubt_of_our_other_application_is_never_an_orphan_of_this_one(harness: ServiceHarness) -> None:
    service = harness.open(on_orphan="release")
    harness.simulator.change(list_all_apps=True)
    bind_in_two_apps(harness)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=600, mode="AXB", app_id=OTHER)
    harness.clock.advance(20)
    counts = service.reconcile()
    assert (counts.adopted, counts.orphans, harness.received("unbind")) == (1, 0, 0)
    assert service.get(str(excinfo.value.binding_id)).state is State.ACTIVE


def test_revenant_of_our_other_application_is_held_and_released_under_its_own_application(
    harness: ServiceHarness,
) -> None:
    harness.simulator.change(list_all_apps=True)
    _, other = bind_in_two_apps(harness)
    harness.service.unbind(other.id)
    harness.simulator.restore_binding(str(other.bind_id))
    harness.clock.advance(LAG_S)
    counts = harness.service.reconcile()
    assert (counts.revenants, counts.orphans) == (1, 0)
    harness.service.unbind(other.id)
    assert harness.entry(other).unbound_at is not None


def test_account_wide_scan_sees_bindings_of_unknown_applications_holds_them_and_never_releases_them(
    harness: ServiceHarness,
) -> None:
    bind_in_two_apps(harness)
    foreign = harness.simulator.add_foreign_binding(phone_a=E, phone_b=F, app_id="unknown-app")
    assert harness.service.reconcile().orphans == 0, "no list of a known application has it"
    service = open_account_wide(harness, on_orphan="release")
    counts = service.reconcile()
    assert (counts.apps, counts.orphans, counts.scans) == (1, 1, 1)
    with pytest.raises(errors.PhoneInUseAtProvider):
        service.bind(phone_a=E, phone_b=G, pool_number=POOL, expire_s=600, mode="AXB")
    assert harness.received("unbind") == 0
    (case,) = service.reports().data[0].cases
    assert (case["case"], case["action"], "app_id" in case) == ("orphans", "hold", False)
    assert service.reconcile().orphans == 0, "the orphan is already known"
    harness.simulator.remove_binding(foreign.bind_id)
    assert service.reconcile().holds_ended == 2


def test_account_wide_scan_settles_every_application_of_ours(harness: ServiceHarness) -> None:
    service = open_account_wide(harness, timestamp_tolerance_s=1)
    own, other = bind_in_two_apps(harness)
    undone = harness.bind(G, H, app_id=OTHER)
    service.unbind(undone.id)
    harness.simulator.restore_binding(str(undone.bind_id))
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as lost:
        service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=3_600, mode="AXB", app_id=OTHER)
    harness.clock.advance(LAG_S)
    counts = service.reconcile()
    assert (counts.adopted, counts.revenants, counts.orphans, counts.unresolved) == (1, 1, 0, 0)
    assert service.get(str(lost.value.binding_id)).state is State.ACTIVE
    harness.simulator.remove_binding(str(other.bind_id))
    assert service.reconcile().ghosts == 1
    assert service.get(own.id).state is State.ACTIVE
    assert service.unbind(undone.id).state is State.UNBOUND
    assert harness.entry(undone).unbound_at is not None


def test_account_wide_scan_does_not_hold_twice_what_the_scan_of_an_application_holds(
    harness: ServiceHarness,
) -> None:
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP)
    assert harness.service.reconcile().orphans == 1
    assert open_account_wide(harness).reconcile().orphans == 0


def test_account_wide_scan_completes_a_full_scan_after_a_restore(harness: ServiceHarness) -> None:
    service = open_account_wide(harness)
    account.register_scope(harness.database, "default")
    bind_in_two_apps(harness)
    service.mark_restored()
    harness.clock.advance(1)
    assert service.reconcile().made_good
    assert service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=600, mode="AXB").state is State.ACTIVE


@pytest.mark.parametrize("same_pair", [True, False])
def test_bind_id_that_is_used_again_by_a_stranger_is_an_orphan(harness: ServiceHarness, same_pair: bool) -> None:
    """Only with the pair is a row that of a binding that has ended."""
    ended, _ = harness.bind(A, B, expire_s=60), harness.bind(E, F)
    harness.clock.advance(LAG_S + 10)
    harness.service.expire_due()
    again = harness.simulator.add_foreign_binding(
        phone_a=A if same_pair else C, phone_b=B if same_pair else D, app_id=APP
    )
    harness.simulator.list_as(again.bind_id, {"bind_id": ended.bind_id})
    counts = harness.service.reconcile()
    assert (counts.revenants, counts.orphans) == ((1, 0) if same_pair else (0, 1))
    assert harness.service.check(phone_a=A if same_pair else C, phone_b=G, mode="AXB")


def test_doubt_is_adopted_under_a_bind_id_that_an_ended_binding_of_its_pair_had(harness: ServiceHarness) -> None:
    ended = harness.bind(A, B, expire_s=60)
    harness.clock.advance(LAG_S + 10)
    harness.service.expire_due()
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(A, B, expire_s=600)
    made = harness.simulator.ledger.entries()[-1]
    harness.simulator.list_as(made.bind_id, {"bind_id": ended.bind_id})
    harness.clock.advance(20)
    assert harness.service.reconcile().adopted == 1
    adopted = harness.service.get(str(excinfo.value.binding_id))
    assert (adopted.state, adopted.bind_id) == (State.ACTIVE, ended.bind_id)
