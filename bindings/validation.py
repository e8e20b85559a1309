"""The arguments of every public call, checked and normalised before any I/O.

All faults of a call are found at once and raised as one `InvalidRequest`, which names fields and never
repeats a value. The rules of a bind are the provider's (design: provider-api section 1).
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from bindings.binding import BindRequest, Caller, EventKind, Mode, State
from bindings.errors import Fault, InvalidRequest, NotFound
from bindings.phone import Phone
from bindings.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")

MIN_DIGITS_A = 1
MIN_DIGITS_B = 4
MAX_EXPIRE_S = 259_200  # 72 h
MAX_POOL_NUMBER = 20
MAX_LIMIT = 200
MAX_WINDOW_S = 86_400
MAX_WAIT_S = 30
MAX_URL = 2_048
EARLIEST_YEAR, LATEST_YEAR = 1971, 9_990  # room for windows on either side
LIMITS = {
    "app_id": 64,
    "reference": 255,
    "idempotency_key": 255,
    "bind_id": 64,
    "reason": 255,
    "actor": 128,
    "request_id": 128,
    "name": 64,
}
MAX_RATE_LIMIT = 100_000


class Checks:
    """Collects the faults of one call. `raise_all` ends the collecting."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def take(self, field: str, check: Callable[[Any], Value], value: object) -> Value | None:
        """The checked value, or None and a fault under the field's name."""
        try:
            return check(value)
        except ValueError as fault:
            self.faults.append(Fault(field, str(fault)))
            return None

    def optional(self, field: str, check: Callable[[Any], Value], value: object) -> Value | None:
        """Like `take`, but None is nothing to check."""
        return None if value is None else self.take(field, check, value)

    def fault(self, field: str, message: str) -> None:
        """Add a fault that lies between fields."""
        self.faults.append(Fault(field, message))

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
    checks = Checks()
    pair = _pair(checks, phone_a, phone_b)
    pool = checks.take("pool_number", _pool_number, pool_number)
    seconds = checks.take("expire_s", _expire_s, expire_s)
    kind = checks.take("mode", _mode, mode)
    app = _app_id(checks, app_id)
    said = checks.optional("reference", _line("reference"), reference)
    key = checks.optional("idempotency_key", _line("idempotency_key"), idempotency_key)
    lead = checks.optional("warn_s", _warn_s, warn_s)
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
    checks = Checks()
    if (phone is None) == (middle_number is None):
        checks.fault("phone", "or middle_number is needed, and not both")
    if party is not None and middle_number is None:
        checks.fault("party", "goes with middle_number")
    found = (
        checks.optional("phone", Phone, phone),
        checks.optional("middle_number", _number, middle_number),
        checks.optional("party", Phone, party),
    )
    checks.raise_all()
    return found


def trace(
    *, middle_number: object, at: object, party: object, window_s: object
) -> tuple[str, datetime, Phone | None, float]:
    """The arguments of a trace."""
    checks = Checks()
    number = checks.take("middle_number", _number, middle_number)
    instant = checks.take("at", _instant, at)
    who = checks.optional("party", Phone, party)
    window = checks.take("window_s", _window_s, window_s)
    checks.raise_all()
    if number is None or instant is None or window is None:
        raise AssertionError("unreachable: what is missing is a fault")
    return number, instant, who, window


def filters(*, limit: object, cursor: object, **given: object) -> tuple[dict[str, Any], int, Any]:
    """The arguments of a search: the checked filters, the limit, and the position that the cursor names."""
    checks = Checks()
    by_name: dict[str, Callable[[Any], Any]] = {
        "state": _state,
        "mode": _mode,
        "phone": Phone,
        "middle_number": _number,
        "reference": _line("reference"),
        "bind_id": _line("bind_id"),
        "pool_number": _pool_number,
        "app_id": _line("app_id"),
        "actor": _line("actor"),
        "requested_from": _instant,
        "requested_to": _instant,
    }
    found = {name: checks.optional(name, by_name[name], value) for name, value in given.items()}
    size = checks.take("limit", _limit, limit)
    position = checks.optional("cursor", _position, cursor)
    checks.raise_all()
    return found, size or MAX_LIMIT, position


