"""Who may do what: the roles of the HTTP service and of the console. Pure: no SQL, no HTTP, no secrets.

A caller's `actor` is `key:<name>`. What it asked for itself it sees in full, for it gave the phones; everything
else is masked until it is revealed, with a reason, on the record.
"""

from __future__ import annotations

from enum import StrEnum


class Permission(StrEnum):
    """One thing that a role allows."""

    BIND = "bind"  # bind, unbind, check; and read what the caller itself asked for
    READ = "read"  # read everything, phones masked
    REVEAL = "reveal"  # see full phones of others, for a reason that is recorded
    MANAGE = "manage"  # resolve doubts, manage keys and webhooks


class Role(StrEnum):
    """What a key is for."""

    APP = "app"
    AUDITOR = "auditor"
    INVESTIGATOR = "investigator"
    ADMIN = "admin"

    def allows(self, permission: Permission) -> bool:
        """Whether the role includes the permission."""
        return permission in _ALLOWED[self]


_ALLOWED: dict[Role, frozenset[Permission]] = {
    Role.APP: frozenset({Permission.BIND}),
    Role.AUDITOR: frozenset({Permission.READ}),
    Role.INVESTIGATOR: frozenset({Permission.READ, Permission.REVEAL}),
    Role.ADMIN: frozenset(Permission),
}
