"""The areas of the overview: which checks answer each of its questions, and the page that shows more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.monitoring.check import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.monitoring.check import Check


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page of the console that shows what a check is about."""

    name: str
    path: str


_FAILURES = Page(name="Failures", path="/failures")
_DOUBTS = Page(name="Doubts", path="/doubts")
_REPORTS = Page(name="Reports", path="/reports")
_HOLDS = Page(name="Holds", path="/holds")
_ENDS = Page(name="Bindings", path="/bindings?active=true&order=ends_soonest")
_POOLS = Page(name="Pools", path="/pools")
_WEBHOOKS = Page(name="Webhooks", path="/webhooks")
# By area, the page of each of its checks; the first check is the one to show if none reports anything.
AREAS: dict[str, dict[str, Page | None]] = {
    "Binds": {
        "binds": _FAILURES,
        "account": _FAILURES,
        "clocks": None,
        "database_clock": None,
        "restore": _REPORTS,
    },
    "Doubts": {
        "doubts": _DOUBTS,
        "reconciliation": _REPORTS,
        "reconcile_duration": _REPORTS,
        "list": _REPORTS,
        "orphans": _HOLDS,
    },
    "Ends": {"sweep_lag": _ENDS, "sweep": _ENDS, "releases": None, "unbinds": _DOUBTS},
    "Middle numbers": {"middle_numbers": _POOLS},
    "Webhooks and feed": {"webhooks": _WEBHOOKS, "feed": _WEBHOOKS, "webhook_encryption": _WEBHOOKS},
    "Database and processes": dict.fromkeys(
        ("database", "schema", "integrity", "scope", "replicas", "scheduler", "process")
    ),
}
OTHER = "Data protection"
_PAGES = {name: page for checks in AREAS.values() for name, page in checks.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class AreaResult:
    """The checks of an area, the worst first."""

    title: str
    checks: tuple[Check, ...]

    @property
    def worst(self) -> Check:
        """Return the check to show."""
        return self.checks[0]

    @property
    def page(self) -> Page | None:
        """Return the page about the check to show."""
        return page_of(self.worst)

    @property
    def reported(self) -> int:
        """Return how many checks report a problem or a warning."""
        return sum(check.level is not Level.OK for check in self.checks)


def page_of(check: Check) -> Page | None:
    """Return the page that shows what a check is about, or None if there is none."""
    return _PAGES.get(check.name)


def by_area(checks: Sequence[Check]) -> list[AreaResult]:
    """Return the areas with their checks; a check that no area has is in the last one."""
    severity = [Level.RED, Level.WARN, Level.OK]
    results = []
    other = [check.name for check in checks if check.name not in _PAGES]
    for title, names in (*((title, list(pages)) for title, pages in AREAS.items()), (OTHER, other)):
        of_area = [check for check in checks if check.name in names]
        of_area.sort(key=lambda check: (severity.index(check.level), names.index(check.name)))
        if of_area:
            results.append(AreaResult(title=title, checks=tuple(of_area)))
    return results
