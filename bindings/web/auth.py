"""Authentication of requests, and what a role may see.

Whether a key is valid is cached for a few seconds, so that a lookup costs no second query; hence a revoked key
still works for that long on a replica that has just seen it. Every request must authenticate, with one exception
for development: with `serve --local-admin`, until the first key is created, a direct request of this host acts as
admin.

An app is not shown what belongs to other actors, on any way: as a row, as the holder of a phone, as a replay of an
idempotency key, or in the detail of an event. It does not learn who investigates its bindings, nor why.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bindings import errors, scheduler
from bindings.access.api_keys import digest, well_formed
from bindings.domain import roles
from bindings.domain.binding import EventKind
from bindings.domain.roles import Permission, Role
from bindings.web import problems
from bindings.web.rate_limit import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bindings.access.api_keys import ApiKeys
    from bindings.access.sessions import Sessions
    from bindings.domain.binding import Binding, Event, Holder
    from bindings.store.keys import Key
    from bindings.web.executors import Executors

CACHE_S = 5.0
MAX_CACHED = 10_000
RECORD_USE_EVERY_S = 60.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Headers that a proxy adds: with one of them, a request comes from another host.
FORWARDED = (
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-forwarded-",
    "x-envoy-",
    "x-amzn-",
    "cf-",
)
OTHER_BINDINGS = ("met", "own")  # fields of an event's detail that name other bindings
OTHER_ACTOR = "other"  # shown to an app instead of the name of another caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """An authenticated caller. The history records its actions under `actor`."""

    actor: str
    role: str
    key_id: str | None = None
    rate_limit: int | None = None

    def has_permission(self, *permissions: Permission) -> bool:
        """Return whether the role has at least one of the permissions."""
        return any(roles.allows(self.role, permission) for permission in permissions)

    @property
    def actor_filter(self) -> str | None:
        """The actor whose records alone may be shown, or None for a reader of all."""
        return None if self.has_permission(Permission.READ) else self.actor

    def can_view(self, record: Binding | Holder) -> bool:
        """Return whether the record may be shown: to a reader always, to an app if it is its own."""
        return self.has_permission(Permission.READ) or record.actor == self.actor

    def sees_phones(self, binding: Binding) -> bool:
        """Return whether phones are shown in full without a reveal: only to the actor that sent them."""
        return self.has_permission(Permission.BIND) and binding.actor == self.actor

    def redact_holder(self, holder: Holder) -> Holder:
        """Return the holder; of another actor's binding only `held_until`, `retry_after_s` and `why` stay."""
        if self.can_view(holder):
            return holder
        return replace(holder, id=None, actor=None, reference=None, mode=None, state=None)

    def redact_binding(self, binding: Binding) -> Binding:
        """Return the binding; for an app `version` is 0, because it counts reveals too."""
        return binding if self.has_permission(Permission.READ) else replace(binding, version=0)

    def redact_event(self, event: Event) -> Event:
        """Return the event; an app does not see which other caller acted and why, nor other bindings."""
        if self.has_permission(Permission.READ):
            return event
        is_own = event.actor in (self.actor, scheduler.ACTOR)
        hidden = OTHER_BINDINGS if is_own else (*OTHER_BINDINGS, *_reason_fields(event))
        detail = {name: value for name, value in event.detail.items() if name not in hidden}
        if is_own:
            return replace(event, detail=detail)
        return replace(event, actor=OTHER_ACTOR, request_id=None, detail=detail)

    def redact_history(self, history: Sequence[Event]) -> list[Event]:
        """Return the events of a binding, in order; an app sees no reveals, and `sequence` does not count them."""
        if self.has_permission(Permission.READ):
            return list(history)
        visible_events, reveals = [], 0
        for event in history:
            if event.kind == EventKind.REVEALED:
                reveals += 1
            else:
                visible_events.append(replace(self.redact_event(event), sequence=event.sequence - reveals))
        return visible_events


LOCAL = Principal(actor="local", role=Role.ADMIN)


