"""The provider's requests and replies as bytes. No other module has its field names.

The paths, the bodies and their parsing belong here, for both sides: the client writes requests and reads replies,
the simulator reads requests and writes replies. The meaning of status codes is in `statuses`, the signature in
`signing`. No I/O. Invariant: parsing is strict. A field that is missing, duplicated or of the wrong type raises
`Malformed`, and the outcome is then unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from bindings.domain.binding import BindRequest, Mode
from bindings.domain.phone import Phone
from bindings.provider import instants, strict_json
from bindings.provider.outcome import OddRow, ProviderBinding, ProviderPage, ProviderPool, ProviderPools
from bindings.provider.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime, tzinfo

PATH_PREFIX = "/v3"  # of the documented API; the same API is offered without it under another brand
BIND_PATH = "/number/pns/bind"
UNBIND_PATH = "/number/pns/unbind"
PAGE_PATH = "/number/pns/queryBindPage"
POOLS_PATH = "/number/queryNumberPool"

STATUS = "status"
REASON = "reason"
DATA = "data"
PHONE_A = "phoneA"
PHONE_B = "phoneB"
POOL_NUMBER = "poolNumber"
EXPIRE_S = "expireS"
BIZ_TYPE = "bizType"
APP_ID = "appId"
BIND_ID = "bindId"
MIDDLE_NUMBER_A = "pnsNumberA"
MIDDLE_NUMBER_B = "pnsNumberB"
EXPIRE_TIME = "expireTime"
CURRENT = "current"
SIZE = "size"
PARAMS = "params"
RECORDS = "records"
TOTAL = "total"
PAGES = "pages"
MAX_CONCURRENCY = "maxConcurrency"
NUMBER_LIST = "numberList"

BIZ_TYPES: dict[Mode, int] = {Mode.AXB: 1, Mode.AXXB: 2}
MODES: dict[int, Mode] = {number: mode for mode, number in BIZ_TYPES.items()}

ROW_FIELDS = {
    "bind_id": BIND_ID,
    "phone_a": PHONE_A,
    "phone_b": PHONE_B,
    "middle_number_a": MIDDLE_NUMBER_A,
    "middle_number_b": MIDDLE_NUMBER_B,
    "ends_at": EXPIRE_TIME,
}

_MAX_TEXT_LENGTH = 64  # of an id; a longer one is not from this provider, and does not fit its column
_MAX_STATUS_LENGTH = 16
_EXACT_FLOATS = 2**53  # from here on a float may be another integer than was written
_MAX_REPLY_BYTES = 256 * 1024
_MAX_ROW_BYTES = 4 * 1024

Value = TypeVar("Value")


class Malformed(ValueError):
    """The bytes do not match the provider's documents; the text names the field, never a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """The envelope of every reply. `status` is text, also if the provider sent a number."""

    status: str
    reason: str
    data: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """The data of a successful bind."""

    bind_id: str
    middle_number_a: str
    middle_number_b: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UnbindRequest:
    """The parameters of an unbind."""

    app_id: str
    bind_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PageRequest:
    """The parameters of a query of an application's list, or of the account's; `current` counts pages from 1."""

    app_id: str | None
    current: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolsRequest:
    """The parameters of a query of the account's pools; `current`, the page, counts from 1."""

    current: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """One pool of middle numbers, each of which serves up to `max_concurrency` bindings at a time."""

    pool_number: str
    max_concurrency: int
    numbers: tuple[str, ...]


# Requests: written by the client, read by the simulator.


def pools_body(request: PoolsRequest) -> bytes:
    """Return the body of a query of the pools."""
    return strict_json.dump({CURRENT: request.current, SIZE: request.size})


def bind_body(request: BindRequest) -> bytes:
    """Return the body of a bind: the six documented fields, in the documented order."""
    return strict_json.dump(
        {
            PHONE_A: request.phone_a.digits,
            PHONE_B: request.phone_b.digits,
            POOL_NUMBER: request.pool_number,
            EXPIRE_S: request.provider_expire_s,
            BIZ_TYPE: BIZ_TYPES[request.mode],
            APP_ID: request.app_id,
        }
    )


