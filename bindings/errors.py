"""Every error that a caller can meet, in one tree, and the one table of what each reason means.

    BindingsError
    ├── InvalidRequest            the call's values are wrong; nothing was done
    ├── PhoneInUse                one of our bindings holds a phone; no call was made
    │   └── PhoneInUseAtProvider  the phone is held at the provider, but not by one of our bindings
    ├── IdempotencyMismatch       the key was used for another request
    ├── NotActive                 the binding has ended, or is not active yet; nothing was changed
    │   └── AlreadyReplaced           ... because another binding has taken over
    ├── SelectionChanged          bindings were added since the dry run; nothing was changed
    ├── NotFound                  no such binding, key, webhook, delivery, export or report
    ├── ProviderRefused           a definite refusal by the provider
    │   ├── ProviderAccountRefused    ... of the account, for every request
    │   └── NoMiddleNumber            ... because the pool is empty
    ├── ProviderUnreachable       the request was not sent; nothing was done
    ├── OutcomeUnknown            the provider may have acted; the binding is recorded as in doubt
    ├── Busy                      temporarily unavailable: too many calls, a clock or the database is at fault
    │   └── ClockInDoubt          ... because a clock has jumped, or two clocks differ by more than a minute
    └── SchemaOutOfDate           this version cannot work on the database's schema

The first line of a class's docstring is the default message: what happened, the state now, and what to do. Each
class says whether the provider may have acted (`may_have_acted`), whether the same call may be repeated as it is
(`safe_to_retry`), and what the operator can do (`remedy`). `REASONS` says the same of each reason for which a
binding failed. The meaning of provider statuses is not here; see `provider.statuses`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from bindings import docstrings
from bindings.domain.binding import Holder, Reason, State
from bindings.domain.explanation import Explanation, ResponsibleParty
from bindings.domain.serialization import instant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from bindings.domain.binding import Binding

DEFAULT_RETRY_S = 2
ACCOUNT_RETRY_S = 30
IN_USE_RETRY_S = 60
POOL_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong value: the field's name and what it must be. The value itself is never repeated."""

    field: str
    message: str


class BindingsError(Exception):
    """The call failed.

    `code` is stable and the same in Python, on the command line and over HTTP. `binding_id` names the recorded
    binding, if there is one. `retry_after_s` is the time after which another attempt makes sense, or None if none
    does. `replayed` is True if this is an earlier call's error, which the idempotency key of this call returned.
    `predecessor_ended` is set by a replace that has begun: True if the binding to be replaced has ended at the
    provider, False if that is not confirmed. It is offered no more in either case, or that is not known (`Busy`).
    None: nothing was replaced.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    may_have_acted: ClassVar[bool] = False
    safe_to_retry: bool = False
    remedy: ClassVar[str] = ""  # what to do, with commands; `{retry}` and `{holder}` are filled in by `next_step`

    def __init__(
        self, message: str | None = None, *, binding_id: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message or _first_line(type(self)))
        self.binding_id = binding_id
        self.retry_after_s = retry_after_s
        self.replayed = False
        self.predecessor_ended: bool | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value: multiprocessing and Celery pass errors between processes, and constructors differ."""
        return _restore, (type(self), self.args, vars(self))

    def problem(self) -> dict[str, Any]:
        """Return the error as a problem object (RFC 9457), for the command line and for HTTP."""
        body: dict[str, Any] = {
            "type": f"urn:bindings:problem:{self.code}",
            "title": _first_line(type(self)),
            "status": self.http_status,
            "detail": str(self),
            "code": self.code,
            "may_have_acted": self.may_have_acted,
            "safe_to_retry": self.safe_to_retry,
        }
        if self.binding_id is not None:
            body["binding_id"] = self.binding_id
        if self.retry_after_s is not None:
            body["retry_after_s"] = self.retry_after_s
        if self.predecessor_ended is not None:
            body["predecessor_ended"] = self.predecessor_ended
        return body

    def next_step(self) -> str:
        """Return what to do; after a replace that has begun, first what became of the binding to be replaced.

        Empty if there is nothing to do.
        """
        if self.predecessor_ended is None:
            return self._next_step()
        if not self.predecessor_ended:
            return f"Replace it again {self._retry_text()}, with the same key if there was one: that goes on."
        if self.may_have_acted:
            return f"The binding to be replaced has ended. {self._next_step()}"
        go_on = ": the same replace makes another successor" if self.safe_to_retry else ""
        ended = f"The binding to be replaced has ended, and nothing has taken its place{go_on}."
        return f"{ended} {self._next_step()}"

    def _next_step(self) -> str:
        """Return `remedy` with the time and the holder of this error filled in; empty if there is no remedy."""
        return self.remedy.format(retry=self._retry_text(), holder=None)

    def _retry_text(self) -> str:
        return "later" if self.retry_after_s is None else f"in {self.retry_after_s} s"


