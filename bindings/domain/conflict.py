"""The conflict policy: what is held, what is asked, refuse or allow. Pure.

The provider refuses with "an AXB binding relationship exists for number A or number B". The policy answers
the same question from what we hold, before the call, so that the refusal does not happen (invariant I1).
It does not matter in which role a phone is held.
"""

from __future__ import annotations

from enum import StrEnum

from bindings.domain.binding import Mode, State


class Policy(StrEnum):
    """`literal`: the provider's text, word for word. `strict`: a live AXXB refuses whatever shares a phone."""

    LITERAL = "literal"
    STRICT = "strict"


def conflicts(policy: Policy, *, held: Mode | None, state: State | None, asked: Mode, same_pair: bool) -> bool:
    """Whether a holder forbids the `asked` mode on a phone that it holds.

    `held` is None for a hold that is not ours: whatever it is, the provider said no. A pending or doubtful
    AXXB refuses an AXB under either policy because the provider may yet turn out to judge the other way round.
    One that the provider did make (active, or ended and within its guard) refuses only under `strict`.
    """
    if held is None or held is Mode.AXB or same_pair or policy is Policy.STRICT:
        return True
    return state in (State.PENDING, State.IN_DOUBT) and asked is Mode.AXB