def feed(*, after: object, limit: object, wait_s: object = 0) -> tuple[tuple[int, int], int]:
    """The arguments of the change feed."""
    checks = Checks()
    position = checks.optional("after", _feed_position, after)
    size = checks.take("limit", _limit, limit)
    checks.take("wait_s", _wait_s, wait_s)
    checks.raise_all()
    return position or (0, 0), size or MAX_LIMIT


def period(*, since: object, until: object) -> tuple[datetime | None, datetime | None]:
    """The two ends of an export; the fields are called `from` and `to`."""
    checks = Checks()
    found = checks.optional("from", _instant, since), checks.optional("to", _instant, until)
    checks.raise_all()
    return found


def reason(value: object) -> str:
    """A reason that must be given."""
    checks = Checks()
    found = checks.take("reason", _line("reason"), value)
    checks.raise_all()
    return found or ""


def optional_reason(value: object) -> str | None:
    """A reason that may be given."""
    return None if value is None else reason(value)


def caller(*, actor: object, request_id: object) -> Caller:
    """On whose behalf something is done, as it goes into the history."""
    checks = Checks()
    who = checks.take("actor", _line("actor"), actor)
    request = checks.optional("request_id", _line("request_id"), request_id)
    checks.raise_all()
    return Caller(actor=who or "", request_id=request)


def key(*, name: object, role: object, rate_limit: object, expires_at: object) -> dict[str, Any]:
    """What a key of the HTTP service is made with."""
    checks = Checks()
    found = {
        "name": checks.take("name", _line("name"), name),
        "role": checks.take("role", _role, role),
        "rate_limit": checks.optional("rate_limit", _rate_limit, rate_limit),
        "expires_at": checks.optional("expires_at", _instant, expires_at),
    }
    checks.raise_all()
    return found


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
    checks = Checks()
    address = checks.take("url", _url, url)
    wanted = checks.optional("kinds", _kinds, kinds)
    checks.raise_all()
    return address or "", wanted


def deliveries(*, state: object, cursor: object, limit: object) -> tuple[str | None, int | None, int]:
    """The arguments of a list of deliveries: the state, the position that the cursor names, the limit."""
    checks = Checks()
    wanted = checks.optional("state", _delivery_state, state)
    position = checks.optional("cursor", _delivery_position, cursor)
    size = checks.take("limit", _limit, limit)
    checks.raise_all()
    return wanted, position, size or MAX_LIMIT


def position_after(requested_at: datetime, last_id: str) -> str:
    """The cursor of the page that follows a row."""
    return base64.urlsafe_b64encode(f"{requested_at.isoformat()} {last_id}".encode()).decode().rstrip("=")


def _pair(checks: Checks, phone_a: object, phone_b: object) -> tuple[Phone, Phone] | None:
    a = checks.take("phone_a", lambda value: Phone(value, min_digits=MIN_DIGITS_A), phone_a)
    b = checks.take("phone_b", lambda value: Phone(value, min_digits=MIN_DIGITS_B), phone_b)
    if a is None or b is None:
        return None
    if a == b:
        checks.fault("phone_b", "must differ from phone_a")
        return a, b
    codes = a.country_code(), b.country_code()
    if None not in codes and codes[0] != codes[1]:
        checks.fault("phone_b", "must have the country code of phone_a")
    return a, b


def _app_id(checks: Checks, value: object) -> str | None:
    if value is None:
        checks.fault("app_id", "is needed: give it, or set BINDINGS_PROVIDER_APP_ID")
        return None
    return checks.take("app_id", _line("app_id"), value)


