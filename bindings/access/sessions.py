"""Console sessions: started with an API key, authenticated by a token, ended by signing out or with the key.

The token is random and known to one browser only; its SHA-256 is stored. A search is kept under that hash for an
hour, so that a URL can name it without holding a phone.
"""

from __future__ import annotations

import hmac
import re
import secrets
from typing import TYPE_CHECKING

from bindings.access.api_keys import digest
from bindings.store import events, sessions
from bindings.store.sessions import Search, Session

if TYPE_CHECKING:
    from bindings.domain.acts import Act
    from bindings.domain.binding import Caller
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.keys import Key

__all__ = ["Search", "Session", "Sessions", "new_token"]

LIMIT = 200  # sessions in a list

TOKEN_BYTES = 32
SEARCH_ID_BYTES = 16
_SEARCH_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Sessions:
    """The sessions of one database, for the runtime's caller. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._caller = runtime.caller

    def create(self, key_id: str, *, request_id: str | None = None) -> str:
        """Start a session of an authenticated key, and return its token; with an event. Not safe to repeat."""
        token = new_token()
        self._database.write(lambda tx: sessions.begin(tx, digest(token), key_id, request_id))
        return token

    def record_without_key(self, act: Act, caller: Caller) -> None:
        """Write the event of a session that has no key, and no row: it is in the memory of one process."""
        self._database.write(lambda tx: events.append_act(tx, act, caller, {}))

    def authenticate(self, token: str) -> Key | None:
        """Return the key of a session, or None if the session or its key is unknown, expired or revoked."""
        hashed = digest(token)
        row = self._database.read(sessions.find_valid, hashed, self._database.now)
        if row is None:
            return None
        key, use_not_recorded = row
        if use_not_recorded:
            self._database.write(lambda tx: sessions.record_use(tx, hashed))
        return key

    def valid_digests(self) -> frozenset[str]:
        """Return the SHA-256 of the tokens of all sessions that have not expired."""
        return self._database.read(sessions.valid_digests, self._database.now)

    def list(self, *, limit: int = LIMIT) -> list[Session]:
        """Return up to `limit` valid sessions, the last used first."""
        return self._database.read(sessions.list_valid, self._database.now, limit=limit)

    def is_of_token(self, session: Session, token: str) -> bool:
        """Return whether this token authenticates the session."""
        return hmac.compare_digest(session.id, digest(token))

    def end(self, token: str, *, request_id: str | None = None) -> None:
        """End the session of a token on every replica, and delete its searches; with an event. Safe to repeat."""
        self._database.write(lambda tx: sessions.sign_out(tx, digest(token), request_id))

    def end_by_id(self, session_id: str) -> None:
        """End a listed session on every replica, with its searches: an administrative act. Safe to repeat."""
        self._database.write(lambda tx: sessions.end(tx, session_id, self._caller))

    def delete_expired(self) -> None:
        """Delete expired sessions and searches. Safe to repeat."""
        self._database.write(sessions.delete_expired)

    def save_search(self, token: str, search: Search) -> str:
        """Store a search for the browser with this token, and return its id. Not safe to repeat."""
        search_id = secrets.token_urlsafe(SEARCH_ID_BYTES)
        self._database.write(lambda tx: sessions.save_search(tx, search_id, digest(token), search))
        return search_id

    def get_search(self, token: str, search_id: str) -> Search | None:
        """Return the search with this id, or None if it is another browser's, was deleted, or is no such id."""
        if _SEARCH_ID.fullmatch(search_id) is None:  # PostgreSQL would refuse a text with a NUL
            return None
        return self._database.read(sessions.get_search, search_id, digest(token), self._database.now)


def new_token() -> str:
    """Return a new random token for a browser."""
    return secrets.token_urlsafe(TOKEN_BYTES)
