"""The conflict policy: whether a holder of a phone forbids a bind. Pure.

The provider refuses a bind with "an AXB binding relationship exists for number A or number B". The policy decides
the same from our records before the call, so that this refusal does not happen (invariant I1). The role in which a
phone is held does not matter.
"""

from __future__ import annotations

from enum import StrEnum

from bindings.domain.binding import Mode, State


class Policy(StrEnum):
    """`literal`: the text of the provider's documents. `strict`: a live AXXB forbids every bind of its phones."""

    LITERAL = "literal"
    STRICT = "strict"


def conflicts(policy: Policy, *, held: Mode | None, state: State | None, requested: Mode, same_pair: bool) -> bool:
    """Return whether a holder of a phone forbids a bind of the `requested` mode.

    `held` is the holder's mode, None for a holder that is not ours: it always forbids, because the provider
    refused. A pending or in-doubt AXXB forbids an AXB under either policy, because the provider may yet process
    the two in the other order. One that the provider did create (active, or ended and within its guard time)
    forbids only under `strict`.
    """
    if held is None or held is Mode.AXB or same_pair or policy is Policy.STRICT:
        return True
    return state in (State.PENDING, State.IN_DOUBT) and requested is Mode.AXB
