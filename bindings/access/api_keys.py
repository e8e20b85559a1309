"""The keys of the HTTP service: made, listed, revoked, and recognised when they are presented.

A key is random, begins with `bnd_` and ends with a checksum, so that a scanner finds a leaked one and a mistyped
one needs no query. Only its SHA-256 is stored: 160 random bits need no slow hash. The key itself is shown once,
when it is made, and passes through no log, no error and no repr.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from bindings import errors
from bindings.store import keys
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Caller
    from bindings.store.database import Database
    from bindings.store.keys import Key

PREFIX = "bnd_"
SECRET_LENGTH = 27  # 62 ** 27 > 2 ** 160
CHECK_LENGTH = 6  # 62 ** 6 > 2 ** 32
PREFIX_LENGTH = 8
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedKey:
    """A key that was just made. `key` is what its user presents; it is shown this once."""

    record: Key
    key: str = field(repr=False)


class ApiKeys:
    """The keys of one database. Thread-safe."""

    def __init__(self, database: Database, caller: Caller) -> None:
        self._database = database
        self._caller = caller

    def create(
        self,
        *,
        name: str,
        role: str,
        rate_limit: int | None = None,
        expires_at: datetime | str | None = None,
    ) -> CreatedKey:
        """Make a key for `name` with a role: app, auditor, investigator or admin.

        Two keys may share a name: make the second, hand it out, revoke the first. `rate_limit` is in requests
        per second and replica. Not safe to repeat: each call makes another key.
        """
        given = validation.key(name=name, role=role, rate_limit=rate_limit, expires_at=expires_at)
        key, key_id = generate(), str(uuid7())
        record = self._database.write(
            lambda tx: keys.add(tx, key_id, digest(key), self._caller, prefix=key[:PREFIX_LENGTH], **given)
        )
        return CreatedKey(record=record, key=key)

    def list(self) -> list[Key]:
        """Every key that there ever was, newest first; never the keys themselves."""
        return self._database.read(keys.list_all)

    def revoke(self, key_id: str) -> Key:
        """Make a key useless; replicas notice within seconds. Safe to repeat. `NotFound` where there is none."""
        found_id = validation.identifier(key_id, "key")
        revoked = self._database.write(lambda tx: keys.revoke(tx, found_id, self._caller))
        if revoked is None:
            raise errors.NotFound("there is no such key")
        return revoked

    def any_exist(self) -> bool:
        """Whether there ever was a key: from then on, nobody is let in without one."""
        return self._database.read(keys.exist)

    def authenticate(self, presented: str) -> Key | None:
        """The key that was presented, or None where it is not good (never was, has expired, is revoked)."""
        if not well_formed(presented):
            return None
        hashed = digest(presented)
        found = self._database.read(keys.find_valid, hashed, self._database.now)
        if found is None or not hmac.compare_digest(found[1], hashed):
            return None
        return found[0]

    def record_use(self, key_id: str) -> None:
        """Record that a key is in use, good to a minute."""
        self._database.write(lambda tx: keys.record_use(tx, key_id))


def generate() -> str:
    """A new key."""
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_LENGTH))
    return PREFIX + secret + _check(secret)


def well_formed(key: str) -> bool:
    """Whether a text can be a key at all, by its checksum."""
    body = key.removeprefix(PREFIX)
    if not key.startswith(PREFIX) or len(body) != SECRET_LENGTH + CHECK_LENGTH or not body.isascii():
        return False
    return hmac.compare_digest(_check(body[:SECRET_LENGTH]), body[SECRET_LENGTH:])


def digest(key: str) -> str:
    """What is stored of a key, and compared."""
    return hashlib.sha256(key.encode()).hexdigest()


def _check(secret: str) -> str:
    rest, text = zlib.crc32(secret.encode()), ""
    for _ in range(CHECK_LENGTH):
        rest, index = divmod(rest, len(_ALPHABET))
        text = _ALPHABET[index] + text
    return text