class InvalidRequest(BindingsError):
    """The request is not valid; nothing was sent and nothing was written. Correct the fields that are named."""

    code = "invalid-request"
    http_status = 422
    exit_code = 2
    remedy = "Nothing was sent and nothing was written; correct it and run it again (see --help)."

    def __init__(self, field_errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.field} {error.message}" for error in field_errors))
        self.field_errors = tuple(field_errors)

    @classmethod
    def of_field(cls, field: str, message: str) -> Self:
        """Return the error for one wrong field."""
        return cls([FieldError(field, message)])

    @property
    def faults(self) -> tuple[FieldError, ...]:
        """Return `field_errors`. Deprecated: the old name, kept for one version."""
        warnings.warn("InvalidRequest.faults is now field_errors", DeprecationWarning, stacklevel=2)
        return self.field_errors

    def problem(self) -> dict[str, Any]:
        """Return the problem object with one entry in `errors` for each wrong field."""
        entries = [{"field": error.field, "message": error.message} for error in self.field_errors]
        return super().problem() | {"errors": entries}


class PhoneInUse(BindingsError):
    """A phone is held; nothing was sent and no binding was created. Wait, or end the binding that holds it.

    As text it also names the holder and until when it holds the phone.
    """

    code = "phone-in-use"
    http_status = 409
    exit_code = 3
    safe_to_retry = True
    remedy = "Try again {retry}, or end that binding first: bindings unbind {holder}"

    def __init__(self, message: str | None = None, *, holder: Holder, binding_id: str | None = None) -> None:
        super().__init__(message, binding_id=binding_id, retry_after_s=holder.retry_after_s)
        self.holder = holder

    def __str__(self) -> str:
        if self.args[0] != _first_line(type(self)):
            return super().__str__()
        return f"A phone is held {self._describe_holder()}; nothing was sent and no binding was created"

    def _describe_holder(self) -> str:
        holder = self.holder
        if holder.id is not None:
            reference = f"reference {holder.reference}" if holder.reference else "no reference"
            lives_on = ", which has ended here and lives at the provider," if holder.why == "orphan" else ""
            held_by = f"by binding {holder.id} ({reference}, {holder.mode}, {holder.state}){lives_on}"
        elif holder.why == "binding":
            held_by = "by another application"
        else:
            held_by = f"at the provider for something that is not recorded here ({holder.why})"
        return f"{held_by} until {holder.held_until.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"

    def problem(self) -> dict[str, Any]:
        """Return the problem object with the `holder`."""
        holder = {
            "id": self.holder.id,
            "actor": self.holder.actor,
            "reference": self.holder.reference,
            "mode": self.holder.mode,
            "state": self.holder.state,
            "held_until": instant(self.holder.held_until),
            "retry_after_s": self.holder.retry_after_s,
            "why": self.holder.why,
        }
        return super().problem() | {"holder": holder}

    def _next_step(self) -> str:
        return self.remedy.format(retry=self._retry_text(), holder=self.holder.id)


