"""A bind from end to end: what is recorded, when, and what a caller is told."""

from __future__ import annotations

from datetime import timedelta

from bindings.binding import EventKind, Mode, State
from tests.service.world import APP, POOL, A, B, C, World


def test_a_binding_is_recorded_with_everything_the_provider_said(world: World) -> None:
    made = world.bind(A, B, reference="order-42")
    assert made == world.service.get(made.id)
    assert (made.state, made.mode, made.app_id, made.pool_number) == (State.ACTIVE, Mode.AXB, APP, POOL)
    assert (made.phone_a, made.phone_b, made.reference) == (A, B, "order-42")
    entry = world.entry(made)
    assert (made.middle_number_a, made.middle_number_b) == (entry.middle_number_a, entry.middle_number_b)
    assert world.kinds(made) == [EventKind.REQUESTED, EventKind.ACTIVATED]


def test_I2_a_binding_that_the_provider_made_is_known_here_by_its_id(world: World) -> None:
    made = world.bind(A, B), world.bind(C, "9188067755", "AXXB")
    assert {entry.bind_id for entry in world.simulator.ledger} == {int(b.bind_id or 0) for b in made}