class Authenticator:
    """Finds the principal of a request, and limits its rate. For the event loop's thread only.

    `local_admin` is whether a direct request of this host needs no key as long as none exists. `rate_limit` is in
    requests per second and applies to keys without a limit of their own.
    """

    def __init__(
        self, keys: ApiKeys, sessions: Sessions, executors: Executors, *, local_admin: bool, rate_limit: int
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._executors = executors
        self._local_admin = local_admin
        self._rate_limit = rate_limit
        self._cache: dict[str, tuple[float, Principal | None]] = {}
        self._use_recorded_at: dict[str, float] = {}
        self._key_exists = False
        self._key_exists_checked_at = float("-inf")
        self._buckets: dict[str, TokenBucket] = {}

    async def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Return the principal of an API request; raises `Unauthenticated` or `RateLimited`."""
        if "authorization" not in headers:
            return await self._authenticate_local(headers)
        principal = await self._find_principal(_bearer_token(headers))
        if principal is None:
            raise problems.Unauthenticated("the key is unknown, expired or revoked; nothing was done")
        self._limit_rate(principal)
        return principal

    async def authenticate_session(self, token: str, headers: Mapping[str, str]) -> Principal:
        """Return the principal of a console page by its session token; raises as `authenticate` does.

        A session is read from the database each time: signing out, or revoking its key, ends it immediately on
        every replica.
        """
        key = await self._executors.run_read(self._sessions.authenticate, token)
        if key is None:
            return await self._authenticate_local(headers)
        principal = _principal(key)
        self._limit_rate(principal)
        await self._record_use(principal, time.monotonic())
        return principal

    async def sign_in(self, key: str) -> str | None:
        """Create a session for the key and return its token, or None if the key is not valid."""
        principal = await self._find_principal(key.strip())
        if principal is None:
            return None
        return await self._executors.run_read(self._sessions.create, str(principal.key_id))

    async def sign_out(self, token: str) -> None:
        """End a session. Safe to repeat."""
        await self._executors.run_read(self._sessions.end, token)

    async def ensure_still_valid(self, principal: Principal, headers: Mapping[str, str]) -> None:
        """Raise `Unauthenticated` if the principal's key was revoked while the request waited."""
        if principal.key_id is not None and await self._find_principal(_bearer_token(headers)) is None:
            raise problems.Unauthenticated("the key is not valid any more; nothing was done")

    async def _authenticate_local(self, headers: Mapping[str, str]) -> Principal:
        if not self._local_admin or await self._any_key_exists():
            raise problems.Unauthenticated
        host = headers.get("host", "").rsplit(":", 1)[0].strip("[]").lower()
        # A page of another site may resolve its own name to this address, or post to it; and a proxy forwards
        # requests of other hosts.
        origin = headers.get("origin", "").partition("://")[2]
        cross_origin = "origin" in headers and origin != headers.get("host")
        other_site = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        forwarded = any(name.lower().startswith(FORWARDED) for name in headers)
        if host not in LOOPBACK or cross_origin or other_site or forwarded:
            raise problems.Unauthenticated(
                "without any key only direct requests to 127.0.0.1 or localhost are accepted:"
                " create a key with `bindings keys create`"
            )
        return LOCAL

    async def _any_key_exists(self) -> bool:
        if not self._key_exists and time.monotonic() > self._key_exists_checked_at + CACHE_S:
            self._key_exists = await self._executors.run_read(self._keys.any_exist)
            self._key_exists_checked_at = time.monotonic()
        return self._key_exists

    async def _find_principal(self, key: str) -> Principal | None:
        """Return the principal of a valid key, or None; from the cache if the key was read within `CACHE_S`."""
        name, now = digest(key), time.monotonic()
        entry = self._cache.get(name)
        if entry is None or now > entry[0] + CACHE_S:
            if not well_formed(key):
                return None
            valid_key = await self._executors.run_read(self._keys.authenticate, key)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            entry = (now, None if valid_key is None else _principal(valid_key))
            self._cache[name] = entry
        if entry[1] is not None:
            await self._record_use(entry[1], now)
        return entry[1]

    async def _record_use(self, principal: Principal, now: float) -> None:
        key_id = str(principal.key_id)
        if now < self._use_recorded_at.get(key_id, float("-inf")) + RECORD_USE_EVERY_S:
            return
        self._use_recorded_at[key_id] = now
        try:
            await self._executors.run_read(self._keys.record_use, key_id)
        except errors.BindingsError:
            self._use_recorded_at.pop(key_id, None)  # recorded with a later request; this one may still go on

    def _limit_rate(self, principal: Principal) -> None:
        bucket = self._buckets.setdefault(str(principal.key_id), TokenBucket())
        if not bucket.take(float(principal.rate_limit or self._rate_limit), time.monotonic()):
            raise problems.RateLimited(retry_after_s=1)


def _reason_fields(event: Event) -> tuple[str, ...]:
    """Return the fields of an event's detail in which its actor gives reasons in its own words."""
    return ("because", "reason") if event.kind == EventKind.UNBIND_REQUESTED else ("because",)


def _bearer_token(headers: Mapping[str, str]) -> str:
    """Return the key in the Authorization header, or an empty text if it holds none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _principal(key: Key) -> Principal:
    return Principal(actor=f"key:{key.name}", role=key.role, key_id=key.id, rate_limit=key.rate_limit)
