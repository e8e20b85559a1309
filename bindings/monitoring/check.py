"""One result of a health check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
