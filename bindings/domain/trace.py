"""Which bindings had a middle number at an instant, and how certain that is. Pure.

The provider's own log is not available, so a trace is derived from what was observed: a binding existed certainly
from the provider's response to its end, and possibly from the first byte of the request to the last instant at
which the provider may still have held it.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from bindings.domain.binding import Certainty, NearMiss, Reason, Trace, TraceHolder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from bindings.domain.binding import Binding

# The provider no longer had the binding when it was asked; the instant of its end is unknown.
_END_NOT_OBSERVED = (Reason.NOT_FOUND, Reason.GONE_AT_PROVIDER)


def classify(bindings: Iterable[Binding], *, at: datetime, window_s: float) -> Trace:
    """Return the trace at `at`: these bindings, which have the middle number, as holders and near misses.

    Near misses ended or began within `window_s` seconds of `at`. Holders are sorted by certainty, then both lists
    by their distance from `at`.
    """
    window = timedelta(seconds=window_s)
    holders: list[TraceHolder] = []
    misses: list[NearMiss] = []
    for binding in bindings:
        certainty = _certainty(binding, at)
        if certainty is not None:
            holders.append(TraceHolder(binding=binding, certainty=certainty))
        elif (miss := _near_miss(binding, at, window)) is not None:
            misses.append(miss)
    holders.sort(
        key=lambda holder: (holder.certainty is not Certainty.CERTAIN, at - earliest_start(holder.binding))
    )
    misses.sort(key=lambda miss: abs(miss.offset_s))
    return Trace(holders=tuple(holders), near_misses=tuple(misses))


def _certainty(binding: Binding, at: datetime) -> Certainty | None:
    if not earliest_start(binding) <= at < binding.held_until:
        return None
    return Certainty.CERTAIN if evidence(binding, at) is Evidence.CONFIRMED else Certainty.POSSIBLE


class Evidence(StrEnum):
    """What is known of a binding at an instant of its longest possible lifetime."""

    CONFIRMED = "confirmed"
    NO_RESPONSE = "no_response"
    BEFORE_RESPONSE = "before_response"
    AFTER_EARLIEST_END = "after_earliest_end"
    END_NOT_OBSERVED = "end_not_observed"


def evidence(binding: Binding, at: datetime) -> Evidence:
    """Return what is known of a binding at an instant; it existed certainly only if that is `CONFIRMED`."""
    if binding.answered_at is None:
        return Evidence.NO_RESPONSE
    if at < binding.answered_at:
        return Evidence.BEFORE_RESPONSE
    if at >= earliest_end(binding):
        return Evidence.AFTER_EARLIEST_END
    return Evidence.END_NOT_OBSERVED if binding.reason in _END_NOT_OBSERVED else Evidence.CONFIRMED


def _near_miss(binding: Binding, at: datetime, window: timedelta) -> NearMiss | None:
    start, end = earliest_start(binding), earliest_end(binding)
    if at < start <= at + window:
        return NearMiss(binding=binding, relation="began", at=start, offset_s=(start - at).total_seconds())
    if at - window <= end <= at:
        return NearMiss(binding=binding, relation="ended", at=end, offset_s=(end - at).total_seconds())
    return None


def earliest_start(binding: Binding) -> datetime:
    """Return the first instant at which the binding may have existed."""
    return binding.sent_at or binding.requested_at


def earliest_end(binding: Binding) -> datetime:
    """Return the first instant at which the binding may have ended."""
    ends = (binding.expires_at, binding.ended_at, binding.unbind_requested_at)
    return min((end for end in ends if end is not None), default=binding.held_until)
