"""Lookups of keys and sessions in the database, limited for those that are not valid.

A client can make up keys, and each would cost a query. So failed lookups are limited by client address and in all.
Past the limit a credential is looked up only if its digest is one of a valid credential, as read from the database
at most a second ago: so other clients of its address cannot keep a valid key or session from working.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bindings.access.api_keys import digest
from bindings.errors import BindingsError
from bindings.web.problems import RateLimited
from bindings.web.rate_limit import ATTEMPTS_PER_S, AttemptLimiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.store.keys import Key
    from bindings.web.executors import Executors

REFRESH_S = 1.0
MAX_REMEMBERED = 10_000  # digests of valid credentials


class CredentialLookup:
    """Finds the key of a credential. For the event loop's thread only.

    `find` returns the key of a credential, or None if it is not valid; `valid_digests` returns the digests of all
    valid ones. Both read the database.
    """

    def __init__(
        self,
        executors: Executors,
        find: Callable[[str], Key | None],
        valid_digests: Callable[[], frozenset[str]],
    ) -> None:
        self._executors = executors
        self._find = find
        self._read_valid_digests = valid_digests
        self._limiter = AttemptLimiter()
        self._valid: set[str] = set()
        self._refreshed_at = float("-inf")
        self._refreshing = asyncio.Lock()

    async def find(self, credential: str, address: str) -> Key | None:
        """Return the key of the credential, or None; raise `RateLimited` after too many failed attempts."""
        hashed = digest(credential)
        is_counted = hashed not in self._valid and self._limiter.take(address)
        if not is_counted and hashed not in self._valid and not await self._is_valid(hashed):
            message = "too many requests of this address with a key that is not valid; nothing was done"
            raise RateLimited(message, retry_after_s=round(1 / ATTEMPTS_PER_S))
        try:
            key = await self._executors.run_read(self._find, credential)
        except BindingsError:
            self._refund(address, is_counted=is_counted)  # it is not known to be wrong
            raise
        if key is None:
            self._valid.discard(hashed)
            return None
        self._refund(address, is_counted=is_counted)
        if len(self._valid) >= MAX_REMEMBERED:
            self._valid.clear()
        self._valid.add(hashed)
        return key

    def _refund(self, address: str, *, is_counted: bool) -> None:
        if is_counted:
            self._limiter.refund(address)

    async def _is_valid(self, hashed: str) -> bool:
        """Return whether a digest is one of a valid credential; one query a second answers for all callers."""
        async with self._refreshing:
            if time.monotonic() > self._refreshed_at + REFRESH_S:
                # Also if the query fails: the next caller must not repeat it.
                self._refreshed_at = time.monotonic()
                self._valid = set(await self._executors.run_read(self._read_valid_digests))
        return hashed in self._valid
