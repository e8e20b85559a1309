"""Checks of single values: one function for each kind, which returns the value in its normal form.

A `ValueError` says what the value must be, in a text that may be shown to the client, and never repeats the value.
The limits are here too; the OpenAPI document shows them. Which values a call takes, and how they go together, is
in `validation.requests`; the check of a phone is in `domain.phone`.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar
from urllib.parse import urlsplit

from bindings.domain.access_log import AccessKind
from bindings.domain.binding import EventKind, Mode, State
from bindings.domain.phone import Phone
from bindings.domain.roles import Role
from bindings.domain.search_filters import Order
from bindings.domain.selection import SelectionToken
from bindings.domain.text import has_control_characters

if TYPE_CHECKING:
    from collections.abc import Callable

Member = TypeVar("Member", bound=StrEnum)

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
    "provider_status": 16,
    "state_reason": 64,
    "reason": 255,
    "ticket": 64,
    "actor": 128,
    "request_id": 128,
    "name": 64,
}
MAX_RATE_LIMIT = 100_000
LATEST = "latest"  # instead of a cursor: the end of the change feed
_LOST_PLUS = re.compile(r":[0-9.]+ [0-9]{2}:?[0-9]{2}$")  # a + in the query of a URL stands for a space


def plain_text(value: object) -> str:
    """Return the text of a value as a plain `str`.

    `str()` of a member of `class Mode(str, Enum)` is the member's name and not its text. A proxy, which
    frameworks make of a value that is computed later, is a `str` for `isinstance`, and not by its type.
    """
    return str.__str__(value) if issubclass(type(value), str) else str(value)


def uuid_text(value: object) -> str:
    """Return a UUID in its canonical form."""
    try:
        return str(uuid.UUID(plain_text(value)))
    except ValueError:
        raise ValueError("must be a UUID") from None


@cache
def single_line(field: str) -> Callable[[Any], str]:
    """Return a check for text on one line, at most as long as the limit of the field of this name."""
    longest = LIMITS[field]

    def check(value: object) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            raise ValueError(f"must be text of 1 to {longest} characters")
        if has_control_characters(value):
            raise ValueError("must not contain control characters")
        return plain_text(value)

    return check


def phone(value: object, *, min_digits: int = 1) -> Phone:
    """Return the phone of digits in international form."""
    number = Phone(value, min_digits=min_digits)  # type: ignore[arg-type] # it checks the type
    if number.key.startswith("0"):  # no country calling code does
        raise ValueError("begins with 0: give it with its country code, without 00 or the national 0")
    return number


def pool_number(value: object) -> str:
    """Return the name of a pool, as the provider writes it."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z_.+-]{1,20}", value):
        raise ValueError(f"must be 1 to {MAX_POOL_NUMBER} letters, digits, or signs of _ . + -")
    return plain_text(value)


def middle_number(value: object) -> str:
    """Return the digits of a middle number, without the plus sign."""
    if not isinstance(value, str) or not re.fullmatch(r"\+?[0-9]{1,32}", value):
        raise ValueError("must be 1 to 32 digits")
    return plain_text(value).removeprefix("+")


def expire_s(value: object) -> int:
    """Return the duration of a binding in seconds."""
    if not _is_whole_number(value) or not 1 <= value <= MAX_EXPIRE_S:
        raise ValueError(f"must be a whole number of seconds from 1 to {MAX_EXPIRE_S} (72 h)")
    return int(value)


def warn_s(value: object) -> int:
    """Return how many seconds before the end of a binding its `expires_soon` event is due; 0 for no event."""
    if not _is_whole_number(value) or not 0 <= value < MAX_EXPIRE_S:
        raise ValueError("must be a whole number of seconds from 0 (no warning), less than expire_s")
    return int(value)


def mode(value: object) -> Mode:
    """Return the mode of this name."""
    try:
        return Mode(plain_text(value))
    except ValueError:
        raise ValueError("must be AXB or AXXB") from None


def state(value: object) -> State:
    """Return the binding state of this name."""
    return _member(State, value)


def order(value: object) -> Order:
    """Return the order of a list of bindings of this name."""
    return _member(Order, value)


def access_kind(value: object) -> AccessKind:
    """Return the kind of entries of the access log with this name."""
    return _member(AccessKind, value)


def boolean(value: object) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 -- `FieldErrors` catches ValueError
    return value


def role(value: object) -> Role:
    """Return the role of this name, for an API key."""
    return _member(Role, value)


def rate_limit(value: object) -> int:
    """Return the rate limit of an API key, in requests per second."""
    if not _is_whole_number(value) or not 1 <= value <= MAX_RATE_LIMIT:
        raise ValueError(f"must be a whole number of requests per second from 1 to {MAX_RATE_LIMIT}")
    return int(value)


