"""Sign-in of people by a proxy, which reports the user and the user's groups in two headers.

The headers are believed only if the connection comes from an address of `BINDINGS_TRUSTED_PROXIES`; those of any
other client are ignored, and so is every other spelling of their names. A proxy must set or remove both headers of
each request: so a header that is repeated, or a user with characters that no proxy sends, refuses the request. A
person has no session here: each request is authenticated by its own headers, for pages of the console only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from bindings.domain.roles import Role
from bindings.web import problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.settings import Settings
    from bindings.web.proxies import TrustedProxies

ACTOR_PREFIX = "person:"
USER = re.compile(r"[^\x00-\x20\x7f-\x9f,;\"\\<>]{1,100}")
ROLES = (Role.ADMIN, Role.INVESTIGATOR, Role.AUDITOR)  # the first that a group has counts


class ProxySignIn:
    """Finds the user of a request. Without the settings for it, no request has one."""

    def __init__(self, settings: Settings, proxies: TrustedProxies) -> None:
        self._proxies = proxies
        self._user_header = _wire_name(settings.identity_header)
        self._groups_header = _wire_name(settings.roles_header)
        self._role_of = dict(entry.rsplit("=", 1) for entry in settings.role_of)

    def user(self, scope: Mapping[str, Any]) -> str | None:
        """Return the user that a trusted proxy reports, or None.

        Raise `Malformed` if the header is repeated or cannot be a user's name.
        """
        if self._user_header is None or not self._proxies.trust_peer(scope):
            return None
        value = _single(scope, self._user_header)
        if not value:
            return None
        if not USER.fullmatch(value) or not value.isprintable():
            raise problems.Malformed("the proxy sent a user that cannot be read; nothing was done")
        return value

    def role(self, scope: Mapping[str, Any]) -> Role | None:
        """Return the highest role of the groups that a trusted proxy reports, or None if no group has a role."""
        if self._groups_header is None or not self._proxies.trust_peer(scope):
            return None
        groups = (_single(scope, self._groups_header) or "").split(",")
        roles = {self._role_of.get(group.strip()) for group in groups}
        return next((role for role in ROLES if role in roles), None)


def _wire_name(name: str | None) -> bytes | None:
    """Return the name of a header as it is in a request's scope."""
    return None if name is None else name.lower().encode()


def _single(scope: Mapping[str, Any], name: bytes) -> str | None:
    """Return the value of a header, or None without it; raise `Malformed` if it is repeated or not UTF-8."""
    values = [value for header, value in scope["headers"] if header == name]
    if len(values) > 1:
        raise problems.Malformed(f"the proxy sent the header {name.decode()} more than once; nothing was done")
    try:
        return values[0].decode().strip() if values else None
    except UnicodeDecodeError:
        raise problems.Malformed(f"the header {name.decode()} is not UTF-8; nothing was done") from None
