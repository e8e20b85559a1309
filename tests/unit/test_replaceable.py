"""Which bindings a successor may take over from, and when a successor has waited too long."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from bindings.domain.binding import State
from bindings.web.api.samples import BINDING

LATER = BINDING.settle_by + timedelta(seconds=1)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("was_replaced", [False, True])
@pytest.mark.parametrize("unbind_requested", [False, True])
def test_replaceable_are_offered_and_expired_ones_and_those_that_a_replace_has_ended(
    state: State, was_replaced: bool, unbind_requested: bool
) -> None:
    binding = replace(
        BINDING,
        state=state,
        replaced_by=BINDING.id if was_replaced else None,
        unbind_requested_at=BINDING.requested_at if unbind_requested else None,
    )
    expected = {
        State.ACTIVE: was_replaced or not unbind_requested,
        State.EXPIRED: True,
        State.UNBOUND: was_replaced,
    }
    assert binding.is_replaceable is expected.get(state, False)


@pytest.mark.parametrize("state", list(State))
def test_only_an_open_successor_that_waits_has_waited_too_long(state: State) -> None:
    waiting = replace(BINDING, state=state, waits_for=BINDING.id)
    assert waiting.has_waited_too_long(LATER) is not state.terminal
    assert not waiting.has_waited_too_long(BINDING.requested_at)
    assert not replace(waiting, waits_for=None).has_waited_too_long(LATER)
