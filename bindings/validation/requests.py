"""Checks of the arguments of each public call, before any I/O.

One function for each kind of call: it takes the arguments as they came and returns them typed, in normal form. It
finds all field errors of a call before it raises `InvalidRequest`, which names the fields and repeats no value.
What a single value must be is in `validation.fields`; here is which values a call takes, and how they go together.
The rules of a bind are the provider's (docs/reference/provider-api.md, section 1). `--help` uses this module: it
imports nothing heavy.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, Unpack

from bindings.clock import MAX_SKEW_S
from bindings.domain.access_log import AccessFilters
from bindings.domain.binding import BindRequest, Caller
from bindings.domain.search_filters import Order, RefusalFilters, SearchFilters
from bindings.domain.selection import Selection
from bindings.domain.serialization import instant
from bindings.errors import FieldError, InvalidRequest, NotFound
from bindings.validation import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from bindings.domain.binding import Binding, EventKind, Mode
    from bindings.domain.phone import Phone
    from bindings.domain.roles import Role
    from bindings.domain.selection import SelectionToken
    from bindings.settings import Settings, SettingsValues

Value = TypeVar("Value")

MIN_DIGITS_A = 1
MIN_DIGITS_B = 4
_check_phone_a = partial(fields.phone, min_digits=MIN_DIGITS_A)
_check_phone_b = partial(fields.phone, min_digits=MIN_DIGITS_B)


class FieldErrors:
    """Collects the field errors of one call; `raise_if_any` ends the collecting."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def check(self, field: str, check: Callable[[Any], Value], value: object) -> Value | None:
        """Return the checked value, or None after adding a field error."""
        try:
            return check(fields.plain_text(value) if isinstance(value, str) else value)
        except ValueError as error:
            self.add(field, str(error))
            return None

    def optional(self, field: str, check: Callable[[Any], Value], value: object) -> Value | None:
        """Return the checked value, or None if the value is None or after adding a field error."""
        return None if value is None else self.check(field, check, value)

    def add(self, field: str, message: str) -> None:
        """Add a field error that no check of a single value finds."""
        self.errors.append(FieldError(field, message))

    def raise_if_any(self) -> None:
        """Raise `InvalidRequest` with all field errors, if there are any."""
        if self.errors:
            raise InvalidRequest(self.errors)


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
    max_expire_s: object = None,
    replaces: str | None = None,
) -> BindRequest:
    """Return the arguments of a bind as a request that can be sent to the provider.

    `replaces` is the id of the predecessor, as the database has it.
    """
    errors = FieldErrors()
    phones = _phone_pair(errors, phone_a, phone_b)
    checked_pool = errors.check("pool_number", fields.pool_number, pool_number)
    duration_s = errors.check("expire_s", fields.expire_s, expire_s)
    checked_mode = errors.check("mode", fields.mode, mode)
    checked_app = _app_id(errors, app_id)
    checked_reference = errors.optional("reference", fields.single_line("reference"), reference)
    checked_key = errors.optional("idempotency_key", fields.single_line("idempotency_key"), idempotency_key)
    lead_time_s = errors.optional("warn_s", fields.warn_s, warn_s)
    if lead_time_s and duration_s and lead_time_s >= duration_s:
        errors.add("warn_s", "must be less than expire_s")
    longest_s = errors.optional("max_expire_s", fields.expire_s, max_expire_s)
    if longest_s and duration_s and longest_s < duration_s:
        errors.add("max_expire_s", "must be at least expire_s")
    errors.raise_if_any()
    if phones is None or checked_pool is None or duration_s is None or checked_mode is None or checked_app is None:
        raise AssertionError("unreachable: each missing value is a field error")
    return BindRequest(
        phone_a=phones[0],
        phone_b=phones[1],
        pool_number=checked_pool,
        expire_s=duration_s,
        mode=checked_mode,
        app_id=checked_app,
        reference=checked_reference,
        idempotency_key=checked_key,
        warn_s=lead_time_s,
        max_expire_s=longest_s,
        replaces=replaces,
    )


