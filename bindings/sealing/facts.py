"""The salted hashes by which an event proves the row of a binding or a hold, and has none of its phones.

The salt is in the row. Without it the hash says nothing: a row that is erased loses its salt, and its event stays.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bindings.sealing.encoding import canonical, sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

SALT_BYTES = 16
BINDING_FACTS = (
    *("id", "mode", "phone_a", "phone_b", "pool_number", "app_id", "scope", "actor", "reference"),
    *("idempotency_key", "expire_s", "max_expire_s", "warn_s", "replaces"),
)
HOLD_FACTS = ("id", "scope", "phone", "why", "app_id", "bind_id", "created_at")


def new_salt() -> str:
    """Return a random salt, in hexadecimal."""
    return os.urandom(SALT_BYTES).hex()


def facts_hash(salt: str, values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the hash of the values with these names, phones as digits; those that are None are left out."""
    present = {name: values[name] for name in names if values[name] is not None}
    return sha256(bytes.fromhex(salt) + canonical(present))
