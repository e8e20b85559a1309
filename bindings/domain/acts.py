"""Administrative acts: what is done to the service and its records, other than to a binding. Pure.

Each is an event of the kind `administered`, whose detail has the act and its facts: every column of the changed
row that never changes afterwards, but no secret. The URL of a webhook may contain one: `url` is its origin only,
and `url_sha256` the SHA-256 of all of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Act(StrEnum):
    """The acts. A later version may write others."""

    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    SESSION_BEGAN = "session.began"
    SESSION_ENDED = "session.ended"
    WEBHOOK_ADDED = "webhook.added"
    WEBHOOK_ROTATED = "webhook.secret_rotated"
    WEBHOOK_DISABLED = "webhook.disabled"
    WEBHOOK_ENABLED = "webhook.enabled"
    WEBHOOK_REDELIVERED = "webhook.redelivered"
    WEBHOOK_REMOVED = "webhook.removed"
    DATABASE_RESTORED = "database.restored"
    DATABASE_SCANNED = "database.scanned"
    DATABASE_SCAN_WAIVED = "database.scan_waived"
    DATABASE_MOVED = "database.moved"
    RETENTION_APPLIED = "retention.applied"
    PHONES_KEYS_CHANGED = "phones.keys_changed"
    PHONES_SEALED = "phones.sealed"
    SCHEMA_DOWNGRADED = "schema.downgraded"


class RestoreCause(StrEnum):
    """How it became known that the database was restored to an earlier state."""

    STATED = "stated"
    ROLLED_BACK = "rolled_back"
    FILE_REPLACED = "file_replaced"


_WORDS = {
    Act.KEY_CREATED: "API key created",
    Act.KEY_REVOKED: "API key revoked",
    Act.SESSION_BEGAN: "signed in to the console",
    Act.SESSION_ENDED: "session of the console ended",
    Act.WEBHOOK_ADDED: "webhook added",
    Act.WEBHOOK_ROTATED: "secret of a webhook rotated",
    Act.WEBHOOK_DISABLED: "webhook disabled",
    Act.WEBHOOK_ENABLED: "webhook enabled",
    Act.WEBHOOK_REDELIVERED: "deliveries of a webhook sent again",
    Act.WEBHOOK_REMOVED: "webhook removed",
    Act.DATABASE_RESTORED: "database restored to an earlier state",
    Act.DATABASE_SCANNED: "full scan after a restore completed",
    Act.DATABASE_SCAN_WAIVED: "full scan after a restore waived",
    Act.DATABASE_MOVED: "database moved to another cluster",
    Act.RETENTION_APPLIED: "limit of retention moved",
    Act.PHONES_KEYS_CHANGED: "phones written with other keys",
    Act.PHONES_SEALED: "all stored phones converted to the keys",
    Act.SCHEMA_DOWNGRADED: "migration of the schema undone",
}
# The facts that a description names, in this order.
_NAMED_FACTS = (
    "name",
    "role",
    "url",
    "deliveries",
    "disabled_why",
    "cause",
    "kept_from",
    "events",
    "id",
    "key_id",
    "index_key",
    "data_key",
    "migration",
)


def describe(detail: Mapping[str, Any]) -> str:
    """Return the act of an event's detail in words, with the facts that tell it apart from others."""
    act = str(detail.get("act"))
    words = _WORDS[Act(act)] if act in _WORDS else act
    facts = [f"{name} {detail[name]}" for name in _NAMED_FACTS if detail.get(name) is not None]
    return f"{words}: {', '.join(facts)}" if facts else words
