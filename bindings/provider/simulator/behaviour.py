"""The behaviour of the simulated provider that can be changed while it runs.

Only values and their checks belong here; their effect is in `rules`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from bindings.domain.conflict import Policy
from bindings.provider import instants, statuses
from bindings.provider.outcome import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT_STATUSES = frozenset(status.code for status in statuses.STATUSES if status.refusal is Refusal.ACCOUNT)
MAX_SECONDS = 315_360_000  # ten years: every instant can still be written as a date
_MINIMUM = {
    "timestamp_tolerance_s": 0,
    "release_lag_s": 0,
    "list_lag_s": 0,
    "pool_size": 1,
    "max_concurrency": 1,
    "max_page_rows": 1,
    "clock_offset_s": -MAX_SECONDS,
}
_MAXIMUM = {
    "timestamp_tolerance_s": MAX_SECONDS,
    "release_lag_s": MAX_SECONDS,
    "list_lag_s": MAX_SECONDS,
    "clock_offset_s": MAX_SECONDS,
    "pool_size": 1_000_000,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """The provider's behaviour. Raises ValueError, which names the field, for a wrong value.

    `policy`: when -35 is returned. `account_status`: the status of every call with a valid signature, or None.
    `timestamp_tolerance_s`: by how much a timestamp may differ, either way. `release_lag_s`: how long -35 is still
    returned after an expiry or an unbind. `clock_offset_s`: added to the clock, for everything that the simulator
    does. `pool_size` and `max_concurrency`: the middle numbers of a pool, and the bindings that each serves at a
    time. `shuffle_pages`: every page query has a different order of rows. `list_expired`: rows stay listed after
    their expiry. `max_page_rows`: a page never has more rows than that, also for a larger size (None: as many as
    it asks for). `total_offset`: added to the total of the list. `end_form`: how the list writes an end, one of
    `instants.FORMS`. `list_lag_s`: the list is as it was so many seconds ago.
    `list_all_apps`: the list has the rows of every application, also if it is asked for those of one.
    """

    policy: Policy = Policy.LITERAL
    account_status: str | None = None
    timestamp_tolerance_s: float = 300.0
    release_lag_s: float = 0.0
    clock_offset_s: float = 0.0
    pool_size: int = 20
    max_concurrency: int = 100_000
    shuffle_pages: bool = False
    list_expired: bool = False
    max_page_rows: int | None = None
    total_offset: int = 0
    end_form: str = "local"
    list_lag_s: float = 0.0
    list_all_apps: bool = False

    def __post_init__(self) -> None:
        for name in ("timestamp_tolerance_s", "release_lag_s", "list_lag_s", "clock_offset_s"):
            _check(name, getattr(self, name), int | float)
        for name in ("pool_size", "max_concurrency", "total_offset"):
            _check(name, getattr(self, name), int)
        if self.max_page_rows is not None:
            _check("max_page_rows", self.max_page_rows, int)
        if self.end_form not in instants.FORMS:
            raise ValueError("end_form must be one of " + ", ".join(instants.FORMS))
        for name in ("shuffle_pages", "list_expired", "list_all_apps"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false")  # noqa: TRY004 -- one error type for a wrong value
        if self.account_status is not None and self.account_status not in ACCOUNT_STATUSES:
            raise ValueError("account_status must be one of " + ", ".join(sorted(ACCOUNT_STATUSES)))

    def with_changes(self, changes: Mapping[str, Any]) -> Behaviour:
        """Return a copy with these fields changed. Raises ValueError for an unknown field or a wrong value."""
        names = [field.name for field in fields(self)]
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise ValueError(f"the behaviour has no {', '.join(unknown)}; it has {', '.join(names)}")
        values = dict(changes)
        if "policy" in values:
            values["policy"] = Policy(values["policy"])
        return replace(self, **values)


class BehaviourChanges(TypedDict, total=False):
    """Fields of `Behaviour` to change; a policy may be given by its name."""

    policy: Policy | str
    account_status: str | None
    timestamp_tolerance_s: float
    release_lag_s: float
    clock_offset_s: float
    pool_size: int
    max_concurrency: int
    shuffle_pages: bool
    list_expired: bool
    max_page_rows: int | None
    total_offset: int
    end_form: str
    list_lag_s: float
    list_all_apps: bool


def _check(name: str, value: Any, kind: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number")
    if value < _MINIMUM.get(name, -math.inf):
        raise ValueError(f"{name} must be at least {_MINIMUM[name]}")
    if value > _MAXIMUM.get(name, math.inf):
        raise ValueError(f"{name} must be at most {_MAXIMUM[name]}")
