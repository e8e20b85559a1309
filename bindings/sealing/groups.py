"""Groups records by a key in bounded memory: what exceeds it is kept in a temporary file."""

from __future__ import annotations

import marshal
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PARTS = 128
MEMORY_BYTES = 16 * 2**20  # of records, before they are written to the file


class Groups:
    """Records, bytes each, by their key. The file has no name, and vanishes with the process.

    A group has its records in the order in which they were added. `memory_bytes` limits what is kept in memory
    while records are added; afterwards one part at a time is read, about a hundredth of all.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._size = 0
        self._parts: list[list[tuple[str, bytes]]] = [[] for _ in range(PARTS)]
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` closes it
        self._written: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]  # offset and length

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def add(self, key: str, record: bytes) -> None:
        """Add a record to the group of a key."""
        self._parts[hash(key) % PARTS].append((key, record))
        self._size += len(record)
        if self._size > self._memory_bytes:
            self._write()

    def groups(self) -> Iterator[tuple[str, list[bytes]]]:
        """Yield each key with its records."""
        for number in range(PARTS):
            members: dict[str, list[bytes]] = {}
            for key, record in self._read(number):
                members.setdefault(key, []).append(record)
            yield from members.items()

    def _write(self) -> None:
        """Write the records in memory to the end of the file, those of each part together."""
        for number, records in enumerate(self._parts):
            content = marshal.dumps(records)
            self._written[number].append((self._file.tell(), len(content)))
            self._file.write(content)
            records.clear()
        self._size = 0

    def _read(self, number: int) -> Iterable[tuple[str, bytes]]:
        for offset, length in self._written[number]:
            self._file.seek(offset)
            yield from marshal.loads(self._file.read(length))  # noqa: S302 -- this process wrote it
        yield from self._parts[number]
