"""One result of a health check, and the list of names that several of them say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NAMES = 5  # that a check lists


class Level(StrEnum):
    """The level of a check. `warn`: works, but not in full or not for long; `red`: binds fail or go wrong."""

    OK = "ok"
    WARN = "warn"
    RED = "red"


class ServiceLevel(StrEnum):
    """The level of the service. `degraded`: binds work, but some fail or a check is red; `failing`: binds fail."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The result of one check: `seen` is what was observed, `todo` what to do about it, if anything.

    The field names are those of the JSON of `/readyz`.
    """

    name: str
    level: Level
    seen: str
    todo: str | None = None


def first_names(names: Sequence[str]) -> str:
    """Return the first names as a list, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
