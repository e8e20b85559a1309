"""The whole table of the conflict policy, row by row and column by column."""

from __future__ import annotations

import pytest

from bindings.domain.binding import Mode, State
from bindings.domain.conflict import Policy, conflicts

AXB, AXXB = Mode.AXB, Mode.AXXB
LIVE, UNSETTLED = (State.ACTIVE, State.EXPIRED, State.UNBOUND), (State.PENDING, State.IN_DOUBT)
BOTH = (Policy.LITERAL, Policy.STRICT)
REFUSE, ALLOW = True, False

# (policies, held, its states, requested, the same pair, verdict)
TABLE = [
    (BOTH, AXB, LIVE + UNSETTLED, AXB, False, REFUSE),
    (BOTH, AXB, LIVE + UNSETTLED, AXXB, False, REFUSE),
    (BOTH, AXB, LIVE + UNSETTLED, AXB, True, REFUSE),
    (BOTH, AXB, LIVE + UNSETTLED, AXXB, True, REFUSE),
    (BOTH, AXXB, UNSETTLED, AXB, False, REFUSE),
    ((Policy.LITERAL,), AXXB, UNSETTLED, AXXB, False, ALLOW),
    # The provider that `strict` is for would refuse it, once the first one is made.
    ((Policy.STRICT,), AXXB, UNSETTLED, AXXB, False, REFUSE),
    (BOTH, AXXB, UNSETTLED, AXB, True, REFUSE),
    (BOTH, AXXB, UNSETTLED, AXXB, True, REFUSE),
    ((Policy.LITERAL,), AXXB, LIVE, AXB, False, ALLOW),
    ((Policy.LITERAL,), AXXB, LIVE, AXXB, False, ALLOW),
    ((Policy.STRICT,), AXXB, LIVE, AXB, False, REFUSE),
    ((Policy.STRICT,), AXXB, LIVE, AXXB, False, REFUSE),
    (BOTH, AXXB, LIVE, AXB, True, REFUSE),
    (BOTH, AXXB, LIVE, AXXB, True, REFUSE),
    (BOTH, None, (None,), AXB, False, REFUSE),
    (BOTH, None, (None,), AXXB, False, REFUSE),
    (BOTH, None, (None,), AXB, True, REFUSE),
    (BOTH, None, (None,), AXXB, True, REFUSE),
]
CASES = [
    pytest.param(
        policy,
        held,
        state,
        requested,
        same,
        verdict,
        id=f"{policy}-{held}-{state}-{requested}-{'same' if same else 'other'}",
    )
    for policies, held, states, requested, same, verdict in TABLE
    for policy in policies
    for state in states
]


@pytest.mark.parametrize(("policy", "held", "state", "requested", "same", "verdict"), CASES)
def test_policy_matches_the_table(
    policy: Policy, held: Mode | None, state: State | None, requested: Mode, same: bool, verdict: bool
) -> None:
    assert conflicts(policy, held=held, state=state, requested=requested, same_pair=same) is verdict


def test_table_covers_every_combination_once() -> None:
    keys = [tuple(case.values[:5]) for case in CASES]
    assert len(keys) == len(set(keys)) == 2 * 2 * 2 * (1 + 2 * 5)