class PhoneInUseAtProvider(PhoneInUse):
    """A phone is held at the provider, but not by one of our bindings; no binding was created. Try again later.

    `status` is the provider's; None if a hold refused the bind here and the provider was not called.
    """

    code = "phone-in-use-at-provider"
    remedy = "Try again {retry}; `bindings reconcile` looks for the holder at the provider."

    def __init__(
        self,
        message: str | None = None,
        *,
        holder: Holder,
        status: str | None = None,
        binding_id: str | None = None,
    ) -> None:
        super().__init__(message, holder=holder, binding_id=binding_id)
        self.status = status

    def __str__(self) -> str:
        if self.binding_id is None or self.args[0] != _first_line(type(self)):
            return super().__str__()
        is_explained = self.holder.why != "refused"
        cause = f"it is held {self._describe_holder()}" if is_explained else "none of our bindings explains it"
        return f"The provider reports that a phone is in use, and {cause}; no binding was created"

    def problem(self) -> dict[str, Any]:
        """Return the problem object with the `holder`, and the provider's status if the provider was called."""
        return super().problem() | ({} if self.status is None else {"provider_status": self.status})


class IdempotencyMismatch(BindingsError):
    """The idempotency key was already used for another request; nothing was sent or written. Use a new key."""

    code = "idempotency-mismatch"
    http_status = 422
    exit_code = 3
    remedy = "Another request needs another --idempotency-key."


class NotActive(BindingsError):
    """The binding is not active; nothing was changed. Look at its state, or bind again."""

    code = "not-active"
    http_status = 409
    exit_code = 3
    remedy = "An ended binding needs another bind."


class AlreadyReplaced(NotActive):
    """The binding has a successor already; nothing was changed. Replace the successor.

    As text it also has the id of the successor.
    """

    code = "already-replaced"
    remedy = ""  # the message has the id of the successor

    def __init__(self, *, binding_id: str, successor_id: str) -> None:
        super().__init__(f"{_first_line(type(self))}: {successor_id}", binding_id=binding_id)
        self.successor_id = successor_id

    def problem(self) -> dict[str, Any]:
        """Return the problem object with the id of the successor as `replaced_by`."""
        return super().problem() | {"replaced_by": self.successor_id}


class SelectionChanged(BindingsError):
    """Bindings were added to the selection since the dry run; nothing was changed. Run the dry run again."""

    code = "selection-changed"
    http_status = 409
    exit_code = 3
    remedy = "Run it again with --dry-run, look at the list, and pass its token."


class NotFound(BindingsError):
    """There is no record with this id; nothing was changed. Check the id."""

    code = "not-found"
    http_status = 404
    exit_code = 4
    remedy = "`bindings list`, `bindings keys list`, `reports list` and `webhooks list` show the ids that exist."


class ProviderRefused(BindingsError):
    """The provider refused the request and did nothing. Change the request before you try again.

    `status` and `reason` are the provider's, if it was called.
    """

    code = "provider-refused"
    http_status = 502
    exit_code = 5
    remedy = "Change the request before trying again."

    def __init__(
        self,
        message: str | None = None,
        *,
        status: str | None = None,
        reason: str | None = None,
        binding_id: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, binding_id=binding_id, retry_after_s=retry_after_s)
        self.status = status
        self.reason = reason

    def problem(self) -> dict[str, Any]:
        """Return the problem object with the provider's status and reason."""
        return super().problem() | {"provider_status": self.status, "provider_reason": self.reason}


class ProviderAccountRefused(ProviderRefused):
    """The provider refuses every request of the account and did nothing. Run `bindings doctor`, then try again."""

    code = "provider-account"
    http_status = 503
    safe_to_retry = True
    remedy = "Run `bindings doctor`, correct the account or the clock, then try again {retry}."


class NoMiddleNumber(ProviderRefused):
    """The pool has no middle number available; no binding was created. Try again later, or use another pool."""

    code = "no-middle-number"
    http_status = 503
    exit_code = 7
    safe_to_retry = True
    remedy = "Try again {retry}, or use another pool."