class Replacement(NamedTuple):
    """What the successor of a binding is to have; None: what the predecessor has (no idempotency key)."""

    phone_a: Phone | None
    phone_b: Phone | None
    mode: Mode | None
    pool_number: str | None
    expire_s: int | None
    max_expire_s: int | None
    reference: str | None
    idempotency_key: str | None
    force: bool


def replacement(
    *,
    phone_a: object = None,
    phone_b: object = None,
    mode: object = None,
    pool_number: object = None,
    expire_s: object = None,
    max_expire_s: object = None,
    reference: object = None,
    idempotency_key: object = None,
    force: object = False,
) -> Replacement:
    """Return the arguments of a replace; how they go together with the predecessor, `successor_request` checks."""
    errors = FieldErrors()
    checked = Replacement(
        phone_a=errors.optional("phone_a", fields.phone, phone_a),
        phone_b=errors.optional("phone_b", fields.phone, phone_b),
        mode=errors.optional("mode", fields.mode, mode),
        pool_number=errors.optional("pool_number", fields.pool_number, pool_number),
        expire_s=errors.optional("expire_s", fields.expire_s, expire_s),
        max_expire_s=errors.optional("max_expire_s", fields.expire_s, max_expire_s),
        reference=errors.optional("reference", fields.single_line("reference"), reference),
        idempotency_key=errors.optional("idempotency_key", fields.single_line("idempotency_key"), idempotency_key),
        force=bool(errors.check("force", fields.boolean, force)),
    )
    errors.raise_if_any()
    return checked


def successor_request(predecessor: Binding, changes: Replacement) -> BindRequest:
    """Return the request of the successor: what is left out is the predecessor's.

    With `expire_s` alone the longest time is at least that. The predecessor's warning is dropped if the successor
    is too short for it.
    """
    expire_s = changes.expire_s or predecessor.expire_s
    max_expire_s = changes.max_expire_s
    if max_expire_s is None and predecessor.max_expire_s is not None:
        max_expire_s = max(predecessor.max_expire_s, expire_s)
    warn_s = predecessor.warn_s or 0
    return bind_request(
        phone_a=changes.phone_a or predecessor.phone_a,
        phone_b=changes.phone_b or predecessor.phone_b,
        pool_number=changes.pool_number or predecessor.pool_number,
        expire_s=expire_s,
        mode=changes.mode or predecessor.mode,
        app_id=predecessor.app_id,
        reference=changes.reference or predecessor.reference,
        idempotency_key=changes.idempotency_key,
        warn_s=warn_s if warn_s < expire_s else 0,
        max_expire_s=max_expire_s,
        replaces=predecessor.id,
    )


def extension(*, expire_s: object) -> int:
    """Return how many seconds a binding is to live from now on."""
    errors = FieldErrors()
    duration_s = errors.check("expire_s", fields.expire_s, expire_s)
    errors.raise_if_any()
    return duration_s or 0


def unbind(*, reason: object, after_s: object) -> tuple[str | None, int | None]:
    """Return the reason of an unbind, and in how many seconds the binding is to end; None: now."""
    errors = FieldErrors()
    checked_reason = errors.optional("reason", fields.single_line("reason"), reason)
    delay_s = errors.optional("after_s", fields.expire_s, after_s)
    errors.raise_if_any()
    return checked_reason, delay_s


def unbind_all(
    *, phone: object, middle_number: object, reference: object, reason: object, dry_run: object, token: object
) -> tuple[Selection, str, SelectionToken | None]:
    """Return what is to be unbound, the reason, and the token of the dry run before (None: there was none)."""
    errors = FieldErrors()
    _require_one(errors, phone=phone, middle_number=middle_number, reference=reference)
    selection = Selection(
        phone=errors.optional("phone", fields.phone, phone),
        middle_number=errors.optional("middle_number", fields.middle_number, middle_number),
        reference=errors.optional("reference", fields.single_line("reference"), reference),
    )
    checked_reason = errors.check("reason", fields.single_line("reason"), reason)
    checked_token = errors.optional("token", fields.selection_token, token)
    if errors.check("dry_run", fields.boolean, dry_run) and token is not None:
        errors.add("token", "must not be used with dry_run")
    errors.raise_if_any()
    return selection, checked_reason or "", checked_token


