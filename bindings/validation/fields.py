"""What a single value of a call must be: one function for each, which gives it back in its one form.

A `ValueError` says what the value must be, in words that are shown to whoever sent it, and never repeats it. The
limits stand here too, for the OpenAPI document. Which values a call takes, and how they belong together, is in
`validation`; what a phone is, in `phone`.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bindings.domain.binding import EventKind, Mode, State
from bindings.domain.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable

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


def single_line(field: str) -> Callable[[Any], str]:
    """Text on one line, as long as the field of this name allows."""
    longest = LIMITS[field]

    def check(value: object) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            raise ValueError(f"must be text of 1 to {longest} characters")
        if not value.isprintable():
            raise ValueError("must not have control characters")
        return value

    return check


def pool_number(value: object) -> str:
    """A pool, as the provider names it."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z_.+-]{1,20}", value):
        raise ValueError(f"must be 1 to {MAX_POOL_NUMBER} letters or digits")
    return value


def middle_number(value: object) -> str:
    """A middle number, without its plus sign."""
    if not isinstance(value, str) or not re.fullmatch(r"\+?[0-9]{1,32}", value):
        raise ValueError("must be 1 to 32 digits")
    return value.removeprefix("+")


def expire_s(value: object) -> int:
    """The seconds that a binding lives."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_EXPIRE_S:
        raise ValueError(f"must be a whole number of seconds from 1 to {MAX_EXPIRE_S} (72 h)")
    return value


def warn_s(value: object) -> int:
    """The seconds before its end at which a binding is announced."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_EXPIRE_S:
        raise ValueError("must be a whole number of seconds, less than expire_s; 0 for no warning")
    return value


def mode(value: object) -> Mode:
    """A mode, by its name."""
    try:
        return Mode(str(value))
    except ValueError:
        raise ValueError("must be AXB or AXXB") from None


def state(value: object) -> State:
    """A binding's state, by its name."""
    try:
        return State(str(value))
    except ValueError:
        raise ValueError(f"must be one of {', '.join(State)}") from None


def role(value: object) -> Role:
    """A key's role, by its name."""
    try:
        return Role(str(value))
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Role)}") from None


def rate_limit(value: object) -> int:
    """The requests per second that a key may make."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RATE_LIMIT:
        raise ValueError(f"must be a whole number of requests per second from 1 to {MAX_RATE_LIMIT}")
    return value


def limit(value: object) -> int:
    """The most that a page may hold."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
        raise ValueError(f"must be a whole number from 1 to {MAX_LIMIT}")
    return value


def window_s(value: object) -> float:
    """How near, in seconds, a near miss of a trace is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_WINDOW_S:
        raise ValueError(f"must be seconds from 0 to {MAX_WINDOW_S}")
    return float(value)


def wait_s(value: object) -> float:
    """The seconds that a reader of the feed waits for an event."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_WAIT_S:
        raise ValueError(f"must be seconds from 0 to {MAX_WAIT_S}")
    return float(value)


def instant(value: object) -> datetime:
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


def page_position(value: object) -> tuple[datetime, str]:
    """The row that a page's cursor names: its instant and its id."""
    try:
        text = str(value)
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        at, _, last_id = decoded.partition(" ")
        return instant(at), str(uuid.UUID(last_id))
    except (ValueError, binascii.Error):
        raise ValueError("must be a next_cursor of an earlier page") from None


def position_after(requested_at: datetime, last_id: str) -> str:
    """The cursor of the page that follows a row: `page_position` reads it."""
    return base64.urlsafe_b64encode(f"{requested_at.isoformat()} {last_id}".encode()).decode().rstrip("=")


def feed_position(value: object) -> tuple[int, int]:
    """The position, (tx, position), that a cursor of the feed names."""
    match = re.fullmatch(r"([0-9]{1,19})-([0-9]{1,18})", str(value))
    if match is None or int(match[1]) >= 2**63:
        raise ValueError("must be a next_cursor of the feed")
    return int(match[1]), int(match[2])


def url(value: object) -> str:
    """The address of a receiver of events."""
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


def event_kinds(value: object) -> tuple[EventKind, ...]:
    """Kinds of event, each once, in the order in which they came."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError("must be a list of kinds of event")  # noqa: TRY004 -- a fault like the others
    try:
        found = tuple(dict.fromkeys(EventKind(str(each)) for each in value))
    except ValueError:
        raise ValueError(f"must be one or more of {', '.join(EventKind)}") from None
    if not found:
        raise ValueError("must name a kind; leave it out for every kind")
    return found


def delivery_state(value: object) -> str:
    """A delivery's state, by its name."""
    if value not in ("pending", "delivered", "dead"):
        raise ValueError("must be pending, delivered or dead")
    return str(value)


def delivery_position(value: object) -> int:
    """The position of an event that a cursor of deliveries names."""
    if not re.fullmatch(r"[0-9]{1,18}", str(value)):
        raise ValueError("must be a next_cursor of an earlier page")
    return int(str(value))