class ProviderUnreachable(BindingsError):
    """The request did not reach the provider, or had no effect there. Run `bindings doctor`, then try again."""

    code = "provider-unreachable"
    http_status = 503
    exit_code = 5
    safe_to_retry = True
    remedy = "Run `bindings doctor`, then try again {retry}."


class OutcomeUnknown(BindingsError):
    """The provider gave no clear answer and may have acted; this is being resolved. Do not bind again.

    `binding` is what is recorded. `retry_after_s` is the time after which to ask for it again (with `get`, or with
    the same call and the same key); None if no scheduler has run recently.
    """

    code = "outcome-unknown"
    http_status = 202
    exit_code = 6
    may_have_acted = True
    remedy = "Do not bind again: the outcome may be known {retry}, and `bindings reconcile` resolves it."

    def __init__(self, message: str | None = None, *, binding: Binding, retry_after_s: int | None = None) -> None:
        super().__init__(message, binding_id=binding.id, retry_after_s=retry_after_s)
        self.binding = binding
        self.status = binding.provider_status


class Busy(BindingsError):
    """The service is temporarily unavailable; nothing was sent to the provider. Try again shortly.

    `todo` is what the operator can do about the cause, if the message names one that does not pass by itself.
    """

    code = "busy"
    http_status = 503
    safe_to_retry = True
    remedy = "Try again {retry}; if it persists, `bindings doctor` says what is wrong."

    def __init__(
        self,
        message: str | None = None,
        *,
        binding_id: str | None = None,
        retry_after_s: int | None = None,
        todo: str | None = None,
    ) -> None:
        super().__init__(message, binding_id=binding_id, retry_after_s=retry_after_s)
        self.todo = todo

    def _next_step(self) -> str:
        if self.todo is None:
            return super()._next_step()
        return f"{self.todo[0].upper()}{self.todo[1:]}; try again {self._retry_text()}."


class ClockInDoubt(Busy):
    """A clock cannot be trusted now; nothing was done. Set the clock that is wrong (NTP), then try again."""

    remedy = "Try again {retry}; `bindings doctor` shows the clocks."


class SchemaOutOfDate(BindingsError):
    """The database schema is older than this version needs, or too new for it. Run `bindings db upgrade`."""

    code = "schema-out-of-date"
    http_status = 503


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasonInfo:
    """What one `Reason` means, in every place that explains it.

    `sentence` is for the history. `error` is the class that `error_for` makes of a binding that failed for this
    reason, or None if no binding fails for it; `message` is its text (None: that of the class) and `retry_after_s`
    the time after which another attempt makes sense. `explanation` is for the operator; None if the provider's
    status explains the failure, or if there is nothing to explain.
    """

    sentence: str
    error: type[BindingsError] | None = None
    message: str | None = None
    retry_after_s: int | None = None
    explanation: Explanation | None = None

    @property
    def safe_to_retry(self) -> bool:
        """Return whether the same call may be repeated after this failure."""
        return self.error is not None and self.error.safe_to_retry


NO_BINDING = "no binding was created; the phones are free"
MAYBE_CREATED = "unknown: a binding may have been created; its phones stay held until this is resolved"