def check_request(*, phone_a: object, phone_b: object, mode: object, app_id: object) -> BindRequest:
    """Return the arguments of `check` as a bind request.

    Its pool and its duration are placeholders: no conflict depends on them.
    """
    return bind_request(phone_a=phone_a, phone_b=phone_b, mode=mode, app_id=app_id, pool_number="0", expire_s=1)


class LookupFields(NamedTuple):
    """What a lookup finds bindings by: a phone, a reference, or a middle number and perhaps a party of it."""

    phone: Phone | None
    middle_number: str | None
    party: Phone | None
    reference: str | None


def lookup(
    *, phone: object = None, middle_number: object = None, party: object = None, reference: object = None
) -> LookupFields:
    """Return the arguments of a lookup.

    Exactly one of the phone, the middle number and the reference is required; a party only goes with a middle
    number.
    """
    errors = FieldErrors()
    _require_one(errors, phone=phone, middle_number=middle_number, reference=reference)
    if party is not None and middle_number is None:
        errors.add("party", "must be used with middle_number")
    checked = LookupFields(
        phone=errors.optional("phone", fields.phone, phone),
        middle_number=errors.optional("middle_number", fields.middle_number, middle_number),
        party=errors.optional("party", fields.phone, party),
        reference=errors.optional("reference", fields.single_line("reference"), reference),
    )
    errors.raise_if_any()
    return checked


def trace(
    *, middle_number: object, at: object, party: object, window_s: object
) -> tuple[str, datetime, Phone | None, float]:
    """Return the middle number, the time, the party and the window in seconds of a trace."""
    errors = FieldErrors()
    number = errors.check("middle_number", fields.middle_number, middle_number)
    time = errors.check("at", fields.instant, at)
    checked_party = errors.optional("party", fields.phone, party)
    checked_window_s = errors.check("window_s", fields.window_s, window_s)
    errors.raise_if_any()
    if number is None or time is None or checked_window_s is None:
        raise AssertionError("unreachable: each missing value is a field error")
    return number, time, checked_party, checked_window_s


def past_instant(field: str, at: datetime, now: datetime) -> datetime:
    """Return a time that has passed: `at`, or now if it is later by no more than clocks may differ."""
    if at > now + timedelta(seconds=MAX_SKEW_S):
        clock = instant(now.replace(microsecond=0))
        message = f"must not be later than now, {clock} by the database's clock: check the date and the zone"
        raise InvalidRequest.of_field(field, message)
    return min(at, now)


# The check of each filter of a search. To add a filter, add it here, to `SearchFilters`, to
# `BindingService.search` and to the models in `web.api.requests`; a test compares these places.
FILTER_CHECKS: dict[str, Callable[[Any], Any]] = {
    "state": fields.state,
    "provider_status": fields.single_line("provider_status"),
    "state_reason": fields.single_line("state_reason"),
    "active": fields.boolean,
    "mode": fields.mode,
    "phone": fields.phone,
    "middle_number": fields.middle_number,
    "reference": fields.single_line("reference"),
    "reference_prefix": fields.single_line("reference"),
    "idempotency_key": fields.single_line("idempotency_key"),
    "bind_id": fields.single_line("bind_id"),
    "pool_number": fields.pool_number,
    "app_id": fields.single_line("app_id"),
    "actor": fields.single_line("actor"),
    "requested_from": fields.instant,
    "requested_to": fields.instant,
}


def filters(
    *, limit: object, cursor: object, **values: object
) -> tuple[SearchFilters, int, tuple[datetime, str] | None]:
    """Return the filters of a search, the size of the page, and the row before it (None: the first page).

    `values` are the filters by name. Raises `KeyError` for a name that is none of `FILTER_CHECKS`.
    """
    errors = FieldErrors()
    checked = _filters(errors, values)
    size, position = _page(errors, limit=limit, cursor=cursor)
    errors.raise_if_any()
    return checked, size, position


