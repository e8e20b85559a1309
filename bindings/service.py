"""BindingService: the public interface of the library. It holds a `Runtime` and parts, and forwards to them.

Every argument is checked before any I/O, here or in the part that serves the call. No rule of the lifecycle
belongs here: bind, unbind and queries are in `lifecycle`, the jobs in `jobs`, keys and the access log in `access`,
webhooks in `webhooks`.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

from bindings import telemetry
from bindings.access.access_log import AccessLog
from bindings.access.api_keys import ApiKeys
from bindings.access.binding_list import BindingList
from bindings.access.erasure import Erasure
from bindings.access.event_list import EventList
from bindings.access.investigation import Investigation
from bindings.access.phone_searches import PhoneSearches
from bindings.access.sessions import Sessions
from bindings.access.subject import SubjectAccess
from bindings.clock import SYSTEM_CLOCK
from bindings.jobs.maintenance import Maintenance
from bindings.jobs.run_control import RunControl
from bindings.lifecycle import bind as binding_calls
from bindings.lifecycle import doubts
from bindings.lifecycle import extend as end_calls
from bindings.lifecycle.queries import Queries
from bindings.lifecycle.replace import replace_binding
from bindings.lifecycle.runtime import Runtime, open_runtime
from bindings.lifecycle.unbind import unbind
from bindings.lifecycle.unbind_all import list_open, unbind_all
from bindings.validation import requests as validation
from bindings.webhooks.endpoints import Webhooks

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime
    from typing import Any, Self, Unpack

    from bindings.clock import HostClock
    from bindings.domain.binding import Binding, BindRequest, Event, Holder, Page, RefusedBind, Trace
    from bindings.domain.hold import PhoneHold
    from bindings.domain.phone import Phone
    from bindings.jobs.expire import ExpireResult
    from bindings.jobs.expiry_warnings import ExpiryWarningsResult
    from bindings.jobs.pool_usage import PoolUsageResult
    from bindings.jobs.reconcile import ReconcileResult
    from bindings.jobs.recover import RecoverResult
    from bindings.jobs.retention import RetentionResult
    from bindings.jobs.seal import SealResult
    from bindings.jobs.statistics import StatisticsResult
    from bindings.lifecycle.bind import BindResult
    from bindings.lifecycle.unbind_all import ReleaseResult
    from bindings.sealing.seals import Seal
    from bindings.settings import Settings, SettingsValues
    from bindings.store.pools import Pool
    from bindings.store.reports import Report
    from bindings.validation.requests import Replacement

# A program that has configured no logging must not get our warnings on its stderr.
logging.getLogger("bindings").addHandler(logging.NullHandler())


class BindingService:
    """The lifecycle of privacy-number bindings over one database and one provider account.

    Open it with `from_env()` or `open(...)`, and close it (it is a context manager). Thread-safe and synchronous;
    it may be opened before a fork. Every method raises errors of `bindings.errors` and checks its arguments before
    any I/O. Phones are passed as str or Phone, and returned as Phone, whose str() and repr() are masked.

    `runtime` holds the parts that all layers share: settings, database, provider client, limits, caller.
    """

    def __init__(self, runtime: Runtime) -> None:
        if not isinstance(runtime, Runtime):
            raise TypeError("open a BindingService with BindingService.open(...) or BindingService.from_env()")
        self.runtime = runtime
        self._queries = Queries(runtime)

    @classmethod
    def from_env(cls) -> Self:
        """Open with the settings of the environment, and connect; raises as `open` does."""
        return cls.open()

    @classmethod
    def open(
        cls,
        *,
        actor: str = "library",
        environment: Mapping[str, str] | None = None,
        clock: HostClock = SYSTEM_CLOCK,
        connect: bool = True,
        **settings: Unpack[SettingsValues],
    ) -> Self:
        """Open with these fields of `Settings`; missing ones come from `environment` (None: the process's).

        Connects to the database; without `connect`, at the first call that needs it, after its arguments were
        checked. Raises `SchemaOutOfDate` if the schema does not fit this version, and `InvalidRequest` for a wrong
        setting or another account's database. `actor` is recorded in the history of what is done through this
        service, and idempotency keys belong to it: keep its name. `clock` replaces the host's clocks in tests.
        """
        caller = validation.caller(actor=actor, request_id=None)
        checked = validation.settings(environment, **settings)
        return cls(open_runtime(checked, caller, clock=clock, connect=connect))

    def as_caller(
        self, *, actor: str | None = None, request_id: str | None = None, key_id: str | None = None
    ) -> Self:
        """Return a service that acts for another actor or request; it shares every connection and limit.

        `key_id` is the id of the API key that acts, for the history: two keys of one name are one actor.
        """
        caller = validation.caller(actor=actor or self.runtime.caller.actor, request_id=request_id, key_id=key_id)
        return type(self)(self.runtime.for_caller(caller))

    def close(self) -> None:
        """Close every connection; later calls are `Busy` and do nothing. Safe to repeat.

        A call under way in another thread may fail: what it had begun is recorded, and `recover` settles it.
        """
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The parts.

    @property
    def settings(self) -> Settings:
        """Return the settings that the service was opened with."""
        return self.runtime.settings

    @property
    def api_keys(self) -> ApiKeys:
        """Return the API keys of the HTTP service."""
        return ApiKeys(self.runtime)

    @property
    def sessions(self) -> Sessions:
        """Return the sessions of the console."""
        return Sessions(self.runtime)

    @property
    def access_log(self) -> AccessLog:
        """Return the access log: reveals of full phones, searches by a phone, exports and administrative acts."""
        return AccessLog(self.runtime)

    @property
    def phone_searches(self) -> PhoneSearches:
        """Return the record of questions with a full phone. The queries of this class record nothing."""
        return PhoneSearches(self.runtime)

    @property
    def binding_list(self) -> BindingList:
        """Return the list of bindings of the audit console: pages in a chosen order, counts, and its export."""
        return BindingList(self.runtime.database)

    @property
    def event_list(self) -> EventList:
        """Return the list of events, which exports read by column."""
        return EventList(self.runtime.database)

    @property
    def investigation(self) -> Investigation:
        """Return the queries of the audit console: the bindings of a number, and reveals of them."""
        return Investigation(self.runtime.database)

    @property
    def erasure(self) -> Erasure:
        """Return the erasure of a person's phone."""
        return Erasure(self.runtime)

    @property
    def subject_access(self) -> SubjectAccess:
        """Return the records about one person, for an access request."""
        return SubjectAccess(self.runtime)

    @property
    def maintenance(self) -> Maintenance:
        """Return the jobs, as the scheduler runs them."""
        return Maintenance(self.runtime)

    @property
    def webhooks(self) -> Webhooks:
        """Return the receivers of events."""
        return Webhooks(self.runtime)

    # Bind and unbind.

    def bind(
        self,
        *,
        phone_a: str | Phone,
        phone_b: str | Phone,
        pool_number: str,
        expire_s: int,
        mode: str,
        app_id: str | None = None,
        reference: str | None = None,
        idempotency_key: str | None = None,
        warn_s: int | None = None,
        max_expire_s: int | None = None,
    ) -> Binding:
        """Lend a middle number to two phones for `expire_s` seconds (1 to 259200) and return the binding.

        With `max_expire_s` (`expire_s` to 259200) it can be extended later: the provider is asked for that time,
        and what is left of it at the promised end is released by the `recover` job. The price is that the phones
        of a bind with an unknown outcome may be held for `max_expire_s`.

        `reference` is the caller's order id. `warn_s` seconds before the end an `expires_soon` event is written
        (0: none; None: as the settings say). With an `idempotency_key` the call is safe to repeat for as long as
        the binding is kept: the same request returns the same binding, and no second one is created; another
        request with that key is an `IdempotencyMismatch` (`warn_s` is not compared). A bind that was definitely
        refused or never sent gives its key back: the same call is then a new attempt. A key belongs to the
        `app_id` and to the actor of this service: another actor may use the same text for a bind of its own, and
        cannot repeat this one. Without a key a repeated call is another bind, which is refused because the first
        one holds the phones.

        Raises `PhoneInUse` (nothing sent), `OutcomeUnknown` (recorded and being resolved: do not bind again),
        `ProviderRefused` and its subclasses, `ProviderUnreachable`, `Busy`, `InvalidRequest`.
        """
        request = validation.bind_request(
            phone_a=phone_a,
            phone_b=phone_b,
            pool_number=pool_number,
            expire_s=expire_s,
            mode=mode,
            app_id=self.runtime.app_id_or_default(app_id),
            reference=reference,
            idempotency_key=idempotency_key,
            warn_s=warn_s,
            max_expire_s=max_expire_s,
        )
        return self.bind_request(request).binding

    def bind_request(self, request: BindRequest) -> BindResult:
        """Bind a request that `validation.bind_request` has checked; also return whether it is a replay.

        The same errors and promises as `bind`.
        """
        with telemetry.span("bind", mode=request.mode) as span:
            result = binding_calls.bind(self.runtime, request)
            span.set(binding_id=result.binding.id, replayed=result.replayed)
            return result

    def extend(self, binding_id: str, *, expire_s: int, own_only: bool = False) -> Binding:
        """Move the end of an active binding to `expire_s` seconds from now, and return the binding.

        No call to the provider is made: `bind(max_expire_s=)` has asked for the time. The end never moves to an
        earlier instant (that is `unbind(after_s=)`). Safe to repeat: a repeated call counts from then. With
        `own_only` only a binding that this service's actor requested is found.

        Raises `NotActive` if it has ended, is not active yet or is being unbound; `InvalidRequest`, which names
        the latest possible end, if the provider may end it before; `NotFound`; `Busy`.
        """
        checked_id, duration_s = validation.binding_id(binding_id), validation.extension(expire_s=expire_s)
        actor = self.runtime.caller.actor if own_only else None
        with telemetry.span("extend", binding_id=checked_id):
            return end_calls.extend(self.runtime, checked_id, expire_s=duration_s, actor=actor)

    def replace(
        self,
        binding_id: str,
        *,
        phone_a: str | Phone | None = None,
        phone_b: str | Phone | None = None,
        mode: str | None = None,
        pool_number: str | None = None,
        expire_s: int | None = None,
        max_expire_s: int | None = None,
        reference: str | None = None,
        idempotency_key: str | None = None,
        force: bool = False,
        own_only: bool = False,
    ) -> Binding:
        """End a binding, let a new one take over, and return that successor; the phones are never free in between.

        What is left out is as in the binding that is replaced (its `expire_s` counts from now; an idempotency key
        is never taken over). So replace without another phone is a renewal past 72 hours, and with one a change of
        party. The provider ends the old binding before it makes the new one: in between, for `gap_s` seconds in
        the `activated` event of the successor, no call is connected, and the middle numbers may change.

        Replaced can be an active or expired binding, and one that was ended by an earlier replace whose successors
        have all failed. With `force` also if the provider had no number left in the pool less than a minute ago.
        With an `idempotency_key` the call is safe to repeat: the same call returns the same successor, and one
        that was definitely refused or never sent is begun anew. With `own_only` only a binding that this service's
        actor requested is found. The successor and its key belong to the actor of the old binding.

        Raises `PhoneInUse`, `NotActive`, `AlreadyReplaced`, `NoMiddleNumber`, `Busy`, `InvalidRequest`, `NotFound`
        if nothing was changed. An error whose `predecessor_ended` is not None came later: the old binding is
        offered no more (with `Busy` that is not known). Then `OutcomeUnknown` names the old binding if its end is
        not confirmed, and the successor if that was sent; after the other errors of `bind` the same call with the
        same key goes on.
        """
        changes = validation.replacement(
            phone_a=phone_a,
            phone_b=phone_b,
            mode=mode,
            pool_number=pool_number,
            expire_s=expire_s,
            max_expire_s=max_expire_s,
            reference=reference,
            idempotency_key=idempotency_key,
            force=force,
        )
        return self.replace_request(binding_id, changes, own_only=own_only).binding

    def replace_request(self, binding_id: str, changes: Replacement, *, own_only: bool = False) -> BindResult:
        """Replace with changes that `validation.replacement` has checked; also return whether it is a replay.

        The same errors and promises as `replace`.
        """
        actor = self.runtime.caller.actor if own_only else None
        checked_id = validation.binding_id(binding_id)
        with telemetry.span("replace", replaces=checked_id) as span:
            result = replace_binding(self.runtime, checked_id, changes, actor=actor)
            span.set(binding_id=result.binding.id, replayed=result.replayed)
            return result

    def unbind(self, binding_id: str, *, reason: str | None = None, after_s: int | None = None) -> Binding:
        """End a binding early and return it. Safe to repeat.

        With `after_s` (1 to 259200) no call is made now: the end moves to that many seconds from now, if that is
        sooner, and `extend` can take it back; raises `NotActive`, `NotFound` or `Busy`.

        One that has ended is returned without a call, unless the provider still has it: its promised end came
        before the provider's, or a scan found it alive there. Then it is unbound there, and its phones are free.

        Once the request is committed, lookups no longer return the binding. Raises `OutcomeUnknown` if the
        provider gave no clear answer, or if the binding itself is still pending or in doubt: the request stays
        recorded, and `recover` carries it out. `ProviderUnreachable` and `ProviderAccountRefused` leave it
        recorded too.
        """
        checked_id = validation.binding_id(binding_id)
        checked_reason, delay_s = validation.unbind(reason=reason, after_s=after_s)
        with telemetry.span("unbind", binding_id=checked_id):
            if delay_s is not None:
                return end_calls.shorten(self.runtime, checked_id, after_s=delay_s, reason=checked_reason)
            return unbind(self.runtime, checked_id, checked_reason)

    def unbind_all(
        self,
        *,
        phone: str | Phone | None = None,
        middle_number: str | None = None,
        reference: str | None = None,
        reason: str,
        dry_run: bool = False,
        token: str | None = None,
        own_only: bool = False,
    ) -> ReleaseResult:
        """End every binding of a phone, a middle number or a `reference` that is active, pending or in doubt.

        With `dry_run` nothing is changed: the result lists the bindings and has a token. With that `token` a later
        call ends no others, and raises `SelectionChanged` if there are others; fewer are accepted. One transaction
        records the requests with the `reason`; from then on no lookup returns the bindings. Then the provider is
        called, for at most 20 seconds; `recover` makes the other calls, repeats those without a clear answer, and
        ends what is pending or in doubt as soon as it is known to exist. A pending or in-doubt binding has no
        middle number yet. A call acts on at most 1,000 bindings (see `ReleaseResult.more`). With `own_only` only
        bindings that this service's actor requested are selected.

        Safe to repeat: a repeated call also calls the provider again for what is still unclear. Raises
        `InvalidRequest` or `Busy`.
        """
        selection, checked_reason, checked_token = validation.unbind_all(
            phone=phone,
            middle_number=middle_number,
            reference=reference,
            reason=reason,
            dry_run=dry_run,
            token=token,
        )
        actor = self.runtime.caller.actor if own_only else None
        if dry_run:
            return list_open(self.runtime, selection, actor=actor)
        return unbind_all(self.runtime, selection, reason=checked_reason, token=checked_token, actor=actor)

    def mark_absent(self, binding_id: str, *, reason: str, dry_run: bool = False) -> doubts.MarkAbsentResult:
        """Mark an in-doubt binding as failed on an operator's statement, with the reason.

        Its phones are free immediately, on that statement alone (I4): if the provider made the binding after all,
        another pair may get a phone that it still holds. With `dry_run` nothing is changed, and the result shows
        what would be. `InvalidRequest` if the binding is not in doubt, or if its request may still be accepted.
        Safe to repeat.
        """
        return doubts.mark_absent(
            self.runtime,
            validation.binding_id(binding_id),
            because=validation.reason(reason),
            dry_run=dry_run,
        )

    def reveal(self, binding_ids: Iterable[str], *, reason: str, what: str = "binding") -> None:
        """Record that full phones are about to be shown, by whom and why; call it before showing them.

        Without ids (an export) one event is written that names `what` is shown. `NotFound`, and nothing is
        recorded, if an id is unknown. Not safe to repeat: each call is recorded.
        """
        self.access_log.record_reveal(binding_ids, reason=reason, subject=what)

    # Queries. Each goes by the database's clock, changes nothing and is safe to repeat.

    def get(self, binding_id: str) -> Binding:
        """Return one binding as recorded; `NotFound` if there is none."""
        return self._queries.get(binding_id)

    def get_many(self, binding_ids: Iterable[str]) -> dict[str, Binding]:
        """Return those of these bindings that exist, by id. One statement for each 200 ids."""
        return self._queries.get_many(binding_ids)

    def history(self, binding_id: str) -> list[Event]:
        """Return every event of a binding, in order; `NotFound` if there is no such binding."""
        return self._queries.history(binding_id)

    def lookup(
        self,
        *,
        phone: str | Phone | None = None,
        middle_number: str | None = None,
        party: str | Phone | None = None,
        reference: str | None = None,
    ) -> list[Binding]:
        """Return the active bindings of a phone, of a middle number (that `party` calls), or of a `reference`.

        Newest first. A binding past its end is never returned, whether the expire job has run or not, nor one that
        an unbind was requested for. `Binding.counterpart` and `Binding.middle_number_for` say how to route a call.
        """
        with telemetry.span("lookup") as span:
            active = self._queries.lookup(
                phone=phone, middle_number=middle_number, party=party, reference=reference
            )
            span.set(count=len(active))
            return active

    def holds(self, *, phone: str | Phone | None = None, middle_number: str | None = None) -> list[PhoneHold]:
        """Return the newest holds of a phone, in force or ended, the latest `held_until` first; at most 50.

        A hold is a phone that the provider holds for something other than a binding in force here: no result of
        `lookup` and `search` has it. With a middle number instead, the holds in force of bindings with that number
        that ended here and live at the provider.
        """
        return self._queries.holds(phone=phone, middle_number=middle_number)

    def check(
        self, *, phone_a: str | Phone, phone_b: str | Phone, mode: str, app_id: str | None = None
    ) -> list[Holder]:
        """Return what would refuse such a bind now, the longest hold first; empty if nothing. Reserves nothing."""
        return self._queries.check(phone_a=phone_a, phone_b=phone_b, mode=mode, app_id=app_id)

    def trace(
        self,
        *,
        middle_number: str,
        at: datetime | str,
        party: str | Phone | None = None,
        window_s: float = 300,
    ) -> Trace:
        """Return the holders of a middle number at `at` (aware), and near misses within `window_s` seconds.

        Also the holds within that window, of the party and of bindings with the number (see `Trace`). A time up to
        a minute after now counts as now, because clocks differ; a later one is an error.
        """
        return self._queries.trace(middle_number=middle_number, at=at, party=party, window_s=window_s)

    def search(
        self,
        *,
        state: str | None = None,
        provider_status: str | None = None,
        state_reason: str | None = None,
        active: bool | None = None,
        mode: str | None = None,
        phone: str | Phone | None = None,
        middle_number: str | None = None,
        reference: str | None = None,
        reference_prefix: str | None = None,
        idempotency_key: str | None = None,
        bind_id: str | None = None,
        pool_number: str | None = None,
        app_id: str | None = None,
        actor: str | None = None,
        requested_from: datetime | str | None = None,
        requested_to: datetime | str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Binding]:
        """Return a page of the bindings that match every filter, newest first.

        `state` is the state as recorded, so one recorded as active may be past its end, or asked to end;
        `state_reason` is the binding's `reason`. `active` is True for the bindings that `lookup` would return now,
        and False for all others. `actor` is the actor that requested the binding, at or after `requested_from` and
        before `requested_to`.
        `limit` is 1 to 200. Pass `next_cursor` as `cursor` for the next page; it is None at the end.
        """
        filters, size, position = validation.filters(
            state=state,
            provider_status=provider_status,
            state_reason=state_reason,
            active=active,
            mode=mode,
            phone=phone,
            middle_number=middle_number,
            reference=reference,
            reference_prefix=reference_prefix,
            idempotency_key=idempotency_key,
            bind_id=bind_id,
            pool_number=pool_number,
            app_id=app_id,
            actor=actor,
            requested_from=requested_from,
            requested_to=requested_to,
            cursor=cursor,
            limit=limit,
        )
        return self._queries.search(filters, size=size, position=position)

    def search_refusals(
        self,
        *,
        reference: str | None = None,
        reference_prefix: str | None = None,
        phone: str | Phone | None = None,
        request_id: str | None = None,
        actor: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[RefusedBind]:
        """Return a page of the binds that were refused before the provider was called, newest first.

        They match every filter; `phone` matches either party, `reference_prefix` the beginning of a reference.
        Recorded are conflicts and refusals because of the account, but not `Busy`. `limit` is 1 to 200. Pass
        `next_cursor` as `cursor` for the next page; it is None at the end.
        """
        filters, size, position = validation.refusal_filters(
            reference=reference,
            reference_prefix=reference_prefix,
            phone=phone,
            request_id=request_id,
            actor=actor,
            cursor=cursor,
            limit=limit,
        )
        return self._queries.search_refusals(filters, size=size, position=position)

    def traceparents(self, binding_ids: Iterable[str]) -> dict[str, str]:
        """Return by id the `traceparent` in which each of these bindings was requested, if one was recorded."""
        return self._queries.traceparents(binding_ids)

    def events(self, *, after: str | None = None, limit: int = 100) -> Page[Event]:
        """Return the events after the cursor `after`, in the order in which they became final: the change feed.

        `next_cursor` is never None: pass it as `after` to continue. An event that commits late is never skipped.
        Without `after` the feed begins with the oldest event that is kept; with `after="latest"` the page is empty
        and its cursor is `feed_end()`. `InvalidRequest` if retention has deleted events after the cursor, or if
        the database was restored to a moment before it.
        """
        return self._queries.events(after=after, limit=limit)

    def events_for_actor(self, actor: str, *, after: str | None = None, limit: int = 100) -> Page[Event]:
        """Return the change feed of the bindings that `actor` asked for; otherwise as `events`.

        Each call reads a bounded part of the whole feed: a page may be empty and its cursor still be further on.
        At the end the cursor stays the same.
        """
        return self._queries.events_for_actor(actor, after=after, limit=limit)

    def feed_end(self) -> str:
        """Return the cursor of the end of the change feed, to read only later events.

        Pass it as `after` to `events`. No event is missed: one that commits after this call is delivered, also if
        its transaction began before it.
        """
        return self._queries.feed_end()

    def doubts(self, *, limit: int = 200) -> list[Binding]:
        """Return bindings without a clear answer, oldest first: in doubt, past `settle_by`, or unbind unclear."""
        return self._queries.doubts(limit=limit)

    def open_doubts(self, *, cursor: str | None = None, limit: int = 50) -> Page[Binding]:
        """Return `doubts`, a page at a time."""
        return self._queries.open_doubts(cursor=cursor, limit=limit)

    def pools(self) -> list[Pool]:
        """Return the pools in use, and how full each was when it was last counted (`count_pools`)."""
        return self._queries.pools()

    def report(self, report_id: str) -> Report:
        """Return one reconciliation report, with every case; `NotFound` if there is none."""
        return self._queries.report(report_id)

    def reports(self, *, cursor: str | None = None, limit: int = 50, cases: bool = True) -> Page[Report]:
        """Return a page of reconciliation reports, newest first: the cases of each, without phones.

        Without `cases` only their counts are read.
        """
        return self._queries.reports(cursor=cursor, limit=limit, cases=cases)

    def stats(self, *, since: datetime | str | None = None) -> dict[str, dict[str, int]]:
        """Return counts of bindings by state, pool and provider status, and of events by kind. Reads every row.

        With `since` only bindings that were requested, and events that happened, at that time or later.
        """
        return self._queries.stats(since=since)

    def export_bindings(
        self, *, since: datetime | str | None = None, until: datetime | str | None = None
    ) -> Iterator[Binding]:
        """Stream every binding requested in [since, until), oldest first, in memory that does not grow."""
        return self._queries.export_bindings(since=since, until=until)

    def export_events(
        self, *, since: datetime | str | None = None, until: datetime | str | None = None
    ) -> Iterator[Event]:
        """Stream every event of [since, until), in the feed's order, in memory that does not grow."""
        return self._queries.export_events(since=since, until=until)

    def export_sealed_events(self) -> Iterator[dict[str, Any]]:
        """Stream every event as it is sealed, in the feed's order, in memory that does not grow."""
        return self._queries.export_sealed_events()

    def last_seal(self) -> Seal | None:
        """Return the last seal of the history, or None if it is not sealed."""
        return self._queries.last_seal()

    def export_seals(self) -> Iterator[Seal]:
        """Stream every seal of the history, in order, in memory that does not grow."""
        return self._queries.export_seals()

    # Jobs. Each is safe to repeat and to run in several processes at the same time; the scheduler runs them.

    def expire_due(self) -> ExpireResult:
        """Mark bindings past their end as expired, and return the counts."""
        return self.maintenance.expire_due()

    def warn_due(self) -> ExpiryWarningsResult:
        """Write the `expires_soon` events that are due, and return the counts."""
        return self.maintenance.warn_due()

    def recover(self) -> RecoverResult:
        """Settle what a crash or a lost response left open, release expired bindings, and return the counts.

        Released are expired bindings that the provider would hold until a later end of its own.
        """
        return self.maintenance.recover()

    def reconcile(
        self, *, dry_run: bool = False, reason: str | None = None, stop: threading.Event | None = None
    ) -> ReconcileResult:
        """Recover, then compare with the provider's own list, correct what differs, and return the counts.

        Always scans. With `dry_run` nothing is changed; the result and its report say what would be. The `reason`
        is stored in the report. If another thread sets the event `stop`, it ends after the current page, and its
        result is `stopped`.
        """
        maintenance = Maintenance(self.runtime, RunControl(stop))
        return maintenance.reconcile(dry_run=dry_run, reason=validation.optional_reason(reason))

    def count_pools(self) -> PoolUsageResult:
        """Count the live bindings of each pool, and write a `pool_low` event for each that has become low."""
        return self.maintenance.count_pools()

    def apply_retention(self, *, dry_run: bool = False) -> RetentionResult:
        """Delete what ended more than BINDINGS_RETENTION_DAYS ago; create the month's partition of events.

        Expired sessions and searches of the console are deleted in any case; without the setting, nothing else is.
        With `dry_run` it only counts.
        """
        return self.maintenance.apply_retention(dry_run=dry_run)

    def update_statistics(self) -> StatisticsResult:
        """Count the events since the last run, for the console's charts."""
        return self.maintenance.update_statistics()

    def seal_events(self) -> SealResult:
        """Seal the events that are not sealed yet, and return the counts. Needs BINDINGS_SEAL_KEY_FILE."""
        return self.maintenance.seal_events()

    def mark_restored(self, *, waive: bool = False, head: str | None = None) -> None:
        """Record that the database was restored from a backup: binds wait for a full reconciliation.

        Call it before any replica starts on the restored database. With `waive` binds no longer wait, for an
        account whose list cannot be read; what was bound since the backup may then be answered with -35. `head` is
        the last head of the sealed history that was kept elsewhere (`N:HASH`): a verification accepts its loss.
        Safe to repeat.
        """
        heads = validation.heads([] if head is None else [head])
        checked = next((f"{number}:{digest}" for number, digest in heads.items()), None)
        self.maintenance.mark_restored(waive=waive, head=checked)

    # Deprecated names.

    def acting(self, *, actor: str | None = None, request_id: str | None = None) -> BindingService:
        """Return `as_caller(...)`; deprecated."""
        _warn_renamed("acting", "as_caller")
        return self.as_caller(actor=actor, request_id=request_id)

    def some(self, binding_ids: Iterable[str]) -> dict[str, Binding]:
        """Return `get_many(...)`; deprecated."""
        _warn_renamed("some", "get_many")
        return self.get_many(binding_ids)

    def tally(self) -> StatisticsResult:
        """Return `update_statistics()`; deprecated."""
        _warn_renamed("tally", "update_statistics")
        return self.update_statistics()

    def restored(self, *, waive: bool = False) -> None:
        """Call `mark_restored(...)`; deprecated."""
        _warn_renamed("restored", "mark_restored")
        self.mark_restored(waive=waive)


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(
        f"BindingService.{old} is deprecated; use BindingService.{new}", DeprecationWarning, stacklevel=3
    )