# The one table by reason: errors, history, failure pages and the OpenAPI document read it.
REASONS: Mapping[Reason, ReasonInfo] = MappingProxyType(
    {
        Reason.NEVER_SENT: ReasonInfo(
            sentence="the request was never sent",
            error=ProviderUnreachable,
            message="the request was never sent to the provider, and the phones are free",
            retry_after_s=DEFAULT_RETRY_S,
            explanation=Explanation(
                title="never sent",
                effect=NO_BINDING,
                cause="the provider was not reached (name resolution, the network, TLS), or the process was paused"
                " or its database slow until it was too late to send; a successor is not sent either if the end"
                " of the old binding is not confirmed in time",
                remedy="check BINDINGS_PROVIDER_URL, the network and the load of this host: `bindings doctor`",
                responsible=ResponsibleParty.HOST,
            ),
        ),
        Reason.ABSENT: ReasonInfo(
            sentence="the provider's list proved that it has no such binding",
            error=ProviderUnreachable,
            message="the provider gave no clear answer; its own list later proved that no binding was created,"
            " and the phones are free",
            retry_after_s=DEFAULT_RETRY_S,
            explanation=Explanation(
                title="proved absent",
                effect=NO_BINDING,
                cause="there was no clear answer; two scans of the provider's list then proved that it has no such"
                " binding",
                remedy="nothing: bind again with a new key",
                responsible=ResponsibleParty.PROVIDER,
            ),
        ),
        Reason.VOUCHED: ReasonInfo(
            sentence="an operator stated that the provider has no such binding",
            error=ProviderUnreachable,
            message="the provider gave no clear answer; an operator stated that no binding was created, and the"
            " phones are free",
            retry_after_s=DEFAULT_RETRY_S,
            explanation=Explanation(
                title="marked absent by an operator",
                effect="the phones are free, on the operator's statement",
                cause="an operator saw elsewhere that the provider created no binding; the history has the name"
                " and the reason",
                remedy="nothing, unless a late success follows: then the statement was wrong",
                responsible=ResponsibleParty.NONE,
            ),
        ),
        Reason.ACCOUNT: ReasonInfo(
            sentence="the provider refused the account",
            error=ProviderAccountRefused,
            message="the provider refuses every request of the account; no binding was created and the phones"
            " are free. Run `bindings doctor`",
            retry_after_s=ACCOUNT_RETRY_S,
        ),
        Reason.CLOCK: ReasonInfo(
            sentence="the provider refused the request's timestamp",
            error=ProviderAccountRefused,
            message="the provider refused the request's timestamp as too old or too new; no binding was created"
            " and the phones are free. Keep this host's clock on NTP",
            retry_after_s=DEFAULT_RETRY_S,
        ),
        Reason.IN_USE: ReasonInfo(
            sentence="the provider reported a phone as in use",
            error=PhoneInUseAtProvider,
            retry_after_s=IN_USE_RETRY_S,
        ),
        Reason.NO_NUMBER: ReasonInfo(
            sentence="the provider's pool had no middle number available",
            error=NoMiddleNumber,
            message="the pool has no middle number available; no binding was created and the phones are free",
            retry_after_s=POOL_RETRY_S,
        ),
        Reason.REQUEST: ReasonInfo(
            sentence="the provider refused the request",
            error=ProviderRefused,
            message="the provider refused the request; no binding was created and the phones are free. Change the"
            " request before you try again",
        ),
        Reason.NO_CLEAR_ANSWER: ReasonInfo(
            sentence="the provider gave no clear answer",
            explanation=Explanation(
                title="no clear answer",
                effect=MAYBE_CREATED,
                cause="the response was lost, late, cut off or could not be read",
                remedy="nothing: a scan of the provider's list resolves it; if they increase, check the network",
                responsible=ResponsibleParty.PROVIDER,
            ),
        ),
        Reason.BIND_ID_TAKEN: ReasonInfo(
            sentence="the provider returned a bindId that another binding has",
            explanation=Explanation(
                title="duplicate bindId",
                effect=MAYBE_CREATED,
                cause="the provider returned a bindId that another binding has",
                remedy="report it to the provider, with both bindings",
                responsible=ResponsibleParty.PROVIDER,
            ),
        ),
        Reason.NOT_SETTLED: ReasonInfo(
            sentence="the process ended before the response was recorded",
            explanation=Explanation(
                title="never settled",
                effect=MAYBE_CREATED,
                cause="the process that called the provider died, or its database was unavailable",
                remedy="nothing: a scan of the provider's list resolves it; find out why the process died",
                responsible=ResponsibleParty.HOST,
            ),
        ),
        Reason.ASKED: ReasonInfo(sentence="unbind requested, and confirmed by the provider"),
        Reason.REPLACED: ReasonInfo(sentence="unbound to be replaced, and confirmed by the provider"),
        Reason.NOT_FOUND: ReasonInfo(sentence="unbind requested; the provider no longer had the binding"),
        Reason.GONE_AT_PROVIDER: ReasonInfo(sentence="the provider no longer had the binding"),
        Reason.ADOPTED: ReasonInfo(sentence="found in the provider's list"),
    }
)

