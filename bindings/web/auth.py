"""Who asks, and whether their role allows it.

A key is recognised once and remembered for a few seconds, so that a lookup costs no second query; hence a
revoked key works for that long on a replica that has just seen it. Before the first key is made, and on a
loopback address only, every caller of this host is an admin. Once there was a key, nobody gets in without one.

What is not a caller's own is not shown to an app, whichever way it would come: as a row, as the holder of a
phone, as a replay of an idempotency key, or in the detail of an event.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bindings import errors
from bindings.access.api_keys import digest, well_formed
from bindings.domain.roles import Permission, Role
from bindings.web import problems
from bindings.web.rate_limit import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.access.api_keys import ApiKeys
    from bindings.access.sessions import Sessions
    from bindings.domain.binding import Binding, Event, Holder
    from bindings.store.keys import Key
    from bindings.web.executors import Executors

REMEMBERED_S = 5.0
MOST_REMEMBERED = 10_000
USED_EVERY_S = 60.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
OF_OTHERS = ("met", "own")  # in the detail of an event: which bindings stood beside it


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """A caller: `actor` stands in the history of whatever they do."""

    actor: str
    role: Role
    key_id: str | None = None
    rate_limit: int | None = None

    def has_permission(self, *permissions: Permission) -> bool:
        """Whether the role allows one of these."""
        return any(self.role.allows(permission) for permission in permissions)

    def can_view(self, found: Binding | Holder) -> bool:
        """Whether it is shown at all: everything to a reader, else what the caller asked for."""
        return self.has_permission(Permission.READ) or found.actor == self.actor

    def sees_phones(self, binding: Binding) -> bool:
        """Whether phones are shown in full: only to whoever gave them."""
        return self.has_permission(Permission.BIND) and binding.actor == self.actor

    def redact_holder(self, holder: Holder) -> Holder:
        """The holder of a phone as this caller sees it: of somebody else's, until when and nothing more."""
        if self.can_view(holder):
            return holder
        return replace(holder, id=None, actor=None, reference=None, mode=None, state=None)

    def redact_event(self, event: Event) -> Event:
        """An event as this caller sees it: without the bindings of others that it may name."""
        if self.has_permission(Permission.READ) or not event.detail.keys() & set(OF_OTHERS):
            return event
        return replace(event, detail={name: said for name, said in event.detail.items() if name not in OF_OTHERS})


LOCAL = Principal(actor="local", role=Role.ADMIN)


class Authenticator:
    """Recognises callers and counts their requests. `loopback` is whether only this host can reach the service."""

    def __init__(
        self, keys: ApiKeys, sessions: Sessions, executors: Executors, *, loopback: bool, rate_limit: int
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._executors = executors
        self._loopback = loopback
        self._rate_limit = rate_limit
        self._remembered: dict[str, tuple[float, Principal | None]] = {}
        self._used: dict[str, float] = {}
        self._locked = False
        self._asked = float("-inf")
        self._buckets: dict[str, TokenBucket] = {}

    async def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """The caller of a request; raises `Unauthenticated` or `RateLimited`."""
        if "authorization" not in headers:
            return await self._admit_local(headers)
        who = await self._recognise(_presented(headers))
        if who is None:
            raise problems.Unauthenticated("the key is not known, has expired, or was revoked; nothing was done")
        self._count(who)
        return who

    async def authenticate_session(self, token: str, headers: Mapping[str, str]) -> Principal:
        """The caller behind a page of the console, by the token of their session; raises as `admit` does.

        A session is asked about each time: signing out, or revoking its key, ends it at once on every replica.
        """
        key = await self._executors.run_read(lambda: self._sessions.authenticate(token))
        if key is None:
            return await self._admit_local(headers)
        who = _who(key)
        self._count(who)
        await self._note_use(who, time.monotonic())
        return who

    async def sign_in(self, key: str) -> str | None:
        """The token of a new session of whoever has this key; None where the key is no good."""
        who = await self._recognise(key.strip())
        if who is None:
            return None
        return await self._executors.run_read(lambda: self._sessions.create(str(who.key_id)))

    async def sign_out(self, token: str) -> None:
        """End a session."""
        await self._executors.run_read(lambda: self._sessions.end(token))

    async def ensure_still_valid(self, who: Principal, headers: Mapping[str, str]) -> None:
        """Raise `Unauthenticated` where the caller's key was revoked while they waited."""
        if who.key_id is not None and await self._recognise(_presented(headers)) is None:
            raise problems.Unauthenticated("the key is not good any more; nothing was done")

    async def _admit_local(self, headers: Mapping[str, str]) -> Principal:
        if not self._loopback or await self._any_key_exists():
            raise problems.Unauthenticated
        host = headers.get("host", "").rsplit(":", 1)[0].strip("[]").lower()
        # A page of another site may be pointed here by its own name, or post to our address; and a proxy brings
        # callers of other hosts.
        origin = headers.get("origin", "").partition("://")[2]
        foreign = "origin" in headers and origin != headers.get("host")
        if host not in LOOPBACK or foreign or any(name in headers for name in FORWARDED):
            raise problems.Unauthenticated(
                "without any key only direct requests to 127.0.0.1 or localhost are let in:"
                " make a key with `bindings keys create`"
            )
        return LOCAL

    async def _any_key_exists(self) -> bool:
        if not self._locked and time.monotonic() > self._asked + REMEMBERED_S:
            self._locked = await self._executors.run_read(self._keys.any_exist)
            self._asked = time.monotonic()
        return self._locked

    async def _recognise(self, key: str) -> Principal | None:
        name, now = digest(key), time.monotonic()
        known = self._remembered.get(name)
        if known is None or now > known[0] + REMEMBERED_S:
            if not well_formed(key):
                return None
            found = await self._executors.run_read(lambda: self._keys.authenticate(key))
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            known = (now, None if found is None else _who(found))
            self._remembered[name] = known
        if known[1] is not None:
            await self._note_use(known[1], now)
        return known[1]

    async def _note_use(self, who: Principal, now: float) -> None:
        key_id = str(who.key_id)
        if now < self._used.get(key_id, float("-inf")) + USED_EVERY_S:
            return
        self._used[key_id] = now
        try:
            await self._executors.run_read(lambda: self._keys.record_use(key_id))
        except errors.BindingsError:
            self._used.pop(key_id, None)  # noted with a later request: this one is good all the same

    def _count(self, who: Principal) -> None:
        bucket = self._buckets.setdefault(str(who.key_id), TokenBucket())
        if not bucket.take(float(who.rate_limit or self._rate_limit), time.monotonic()):
            raise problems.RateLimited(retry_after_s=1)


def _presented(headers: Mapping[str, str]) -> str:
    """The key that is presented; empty where it is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _who(key: Key) -> Principal:
    return Principal(actor=f"key:{key.name}", role=key.role, key_id=key.id, rate_limit=key.rate_limit)
