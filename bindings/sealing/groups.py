"""Groups records by a key in bounded memory: what exceeds it is kept in temporary files."""

from __future__ import annotations

import tempfile
import zlib
from itertools import groupby
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 128
FILE_IN_MEMORY_BYTES = 8_192  # of each file; a small history needs no disk


class Groups:
    """Records, one line of bytes each, by their key. The files have no name, and vanish with the process.

    A group has its records in the order in which they were added. Records must not contain a line feed.
    """

    def __init__(self) -> None:
        self._files: list[IO[bytes]] = [
            tempfile.SpooledTemporaryFile(FILE_IN_MEMORY_BYTES)  # noqa: SIM115
            for _ in range(FILES)
        ]

    def close(self) -> None:
        """Delete the files."""
        for file in self._files:
            file.close()

    def add(self, key: bytes, record: bytes) -> None:
        """Add a record to the group of a key. Raises `ValueError` if the key could pass for another record."""
        if b"\n" in key or b"\t" in key:
            raise ValueError("a key has a line feed or a tab")
        self._files[zlib.crc32(key) % FILES].write(key + b"\t" + record + b"\n")

    def groups(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield each key with its records."""
        for file in self._files:
            file.seek(0)
            pairs = [line[:-1].split(b"\t", 1) for line in file]
            pairs.sort(key=lambda pair: pair[0])  # stable: the records of a key keep their order
            for key, members in groupby(pairs, key=lambda pair: pair[0]):
                yield key, [record for _, record in members]
