"""How a phone is compared and written: as digits, or as a blind index with the sealed digits beside it.

A comparison asks for every text by which the phone may be stored, so that it finds rows from before, during and
after the sealing of a database alike. What is written is decided by `account`, in the transaction that writes.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam

from bindings.domain.phone import Phone
from bindings.errors import Busy
from bindings.store.column_types import BlindIndex, PhoneNumber
from bindings.store.phone_keys import BLIND, VARIABLES, keys_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import BindParameter, ColumnElement, Dialect

    from bindings.store.phone_keys import DataKey, KeyNumbers, PhoneKeys

SUFFIX = "_sealed"
SALT = "facts_salt"


@dataclass(frozen=True, kw_only=True, slots=True)
class PhoneStorage:
    """How phones are written, as `account` records it; `all_sealed` if every row has these keys."""

    numbers: KeyNumbers
    all_sealed: bool

    @property
    def only_index_key(self) -> int | None:
        """Return the key of the phones in every row, or None if that is not known."""
        return self.numbers.index if self.all_sealed else None


def forms(dialect: Dialect, *phones: Phone, index_key: int | None = None) -> list[str]:
    """Return each text by which one of the phones may be stored, if `index_key` is not the key of every row.

    Pass it only in the transaction that has read so in `account` (`phones_sealed_at`). A switch of keys waits for
    that transaction, and an older database that was put in its place has the account of its own time: so a row in
    another form is never missed (I1).
    """
    keys = keys_of(dialect)
    if keys is None:
        return [phone.key for phone in phones]
    return [form for phone in phones for form in keys.forms(phone, index_key)]


def is_any_of(column: ColumnElement[Any], texts: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that a column of phones has one of these texts (`forms`) or parameters."""
    return column == texts[0] if len(texts) == 1 else column.in_(texts)


def parameters(name: str, count: int) -> list[BindParameter[Any]]:
    """Return the parameters for the `count` forms of one phone."""
    return [bindparam(parameter, type_=PhoneNumber) for parameter in parameter_names(name, count)]


def parameter_values(dialect: Dialect, index_key: int | None = None, /, **phones: Phone) -> dict[str, str]:
    """Return the values of `parameters`, by the name of the phone; `index_key` as for `forms`."""
    values: dict[str, str] = {}
    for name, phone in phones.items():
        texts = forms(dialect, phone, index_key=index_key)
        values |= zip(parameter_names(name, len(texts)), texts, strict=True)
    return values


@cache
def parameter_names(name: str, count: int) -> tuple[str, ...]:
    """Return the names of `parameters`."""
    return (name, *(f"{name}_{number}" for number in range(1, count)))


def form_count(dialect: Dialect, index_key: int | None = None) -> int:
    """Return how many texts `forms` returns for one phone."""
    keys = keys_of(dialect)
    return 1 if keys is None or index_key is not None else keys.form_count


def stored(
    dialect: Dialect, numbers: KeyNumbers, table: str, row_id: str, phones: Mapping[str, Phone | None]
) -> dict[str, Any]:
    """Return what a row stores for its phones, by column: digits, or blind indexes, sealed digits and their key.

    Raises `Busy` if this process lacks the keys that phones are written with.
    """
    keys = require_keys(dialect, numbers)
    if keys is None or numbers.index is None or numbers.data is None:
        return {name: None if phone is None else phone.key for name, phone in phones.items()}
    key = keys.data_key(numbers.data)
    values: dict[str, Any] = {"phone_key": key}
    for name, phone in phones.items():
        values[name] = None if phone is None else keys.blind(numbers.index, phone)
        values[f"{name}{SUFFIX}"] = None if phone is None else key.seal(f"{table}.{name}", row_id, phone)
    return values


def stored_salt(dialect: Dialect, numbers: KeyNumbers, table: str, row_id: str, salt: str) -> str:
    """Return what a row stores of the salt of its facts: encrypted if phones are.

    With the salt and the hash in its event, a phone could be found by trying every one.
    """
    keys = keys_of(dialect)
    if keys is None or numbers.data is None:
        return salt
    key = keys.data_key(numbers.data)
    sealed = key.seal_bytes(f"{table}.{SALT}", row_id, bytes.fromhex(salt))
    return BLIND + urlsafe_b64encode(sealed).decode()


