"""API keys of the HTTP service: create, list, revoke, and authenticate a presented one.

A key is random, begins with `bnd_` and ends with a checksum, so that secret scanners find a leaked key and a
mistyped key needs no query. Only its SHA-256 is stored: 160 random bits need no slow hash. The key itself is shown
once, when it is created, and is in no log, no error and no repr.
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

    from bindings.lifecycle.runtime import Runtime
    from bindings.store.keys import Key

PREFIX = "bnd_"
SECRET_LENGTH = 27  # 62 ** 27 > 2 ** 160
CHECK_LENGTH = 6  # 62 ** 6 > 2 ** 32
PREFIX_LENGTH = 8
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedKey:
    """A new key. `key` is the secret that its user presents; it is available only here."""

    record: Key
    key: str = field(repr=False)


class ApiKeys:
    """The keys of one database. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._caller = runtime.caller

    def create(
        self,
        *,
        name: str,
        role: str,
        rate_limit: int | None = None,
        expires_at: datetime | str | None = None,
    ) -> CreatedKey:
        """Create a key for `name` with a role: app, auditor, investigator, admin or router.

        Two keys may share a name, for rotation: create the second, distribute it, revoke the first. `rate_limit`
        is in requests per second and replica. Not safe to repeat: each call creates another key.
        """
        created = self.create_once(
            str(uuid7()), name=name, role=role, rate_limit=rate_limit, expires_at=expires_at
        )
        if created is None:
            raise AssertionError("unreachable: the id is new")
        return created

    def create_once(
        self,
        key_id: str,
        *,
        name: str,
        role: str,
        rate_limit: int | None = None,
        expires_at: datetime | str | None = None,
    ) -> CreatedKey | None:
        """Create a key with this id (a new UUID) as `create` does, or return None if a key has the id already.

        Safe to repeat: a form that is sent twice creates one key, and its secret is returned once.
        """
        checked_id = validation.identifier(key_id, "key")
        key_fields = validation.key(name=name, role=role, rate_limit=rate_limit, expires_at=expires_at)
        key = generate()
        record = self._database.write(
            lambda tx: keys.add(
                tx, checked_id, digest(key), self._caller, prefix=key[:PREFIX_LENGTH], **key_fields
            )
        )
        return None if record is None else CreatedKey(record=record, key=key)

    def get(self, key_id: str) -> Key:
        """Return a key without its secret; `NotFound` if there is none."""
        key = self._database.read(keys.find, validation.identifier(key_id, "key"))
        if key is None:
            raise errors.NotFound("there is no such key")
        return key

    def list(self) -> list[Key]:
        """Return every key ever created, newest first, without the secrets."""
        return self._database.read(keys.list_all)

    def revoke(self, key_id: str) -> Key:
        """Revoke a key; replicas reject it within seconds. Safe to repeat. `NotFound` if there is none."""
        checked_id = validation.identifier(key_id, "key")
        revoked = self._database.write(lambda tx: keys.revoke(tx, checked_id, self._caller))
        if revoked is None:
            raise errors.NotFound("there is no such key")
        return revoked

    def may_write(self) -> bool:
        """Return whether this process's user of the database may create and change keys and webhooks."""
        return self._database.read(keys.may_write)

    def any_exist(self) -> bool:
        """Return True if any key was ever created; if so, requests must authenticate."""
        return self._database.read(keys.exist)

    def authenticate(self, presented: str) -> Key | None:
        """Return the presented key, or None if it is unknown, expired or revoked."""
        if not well_formed(presented):
            return None
        hashed = digest(presented)
        row = self._database.read(keys.find_valid, hashed, self._database.now)
        if row is None:
            return None
        key, stored_hash = row
        return key if hmac.compare_digest(stored_hash, hashed) else None

    def valid_digests(self) -> frozenset[str]:
        """Return the SHA-256 of every key that is valid now."""
        return self._database.read(keys.valid_digests, self._database.now)

    def record_use(self, key_id: str) -> None:
        """Record that a key was used, to the minute. Safe to repeat."""
        self._database.write(lambda tx: keys.record_use(tx, key_id))


def generate() -> str:
    """Return a new random key."""
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_LENGTH))
    return PREFIX + secret + _check(secret)


def well_formed(key: str) -> bool:
    """Return True if a text has the form of a key and its checksum fits."""
    body = key.removeprefix(PREFIX)
    if not key.startswith(PREFIX) or len(body) != SECRET_LENGTH + CHECK_LENGTH or not body.isascii():
        return False
    return hmac.compare_digest(_check(body[:SECRET_LENGTH]), body[SECRET_LENGTH:])


def digest(key: str) -> str:
    """Return the SHA-256 of a key, which is what is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def _check(secret: str) -> str:
    remainder, text = zlib.crc32(secret.encode()), ""
    for _ in range(CHECK_LENGTH):
        remainder, index = divmod(remainder, len(_ALPHABET))
        text = _ALPHABET[index] + text
    return text
