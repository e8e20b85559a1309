"""What a phone might leave behind in bytes, and the bytes of a database."""

from __future__ import annotations

import hashlib
import sqlite3
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from bindings.store.schema import metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def dump_of(url: str) -> bytes:
    """Return every byte of the SQLite file after VACUUM, or every row of the PostgreSQL database as text."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(url.removeprefix("sqlite:///")).read_bytes()
    rows = bytearray()
    with psycopg.connect(url) as session:
        for table in metadata.tables:
            with session.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT") as copy:
                rows += b"".join(bytes(block) for block in copy)
    return bytes(rows)


def traces_of(digits: str) -> Iterator[bytes]:
    """Yield the forms in which a phone might be left behind; none is so short that a random id may have it."""
    number = digits.encode()
    yield from (number, number[::-1], number[2:], number[:-2], number[-10:], b64encode(number).rstrip(b"="))
    for name in ("sha256", "sha1", "md5", "blake2b"):
        for text_of_lock in (number, f"bindings:default:{digits}".encode()):
            digest = hashlib.new(name, text_of_lock).digest()
            yield from (digest[:8], digest.hex().encode()[:16], b64encode(digest)[:12])


def traces_in(content: bytes, phones: Iterable[str]) -> set[bytes]:
    """Return the traces of the phones that are in the content; one pass for each length of a trace."""
    by_length: dict[int, set[bytes]] = {}
    for digits in phones:
        for trace in traces_of(digits):
            by_length.setdefault(len(trace), set()).add(trace)
    return {
        content[start : start + length]
        for length, traces in by_length.items()
        for start in range(len(content) - length + 1)
        if content[start : start + length] in traces
    }
