"""The roles of the HTTP service and the console, and their permissions. Pure: no SQL, no HTTP, no secrets.

The `actor` of an API key is `key:<name>`. A principal sees its own bindings with full phones, because it sent the
phones itself; all others are masked until they are revealed for a reason, which is recorded. A router, which
connects calls, sees the phones of active bindings in full, and nothing else.
"""

from __future__ import annotations

from enum import StrEnum


class Permission(StrEnum):
    """The permissions that a role can include."""

    BIND = "bind"  # bind, unbind, check; and read the bindings that the caller itself requested
    READ = "read"  # read all bindings, with masked phones
    ROUTE = "route"  # look up the active bindings of all callers, with full phones
    REVEAL = "reveal"  # see the full phones of other callers' bindings, for a reason that is recorded
    MANAGE = "manage"  # resolve in-doubt bindings, manage API keys and webhooks


class Role(StrEnum):
    """The role of an API key."""

    APP = "app"
    AUDITOR = "auditor"
    INVESTIGATOR = "investigator"
    ADMIN = "admin"
    ROUTER = "router"


def permissions(role: str) -> frozenset[Permission]:
    """Return the permissions that a role includes. A role that only a later version knows has none."""
    return _ALLOWED.get(role, frozenset())


_ALLOWED: dict[str, frozenset[Permission]] = {
    Role.APP: frozenset({Permission.BIND}),
    Role.AUDITOR: frozenset({Permission.READ}),
    Role.INVESTIGATOR: frozenset({Permission.READ, Permission.REVEAL}),
    Role.ADMIN: frozenset(Permission) - {Permission.ROUTE},  # sees full phones for a recorded reason only
    Role.ROUTER: frozenset({Permission.ROUTE}),
}
