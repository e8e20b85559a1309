"""Every error that a caller can meet, in one tree.

    BindingsError
    ├── InvalidRequest            the call's values are wrong; nothing was done
    ├── PhoneInUse                a binding of ours holds a phone; no call was made
    │   └── PhoneInUseAtProvider  something that is not ours holds it at the provider
    ├── IdempotencyMismatch       the key was used for another request
    ├── NotFound                  no such binding, webhook or delivery
    ├── ProviderRefused           the provider said no, for certain
    │   ├── ProviderAccountRefused    ... to the account, whatever the request
    │   └── NoMiddleNumber            ... because the pool is empty
    ├── ProviderUnreachable       the request never left; nothing was done
    ├── OutcomeUnknown            the provider may have acted; the binding is recorded as in doubt
    ├── Busy                      not now: too much in flight, a clock is off, or the database is away
    └── SchemaOutOfDate           the database is not at this version's schema

The class docstring's first line is the message where none is given. Each error says whether the provider may
have acted (`may_have_acted`) and whether the same call may be made again as it is (`safe_to_retry`). No
provider status has a meaning here; that is provider.statuses.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bindings.domain.binding import Holder, Reason, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.domain.binding import Binding

DEFAULT_RETRY_S = 2
ACCOUNT_AGAIN_S = 30
POOL_AGAIN_S = 60


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong value: the field's name and what it must be. The value itself is never repeated."""

    field: str
    message: str


class BindingsError(Exception):
    """Something went wrong in bindings.

    `code` is stable and the same in Python, on the command line and over HTTP; `binding_id` names the
    recorded binding where one exists; `retry_after_s` is when another try makes sense, None where none does.
    `replayed` where it is an earlier call's error, which this call's idempotency key brought back.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    may_have_acted: ClassVar[bool] = False
    safe_to_retry: ClassVar[bool] = False

    def __init__(
        self, message: str | None = None, *, binding_id: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message or _first_line(type(self)))
        self.binding_id = binding_id
        self.retry_after_s = retry_after_s
        self.replayed = False

    def problem(self) -> dict[str, Any]:
        """The error as a problem object (RFC 9457), for the command line and for HTTP."""
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
        return body


class InvalidRequest(BindingsError):
    """The request is not valid; nothing was sent and nothing was written."""

    code = "invalid-request"
    http_status = 422
    exit_code = 2

    def __init__(self, faults: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{fault.field} {fault.message}" for fault in faults))
        self.faults = tuple(faults)

    def problem(self) -> dict[str, Any]:
        """The problem object with one entry in `errors` for each wrong field."""
        listed = [{"field": fault.field, "message": fault.message} for fault in self.faults]
        return super().problem() | {"errors": listed}


class PhoneInUse(BindingsError):
    """A phone is held by another binding; the provider was not called and nothing was written."""

    code = "phone-in-use"
    http_status = 409
    exit_code = 3
    safe_to_retry = True

    def __init__(self, message: str | None = None, *, holder: Holder, binding_id: str | None = None) -> None:
        super().__init__(message, binding_id=binding_id, retry_after_s=holder.retry_after_s)
        self.holder = holder

    def problem(self) -> dict[str, Any]:
        """The problem object with the `holder`."""
        holder = {
            "id": self.holder.id,
            "actor": self.holder.actor,
            "reference": self.holder.reference,
            "mode": self.holder.mode,
            "state": self.holder.state,
            "held_until": self.holder.held_until.isoformat().replace("+00:00", "Z"),
            "retry_after_s": self.holder.retry_after_s,
            "why": self.holder.why,
        }
        return super().problem() | {"holder": holder}


class PhoneInUseAtProvider(PhoneInUse):
    """A phone is held at the provider by something that is not a binding of ours.

    `status` is the provider's; None where a hold refused the bind here and the provider was not called.
    """

    code = "phone-in-use-at-provider"

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

    def problem(self) -> dict[str, Any]:
        """The problem object with the `holder`, and the provider's status where it was called."""
        return super().problem() | ({} if self.status is None else {"provider_status": self.status})


class IdempotencyMismatch(BindingsError):
    """The idempotency key was already used for another request; nothing was sent or written."""

    code = "idempotency-mismatch"
    http_status = 422
    exit_code = 3


class NotFound(BindingsError):
    """There is no such binding."""

    code = "not-found"
    http_status = 404
    exit_code = 4


