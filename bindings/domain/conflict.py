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


class ConflictRule(StrEnum):
    """The rules by which a holder of a phone forbids a bind, the first that applies."""

    OTHER_HOLDER = "other_holder"
    AXB = "axb"
    SAME_PAIR = "same_pair"
    STRICT = "strict"
    NOT_CONFIRMED = "not_confirmed"


def conflicts(policy: Policy, *, held: Mode | None, state: State | None, requested: Mode, same_pair: bool) -> bool:
    """Return whether a holder of a phone forbids a bind of the `requested` mode; see `conflict_rule`."""
    rule = conflict_rule(policy, held=held, state=state, requested=requested, same_pair=same_pair)
    return rule is not None


def conflict_rule(
    policy: Policy, *, held: Mode | None, state: State | None, requested: Mode, same_pair: bool
) -> ConflictRule | None:
    """Return the rule by which a holder of a phone forbids a bind of the `requested` mode, or None if none does.

    `held` is the holder's mode, None for a holder that is not ours: it always forbids, because the provider
    refused. A pending or in-doubt AXXB forbids an AXB under either policy, because the provider may yet process
    the two in the other order. One that the provider did create (active, or ended and within its guard time)
    forbids only under `strict`.
    """
    if held is None:
        return ConflictRule.OTHER_HOLDER
    if held is Mode.AXB:
        return ConflictRule.AXB
    if same_pair:
        return ConflictRule.SAME_PAIR
    if policy is Policy.STRICT:
        return ConflictRule.STRICT
    if state in (State.PENDING, State.IN_DOUBT) and requested is Mode.AXB:
        return ConflictRule.NOT_CONFIRMED
    return None
