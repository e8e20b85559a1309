"""The keys for phones at rest: keyed digests that find a phone, and the cipher that gives it back.

A ring has two kinds of keys, each by number. An index key makes the blind index of a phone: the same phone gives
the same text, so the database can compare it, and without the key the text says nothing. A data key seals the
digits; what it seals opens only in the column and row that it was sealed for. Which keys are written with is
recorded in `account`, never decided here: replicas that disagree would not see each other's bindings (I1).

Locks are made of the digits, and the provider gets the digits: neither depends on a key.
"""

from __future__ import annotations

import hmac
from binascii import b2a_base64
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bindings.domain.phone import MAX_DIGITS
from bindings.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Dialect

    from bindings.domain.phone import Phone

BLIND = "~"  # how a keyed value begins: no phone and no unkeyed fingerprint does
INDEX_KEY_BYTES = 32
DATA_KEY_BYTES = 64
BLIND_BYTES = 16
CHECK_BYTES = 8
CACHED_BLIND_INDEXES = 8_192  # about 2 MB: phones that are bound or looked up are soon looked up again
VARIABLES = "BINDINGS_PHONE_KEYS_FILE or BINDINGS_PHONE_KEYS_COMMAND"
_ATTRIBUTE = "phone_keys"
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True, slots=True)
class KeyNumbers:
    """The keys that phones are written with, as `account` records them. None: phones are written as digits."""

    index: int | None
    data: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the ids of the keys, as `kind:number`."""
        return () if self.index is None else (f"index:{self.index}", f"data:{self.data}")

    @property
    def description(self) -> str:
        """Return the ids of the keys, as part of a sentence."""
        return " and ".join(self.names)


PLAIN = KeyNumbers(None, None)


class DataKey:
    """One data key, or only its number if the ring does not have it. Thread-safe; the repr has no key."""

    def __init__(self, number: int, key: bytes | None) -> None:
        self.number = number
        self._cipher: Any = None
        self._errors: tuple[type[Exception], ...] = ()
        if key is not None:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESSIV

            self._cipher, self._errors = AESSIV(key), (InvalidTag, ValueError)

    def __repr__(self) -> str:
        return f"DataKey({self.number})"

    def seal(self, column: str, row_id: str, phone: Phone) -> bytes:
        """Return the sealed digits of a phone for one column (`table.column`) and row; always of one length."""
        return self.seal_bytes(column, row_id, phone.digits.ljust(MAX_DIGITS).encode())

    def seal_bytes(self, column: str, row_id: str, content: bytes) -> bytes:
        """Return the sealed content for one column (`table.column`) and row, 16 bytes longer."""
        sealed: bytes = self._cipher.encrypt(content, [column.encode(), row_id.encode()])
        return sealed

    def open(self, column: str, row_id: str, sealed: bytes | None) -> str:
        """Return the digits that were sealed for this column and row; raises as `open_bytes`."""
        return self.open_bytes(column, row_id, sealed).decode().rstrip()

    def open_bytes(self, column: str, row_id: str, sealed: bytes | None) -> bytes:
        """Return what was sealed for this column and row.

        Raises `Busy`, whose text has no phone, if the ring lacks the key or the sealed value is not the one that
        was written for this column and row.
        """
        if self._cipher is None:
            raise Busy(
                f"{column} of row {row_id} is encrypted with data key {self.number}, which this process does not"
                " have",
                todo=f"restart this process with that key in {VARIABLES}",
            )
        try:
            content: bytes = self._cipher.decrypt(sealed or b"", [column.encode(), row_id.encode()])
        except self._errors:
            raise Busy(
                f"{column} of row {row_id} does not open with data key {self.number}: it was changed, or moved"
                " from another row",
                todo="compare the row with a backup, and see who can write to the database",
            ) from None
        return content


class PhoneKeys:
    """The ring of one process, for the scope of its database. Thread-safe; equal to one of the same keys."""

    def __init__(self, scope: str, *, index: Mapping[int, bytes], data: Mapping[int, bytes]) -> None:
        self._index = dict(sorted(index.items()))
        self._contexts = {number: _hmac_context(key, f"{scope}|0|") for number, key in self._index.items()}
        self._blind = lru_cache(CACHED_BLIND_INDEXES)(self._make_blind)
        self._prefixes = {number: blind_prefix(number) for number in self._index}
        self._data = {number: DataKey(number, key) for number, key in sorted(data.items())}
        named = {f"index:{number}": key for number, key in self._index.items()}
        named |= {f"data:{number}": key for number, key in sorted(data.items())}
        self.checks = {
            name: hmac.digest(key, b"check", "sha256")[:CHECK_BYTES].hex() for name, key in named.items()
        }
        self._identity = scope, frozenset(named.items())
        self._hash = hash(self._identity)  # statements are found by the ring that they were compiled for

    def __repr__(self) -> str:
        return f"PhoneKeys({', '.join(self.checks)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PhoneKeys) and self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash

    @property
    def newest(self) -> KeyNumbers:
        """Return the highest number of each kind: the keys that the next sealing or rotation writes with."""
        return KeyNumbers(max(self._index), max(self._data))

    @property
    def form_count(self) -> int:
        """Return the number of texts by which a phone may be stored: its digits, and one for each index key."""
        return 1 + len(self._index)

    def blind(self, number: int, phone: Phone) -> str:
        """Return the blind index of a phone under an index key; KeyError if the ring lacks it."""
        return self._blind(number, phone.key)

    def _make_blind(self, number: int, digits: str) -> str:
        context = self._contexts[number].copy()  # with the key and the scope, which take longer than the digits
        context.update(digits.encode())
        return self._prefixes[number] + _base64(context.finalize()[:BLIND_BYTES])

    def forms(self, phone: Phone, index_key: int | None = None) -> list[str]:
        """Return each text by which the phone may be stored; only one if `index_key` is the key of every row."""
        digits = phone.key
        if index_key is not None:
            return [self._blind(index_key, digits)]
        return [digits, *[self._blind(number, digits) for number in self._index]]

    def blind_indexes(self, phone: Phone) -> dict[str, str]:
        """Return the blind index of a phone by index key (`index:number`)."""
        return {f"index:{number}": self.blind(number, phone) for number in self._index}

    def fingerprints(self, digest: str) -> list[str]:
        """Return each form in which the unkeyed digest of a request may be stored."""
        return [digest, *(self.fingerprint(number, digest) for number in self._index)]

    def fingerprint(self, number: int, digest: str) -> str:
        """Return the keyed form of the unkeyed digest of a request; KeyError if the ring lacks the key."""
        keyed = hmac.digest(self._index[number], digest.encode(), "sha256")
        return self._prefixes[number] + _base64(keyed)

    def has(self, numbers: KeyNumbers) -> bool:
        """Return whether the ring has the keys that phones are written with."""
        return numbers.index is None or (numbers.index in self._index and numbers.data in self._data)

    def data_key(self, number: int) -> DataKey:
        """Return a data key; one that opens nothing if the ring lacks it."""
        return self._data.get(number) or DataKey(number, None)


def data_key(keys: PhoneKeys | None, number: int) -> DataKey:
    """Return a data key of a ring; one that opens nothing if there is no ring, or it lacks the key."""
    return DataKey(number, None) if keys is None else keys.data_key(number)


def _hmac_context(key: bytes, prefix: str) -> Any:
    """Return the HMAC-SHA256 of a text so far, to be copied and continued."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.hmac import HMAC

    context = HMAC(key, hashes.SHA256())
    context.update(prefix.encode())
    return context


def _base64(value: bytes) -> str:
    """Return the bytes in base64url without padding."""
    return b2a_base64(value, newline=False).translate(_URL_SAFE, b"=").decode()


def blind_prefix(number: int) -> str:
    """Return how a value begins that was made with this index key."""
    return f"{BLIND}{number}."


def attach(dialect: Dialect, keys: PhoneKeys | None) -> None:
    """Let the column types of an engine use these keys."""
    setattr(dialect, _ATTRIBUTE, keys)


def keys_of(dialect: Dialect) -> PhoneKeys | None:
    """Return the keys of the engine of this dialect, or None if it has none."""
    return getattr(dialect, _ATTRIBUTE, None)