def _line(field: str) -> Callable[[Any], str]:
    longest = LIMITS[field]

    def check(value: object) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            raise ValueError(f"must be text of 1 to {longest} characters")
        if not value.isprintable():
            raise ValueError("must not have control characters")
        return value

    return check


def _pool_number(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z_.+-]{1,20}", value):
        raise ValueError(f"must be 1 to {MAX_POOL_NUMBER} letters or digits")
    return value


def _number(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\+?[0-9]{1,32}", value):
        raise ValueError("must be 1 to 32 digits")
    return value.removeprefix("+")


def _expire_s(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_EXPIRE_S:
        raise ValueError(f"must be a whole number of seconds from 1 to {MAX_EXPIRE_S} (72 h)")
    return value


def _warn_s(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_EXPIRE_S:
        raise ValueError("must be a whole number of seconds, less than expire_s; 0 for no warning")
    return value


def _mode(value: object) -> Mode:
    try:
        return Mode(str(value))
    except ValueError:
        raise ValueError("must be AXB or AXXB") from None


def _state(value: object) -> State:
    try:
        return State(str(value))
    except ValueError:
        raise ValueError(f"must be one of {', '.join(State)}") from None


def _role(value: object) -> Role:
    try:
        return Role(str(value))
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Role)}") from None


def _rate_limit(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RATE_LIMIT:
        raise ValueError(f"must be a whole number of requests per second from 1 to {MAX_RATE_LIMIT}")
    return value


def _limit(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
        raise ValueError(f"must be a whole number from 1 to {MAX_LIMIT}")
    return value


def _window_s(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_WINDOW_S:
        raise ValueError(f"must be seconds from 0 to {MAX_WINDOW_S}")
    return float(value)


def _wait_s(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_WAIT_S:
        raise ValueError(f"must be seconds from 0 to {MAX_WAIT_S}")
    return float(value)


def _instant(value: object) -> datetime:
    """An aware instant; text is RFC 3339 with a zone. A naive time is refused: it names no instant."""
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError("must be a time such as 2026-11-23T14:32:00Z") from None
    if instant.tzinfo is None:
        raise ValueError("needs a time zone, such as 2026-11-23T14:32:00Z")
    if not EARLIEST_YEAR <= instant.year <= LATEST_YEAR:
        raise ValueError(f"must lie in the years {EARLIEST_YEAR} to {LATEST_YEAR}")
    return instant.astimezone(UTC)


def _position(value: object) -> tuple[datetime, str]:
    try:
        text = str(value)
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        at, _, last_id = decoded.partition(" ")
        return _instant(at), str(uuid.UUID(last_id))
    except (ValueError, binascii.Error):
        raise ValueError("must be a next_cursor of an earlier page") from None


def _feed_position(value: object) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,19})-([0-9]{1,18})", str(value))
    if match is None or int(match[1]) >= 2**63:
        raise ValueError("must be a next_cursor of the feed")
    return int(match[1]), int(match[2])


def _url(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_URL:
        raise ValueError(f"must be an address of 1 to {MAX_URL} characters")
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise ValueError("must be an http or https address with a host")
    if "@" in parts.netloc:
        raise ValueError("must not have a user or a password: deliveries are signed instead")
    if "#" in value:
        raise ValueError("must not have a fragment")
    return value


def _kinds(value: object) -> tuple[EventKind, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError("must be a list of kinds of event")  # noqa: TRY004 -- a fault like the others
    try:
        found = tuple(dict.fromkeys(EventKind(str(each)) for each in value))
    except ValueError:
        raise ValueError(f"must be one or more of {', '.join(EventKind)}") from None
    if not found:
        raise ValueError("must name a kind; leave it out for every kind")
    return found


def _delivery_state(value: object) -> str:
    if value not in ("pending", "delivered", "dead"):
        raise ValueError("must be pending, delivered or dead")
    return str(value)


def _delivery_position(value: object) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", str(value)):
        raise ValueError("must be a next_cursor of an earlier page")
    return int(str(value))