def binding_list(
    *, order: object, cursor: object, **values: object
) -> tuple[SearchFilters, Order, tuple[datetime, str] | None]:
    """Return the filters of the list of bindings, its order, and the row before the page (None: the first page).

    `values` are as for `filters`. The soonest ends are those of bindings that are active now.
    """
    errors = FieldErrors()
    checked = _filters(errors, values)
    checked_order = errors.check("order", fields.order, order)
    if checked_order is Order.ENDS_SOONEST and not checked.active:
        errors.add("order", f"{Order.ENDS_SOONEST} is for bindings that are active now: set active as well")
    position = errors.optional("cursor", fields.page_position, cursor)
    errors.raise_if_any()
    return checked, checked_order or Order.NEWEST, position


def _filters(errors: FieldErrors, values: Mapping[str, object]) -> SearchFilters:
    checked = {name: errors.optional(name, FILTER_CHECKS[name], value) for name, value in values.items()}
    start, end = checked.get("requested_from"), checked.get("requested_to")
    _check_order(errors, "requested_from", start, "requested_to", end)
    return SearchFilters(**checked)


def refusal_filters(
    *,
    limit: object,
    cursor: object,
    reference: object = None,
    reference_prefix: object = None,
    phone: object = None,
    request_id: object = None,
    actor: object = None,
) -> tuple[RefusalFilters, int, tuple[datetime, str] | None]:
    """Return the filters of a search of refused binds, the size of the page, and the row before it."""
    errors = FieldErrors()
    checked = RefusalFilters(
        reference=errors.optional("reference", fields.single_line("reference"), reference),
        reference_prefix=errors.optional("reference_prefix", fields.single_line("reference"), reference_prefix),
        phone=errors.optional("phone", fields.phone, phone),
        request_id=errors.optional("request_id", fields.single_line("request_id"), request_id),
        actor=errors.optional("actor", fields.single_line("actor"), actor),
    )
    size, position = _page(errors, limit=limit, cursor=cursor)
    errors.raise_if_any()
    return checked, size, position


def access_filters(
    *,
    limit: object,
    cursor: object = None,  # noqa: ARG001 -- has positions of two lists: its reader checks it
    kind: object = None,
    actor: object = None,
    key_id: object = None,
    binding_id: object = None,
    reason_prefix: object = None,
    since: object = None,
    until: object = None,
) -> tuple[AccessFilters, int]:
    """Return the filters of the access log, and the size of the page."""
    errors = FieldErrors()
    checked = AccessFilters(
        kind=errors.optional("kind", fields.access_kind, kind),
        actor=errors.optional("actor", fields.single_line("actor"), actor),
        key_id=errors.optional("key_id", fields.uuid_text, key_id),
        binding_id=errors.optional("binding_id", fields.uuid_text, binding_id),
        reason_prefix=errors.optional("reason_prefix", fields.single_line("reason"), reason_prefix),
        since=errors.optional("since", fields.instant, since),
        until=errors.optional("until", fields.instant, until),
    )
    _check_order(errors, "since", checked.since, "until", checked.until)
    size = errors.check("limit", fields.limit, limit)
    errors.raise_if_any()
    return checked, size or fields.MAX_LIMIT


def page(*, limit: object, cursor: object) -> tuple[int, tuple[datetime, str] | None]:
    """Return the size of a page of a list, and the row after which it starts (None: the first page)."""
    errors = FieldErrors()
    checked = _page(errors, limit=limit, cursor=cursor)
    errors.raise_if_any()
    return checked


def feed(*, after: object, limit: object, wait_s: object = 0) -> tuple[tuple[int, int], int]:
    """Return the position after which the change feed is read, and the size of the page.

    `fields.LATEST` is valid and has the position of the beginning: where the feed ends, only the database knows.
    """
    errors = FieldErrors()
    position = errors.optional("after", fields.feed_position, None if after == fields.LATEST else after)
    size = errors.check("limit", fields.limit, limit)
    errors.check("wait_s", fields.wait_s, wait_s)
    errors.raise_if_any()
    return position or (0, 0), size or fields.MAX_LIMIT


