"""What `unbind_all` acts on: the open bindings of a phone, a middle number or a reference, and a dry run's token.

Pure: no SQL, no HTTP, no clock.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bindings.domain.binding import Binding
    from bindings.domain.phone import Phone

DIGEST_BYTES = 6  # of one id: the token of 1,000 bindings has 8,002 characters
MAX_BINDINGS = 1_000  # of one call: it is one transaction and one answer
MAX_TOKEN = 8_002


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What the open bindings are selected by: exactly one of the three is set."""

    phone: Phone | None
    middle_number: str | None
    reference: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionToken:
    """The bindings that a dry run listed, as digests of their ids; `complete` if the selection had no others."""

    digests: frozenset[bytes]
    complete: bool

    @classmethod
    def of(cls, bindings: Iterable[Binding], *, complete: bool) -> SelectionToken:
        """Return the token of the listed bindings."""
        return cls(digests=frozenset(_digest(binding.id) for binding in bindings), complete=complete)

    @classmethod
    def decode(cls, text: str) -> SelectionToken:
        """Return the token of a text; raise ValueError if it is not one."""
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        complete, digests = content[:1], content[1:]
        if complete not in (b"\0", b"\1") or len(digests) % DIGEST_BYTES:
            raise ValueError("it has another form")
        starts = range(0, len(digests), DIGEST_BYTES)
        return cls(
            digests=frozenset(digests[start : start + DIGEST_BYTES] for start in starts),
            complete=complete == b"\1",
        )

    def encode(self) -> str:
        """Return the token as text of letters, digits, - and _."""
        content = bytes([self.complete]) + b"".join(sorted(self.digests))
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    def has(self, binding: Binding) -> bool:
        """Return whether the dry run listed the binding."""
        return _digest(binding.id) in self.digests


def _digest(binding_id: str) -> bytes:
    return hashlib.blake2b(binding_id.encode(), digest_size=DIGEST_BYTES).digest()
