"""Who had a middle number at an instant, and how sure that is. Pure.

The provider's own log is not to be had, so the answer rests on what was observed: the binding existed for
certain from its answer to its end, and possibly from the first byte of the request to the last instant at
which the provider may still have held it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import Certainty, NearMiss, Reason, Trace, TraceHolder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from bindings.domain.binding import Binding

# The provider had lost it by the time we asked; since when, nobody knows.
_END_NOT_OBSERVED = (Reason.NOT_FOUND, Reason.GONE_AT_PROVIDER)


def classify(found: Iterable[Binding], *, at: datetime, window_s: float) -> Trace:
    """Sort the bindings that had the number around `at` into holders and near misses.

    Near misses ended or began within `window_s` seconds of `at`. Holders come most certain first, both lists
    then nearest first.
    """
    window = timedelta(seconds=window_s)
    holders: list[TraceHolder] = []
    misses: list[NearMiss] = []
    for binding in found:
        certainty = _certainty(binding, at)
        if certainty is not None:
            holders.append(TraceHolder(binding=binding, certainty=certainty))
        elif (miss := _near_miss(binding, at, window)) is not None:
            misses.append(miss)
    holders.sort(key=lambda held: (held.certainty is not Certainty.CERTAIN, at - earliest_start(held.binding)))
    misses.sort(key=lambda miss: abs(miss.offset_s))
    return Trace(holders=tuple(holders), near_misses=tuple(misses))


def _certainty(binding: Binding, at: datetime) -> Certainty | None:
    if not earliest_start(binding) <= at < binding.held_until:
        return None
    answered, end = binding.answered_at, earliest_end(binding)
    sure = answered is not None and answered <= at < end and binding.reason not in _END_NOT_OBSERVED
    return Certainty.CERTAIN if sure else Certainty.POSSIBLE


def _near_miss(binding: Binding, at: datetime, window: timedelta) -> NearMiss | None:
    start, end = earliest_start(binding), earliest_end(binding)
    if at < start <= at + window:
        return NearMiss(binding=binding, relation="began", at=start, offset_s=(start - at).total_seconds())
    if at - window <= end <= at:
        return NearMiss(binding=binding, relation="ended", at=end, offset_s=(end - at).total_seconds())
    return None


def earliest_start(binding: Binding) -> datetime:
    """The first instant at which the binding may have been there."""
    return binding.sent_at or binding.requested_at


def earliest_end(binding: Binding) -> datetime:
    """The first instant at which the binding may have been over."""
    ends = (binding.expires_at, binding.ended_at, binding.unbind_requested_at)
    return min((end for end in ends if end is not None), default=binding.held_until)