# Every error that a bind which failed can mean, each class once.
BIND_FAILURES: tuple[type[BindingsError], ...] = tuple(
    dict.fromkeys(info.error for info in REASONS.values() if info.error is not None)
)


def error_for(binding: Binding, *, cause: str | None = None, holder: Holder | None = None) -> BindingsError:
    """Return the exception for a binding that did not become active.

    It is the same for the first caller and for those who repeat the idempotency key meanwhile. A bind has used up
    its key if its absence was proved or stated by an operator, or if its unbind was requested: the message says
    so, and the same call is not safe to retry. `cause` is the text of the outcome, if this call made one: the
    provider's own words, or why the request was not sent. `holder` is the holder of a phone that the provider
    reported as in use.
    """
    if binding.state is not State.FAILED:
        return OutcomeUnknown(binding=binding)
    error = _failure(binding, cause, holder)
    if binding.idempotency_key is not None:
        error.args = (f"{error.args[0]}. The idempotency key of this bind is used up: try again with a new one",)
        error.safe_to_retry, error.retry_after_s = False, None
    return error


def _failure(binding: Binding, cause: str | None, holder: Holder | None) -> BindingsError:
    info = _info(binding.reason)
    status, binding_id = binding.provider_status, binding.id
    kind = info.error or ProviderRefused
    if issubclass(kind, PhoneInUseAtProvider):
        return kind(info.message, holder=holder or _unknown_holder(binding), status=status, binding_id=binding_id)
    if issubclass(kind, ProviderRefused):
        return kind(
            info.message,
            status=status,
            reason=cause,
            retry_after_s=info.retry_after_s,
            binding_id=binding_id,
        )
    message = info.message
    if binding.reason == Reason.NEVER_SENT and cause:
        message = f"the request was never sent ({cause}) and the phones are free"
    return kind(message, retry_after_s=info.retry_after_s, binding_id=binding_id)


def _info(reason: str | None) -> ReasonInfo:
    """Return the entry of a stored reason; an entry of its own for one that only a later version knows."""
    try:
        return REASONS[Reason(reason or Reason.REQUEST)]
    except ValueError:
        message = f"the bind failed: {reason}; no binding was created and the phones are free"
        return ReasonInfo(sentence=str(reason), error=ProviderRefused, message=message)


def _unknown_holder(binding: Binding) -> Holder:
    # Behind the unbind of its predecessor, a successor's -35 is most likely a provider that is seconds late.
    retry_after_s = IN_USE_RETRY_S if binding.replaces is None else DEFAULT_RETRY_S
    return Holder(
        id=None,
        actor=None,
        reference=None,
        mode=None,
        state=None,
        held_until=binding.held_until + timedelta(seconds=retry_after_s),
        retry_after_s=retry_after_s,
        why="refused",
    )


def _restore(kind: type[BindingsError], args: tuple[Any, ...], attributes: dict[str, Any]) -> BindingsError:
    error = kind.__new__(kind, *args)
    error.__dict__ |= attributes
    return error


def _first_line(kind: type[BindingsError]) -> str:
    return (docstrings.of(kind) or kind.__name__).partition("\n")[0].rstrip(".")


if not TYPE_CHECKING:  # hidden from the type checker, which would accept every name after it

    def __getattr__(name: str) -> Any:
        if name == "Fault":
            warnings.warn("bindings.errors.Fault is now FieldError", DeprecationWarning, stacklevel=2)
            return FieldError
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