def unbind_body(request: UnbindRequest) -> bytes:
    """Return the body of an unbind; the id is sent as text, as documented."""
    return strict_json.dump({BIND_ID: request.bind_id, APP_ID: request.app_id})


def page_body(request: PageRequest) -> bytes:
    """Return the body of a page query; the application is the only filter that the provider has."""
    filters = {} if request.app_id is None else {APP_ID: request.app_id}
    return strict_json.dump({CURRENT: request.current, SIZE: request.size, PARAMS: filters})


def read_bind(body: bytes) -> BindRequest:
    """Parse a bind as the provider does: fields and types are checked here, lengths and bounds are not."""
    fields = _object(body)
    number = _integer(fields, BIZ_TYPE)
    if number not in MODES:
        raise Malformed(f"{BIZ_TYPE} is neither 1 nor 2")
    return BindRequest(
        phone_a=_phone(_string(fields, PHONE_A), PHONE_A),
        phone_b=_phone(_string(fields, PHONE_B), PHONE_B),
        pool_number=_string(fields, POOL_NUMBER),
        expire_s=_integer(fields, EXPIRE_S),
        mode=MODES[number],
        app_id=_string(fields, APP_ID),
    )


def read_unbind(body: bytes) -> UnbindRequest:
    """Parse an unbind as the provider does."""
    fields = _object(body)
    return UnbindRequest(app_id=_string(fields, APP_ID), bind_id=_text(fields, BIND_ID))


def read_page(body: bytes) -> PageRequest:
    """Parse a page query as the provider does; the bounds of a page are not checked here."""
    fields = _object(body)
    filters = _inner(fields, PARAMS)
    return PageRequest(
        app_id=_string(filters, APP_ID) if APP_ID in filters else None,
        current=_integer(fields, CURRENT),
        size=_integer(fields, SIZE),
    )


def read_pools(body: bytes) -> PoolsRequest:
    """Parse a query of the pools as the provider does."""
    fields = _object(body)
    return PoolsRequest(current=_integer(fields, CURRENT), size=_integer(fields, SIZE))


# Replies: written by the simulator, read by the client.


def reply(*, status: str | int, reason: str, data: Any = None) -> bytes:
    """Return an envelope. The provider sends `status` as text; a number is for tests of the client."""
    return strict_json.dump({STATUS: status, REASON: reason, DATA: data})


def bound_data(*, bind_id: str | int, middle_number_a: str, middle_number_b: str) -> dict[str, Any]:
    """Return the data of a successful bind."""
    return {MIDDLE_NUMBER_A: middle_number_a, MIDDLE_NUMBER_B: middle_number_b, BIND_ID: bind_id}