def opened_salt(key: DataKey | None, table: str, row_id: str, stored_text: str) -> str:
    """Return the salt of a row from what is stored of it; raises as `open_one`."""
    if not stored_text.startswith(BLIND):
        return stored_text
    column = f"{table}.{SALT}"
    if key is None:
        raise _no_key_number(column, row_id)
    return key.open_bytes(column, row_id, urlsafe_b64decode(stored_text.removeprefix(BLIND))).hex()


def require_keys(dialect: Dialect, numbers: KeyNumbers) -> PhoneKeys | None:
    """Return the keys of this process; raise `Busy` if it lacks those that phones are written with."""
    keys = keys_of(dialect)
    if numbers.index is not None and (keys is None or not keys.has(numbers)):
        raise Busy(
            f"phones are encrypted with index key {numbers.index} and data key {numbers.data}, which this process"
            " does not have; nothing was done",
            todo=f"restart this process with these keys in {VARIABLES}",
        )
    return keys


def fingerprint(dialect: Dialect, numbers: KeyNumbers, digest: str) -> str:
    """Return what is stored of the unkeyed digest of a request."""
    keys = require_keys(dialect, numbers)
    return digest if keys is None or numbers.index is None else keys.fingerprint(numbers.index, digest)


def has_fingerprint(dialect: Dialect, stored_text: str | None, digest: str | None) -> bool:
    """Return whether a stored fingerprint is one of a request with this unkeyed digest."""
    keys = keys_of(dialect)
    if digest is None or keys is None:
        return stored_text == digest
    return stored_text in keys.fingerprints(digest)


class SealedPhone(Phone):
    """A phone of a row that is opened when its digits are first needed, also to show it masked. Thread-safe.

    Then raises `Busy` if it does not open: the ring lacks the key, or the row was changed.
    """

    __slots__ = ("_source",)
    _source: tuple[DataKey | None, str, str, bytes | None]

    def __init__(self, key: DataKey | None, column: str, row_id: str, sealed: bytes | None) -> None:
        object.__setattr__(self, "_source", (key, column, row_id, sealed))

    def __getattr__(self, name: str) -> str:
        if name != "_digits":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        digits = _open(*self._source)
        object.__setattr__(self, "_digits", digits)
        return digits


def opened(row: Any, table: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the phones of a row by column; the row has them, their sealed columns, `phone_key` and `id`.

    Raises `Busy` if one does not open.
    """
    phones = {
        name: read_phone(
            row.phone_key, f"{table}.{name}", row.id, getattr(row, name), getattr(row, f"{name}{SUFFIX}")
        )
        for name in names
    }
    require_open(phones.values())
    return phones


def require_open(phones: Iterable[Phone | None]) -> None:
    """Open each of the phones that is still sealed; raises `Busy` if one does not open."""
    for phone in phones:
        if phone is not None:
            _ = phone.key


def read_phone(
    key: DataKey | None, column: str, row_id: str, value: Phone | BlindIndex | None, sealed: bytes | None
) -> Phone | None:
    """Return the phone of one column (`table.column`) and row, sealed or not; None if it has none."""
    if sealed is None and not isinstance(value, BlindIndex):
        return value
    return SealedPhone(key, column, row_id, sealed)


def read_digits(key: DataKey | None, column: str, row_id: str, stored_text: str, sealed: bytes | None) -> str:
    """Return the key of the phone that `read_phone` would return, decrypted here; `Busy` if it cannot be."""
    if sealed is None and not stored_text.startswith(BLIND):
        return stored_text
    return _open(key, column, row_id, sealed)


def _open(key: DataKey | None, column: str, row_id: str, sealed: bytes | None) -> str:
    if key is None:
        raise _no_key_number(column, row_id)
    return key.open(column, row_id, sealed)


def _no_key_number(column: str, row_id: str) -> Busy:
    return Busy(
        f"{column} of row {row_id} is encrypted, and the row does not say with which key",
        todo="compare the row with a backup, and see who can write to the database",
    )
