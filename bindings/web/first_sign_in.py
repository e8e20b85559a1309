"""The first sign-in of a service without a key: a link with a random token, printed by `serve`.

The link works once, for ten minutes. Its session is the admin's for an hour at most, on this host only, and ends
with the first key. Link and session are in the memory of this process only. Whether a key exists, and whether a
request comes from this host, is checked in `auth`.
"""

from __future__ import annotations

import hmac
import secrets
import time

from bindings.access.api_keys import digest
from bindings.access.sessions import new_token

LINK_LIFETIME_S = 600.0
SESSION_LIFETIME_S = 3_600.0
PARAMETER = "token"
PATH = f"/sign-in?{PARAMETER}="


class FirstSignIn:
    """A link that can be used once, and the session that it opens. For the event loop's thread only."""

    def __init__(self) -> None:
        token = secrets.token_urlsafe(32)
        self.path = PATH + token
        self._link = _Secret(token, LINK_LIFETIME_S)
        self._session: _Secret | None = None

    def redeem(self, token: str) -> str | None:
        """Return the token of a new session, or None if the link's token is wrong, too old or used."""
        if self._session is not None or not self._link.matches(token):
            return None
        session_token = new_token()
        self._session = _Secret(session_token, SESSION_LIFETIME_S)
        return session_token

    def end(self, session_token: str) -> bool:
        """End the session that the link has opened; return False if the token is not that of it."""
        if self._session is None or not self._session.matches(session_token):
            return False
        self._session.expire()
        return True

    def has_opened(self, session_token: str) -> bool:
        """Return whether the link has opened this session, and it has not expired."""
        return self._session is not None and self._session.matches(session_token)


class _Secret:
    """The digest of a token that is valid for some seconds."""

    def __init__(self, token: str, lifetime_s: float) -> None:
        self._digest = digest(token)
        self._ends_at = time.monotonic() + lifetime_s

    def matches(self, token: str) -> bool:
        """Return whether the token is this one, and still valid."""
        return hmac.compare_digest(digest(token), self._digest) and time.monotonic() < self._ends_at

    def expire(self) -> None:
        """Make the token invalid from now on. Safe to repeat."""
        self._ends_at = time.monotonic()