def page_data(rows: Sequence[dict[str, Any]], *, total: int, current: int, size: int) -> dict[str, Any]:
    """Return the data of a page query; `rows` are the `listed_row`s of this page, `total` counts all pages."""
    return {TOTAL: total, SIZE: size, CURRENT: current, PAGES: -(-total // size), RECORDS: list(rows)}


def listed_row(
    row: ProviderBinding, *, zone: tzinfo, form: str = "local", replaced: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return one row of the list; `form` is that of its end, `replaced` has values by name of `ROW_FIELDS`."""
    values = {
        BIND_ID: row.bind_id,
        PHONE_A: row.phone_a.digits,
        PHONE_B: row.phone_b.digits,
        MIDDLE_NUMBER_A: row.middle_number_a,
        MIDDLE_NUMBER_B: row.middle_number_b,
        EXPIRE_TIME: instants.format_as(form, row.ends_at, zone=zone),
    }
    return values | {ROW_FIELDS[name]: value for name, value in (replaced or {}).items()}


def pools_data(pools: Sequence[Pool], *, total: int, current: int, size: int) -> dict[str, Any]:
    """Return the data of a query of the pools; `pools` are those of this page."""
    records = [
        {POOL_NUMBER: pool.pool_number, MAX_CONCURRENCY: pool.max_concurrency, NUMBER_LIST: pool.numbers}
        for pool in pools
    ]
    return {TOTAL: total, SIZE: size, CURRENT: current, PAGES: -(-total // size), RECORDS: records}


def max_reply_bytes(rows: int = 0) -> int:
    """Return how long a reply of at most `rows` rows may be; a longer one is not read, and costs no more time.

    A row of the list has about 200 bytes. A pool names its numbers, and is queried by itself.
    """
    return _MAX_REPLY_BYTES + rows * _MAX_ROW_BYTES


def read_envelope(body: bytes, *, secrets: Iterable[str] = ()) -> Envelope:
    """Parse a reply; its words are without phones and without `secrets`.

    Raises `Malformed` for anything but a JSON object with a status.
    """
    fields = _object(body)
    reason = fields.get(REASON)
    return Envelope(
        status=redact(_text(fields, STATUS), secrets=secrets)[:_MAX_STATUS_LENGTH],
        reason=redact(reason, secrets=secrets) if isinstance(reason, str) else "",
        data=fields.get(DATA),
    )


def read_bound(data: Any) -> Bound:
    """Parse the data of a successful bind. Raises `Malformed` if one of its three fields is missing."""
    fields = _fields(data, DATA)
    return Bound(
        bind_id=_bind_id(fields, BIND_ID),
        middle_number_a=_number(fields, MIDDLE_NUMBER_A),
        middle_number_b=_number(fields, MIDDLE_NUMBER_B),
    )


def read_rows(data: Any, *, zone: tzinfo, current: int = 1) -> ProviderPage:
    """Parse the data of page `current`, row by row: a row that does not parse is one of the page's odd rows.

    A page past the end may have no data, an empty list as its data, or no list of rows, and the first page of a
    list whose total is 0 may have no list of rows: both are empty. Raises `Malformed` for other data without one.
    """
    is_later_page = current > 1
    if data in (None, []) and is_later_page:
        return ProviderPage(total=0, rows=())
    fields = _fields(data, DATA)
    records = fields.get(RECORDS)
    if records is None and (is_later_page or _total(fields) == 0):
        records = []
    if not isinstance(records, list):
        raise Malformed(f"{RECORDS} is not a list")
    rows, odd_rows = [], []
    for record in records:
        try:
            rows.append(_row(_fields(record, "the row"), zone))
        except Malformed as error:
            odd_rows.append(_odd_row(record, str(error), zone))
    return ProviderPage(total=_total(fields), rows=tuple(rows), odd_rows=tuple(odd_rows))


def read_pool_list(data: Any) -> ProviderPools:
    """Parse the data of a query of the pools: none without a list. Raises `Malformed` for one bad pool."""
    records = _fields(data, DATA).get(RECORDS) or []
    if not isinstance(records, list):
        raise Malformed(f"{RECORDS} is not a list")
    return ProviderPools(
        pools=tuple(ProviderPool(pool_number=_text(_fields(record, RECORDS), POOL_NUMBER)) for record in records)
    )


def _total(fields: dict[str, Any]) -> int | None:
    text = _readable(_whole_text, fields, TOTAL)
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,12}", text) else None


def _row(fields: dict[str, Any], zone: tzinfo) -> ProviderBinding:
    return ProviderBinding(
        bind_id=_bind_id(fields, BIND_ID),
        phone_a=_listed_phone(fields, PHONE_A),
        phone_b=_listed_phone(fields, PHONE_B),
        middle_number_a=_number(fields, MIDDLE_NUMBER_A),
        middle_number_b=_number(fields, MIDDLE_NUMBER_B),
        ends_at=_end(fields, zone),
    )


def _odd_row(record: Any, problem: str, zone: tzinfo) -> OddRow:
    fields: dict[str, Any] = record if isinstance(record, dict) else {}
    phones = (_readable(_listed_phone, fields, name) for name in (PHONE_A, PHONE_B))
    return OddRow(
        bind_id=_readable(_bind_id, fields, BIND_ID),
        phones=tuple(phone for phone in phones if phone is not None),
        ends_at=_readable(lambda row, _: _end(row, zone), fields, EXPIRE_TIME),
        problem=problem,
    )


def _readable(read: Callable[[dict[str, Any], str], Value], fields: dict[str, Any], name: str) -> Value | None:
    """Return a field as `read` parses it, or None if it is malformed."""
    try:
        return read(fields, name)
    except Malformed:
        return None


def _end(fields: dict[str, Any], zone: tzinfo) -> datetime:
    value = fields.get(EXPIRE_TIME)
    is_fraction = isinstance(value, float) and not value.is_integer()
    text = str(value) if is_fraction else _whole_text(fields, EXPIRE_TIME)
    try:
        return instants.parse(text, zone=zone)
    except ValueError:
        raise Malformed(f"{EXPIRE_TIME} is not a time") from None


# Bodies and their fields.


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = strict_json.parse(body)
    except strict_json.NotStrictJson as error:
        raise Malformed(str(error)) from None
    return _fields(value, "the body")


def _fields(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        problem = "has a field that occurs twice" if value is strict_json.AMBIGUOUS else "is not an object"
        raise Malformed(f"{name} {problem}")
    return value


def _inner(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return _fields(fields.get(name), name)


def _text(fields: dict[str, Any], name: str) -> str:
    """Return a short printable text without spaces around it: a column of fixed length is padded with them.

    An integer is returned as text: the provider declares one and sends the other.
    """
    value = fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise Malformed(f"{name} is missing or not a text")
    # This also excludes NUL and lone surrogates, which databases reject.
    text = value.strip(" ")
    if len(text) > _MAX_TEXT_LENGTH or not text.isprintable() or "\N{REPLACEMENT CHARACTER}" in text:
        raise Malformed(f"{name} is not a short printable text")
    return text


def _whole_text(fields: dict[str, Any], name: str) -> str:
    """Return what `_text` returns; of an integer that a gateway writes as 1002.0 that integer."""
    value = fields.get(name)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOATS:
        return _text({name: int(value)}, name)
    return _text(fields, name)


def _bind_id(fields: dict[str, Any], name: str) -> str:
    """Return the id of a binding; 0 and negative numbers are none."""
    bind_id = _whole_text(fields, name)
    if bind_id.startswith("-") or not bind_id.strip("0"):
        raise Malformed(f"{name} cannot be the id of a binding")
    return bind_id


def _number(fields: dict[str, Any], name: str) -> str:
    """Return a middle number in the form in which it is stored and searched: digits, without a leading +."""
    digits = _whole_text(fields, name).removeprefix("+")
    if re.fullmatch(r"[0-9]{1,32}", digits) is None:
        raise Malformed(f"{name} is not a number")
    return digits


def _string(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or value != _text(fields, name):
        raise Malformed(f"{name} is missing, not a string, or has spaces around it")
    return value


def _integer(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f"{name} is missing or not an integer")
    return value


def _phone(text: str, name: str) -> Phone:
    try:
        return Phone(text)
    except ValueError:
        raise Malformed(f"{name} is not a phone number") from None


def _listed_phone(fields: dict[str, Any], name: str) -> Phone:
    """Return the phone of a row, without 00 before its country code, and without spaces and hyphens after it.

    A country code never begins with 0: spaces and hyphens in another notation make the row odd.
    """
    text = _whole_text(fields, name)
    if re.fullmatch(r"\+?[1-9][0-9]*([ -][0-9]+)+", text):
        text = re.sub("[ -]", "", text)
    phone = _phone(text, name)
    return Phone(phone.digits[2:]) if re.match(r"00[1-9]", phone.digits) else phone
