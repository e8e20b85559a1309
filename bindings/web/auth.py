"""Authentication of requests, and what a role may see.

Whether a key is valid is cached for a few seconds, so that a lookup costs no second query; hence a revoked key
still works for that long on a replica that has just seen it. Every request must authenticate. Until the first key
is created, a direct request of this host is the admin's with the session of the link that `serve` prints
(`first_sign_in`), or with `serve --local-admin`, which is for development. A person whom a trusted proxy has
signed in (`proxy_sign_in`) has access to the pages of the console without a key, but not to the calls under /v1.

An app is not shown what belongs to other actors, on any way: as a row, as the holder of a phone, as a replay of an
idempotency key, or in the detail of an event. It does not learn who investigates its bindings, nor why.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from bindings import errors, scheduler
from bindings.access.api_keys import digest
from bindings.domain import roles
from bindings.domain.acts import Act
from bindings.domain.binding import Binding, Caller, EventKind
from bindings.domain.hold import round_up
from bindings.domain.record_lines import EventColumns, JsonColumn, RecordColumns
from bindings.domain.roles import Permission, Role
from bindings.domain.serialization import fields
from bindings.web import problems
from bindings.web.credentials import CredentialLookup
from bindings.web.proxies import is_direct
from bindings.web.proxy_sign_in import ACTOR_PREFIX
from bindings.web.rate_limit import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar.connection import ASGIConnection

    from bindings.access.api_keys import ApiKeys
    from bindings.access.sessions import Sessions
    from bindings.domain.binding import Event, Holder, RefusedBind
    from bindings.store.keys import Key
    from bindings.web.executors import Executors
    from bindings.web.first_sign_in import FirstSignIn
    from bindings.web.proxy_sign_in import ProxySignIn
    from bindings.web.state import AppState

    Connection = ASGIConnection[Any, Any, Any, Any]

CACHE_S = 5.0
RECORD_USE_EVERY_S = 60.0
# Fields of an event's detail that name other bindings, or prove rows by a hash.
HIDDEN_FROM_APPS = ("met", "own", "facts", "holds")
OTHER_ACTOR = "other"  # shown to an app instead of the name of another caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """An authenticated caller. The history records its actions under `actor`."""

    actor: str
    role: str
    key_id: str | None = None
    rate_limit: int | None = None
    _permissions: frozenset[Permission] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_permissions", roles.permissions(self.role))

    def has_permission(self, *permissions: Permission) -> bool:
        """Return whether the role has at least one of the permissions."""
        return not self._permissions.isdisjoint(permissions)

    @property
    def is_person(self) -> bool:
        """Return whether a proxy has signed the caller in, without a key."""
        return self.actor.startswith(ACTOR_PREFIX)

    @property
    def actor_filter(self) -> str | None:
        """Return the actor whose records alone may be shown, or None for a reader of all."""
        return None if self.has_permission(Permission.READ) else self.actor

    def can_view(self, record: Binding | Holder) -> bool:
        """Return whether the record may be shown: to a reader or a router always, to an app if it is its own."""
        return self.has_permission(Permission.READ, Permission.ROUTE) or record.actor == self.actor

    def sees_phones(self, binding: Binding | RefusedBind) -> bool:
        """Return whether phones are shown in full without a reveal: to their sender, and to a router.

        A reader of all may have replaced a binding of another caller: the phones of a refused request are that
        caller's then, so they are masked.
        """
        if isinstance(binding, Binding) or not self.has_permission(Permission.READ):
            return self.sees_phones_of(binding.actor)
        return self.has_permission(Permission.ROUTE)

    def sees_phones_of(self, actor: str) -> bool:
        """Return whether phones of the bindings that this actor requested are shown in full without a reveal."""
        own = self.has_permission(Permission.BIND) and actor == self.actor
        return own or self.has_permission(Permission.ROUTE)

    def redact_holder(self, holder: Holder) -> Holder:
        """Return the holder; of another actor's binding only `why` stays, and its end rounded up to a minute.

        So an app cannot follow the bindings of others to the second, however often it asks.
        """
        if self.can_view(holder):
            return holder
        held_until = round_up(holder.held_until)
        return replace(
            holder,
            id=None,
            actor=None,
            reference=None,
            mode=None,
            state=None,
            held_until=held_until,
            retry_after_s=holder.retry_after_s + ceil((held_until - holder.held_until).total_seconds()),
        )

    def redact_binding(self, binding: Binding) -> Binding:
        """Return the binding; for an app or a router `version` is 0, because it counts reveals too."""
        return binding if self.has_permission(Permission.READ) else replace(binding, version=0)

    def binding_fields(self, binding: Binding) -> dict[str, Any]:
        """Return the fields of `redact_binding` by name, in a third of the time."""
        values = fields(binding)
        if not self.has_permission(Permission.READ):
            values["version"] = 0
        return values

    def redact_columns(self, batch: RecordColumns) -> RecordColumns:
        """Return bindings or events by column, as `redact_binding` or `redact_event` returns each of them."""
        if isinstance(batch, EventColumns):
            return self._redact_event_columns(batch)
        if self.has_permission(Permission.READ):
            return batch
        return RecordColumns({**batch.by_name, "version": [0] * len(batch)}, len(batch))

    def redact_event(self, event: Event) -> Event:
        """Return the event, without what the role may not see.

        An app does not see which other caller acted and why, nor other bindings. Without the permission to reveal,
        the hash of an export is left out: with the masked list it would let a reader try all digits.
        """
        if not self._redacts(event.kind):
            return event
        detail = self._visible_detail(event.kind, event.actor, event.detail)
        if self._sees_actor(event.actor):
            return replace(event, detail=detail)
        return replace(event, actor=OTHER_ACTOR, request_id=None, key_id=None, detail=detail)

    def _redact_event_columns(self, batch: EventColumns) -> EventColumns:
        kinds, actors, detail = (batch.by_name[name] for name in ("kind", "actor", "detail"))
        redacted_kinds = {kind for kind in set(kinds) if self._redacts(kind)}
        if not redacted_kinds:
            return batch
        details = [
            json.dumps(self._visible_detail(kind, actor, json.loads(text))) if kind in redacted_kinds else text
            for kind, actor, text in zip(kinds, actors, detail.texts, strict=True)
        ]
        by_name = {**batch.by_name, "detail": JsonColumn(details)}
        seen_actors = {actor for actor in set(actors) if self._sees_actor(actor)}
        by_name["actor"] = [actor if actor in seen_actors else OTHER_ACTOR for actor in actors]
        for name in ("request_id", "key_id"):
            pairs = zip(batch.by_name[name], actors, strict=True)
            by_name[name] = [value if actor in seen_actors else None for value, actor in pairs]
        return EventColumns(by_name, len(batch))

    def _redacts(self, kind: str) -> bool:
        """Return whether events of this kind may have something that the role may not see."""
        if self.has_permission(Permission.READ):
            return kind == EventKind.EXPORTED and not self.has_permission(Permission.REVEAL)
        return True

    def _sees_actor(self, actor: str) -> bool:
        """Return whether the role may see that this actor wrote an event."""
        return self.has_permission(Permission.READ) or actor in (self.actor, scheduler.ACTOR)

    def _visible_detail(self, kind: str, actor: str, detail: dict[str, Any]) -> dict[str, Any]:
        """Return what the role may see of the detail of an event, of a kind that `_redacts` names."""
        if self.has_permission(Permission.READ):
            hidden: tuple[str, ...] = ("sha256",)
        elif self._sees_actor(actor):
            hidden = HIDDEN_FROM_APPS
        else:
            hidden = (*HIDDEN_FROM_APPS, *_reason_fields(kind))
        return {name: value for name, value in detail.items() if name not in hidden}

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

    `local_admin` is whether a direct request of this host needs no key as long as none exists. `first_sign_in` is
    None if there is no link to sign in without a key. `rate_limit` is in requests per second and applies to keys
    without a limit of their own, and to people.
    """

    def __init__(
        self,
        keys: ApiKeys,
        sessions: Sessions,
        executors: Executors,
        *,
        local_admin: bool,
        first_sign_in: FirstSignIn | None,
        proxy_sign_in: ProxySignIn,
        rate_limit: int,
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._executors = executors
        self._key_lookup = CredentialLookup(executors, keys.authenticate, keys.valid_digests)
        self._session_lookup = CredentialLookup(executors, sessions.authenticate, sessions.valid_digests)
        self._local_admin = local_admin
        self._first_sign_in = first_sign_in
        self._proxy_sign_in = proxy_sign_in
        self._rate_limit = rate_limit
        self._cache: dict[str, tuple[float, Principal]] = {}
        self._use_recorded_at: dict[str, float] = {}
        self._buckets: dict[str, TokenBucket] = {}

    async def authenticate(self, connection: Connection) -> Principal:
        """Return the principal of an API request; raises `Unauthenticated` or `RateLimited`."""
        key = _bearer_token(connection)
        if key is None:
            return await self._authenticate_local(connection)
        if not key:
            raise problems.Unauthenticated("the header must be `Authorization: Bearer <key>`; nothing was done")
        principal = await self._find_principal(key, connection)
        if principal is None:
            raise problems.Unauthenticated("the key is unknown, expired or revoked; nothing was done")
        self._limit_rate(principal)
        return principal

    async def authenticate_session(self, token: str | None, connection: Connection) -> Principal:
        """Return the principal of a console page by its session token, if any; raises as `authenticate` does.

        A session is read from the database each time: signing out, or revoking its key, ends it immediately on
        every replica. A person whom a proxy has signed in needs none, and has no other principal.
        """
        person = self.identify_person(connection)
        if person is not None:
            self._limit_rate(person)
            return person
        if token is None:
            return await self._authenticate_local(connection)
        if self._first_sign_in is not None and self._first_sign_in.has_opened(token):
            return await self._authenticate_without_keys(connection)
        try:
            key = await self._session_lookup.find(token, client_address(connection))
        except problems.RateLimited:
            key = None  # it is certain that the session is not valid: the browser may sign in again
        if key is None:
            return await self._authenticate_local(connection)
        principal = _principal(key)
        self._limit_rate(principal)
        await self._record_use(principal, time.monotonic())
        return principal

    def identify_person(self, connection: Connection) -> Principal | None:
        """Return the person whom a trusted proxy has signed in, or None if there is none.

        Raise `Forbidden` if none of the person's groups has a role, and `Malformed` if the headers are not valid.
        """
        user = self._proxy_sign_in.user(connection.scope)
        if user is None:
            return None
        role = self._proxy_sign_in.role(connection.scope)
        if role is None:
            raise problems.Forbidden(
                f"the proxy has signed you in as {user}, but none of your groups has a role here; nothing was"
                " done; the operator maps groups to roles with BINDINGS_ROLE_OF"
            )
        return Principal(actor=ACTOR_PREFIX + user, role=role)

    def user_of_proxy(self, connection: Connection) -> str | None:
        """Return the user that a trusted proxy reports, with or without a role; None if it cannot be read."""
        try:
            return self._proxy_sign_in.user(connection.scope)
        except problems.Malformed:
            return None

    async def sign_in(self, key: str, connection: Connection) -> str | None:
        """Create a session for the key and return its token, or None if the key is not valid.

        Raises `RateLimited` after too many failed attempts, but never for a valid key; and `Forbidden` for a key
        whose role allows no page.
        """
        principal = await self._find_principal(key.strip(), connection)
        if principal is None:
            return None
        if not principal.has_permission(Permission.BIND, Permission.READ):
            raise problems.Forbidden("the role of this key does not allow the console; nothing was done")
        return await self._executors.run_read(
            self._sessions.create, str(principal.key_id), request_id=_request_id(connection)
        )

    async def sign_in_first(self, link_token: str, connection: Connection) -> str | None:
        """Return the token of a new admin session for the link that `serve` printed, or None if it is not valid.

        Raises `Unauthenticated` unless the request comes directly from this host.
        """
        _require_direct(connection)
        if self._first_sign_in is None or await self._executors.run_read(self._keys.any_exist):
            return None
        token = self._first_sign_in.redeem(link_token)
        if token is not None:
            await self._record_first_session(Act.SESSION_BEGAN, connection)
        return token

    async def sign_out(self, token: str, connection: Connection) -> None:
        """End a session. Safe to repeat."""
        if self._first_sign_in is not None and self._first_sign_in.end(token):
            await self._record_first_session(Act.SESSION_ENDED, connection)
            return
        await self._executors.run_read(self._sessions.end, token, request_id=_request_id(connection))

    async def _record_first_session(self, act: Act, connection: Connection) -> None:
        caller = Caller(actor=LOCAL.actor, request_id=_request_id(connection))
        await self._executors.run_read(self._sessions.record_without_key, act, caller)

    async def ensure_still_valid(self, principal: Principal, connection: Connection) -> None:
        """Raise `Unauthenticated` if the principal's key was revoked while the request waited."""
        if principal.key_id is None:
            return
        if await self._find_principal(_bearer_token(connection) or "", connection) is None:
            raise problems.Unauthenticated("the key is not valid any more; nothing was done")

    async def _authenticate_local(self, connection: Connection) -> Principal:
        if not self._local_admin:
            raise problems.Unauthenticated
        return await self._authenticate_without_keys(connection)

    async def _authenticate_without_keys(self, connection: Connection) -> Principal:
        if await self._executors.run_read(self._keys.any_exist):  # not cached: the first key ends it immediately
            raise problems.Unauthenticated
        _require_direct(connection)
        return LOCAL

    async def _find_principal(self, key: str, connection: Connection) -> Principal | None:
        """Return the principal of a valid key, or None; from the cache if the key was read within `CACHE_S`."""
        name, now = digest(key), time.monotonic()
        entry = self._cache.get(name)
        if entry is None or now > entry[0] + CACHE_S:
            valid_key = await self._key_lookup.find(key, client_address(connection))
            if valid_key is None:
                self._cache.pop(name, None)
                return None
            entry = self._cache[name] = (now, _principal(valid_key))
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
        name = principal.key_id or principal.actor
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket()
        if not bucket.take(float(principal.rate_limit or self._rate_limit), time.monotonic()):
            raise problems.RateLimited(retry_after_s=1)


def _reason_fields(kind: str) -> tuple[str, ...]:
    """Return the fields of the detail of such events in which their actor gives reasons in its own words."""
    if kind == EventKind.ERASED:
        return ("ticket",)
    return ("because", "reason") if kind == EventKind.UNBIND_REQUESTED else ("because",)


def _require_direct(connection: Connection) -> None:
    """Raise `Unauthenticated` unless the request comes directly from this host."""
    if not is_direct(connection.scope, connection.headers):
        raise problems.Unauthenticated(
            "without a key only direct requests of this host to 127.0.0.1 or localhost are accepted, not those of"
            " a proxy or of a page of another site: create a key with `bindings keys create`"
        )


def client_address(connection: Connection) -> str:
    """Return the IP address of the client, as far as trusted proxies report it."""
    app_state: AppState = connection.app.state.app_state
    return app_state.proxies.address(connection.scope)


def _request_id(connection: Connection) -> str:
    return str(connection.scope["state"]["request_id"])


def _bearer_token(connection: Connection) -> str | None:
    """Return the key in the Authorization header, or an empty text if it holds none; None without the header."""
    for name, value in connection.scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            return key.strip() if scheme.lower() == "bearer" else ""
    return None


def _principal(key: Key) -> Principal:
    return Principal(actor=f"key:{key.name}", role=key.role, key_id=key.id, rate_limit=key.rate_limit)
