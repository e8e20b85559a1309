"""The entries of the access log, their kinds, and the filters with their help texts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 -- msgspec reads the annotations at run time
from enum import StrEnum


class AccessKind(StrEnum):
    """The kinds of entries."""

    REVEAL = "reveal"
    EXPORT_IN_FULL = "export_in_full"
    EXPORT_MASKED = "export_masked"
    PHONE_SEARCH = "phone_search"
    ACT = "act"
    SESSION = "session"


SESSION_ACTS = "session."  # what the acts of the kind `session` begin with


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessLogEntry:
    """One reveal, search by a phone, export or administrative act.

    `reason` is why phones were shown in full (None: they were masked). `act` is an `Act`, or another text if a
    later version wrote it; None for the others. `key_id` is the id of the API key that acted, if one did.
    `reference` is that of the binding.
    """

    at: datetime
    actor: str
    description: str
    reason: str | None
    binding_id: str | None
    export_id: str | None
    row_count: int | None
    complete: bool
    request_id: str | None
    act: str | None
    key_id: str | None
    kind: AccessKind
    reference: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessFilters:
    """What the entries of an access log match, all of it; a filter that is None matches every entry.

    The time of the entry is in [since, until).
    """

    kind: AccessKind | None = None
    actor: str | None = None
    key_id: str | None = None
    binding_id: str | None = None
    reason_prefix: str | None = None
    since: datetime | None = None
    until: datetime | None = None


HELP = {
    "kind": "reveal, export_in_full, export_masked, phone_search, act or session.",
    "actor": "Who acted, such as key:NAME.",
    "key_id": "Id of the API key that acted.",
    "binding_id": "Reveals of this binding, and exports of its history and of the histories of its numbers.",
    "reason_prefix": "The beginning of the reason.",
    "since": "At or after this time.",
    "until": "Before this time, which must be later than the start.",
}
