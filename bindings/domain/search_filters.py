"""The checked filters of a search; `validation.requests.FILTERS` has the check and the help text of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Mode, State
    from bindings.domain.phone import Phone


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFilters:
    """What the bindings of a search match, all of it; a filter that is None matches every binding.

    `phone` and `middle_number` match either party. The time of the request is in [requested_from, requested_to).
    """

    state: State | None = None
    mode: Mode | None = None
    phone: Phone | None = None
    middle_number: str | None = None
    reference: str | None = None
    bind_id: str | None = None
    pool_number: str | None = None
    app_id: str | None = None
    actor: str | None = None
    requested_from: datetime | None = None
    requested_to: datetime | None = None
