"""The journal of erasures: a file outside of the database, because a restore brings back what was erased.

Each erasure appends a line, before it changes the first row: when, its id and ticket, a keyed digest of the phone,
and how many rows it was to change. The key is in a file beside it, `<journal>.key`, made at the first erasure. No
line has a phone, and without the key no phone can be compared with a line.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bindings import secret_files
from bindings.errors import InvalidRequest

if TYPE_CHECKING:
    from typing import IO, Literal

    from bindings.domain.phone import Phone

VARIABLE = "BINDINGS_ERASURE_JOURNAL"
KEY_SUFFIX = ".key"
KEY_BYTES = 32
_END = b"}}"  # of every line after the first: its last value is an object


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """One erasure. `digest` is that of its phone."""

    id: str
    at: datetime
    digest: str
    ticket: str | None


class ErasureJournal:
    """The journal at one path. Raises `InvalidRequest` that names the setting if it cannot be used."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._key_path = Path(f"{path}{KEY_SUFFIX}")

    @property
    def exists(self) -> bool:
        """Return whether an erasure has made the journal."""
        return self._path.exists()

    def prepare(self) -> None:
        """Create the journal and its key if neither exists; refuse a journal whose key is missing or another."""
        if not self.exists and not self._key_path.exists():
            _create(self._key_path, secrets.token_bytes(KEY_BYTES))
            _create(self._path, _line({"key_check": _key_check(self._key())}))
        self.entries()

    def digest(self, phone: Phone) -> str:
        """Return the digest of a phone."""
        return hmac.new(self._key(), phone.key.encode(), hashlib.sha256).hexdigest()

    def append(self, entry: JournalEntry, counts: dict[str, int]) -> None:
        """Append an entry, and return when it is on disk."""
        values = {"id": entry.id, "at": entry.at.isoformat(), "phone": entry.digest, "ticket": entry.ticket}
        with self._open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(-1, os.SEEK_END)
            is_cut_off = file.read() != b"\n"
            file.write(b"\n" * is_cut_off + _line(values | {"counts": counts}))
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[JournalEntry]:
        """Return every entry, the oldest first; a line that a crash has cut off is left out: it changed no row."""
        with self._open("rb") as file:
            lines = file.read().split(b"\n")
        try:
            first, *lines_after = [json.loads(line) for line in lines if line == lines[0] or line.endswith(_END)]
            is_own_key = hmac.compare_digest(first["key_check"], _key_check(self._key()))
            entries = [
                JournalEntry(
                    id=values["id"],
                    at=datetime.fromisoformat(values["at"]),
                    digest=values["phone"],
                    ticket=values["ticket"],
                )
                for values in lines_after
            ]
        except (ValueError, KeyError, TypeError):
            raise _error("names a file that is not a journal of erasures") from None
        if not is_own_key:
            raise _error(f"has another key than {KEY_SUFFIX} beside it: restore the key that it was written with")
        return entries

    def _key(self) -> bytes:
        try:
            key, shared_mode = secret_files.read(self._key_path, max_bytes=KEY_BYTES)
        except ValueError:
            raise _error(f"has a file {KEY_SUFFIX} beside it that is not its key") from None
        except OSError as error:
            raise _error(
                f"needs its key, the file beside it that ends in {KEY_SUFFIX}: {error.strerror}"
            ) from None
        if shared_mode is not None:
            raise _error(
                f"has a file {KEY_SUFFIX} beside it that allows other users ({shared_mode}): chmod 600 it"
            )
        if len(key) != KEY_BYTES:
            raise _error(f"has a file {KEY_SUFFIX} beside it that is not its key")
        return key

    def _open(self, mode: Literal["a+b", "rb"]) -> IO[bytes]:
        try:
            file = self._path.open(mode)
        except OSError as error:
            raise _error(f"names a file that cannot be used: {error.strerror}") from None
        if (shared_mode := secret_files.mode_for_others(os.fstat(file.fileno()))) is not None:
            file.close()
            raise _error(f"names a file that allows other users ({shared_mode}): chmod 600 it")
        return file


def _create(path: Path, content: bytes) -> None:
    """Create a file with this content for its owner only, and return when it and its name are on disk."""
    try:
        secret_files.create(path, content)
    except OSError as error:
        raise _error(f"names a file that cannot be created: {error.strerror}") from None


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _key_check(key: bytes) -> str:
    return hmac.new(key, b"check", hashlib.sha256).hexdigest()[:16]


def _error(message: str) -> InvalidRequest:
    return InvalidRequest.of_field(VARIABLE, message)
