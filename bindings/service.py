"""BindingService: reserve, call, settle; and unbind.

This is the story of the product; its parts live elsewhere, and so do its questions (`questions`) and its passes
(`upkeep`). No SQL, no HTTP and no timer stand here. A bind is two short transactions around one call: the first
commits the intent (I3), nothing is held open while the provider is called, the second records what came of it.
Whatever stops the process in between leaves a pending binding, which `recover` and `reconcile` finish.
"""

from __future__ import annotations

import copy
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from uuid_utils import uuid7

from bindings import errors
from bindings.access.access_log import AccessLog
from bindings.access.api_keys import ApiKeys
from bindings.access.investigation import Investigation
from bindings.access.sessions import Sessions
from bindings.domain.binding import EventKind, Reason, State
from bindings.failpoints import hit
from bindings.http_transport import NotSent, Unknown
from bindings.jobs import recover
from bindings.jobs.maintenance import Maintenance
from bindings.lifecycle import doubts
from bindings.lifecycle.clocks import SendClock
from bindings.provider.outcome import BindSucceeded, Refusal, Refused, UnbindNotFound, UnbindSucceeded
from bindings.store import account, events, holds, reserve, settle
from bindings.store.bindings import BindingLost
from bindings.store.database import RETRY_BUDGET_S, ConstraintViolated, Database
from bindings.validation import requests as validation
from bindings.webhooks.endpoints import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from bindings.domain.binding import Binding, BindRequest, Holder
    from bindings.domain.phone import Phone
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import BindOutcome
    from bindings.store.database import Transaction

_log = logging.getLogger(__name__)

SETTLE_BUDGET_S = 30.0  # the answer is in memory only: outlast a failover before giving it up
SETTLE_TRY_S = 6.0  # of that for one try: a frozen primary never answers, the next one does
RETRY_AFTER_S = 2
SCAN_AGAIN_S = 30
POLL_S = 0.05

_DUPLICATE_BIND_ID = "the provider gave a bindId that another binding has"
_WAS_ACTIVE = (State.ACTIVE, State.EXPIRED, State.UNBOUND)  # it came into being, and may be over already


@dataclass(frozen=True, kw_only=True, slots=True)
class BindResult:
    """What a bind came to; `replayed` where an earlier call with the same idempotency key had made it."""

    binding: Binding
    replayed: bool