def since(value: object) -> datetime | None:
    """Return the time from which on to count (None: from the beginning)."""
    errors = FieldErrors()
    start = errors.optional("since", fields.instant, value)
    errors.raise_if_any()
    return start


def period(*, since: object, until: object) -> tuple[datetime | None, datetime | None]:
    """Return the start and the end of an export's period; its fields are called `from` and `to`."""
    errors = FieldErrors()
    start, end = errors.optional("from", fields.instant, since), errors.optional("to", fields.instant, until)
    _check_order(errors, "from", start, "to", end)
    errors.raise_if_any()
    return start, end


def reason(value: object) -> str:
    """Return a reason that is required."""
    errors = FieldErrors()
    checked = errors.check("reason", fields.single_line("reason"), value)
    errors.raise_if_any()
    return checked or ""


def reveal(*, reason: object, subject: object) -> tuple[str, str]:
    """Return why full phones are about to be shown, and what is shown."""
    errors = FieldErrors()
    checked_reason = errors.check("reason", fields.single_line("reason"), reason)
    checked_subject = errors.check("what", fields.single_line("reason"), subject)
    errors.raise_if_any()
    return checked_reason or "", checked_subject or ""


def erasure(*, phone: object, reason: object, ticket: object) -> tuple[Phone, str, str | None]:
    """Return the phone of an erasure, why it is erased, and the id of its ticket."""
    errors = FieldErrors()
    checked_phone = errors.check("phone", fields.phone, phone)
    checked_reason = errors.check("reason", fields.single_line("reason"), reason)
    checked_ticket = errors.optional("ticket", fields.single_line("ticket"), ticket)
    errors.raise_if_any()
    if checked_phone is None or checked_reason is None:
        raise AssertionError("unreachable: each missing value is a field error")
    return checked_phone, checked_reason, checked_ticket


def subject(*, phone: object, reason: object, output: object) -> tuple[str, str]:
    """Return the file that an access request is written to, and its reason, if its phone is one."""
    errors = FieldErrors()
    errors.check("phone", fields.phone, phone)
    checked_reason = errors.check("reason", fields.single_line("reason"), reason)
    if not isinstance(output, str) or output in ("", "-"):
        errors.add("output", "must name a file: no phone is written to standard output")
    errors.raise_if_any()
    return str(output), checked_reason or ""


def optional_reason(value: object) -> str | None:
    """Return a reason, or None if there is none."""
    return None if value is None else reason(value)


def caller(*, actor: object, request_id: object, key_id: object = None) -> Caller:
    """Return the caller of a change, as the history records it."""
    errors = FieldErrors()
    checked_actor = errors.check("actor", fields.single_line("actor"), actor)
    checked_request = errors.optional("request_id", fields.single_line("request_id"), request_id)
    checked_key = errors.optional("key_id", fields.uuid_text, key_id)
    errors.raise_if_any()
    return Caller(actor=checked_actor or "", request_id=checked_request, key_id=checked_key)


class KeyFields(TypedDict):
    """The fields of a new API key."""

    name: str
    role: Role
    rate_limit: int | None
    expires_at: datetime | None


def key(*, name: object, role: object, rate_limit: object, expires_at: object) -> KeyFields:
    """Return the fields of a new API key."""
    errors = FieldErrors()
    checked_name = errors.check("name", fields.single_line("name"), name)
    checked_role = errors.check("role", fields.role, role)
    checked_rate_limit = errors.optional("rate_limit", fields.rate_limit, rate_limit)
    checked_expires_at = errors.optional("expires_at", fields.instant, expires_at)
    errors.raise_if_any()
    if checked_name is None or checked_role is None:
        raise AssertionError("unreachable: each missing value is a field error")
    return KeyFields(
        name=checked_name, role=checked_role, rate_limit=checked_rate_limit, expires_at=checked_expires_at
    )


def settings(environment: Mapping[str, str] | None = None, **overrides: Unpack[SettingsValues]) -> Settings:
    """Return the settings from the `environment` (None: the process's); `overrides` are fields of `Settings`.

    `InvalidRequest` names each wrong setting by its variable.
    """
    from bindings.settings import SettingsError, load

    try:
        return load(environment, **overrides)
    except SettingsError as error:
        raise InvalidRequest([FieldError(variable, message) for variable, message in error.errors]) from None


