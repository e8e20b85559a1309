"""States only move forward, and a terminal state never changes (I5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bindings.domain.binding import TERMINAL_KINDS, Binding, EventKind, Mode, State
from bindings.domain.phone import Phone

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FOLLOWS = {
    State.PENDING: {State.ACTIVE, State.IN_DOUBT, State.FAILED},
    State.IN_DOUBT: {State.ACTIVE, State.FAILED, State.LAPSED},
    State.ACTIVE: {State.EXPIRED, State.UNBOUND},
    State.FAILED: set(),
    State.EXPIRED: set(),
    State.UNBOUND: set(),
    State.LAPSED: set(),
}


@pytest.mark.parametrize("state", State)
def test_I5_next_states_are_those_of_the_design(state: State) -> None:
    assert state.next_states == FOLLOWS[state]
    assert state.terminal == (not FOLLOWS[state])


def test_I5_no_state_can_be_reached_again() -> None:
    def reachable(state: State) -> set[State]:
        return set(state.next_states).union(*(reachable(after) for after in state.next_states))

    assert all(state not in reachable(state) for state in State)


def test_every_terminal_state_has_an_event_of_its_name() -> None:
    assert {kind.value for kind in TERMINAL_KINDS} == {state.value for state in State if state.terminal}


def test_every_documented_event_kind_exists() -> None:
    promised = (
        "requested activated failed in_doubt adopted expired unbind_requested unbound unbind_confirmed lapsed"
        " refused late_success held hold_ended revealed erased expires_soon pool_low phone_searched budget_used_up"
        " sealed"
    )
    assert set(promised.split()) <= {kind.value for kind in EventKind}


def binding(**changed: object) -> Binding:
    """An active binding that ends an hour after noon."""
    values: dict[str, object] = dict.fromkeys(Binding.__dataclass_fields__)
    values |= {
        "id": "0190b5a0-0000-7000-8000-000000000001",
        "mode": Mode.AXB,
        "phone_a": Phone("9188067701"),
        "phone_b": Phone("9188067799"),
        "state": State.ACTIVE,
        "expires_at": NOON + timedelta(hours=1),
    }
    return Binding(**(values | changed))  # type: ignore[arg-type]


def test_I6_binding_is_not_active_after_expires_at() -> None:
    end = NOON + timedelta(hours=1)
    assert binding().is_active(end - timedelta(microseconds=1))
    assert not binding().is_active(end)
    assert not binding(expires_at=None).is_active(NOON)


def test_binding_with_an_unbind_request_is_not_active() -> None:
    assert not binding(unbind_requested_at=NOON).is_active(NOON)


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
def test_no_other_state_is_active(state: State) -> None:
    assert not binding(state=state).is_active(NOON)


def test_repr_of_a_binding_contains_no_phone() -> None:
    assert "9188067701" not in repr(binding())
    assert "9188067799" not in repr(binding())