class BindingService(Maintenance):
    """The lifecycle of privacy-number bindings over one database and one provider account.

    Open it with `from_env()` or `open(...)`, and close it (it is a context manager). Thread-safe and
    synchronous; not across fork. Every method raises errors of `bindings.errors` and checks its arguments
    before any I/O. Phones are given as str or Phone, and come back as Phone, masked when shown.
    """

    @classmethod
    def from_env(cls) -> Self:
        """Open with the settings of the environment."""
        return cls.open()

    @classmethod
    def open(cls, *, actor: str = "library", environment: Mapping[str, str] | None = None, **given: Any) -> Self:
        """Open with what is `given` (fields of `Settings`); the rest comes from the `environment` (the process's).

        Connects to the database and refuses a schema that is not at head (`SchemaOutOfDate`) or another
        account's database. `actor` is written into the history of whatever is done through this service.
        """
        by = validation.caller(actor=actor, request_id=None)
        config = validation.settings(environment, **given)
        database = Database(config.database_url.get_secret_value())
        try:
            database.check_schema()
            account.register_scope(database, config.scope)
        except BaseException:
            database.close()
            raise
        service = cls(config, database, caller=by)
        service._admission.observe_database_clock(database.clock(), time.monotonic())
        return service

    def as_caller(self, *, actor: str | None = None, request_id: str | None = None) -> BindingService:
        """The same service, on behalf of somebody else; shares every connection and limit."""
        other = copy.copy(self)
        other._caller = validation.caller(actor=actor or self._caller.actor, request_id=request_id)  # noqa: SLF001 -- its own
        return other

    @property
    def keys(self) -> ApiKeys:
        """The keys of the HTTP service, made and revoked on behalf of this service's actor."""
        return ApiKeys(self._database, self._caller)

    @property
    def sessions(self) -> Sessions:
        """The sessions of the console."""
        return Sessions(self._database)

    @property
    def access_log(self) -> AccessLog:
        """Who was shown phones in full, and who took lists away."""
        return AccessLog(self._database, self._caller)

    @property
    def inquiries(self) -> Investigation:
        """The questions of whoever looks into a complaint."""
        return Investigation(self._database)

    @property
    def provider(self) -> ProviderClient | None:
        """The provider's client, for `bindings.health` and metrics; None where no account is set."""
        return self._client

    @property
    def clock_fault(self) -> str | None:
        """Why no bind may be sent by the clocks as they were last read; None where nothing is wrong."""
        return self._admission.clock_error()

    @property
    def clock_trial_due(self) -> bool:
        """Whether the next bind measures the provider's clock anew, where that is what is wrong."""
        return self._admission.provider_clock_probe_due

    @property
    def calls_provider(self) -> bool:
        """Whether the settings hold what a call to the provider needs."""
        return self._client is not None

    @property
    def webhooks(self) -> Webhooks:
        """Who is told of events."""
        return Webhooks(self._database, self._caller)

    def close(self) -> None:
        """Close every connection. Calls that are under way in other threads fail."""
        if self._client is not None:
            self._client.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Bind: reserve, call, settle.

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
    ) -> Binding:
        """Lend a middle number to two phones for `expire_s` seconds (1 to 259200) and return the binding.

        `reference` is the caller's order id. `warn_s` seconds before the end an `expires_soon` event is written
        (0: none; left out: as the settings say). With an `idempotency_key` the call is safe to repeat for as long
        as the binding is kept: the same request returns the same binding (or raises its original error again) and
        nothing is sent twice; another request with that key is an `IdempotencyMismatch` (`warn_s` is not
        compared). Without a key a repeated call is another bind, which the first one's hold refuses.

        Raises `PhoneInUse` (nothing sent), `OutcomeUnknown` (recorded and being resolved: do not bind
        again), `ProviderRefused` and its kinds, `ProviderUnreachable`, `Busy`, `InvalidRequest`.
        """
        bound = self.bind_with_result(
            phone_a=phone_a,
            phone_b=phone_b,
            pool_number=pool_number,
            expire_s=expire_s,
            mode=mode,
            app_id=app_id,
            reference=reference,
            idempotency_key=idempotency_key,
            warn_s=warn_s,
        )
        return bound.binding

    def bind_with_result(self, *, app_id: str | None = None, own: bool = False, **asked: Any) -> BindResult:
        """`bind`, and whether the answer is a replay: the same arguments, errors and promises.

        `own`: a key that another actor has used is an `IdempotencyMismatch`, which names no binding.
        """
        request = validation.bind_request(app_id=self._app_id(app_id), **asked)
        client = self._provider()
        try:
            with self._admission.slot(request.app_id):
                made = self._bind(client, request)
        except (errors.Busy, errors.ProviderAccountRefused) as refusal:
            replayed = None if refusal.binding_id else self._replay(request)
            if replayed is None:
                raise
            made = replayed
        if isinstance(made, reserve.Replayed):
            if own and made.binding.actor != self._caller.actor:
                raise errors.IdempotencyMismatch
            return BindResult(binding=self._replayed(made), replayed=True)
        if made.unbind_requested_at is not None and made.state is State.ACTIVE:
            made, _ = recover.finish_unbind(self._database, client, made, self._guard(made), self._caller)
        return BindResult(binding=made, replayed=False)

    def _bind(self, client: ProviderClient, request: BindRequest) -> Binding | reserve.Replayed:
        binding_id = str(uuid7())
        began: list[float] = []
        known = self._memory.newest()

        def work(
            tx: Transaction,
        ) -> reserve.Reserved | reserve.Replayed | reserve.Conflict | reserve.FullScanRequired:
            began.append(tx.began)
            reserved = reserve.reserve(tx, binding_id, request, self._terms, self._caller, known=known)
            hit("bind.reserve_in_transaction")
            return reserved

        hit("bind.before_reserve")
        reserved = self._database.write(work, attempt_timeout_s=RETRY_BUDGET_S)
        hit("bind.after_reserve")
        before, after = began[0], time.monotonic()  # the first try's, for it may be the one that committed
        match reserved:
            case reserve.Replayed():
                return reserved
            case reserve.Conflict(holder=holder):
                raise self._record_conflict(request, holder)
            case reserve.FullScanRequired(lost=lost):
                raise self._scan_owed(lost=lost)
            case reserve.Reserved(binding=intent):
                self._memory.remember(intent)
                self._admission.observe_database_clock(intent.requested_at, after)
            case _:
                assert_never(reserved)
        fault = self._admission.clock_error()
        outcome: BindOutcome = (
            client.bind(request, send_before=before + reserve.SEND_WINDOW_S)
            if fault is None
            else NotSent(reason=fault)  # with such a clock nobody knows who holds a phone
        )
        hit("bind.after_answer")
        started = SendClock(intent=intent, before=before, after=after)
        binding = self._settle(started, outcome)
        hit("bind.after_settle")
        if binding.state in _WAS_ACTIVE:
            return binding
        raise self._error(binding, said=getattr(outcome, "reason", None))

    def _scan_owed(self, *, lost: bool) -> errors.Busy:
        if lost:
            self._log_rollback()
        message = "an older database was restored here: binds wait until `bindings reconcile` is through"
        return errors.Busy(message, retry_after_s=SCAN_AGAIN_S)

    def _settle(self, started: SendClock, outcome: BindOutcome) -> Binding:
        """The second transaction; without a database it is left to `recover`, and nobody is told it failed."""
        intent = started.intent

        def work(tx: Transaction) -> Binding:
            settled = self._apply_outcome(tx, started, outcome)
            hit("bind.settle_in_transaction")
            return settled

        try:
            settled = self._database.write(
                work,
                budget_s=SETTLE_BUDGET_S,
                attempt_timeout_s=SETTLE_TRY_S,
                autocommit_first=self._success_statement(started, outcome)
                if isinstance(outcome, BindSucceeded)
                else None,
            )
            return self._memory.remember(settled)
        except BindingLost as gone:
            raise self._handle_rollback_during_call(started, outcome) from gone
        except errors.Busy as busy:
            _log.error("bind %s: %s, but the database is away: left to recover", intent.id, type(outcome).__name__)
            message = "the provider was called, but its answer could not be recorded; it will be resolved"
            raise errors.OutcomeUnknown(message, binding=intent) from busy
        except ConstraintViolated as violated:
            if violated.constraint not in settle.BIND_ID_TAKEN:
                raise
            return self._database.write(
                lambda tx: settle.settle_unknown(
                    tx,
                    intent.id,
                    self._caller,
                    reason=Reason.BIND_ID_TAKEN,
                    status=None,
                    said=_DUPLICATE_BIND_ID,
                    sent_at=None,
                )
            )

    def _success_statement(
        self, started: SendClock, made: BindSucceeded
    ) -> Callable[[Transaction], Binding | None]:
        """What a yes nearly always comes to: one statement."""
        success = started.success(made, self._guard(started.intent))

        def activate(tx: Transaction) -> Binding | None:
            hit("bind.settle_in_transaction")
            return settle.activate(tx, started.intent.id, success, self._caller)

        return activate

    def _log_rollback(self) -> None:
        self._memory.forget()
        _log.critical("the database has lost what was committed: an older one is in its place; binds wait")

    def _handle_rollback_during_call(self, started: SendClock, outcome: BindOutcome) -> errors.OutcomeUnknown:
        """An older database came into its place during the call: what the provider made is held, and unbound."""
        intent = started.intent

        def work(tx: Transaction) -> None:
            account.require_full_scan(tx)
            if isinstance(outcome, BindSucceeded):
                holds.hold_late_success(tx, intent, started.success(outcome, self._guard(intent)))

        self._log_rollback()
        with suppress(errors.Busy):  # without the hold a scan meets it as an orphan
            self._database.write(work, budget_s=SETTLE_BUDGET_S)
        message = "the database has lost the binding during the call; if the provider made it, it will be unbound"
        return errors.OutcomeUnknown(message, binding=intent)

    def _apply_outcome(self, tx: Transaction, started: SendClock, outcome: BindOutcome) -> Binding:
        intent = started.intent
        match outcome:
            case BindSucceeded():
                success = started.success(outcome, self._guard(intent))
                return settle.settle_success(tx, intent.id, success, self._caller)
            case Refused(why=Refusal.IN_USE):
                return settle.settle_in_use(
                    tx, intent, self._caller, status=outcome.status, policy=self._terms.policy
                )
            case Refused(why=Refusal.NO_NUMBER):
                return settle.settle_no_number(
                    tx, intent, self._caller, status=outcome.status, said=outcome.reason
                )
            case Refused():
                return self._failed(tx, intent, Reason(outcome.why), outcome.status, outcome.reason)
            case NotSent():
                return self._failed(tx, intent, Reason.NEVER_SENT, None, outcome.reason)
            case Unknown():
                sent_at = None if outcome.sent is None else started.sent_at(outcome.sent)
                return settle.settle_unknown(
                    tx,
                    intent.id,
                    self._caller,
                    reason=Reason.NO_CLEAR_ANSWER,
                    status=outcome.status,
                    said=outcome.reason,
                    sent_at=sent_at,
                )
            case _:
                assert_never(outcome)

    def _error(self, binding: Binding, said: str | None = None) -> errors.BindingsError:
        holder = None
        if binding.reason == Reason.IN_USE:
            with suppress(errors.Busy):
                now = self._database.clock()
                holder = self._database.read(reserve.other_holder, binding, now)
        return errors.error_for(binding, said=said, holder=holder)

    def _failed(self, tx: Transaction, intent: Binding, reason: str, status: str | None, said: str) -> Binding:
        return settle.settle_failed(
            tx, intent.id, self._caller, reason=reason, status=status, detail={"said": said}
        )

    def _record_conflict(self, request: BindRequest, holder: Holder) -> errors.PhoneInUse:
        """A refusal before the call: noted in a small transaction of its own, and it uses up no key."""
        detail = {
            "holder_id": holder.id,
            "held_by": holder.why,
            "holder_mode": holder.mode,
            "holder_state": holder.state,
            "mode": request.mode,
            "app_id": request.app_id,
            "reference": request.reference,
        }
        with suppress(errors.Busy):  # the answer stands without the note
            self._database.write(
                lambda tx: events.append_without_binding(tx, EventKind.REFUSED, self._caller, detail)
            )
        kind = errors.PhoneInUseAtProvider if holder.foreign else errors.PhoneInUse
        return kind(holder=holder)

    def _replay(self, request: BindRequest) -> reserve.Replayed | None:
        if request.idempotency_key is None:
            return None
        with suppress(errors.Busy):
            return self._database.read(reserve.replay, request)
        return None

    def _replayed(self, replayed: reserve.Replayed) -> Binding:
        """What the first call with this key came to; while it is under way, wait for it until `settle_by`."""
        if not replayed.same:
            raise errors.IdempotencyMismatch(binding_id=replayed.binding.id)
        binding = replayed.binding
        if binding.state is State.PENDING:
            binding = self._await_settled(binding)
        match binding.state:
            case State.PENDING | State.IN_DOUBT | State.FAILED:
                again = self._error(binding)
                again.replayed = True
                raise again
            case State.ACTIVE | State.EXPIRED | State.UNBOUND | State.LAPSED:
                return binding
            case _:
                assert_never(binding.state)

    def _await_settled(self, binding: Binding) -> Binding:
        left = (binding.settle_by - self._database.clock()).total_seconds()
        deadline = time.monotonic() + max(0.0, left)
        while binding.state is State.PENDING and time.monotonic() < deadline:
            time.sleep(POLL_S)
            binding = self.get(binding.id)
        return binding

    # Unbind.

    def unbind(self, binding_id: str, *, reason: str | None = None) -> Binding:
        """End a binding early. Safe to repeat; on one that has ended it returns it and calls nobody.

        From the moment the wish is committed the binding is offered to nobody. Raises `OutcomeUnknown` where
        the provider gave no clear answer, or where the binding itself is still open: the wish stays, and
        `recover` carries it out. `ProviderUnreachable` and `ProviderAccountRefused` leave it recorded too.
        """
        found_id, why = validation.binding_id(binding_id), validation.optional_reason(reason)
        client = self._provider()

        def wish(tx: Transaction) -> Binding | None:
            wished = settle.request_unbind(tx, found_id, self._caller, why)
            hit("unbind.wish_in_transaction")
            return wished

        binding = self._database.write(wish, attempt_timeout_s=RETRY_BUDGET_S)
        hit("unbind.after_wish")
        if binding is None:
            raise errors.NotFound(binding_id=found_id)
        if binding.state.terminal:
            return binding
        if binding.state is not State.ACTIVE:
            message = "whether the binding exists is not known yet; it will be unbound as soon as it is"
            raise errors.OutcomeUnknown(message, binding=binding)
        binding, outcome = recover.finish_unbind(
            self._database, client, binding, self._guard(binding), self._caller
        )
        if isinstance(outcome, UnbindSucceeded | UnbindNotFound):
            return binding
        raise _not_unbound(outcome, binding)

    # For the record.

    def reveal(self, binding_ids: list[str], *, reason: str, what: str = "binding") -> None:
        """Record that full phones are about to be shown, to whom and why; call it before showing them.

        With no ids (an export) one event is written that says `what` was shown. `NotFound`, and nothing
        recorded, where an id is not known.
        """
        why = validation.reason(reason)
        found_ids = [validation.binding_id(binding_id) for binding_id in binding_ids]
        detail = {"reason": why, "what": what}

        def work(tx: Transaction) -> None:
            for found_id in found_ids:
                if not events.append(tx, found_id, EventKind.REVEALED, self._caller, detail):
                    raise errors.NotFound(binding_id=found_id)
            if not found_ids:
                events.append_without_binding(tx, EventKind.REVEALED, self._caller, detail)

        self._database.write(work)

    def mark_absent(self, binding_id: str, *, reason: str, dry_run: bool = False) -> doubts.MarkAbsentResult:
        """End a doubt because a person vouches, and says why, that the provider made nothing of it.

        Its phones are free at once, on that word alone (I4): should the provider have made it after all, somebody
        else may get a phone that it still holds. With `dry_run` it only shows what would change. `InvalidRequest`
        where the binding is no doubt, or where its request may still be accepted. Safe to repeat.
        """
        return doubts.mark_absent(
            self._database,
            self._caller,
            validation.binding_id(binding_id),
            because=validation.reason(reason),
            tolerance_s=self.settings.timestamp_tolerance_s,
            dry_run=dry_run,
        )


def _not_unbound(outcome: Unknown | NotSent | Refused, binding: Binding) -> errors.BindingsError:
    """What an unbind that was not confirmed means for whoever asked for it: the wish is recorded and stays."""
    match outcome:
        case Unknown():
            message = "the provider did not say clearly whether it unbound; it will be asked again"
            return errors.OutcomeUnknown(message, binding=binding)
        case NotSent():
            message = "the provider could not be reached; the wish is recorded and will be carried out"
            return errors.ProviderUnreachable(message, binding_id=binding.id, retry_after_s=RETRY_AFTER_S)
        case Refused():
            message = "the provider refused the unbind; the wish is recorded and will be carried out"
            of_account = outcome.why in (Refusal.ACCOUNT, Refusal.CLOCK)
            kind = errors.ProviderAccountRefused if of_account else errors.ProviderRefused
            return kind(
                message,
                status=outcome.status,
                reason=outcome.reason,
                binding_id=binding.id,
                retry_after_s=RETRY_AFTER_S,
            )
        case _:
            assert_never(outcome)
