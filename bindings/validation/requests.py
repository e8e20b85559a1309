"""The arguments of every public call, checked and normalised before any I/O.

One function for each kind of call. All faults of a call are found at once and raised as one `InvalidRequest`,
which names fields and never repeats a value. What a single value must be is in `values`; here is how the values of
a call belong together. The rules of a bind are the provider's (design: provider-api section 1).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from bindings.domain.binding import BindRequest, Caller
from bindings.domain.phone import Phone
from bindings.errors import FieldError, InvalidRequest, NotFound
from bindings.validation import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from bindings.domain.binding import EventKind
    from bindings.settings import Settings

Value = TypeVar("Value")

MIN_DIGITS_A = 1
MIN_DIGITS_B = 4


class FieldErrors:
    """Collects the faults of one call. `raise_all` ends the collecting."""

    def __init__(self) -> None:
        self.faults: list[FieldError] = []

    def check(self, field: str, check: Callable[[Any], Value], value: object) -> Value | None:
        """The checked value, or None and a fault under the field's name."""
        try:
            return check(value)
        except ValueError as fault:
            self.faults.append(FieldError(field, str(fault)))
            return None

    def optional(self, field: str, check: Callable[[Any], Value], value: object) -> Value | None:
        """Like `take`, but None is nothing to check."""
        return None if value is None else self.check(field, check, value)

    def fault(self, field: str, message: str) -> None:
        """Add a fault that lies between fields."""
        self.faults.append(FieldError(field, message))

    def raise_all(self) -> None:
        """Raise `InvalidRequest` if anything was wrong."""
        if self.faults:
            raise InvalidRequest(self.faults)


def bind_request(
    *,
    phone_a: object,
    phone_b: object,
    pool_number: object,
    expire_s: object,
    mode: object,
    app_id: object,
    reference: object = None,
    idempotency_key: object = None,
    warn_s: object = None,
) -> BindRequest:
    """A bind's arguments as a request that the provider can be asked; raises `InvalidRequest` with all faults."""
    checks = FieldErrors()
    pair = _phone_pair(checks, phone_a, phone_b)
    pool = checks.check("pool_number", fields.pool_number, pool_number)
    seconds = checks.check("expire_s", fields.expire_s, expire_s)
    kind = checks.check("mode", fields.mode, mode)
    app = _app_id(checks, app_id)
    said = checks.optional("reference", fields.single_line("reference"), reference)
    key = checks.optional("idempotency_key", fields.single_line("idempotency_key"), idempotency_key)
    lead = checks.optional("warn_s", fields.warn_s, warn_s)
    if lead and seconds and lead >= seconds:
        checks.fault("warn_s", "must be less than expire_s")
    checks.raise_all()
    if pair is None or pool is None or seconds is None or kind is None or app is None:
        raise AssertionError("unreachable: what is missing is a fault")
    return BindRequest(
        phone_a=pair[0],
        phone_b=pair[1],
        pool_number=pool,
        expire_s=seconds,
        mode=kind,
        app_id=app,
        reference=said,
        idempotency_key=key,
        warn_s=lead,
    )


def check_request(*, phone_a: object, phone_b: object, mode: object, app_id: object) -> BindRequest:
    """What `check` asks: a request without pool and duration, which no conflict depends on."""
    return bind_request(phone_a=phone_a, phone_b=phone_b, mode=mode, app_id=app_id, pool_number="0", expire_s=1)


def lookup(
    *, phone: object, middle_number: object, party: object
) -> tuple[Phone | None, str | None, Phone | None]:
    """The arguments of a lookup: exactly one of phone and middle_number; party only with the latter."""
    checks = FieldErrors()
    if (phone is None) == (middle_number is None):
        checks.fault("phone", "or middle_number is needed, and not both")
    if party is not None and middle_number is None:
        checks.fault("party", "goes with middle_number")
    found = (
        checks.optional("phone", Phone, phone),
        checks.optional("middle_number", fields.middle_number, middle_number),
        checks.optional("party", Phone, party),
    )
    checks.raise_all()
    return found


def trace(
    *, middle_number: object, at: object, party: object, window_s: object
) -> tuple[str, datetime, Phone | None, float]:
    """The arguments of a trace."""
    checks = FieldErrors()
    number = checks.check("middle_number", fields.middle_number, middle_number)
    instant = checks.check("at", fields.instant, at)
    who = checks.optional("party", Phone, party)
    window = checks.check("window_s", fields.window_s, window_s)
    checks.raise_all()
    if number is None or instant is None or window is None:
        raise AssertionError("unreachable: what is missing is a fault")
    return number, instant, who, window