def limit(value: object) -> int:
    """Return the largest number of rows for a page."""
    if not _is_whole_number(value) or not 1 <= value <= MAX_LIMIT:
        raise ValueError(f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(value)


def window_s(value: object) -> float:
    """Return the distance in seconds within which a trace lists near misses."""
    return _seconds(value, MAX_WINDOW_S)


def wait_s(value: object) -> float:
    """Return how many seconds a reader of the change feed waits for an event."""
    return _seconds(value, MAX_WAIT_S)


def instant(value: object) -> datetime:
    """Return an aware time in UTC; text is RFC 3339. A time without a zone is refused: it is ambiguous."""
    time = value if isinstance(value, datetime) else _parse_instant(plain_text(value))
    try:
        offset = time.utcoffset()
    except NotImplementedError:  # of a `tzinfo` that leaves it out
        offset = None
    if offset is None:  # also with a `tzinfo`: Python takes such a time for the local time of this host
        raise ValueError("must have a time zone, such as 2026-11-23T14:32:00Z")
    if not EARLIEST_YEAR <= time.year <= LATEST_YEAR:
        raise ValueError(f"must be in the years {EARLIEST_YEAR} to {LATEST_YEAR}")
    return datetime.combine(time.date(), time.time(), UTC) - offset


def _parse_instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(re.sub("z$", "Z", text))
    except ValueError:
        advice = "; in a URL write the + of its zone as %2B" if _LOST_PLUS.search(text) else ""
        raise ValueError(f"must be a time such as 2026-11-23T14:32:00Z{advice}") from None


def page_position(value: object) -> tuple[datetime, str]:
    """Return the row after which a page starts, as (time, id), from its cursor (keyset pagination)."""
    try:
        text = _cursor_text(value)
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        at, _, last_id = decoded.partition(" ")
        return instant(at), str(uuid.UUID(last_id))
    except (ValueError, binascii.Error):
        raise ValueError("must be the next_cursor of an earlier page") from None


def position_after(last_at: datetime, last_id: str) -> str:
    """Return the cursor of the page after a row; `page_position` decodes it."""
    return base64.urlsafe_b64encode(f"{last_at.isoformat()} {last_id}".encode()).decode().rstrip("=")


def feed_position(value: object) -> tuple[int, int]:
    """Return the position in the change feed, (tx, position), from a cursor."""
    match = re.fullmatch(r"([0-9]{1,19})-([0-9]{1,18})", _cursor_text(value))
    if match is None or int(match[1]) >= 2**63:
        raise ValueError(f"must be the next_cursor of an earlier page of the feed, or {LATEST}")
    return int(match[1]), int(match[2])


def selection_token(value: object) -> SelectionToken:
    """Return the token of a dry run of `unbind_all`."""
    try:
        return SelectionToken.decode(_cursor_text(value))
    except ValueError:
        raise ValueError("must be the token of a dry run") from None


def url(value: object) -> str:
    """Return the URL of a webhook receiver."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_URL:
        raise ValueError(f"must be a URL of 1 to {MAX_URL} characters")
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise ValueError("must be an http or https URL with a host")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user or a password: deliveries are signed instead")
    if "#" in value:
        raise ValueError("must not contain a fragment")
    return plain_text(value)


def items(value: object) -> tuple[object, ...]:
    """Return the items of a list, a set or another iterable; text is a single value."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError("must be a list")  # noqa: TRY004 -- `FieldErrors` catches ValueError
    return tuple(value)


def event_kinds(value: object) -> tuple[EventKind, ...]:
    """Return the kinds of event without duplicates, in the order in which they were passed."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError("must be a list of kinds of event")  # noqa: TRY004 -- `FieldErrors` catches ValueError
    try:
        kinds = tuple(dict.fromkeys(EventKind(plain_text(kind)) for kind in value))
    except ValueError:
        raise ValueError(f"must be at least one of {', '.join(EventKind)}") from None
    if not kinds:
        raise ValueError("must have at least one kind; leave it out for all kinds")
    return kinds


def delivery_state(value: object) -> str:
    """Return the state of a webhook delivery."""
    if value not in ("pending", "delivered", "dead"):
        raise ValueError("must be pending, delivered or dead")
    return plain_text(value)


def event_position(value: object) -> int:
    """Return the position of an event, from the cursor of a list."""
    text = _cursor_text(value)
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError("must be the next_cursor of an earlier page")
    return int(text)


def _cursor_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text: the next_cursor of an earlier page")  # noqa: TRY004 -- as for other values
    return plain_text(value)


def _member(kind: type[Member], value: object) -> Member:
    try:
        return kind(plain_text(value))
    except ValueError:
        raise ValueError(f"must be one of {', '.join(kind)}") from None


def _is_whole_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(value: object, longest_s: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= longest_s:
        raise ValueError(f"must be a number of seconds from 0 to {longest_s}")
    return float(value)
