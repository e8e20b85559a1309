"""The first API key of a database, read from a file: for deployments whose secrets exist before the first start.

The key in the file is recorded as an admin key, once: a revoked one stays revoked. No output and no error has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uuid_utils import uuid7

from bindings import secret_files
from bindings.access import api_keys
from bindings.domain.roles import Role
from bindings.errors import InvalidRequest
from bindings.store import keys

if TYPE_CHECKING:
    from bindings.domain.binding import Caller
    from bindings.store.database import Database
    from bindings.store.keys import Key

VARIABLE = "BINDINGS_BOOTSTRAP_KEY_FILE"
NAME = "bootstrap"
MAX_BYTES = 1_024


def read(path: str) -> str:
    """Return the key in a file.

    `InvalidRequest` if the file cannot be read, if other users may read or change it (`secret_files`), or if there
    is no key in it.
    """
    try:
        content, shared_mode = secret_files.read(path, max_bytes=MAX_BYTES)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise _invalid(f"names a file that cannot be read: {secret_files.cause(error)}") from None
    if shared_mode is not None:
        raise _invalid(
            f"names a file that other users may use (its mode is {shared_mode}): run `chmod 600 FILE`, and write a"
            " new key into it if others may have read this one"
        )
    key = text.strip()
    if not api_keys.well_formed(key):
        raise _invalid("names a file without an API key in it; `bindings keys generate` prints one")
    return key


def record(database: Database, key: str, caller: Caller) -> Key | None:
    """Record a key as an admin key and return it, or None if it is recorded already. Safe to repeat.

    Several processes may do it at the same time: one of them records the key.
    """
    key_id, digest = str(uuid7()), api_keys.digest(key)
    if database.read(keys.is_recorded, digest):
        return None
    return database.write(
        lambda tx: keys.add(
            tx, key_id, digest, caller, name=NAME, role=Role.ADMIN, prefix=key[: api_keys.PREFIX_LENGTH]
        )
    )


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest.of_field(VARIABLE, message)