def filters(*, limit: object, cursor: object, **given: object) -> tuple[dict[str, Any], int, Any]:
    """The arguments of a search: the checked filters, the limit, and the position that the cursor names."""
    checks = FieldErrors()
    by_name: dict[str, Callable[[Any], Any]] = {
        "state": fields.state,
        "mode": fields.mode,
        "phone": Phone,
        "middle_number": fields.middle_number,
        "reference": fields.single_line("reference"),
        "bind_id": fields.single_line("bind_id"),
        "pool_number": fields.pool_number,
        "app_id": fields.single_line("app_id"),
        "actor": fields.single_line("actor"),
        "requested_from": fields.instant,
        "requested_to": fields.instant,
    }
    found = {name: checks.optional(name, by_name[name], value) for name, value in given.items()}
    size = checks.check("limit", fields.limit, limit)
    position = checks.optional("cursor", fields.page_position, cursor)
    checks.raise_all()
    return found, size or fields.MAX_LIMIT, position


def feed(*, after: object, limit: object, wait_s: object = 0) -> tuple[tuple[int, int], int]:
    """The arguments of the change feed."""
    checks = FieldErrors()
    position = checks.optional("after", fields.feed_position, after)
    size = checks.check("limit", fields.limit, limit)
    checks.check("wait_s", fields.wait_s, wait_s)
    checks.raise_all()
    return position or (0, 0), size or fields.MAX_LIMIT


def period(*, since: object, until: object) -> tuple[datetime | None, datetime | None]:
    """The two ends of an export; the fields are called `from` and `to`."""
    checks = FieldErrors()
    found = checks.optional("from", fields.instant, since), checks.optional("to", fields.instant, until)
    checks.raise_all()
    return found


def reason(value: object) -> str:
    """A reason that must be given."""
    checks = FieldErrors()
    found = checks.check("reason", fields.single_line("reason"), value)
    checks.raise_all()
    return found or ""


def optional_reason(value: object) -> str | None:
    """A reason that may be given."""
    return None if value is None else reason(value)


def caller(*, actor: object, request_id: object) -> Caller:
    """On whose behalf something is done, as it goes into the history."""
    checks = FieldErrors()
    who = checks.check("actor", fields.single_line("actor"), actor)
    request = checks.optional("request_id", fields.single_line("request_id"), request_id)
    checks.raise_all()
    return Caller(actor=who or "", request_id=request)


def key(*, name: object, role: object, rate_limit: object, expires_at: object) -> dict[str, Any]:
    """What a key of the HTTP service is made with."""
    checks = FieldErrors()
    found = {
        "name": checks.check("name", fields.single_line("name"), name),
        "role": checks.check("role", fields.role, role),
        "rate_limit": checks.optional("rate_limit", fields.rate_limit, rate_limit),
        "expires_at": checks.optional("expires_at", fields.instant, expires_at),
    }
    checks.raise_all()
    return found


def settings(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """The settings: what is `given`, and the rest from the `environment` (the process's); faults by variable."""
    from bindings.settings import SettingsError, load

    try:
        return load(environment, **given)
    except SettingsError as error:
        raise InvalidRequest([FieldError(*fault) for fault in error.faults]) from None


def binding_id(value: object) -> str:
    """A binding's id in its canonical form; whatever is no UUID cannot be found."""
    return identifier(value, "binding")


def identifier(value: object, what: str) -> str:
    """The id of `what`, in its canonical form; whatever is no UUID cannot be found."""
    try:
        return str(value if isinstance(value, uuid.UUID) else uuid.UUID(str(value)))
    except ValueError:
        raise NotFound(f"there is no such {what}: the id is not a UUID") from None


def webhook(*, url: object, kinds: object) -> tuple[str, tuple[EventKind, ...] | None]:
    """The address of a receiver, and the kinds of event that it is sent (None: every kind)."""
    checks = FieldErrors()
    address = checks.check("url", fields.url, url)
    wanted = checks.optional("kinds", fields.event_kinds, kinds)
    checks.raise_all()
    return address or "", wanted


def deliveries(*, state: object, cursor: object, limit: object) -> tuple[str | None, int | None, int]:
    """The arguments of a list of deliveries: the state, the position that the cursor names, the limit."""
    checks = FieldErrors()
    wanted = checks.optional("state", fields.delivery_state, state)
    position = checks.optional("cursor", fields.delivery_position, cursor)
    size = checks.check("limit", fields.limit, limit)
    checks.raise_all()
    return wanted, position, size or fields.MAX_LIMIT


def _phone_pair(checks: FieldErrors, phone_a: object, phone_b: object) -> tuple[Phone, Phone] | None:
    a = checks.check("phone_a", lambda value: Phone(value, min_digits=MIN_DIGITS_A), phone_a)
    b = checks.check("phone_b", lambda value: Phone(value, min_digits=MIN_DIGITS_B), phone_b)
    if a is None or b is None:
        return None
    if a == b:
        checks.fault("phone_b", "must differ from phone_a")
        return a, b
    codes = a.country_code(), b.country_code()
    if None not in codes and codes[0] != codes[1]:
        checks.fault("phone_b", "must have the country code of phone_a")
    return a, b


def _app_id(checks: FieldErrors, value: object) -> str | None:
    if value is None:
        checks.fault("app_id", "is needed: give it, or set BINDINGS_PROVIDER_APP_ID")
        return None
    return checks.check("app_id", fields.single_line("app_id"), value)