class ProviderRefused(BindingsError):
    """The provider refused; nothing came into being and the phones are free. Change the request first."""

    code = "provider-refused"
    http_status = 502
    exit_code = 5

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
        """The problem object with the provider's status and reason."""
        return super().problem() | {"provider_status": self.status, "provider_reason": self.reason}


class ProviderAccountRefused(ProviderRefused):
    """The provider refuses the account, whatever is asked; see `bindings doctor`. Nothing came into being."""

    code = "provider-account"
    http_status = 503
    safe_to_retry = True


class NoMiddleNumber(ProviderRefused):
    """The pool has no middle number to lend at the moment; nothing came into being."""

    code = "no-middle-number"
    http_status = 503
    exit_code = 7
    safe_to_retry = True


class ProviderUnreachable(BindingsError):
    """The provider could not be reached; the request was never sent and the phones are free."""

    code = "provider-unreachable"
    http_status = 503
    exit_code = 5
    safe_to_retry = True


class OutcomeUnknown(BindingsError):
    """The provider gave no clear answer and may have acted; it is being resolved: do not bind again."""

    code = "outcome-unknown"
    http_status = 202
    exit_code = 6
    may_have_acted = True

    def __init__(self, message: str | None = None, *, binding: Binding) -> None:
        super().__init__(message, binding_id=binding.id)
        self.binding = binding
        self.status = binding.provider_status


class Busy(BindingsError):
    """Not now; nothing was sent to the provider. Try again shortly."""

    code = "busy"
    http_status = 503
    safe_to_retry = True


class SchemaOutOfDate(BindingsError):
    """The database schema is not the one this version needs; run `bindings db upgrade`."""

    code = "schema-out-of-date"
    http_status = 503


def error_for(binding: Binding, *, said: str | None = None, holder: Holder | None = None) -> BindingsError:
    """The error that a binding which did not become active means for whoever asked for it.

    The same for the first caller and for one who repeats the idempotency key: a binding that failed has used
    its key up, and the message says so. `said` is the provider's own text, where it was just heard; `holder`
    who holds a phone that the provider found in use.
    """
    error = _error_class_for(binding, said, holder)
    if binding.idempotency_key is not None and binding.state is State.FAILED:
        error.args = (f"{error}; its idempotency key is used up: try again with a new one",)
    return error


def _error_class_for(binding: Binding, said: str | None, holder: Holder | None) -> BindingsError:  # noqa: PLR0911 -- one per reason
    if binding.state is not State.FAILED:
        return OutcomeUnknown(binding=binding)
    status, binding_id = binding.provider_status, binding.id
    match binding.reason:
        case Reason.IN_USE:
            found = holder or _unknown_holder(binding)
            return PhoneInUseAtProvider(holder=found, status=status, binding_id=binding_id)
        case Reason.NO_NUMBER:
            return NoMiddleNumber(status=status, reason=said, retry_after_s=POOL_AGAIN_S, binding_id=binding_id)
        case Reason.ACCOUNT:
            return ProviderAccountRefused(
                status=status, reason=said, retry_after_s=ACCOUNT_AGAIN_S, binding_id=binding_id
            )
        case Reason.CLOCK:
            message = "the provider found the request's time stamp too old or too new; the next one is corrected"
            return ProviderAccountRefused(
                message, status=status, reason=said, retry_after_s=DEFAULT_RETRY_S, binding_id=binding_id
            )
        case Reason.NEVER_SENT:
            never_sent = f"the request was never sent ({said})" if said else None
            return ProviderUnreachable(never_sent, retry_after_s=DEFAULT_RETRY_S, binding_id=binding_id)
        case Reason.ABSENT:
            message = (
                "the provider gave no clear answer, and its own list later proved that nothing came into being"
            )
            return ProviderUnreachable(message, retry_after_s=DEFAULT_RETRY_S, binding_id=binding_id)
        case Reason.VOUCHED:
            message = "the provider gave no clear answer, and a person vouched that nothing came into being"
            return ProviderUnreachable(message, retry_after_s=DEFAULT_RETRY_S, binding_id=binding_id)
        case _:
            return ProviderRefused(status=status, reason=said, binding_id=binding_id)


def _unknown_holder(binding: Binding) -> Holder:
    return Holder(
        id=None,
        actor=None,
        reference=None,
        mode=None,
        state=None,
        held_until=binding.held_until,
        retry_after_s=POOL_AGAIN_S,
        why="refused",
    )


def _first_line(kind: type[BindingsError]) -> str:
    return (inspect.getdoc(kind) or kind.__name__).partition("\n")[0].rstrip(".")