def binding_id(value: object) -> str:
    """Return a binding's id in its canonical form; raise `NotFound` if it is not a UUID."""
    return identifier(value, "binding")


def binding_ids(values: object) -> list[str]:
    """Return ids of bindings in their canonical form, in their order.

    Raises `InvalidRequest` if they are not iterable, or a single id, and `NotFound` if one of them is not a UUID.
    """
    errors = FieldErrors()
    checked = errors.check("binding_ids", fields.items, values)
    errors.raise_if_any()
    return [binding_id(value) for value in checked or ()]


def identifier(value: object, noun: str) -> str:
    """Return the id of a `noun` in its canonical form; raise `NotFound` if it is not a UUID."""
    try:
        return fields.uuid_text(value)
    except ValueError:
        raise NotFound(f"there is no such {noun}: the id is not a UUID") from None


def heads(values: Sequence[object]) -> dict[int, str]:
    """Return heads of the sealed history, `N:HASH`, as the hash by the number of the seal."""
    matches = [re.fullmatch(r"([1-9][0-9]{0,8}):([0-9a-f]{64})", str(value)) for value in values]
    if not all(matches):
        raise InvalidRequest.of_field("head", "must be N:HASH, as `bindings audit head` prints it")
    return {int(match[1]): match[2] for match in matches if match is not None}


def webhook(*, url: object, kinds: object) -> tuple[str, tuple[EventKind, ...] | None]:
    """Return the URL of a webhook receiver, and the kinds of event that are sent to it (None: all kinds)."""
    errors = FieldErrors()
    checked_url = errors.check("url", fields.url, url)
    checked_kinds = errors.optional("kinds", fields.event_kinds, kinds)
    errors.raise_if_any()
    return checked_url or "", checked_kinds


def deliveries(*, state: object, cursor: object, limit: object) -> tuple[str | None, int | None, int]:
    """Return the state of the deliveries to list, the position after which the page starts, and its size."""
    errors = FieldErrors()
    checked_state = errors.optional("state", fields.delivery_state, state)
    position = errors.optional("cursor", fields.event_position, cursor)
    size = errors.check("limit", fields.limit, limit)
    errors.raise_if_any()
    return checked_state, position, size or fields.MAX_LIMIT


def _require_one(errors: FieldErrors, *, phone: object, middle_number: object, reference: object) -> None:
    if [phone, middle_number, reference].count(None) != 2:  # noqa: PLR2004 -- all but one
        errors.add("phone", "or middle_number or reference is needed, and only one of them")


def _check_order(
    errors: FieldErrors, start_field: str, start: datetime | None, end_field: str, end: datetime | None
) -> None:
    """Add an error for both fields if a period ends at or before its start, so that it contains no instant."""
    if start is not None and end is not None and end <= start:
        errors.add(start_field, f"must be earlier than {end_field}")
        errors.add(end_field, f"must be later than {start_field}")


def _page(errors: FieldErrors, *, limit: object, cursor: object) -> tuple[int, tuple[datetime, str] | None]:
    size = errors.check("limit", fields.limit, limit)
    return size or fields.MAX_LIMIT, errors.optional("cursor", fields.page_position, cursor)


def _phone_pair(errors: FieldErrors, phone_a: object, phone_b: object) -> tuple[Phone, Phone] | None:
    a = errors.check("phone_a", _check_phone_a, phone_a)
    b = errors.check("phone_b", _check_phone_b, phone_b)
    if a is None or b is None:
        return None
    if a == b:
        errors.add("phone_b", "must differ from phone_a")
        return a, b
    codes = a.country_code(), b.country_code()
    if None not in codes and codes[0] != codes[1]:
        errors.add("phone_b", "must have the country code of phone_a")
    return a, b


def _app_id(errors: FieldErrors, value: object) -> str | None:
    if value is None:
        errors.add("app_id", "is needed: pass it, or set BINDINGS_PROVIDER_APP_ID")
        return None
    return errors.check("app_id", fields.single_line("app_id"), value)
