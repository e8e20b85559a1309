"""What the takeover of a predecessor by its successor changes for the parties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from bindings.domain.binding import Binding, Event
    from bindings.domain.phone import Phone


def takeover_detail(
    predecessor: Binding, numbers: dict[Phone, str], *, gap: tuple[datetime, datetime] | None = None
) -> dict[str, Any]:
    """Return what the event of the successor's success says: whether a middle number changed, and `gap_s`.

    A middle number has changed if a party of both bindings sees another one; `numbers` are the successor's, by
    phone. `gap` is from the confirmed end of the predecessor to the provider's answer for the successor; None if
    it is not known.
    """
    parties = (predecessor.phone_a, predecessor.phone_b)
    changed = any(
        number != predecessor.middle_number_for(phone) for phone, number in numbers.items() if phone in parties
    )
    detail: dict[str, Any] = {"middle_number_changed": changed}
    if gap is not None:
        detail["gap_s"] = max(0.0, round((gap[1] - gap[0]).total_seconds(), 3))
    return detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Takeover:
    """What the success of a successor has recorded: see `takeover_detail`. `gap_s` is None if it is not known."""

    middle_number_changed: bool
    gap_s: float | None


def find_takeover(history: Iterable[Event]) -> Takeover | None:
    """Return what the events of a successor say of its takeover; None if it has not begun at the provider."""
    for event in history:
        changed, gap_s = event.detail.get("middle_number_changed"), event.detail.get("gap_s")
        if isinstance(changed, bool):
            known_gap_s = float(gap_s) if isinstance(gap_s, int | float) else None
            return Takeover(middle_number_changed=changed, gap_s=known_gap_s)
    return None
