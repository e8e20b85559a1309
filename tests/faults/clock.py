"""One clock for every process of an experiment: the machine's own plus a shift, which is in a small file.

The simulator, the host clock and the monotonic clock of every worker, and the PostgreSQL server's
`clock_timestamp()` use it, so that a test can let hours pass immediately and still run the statements of
production: on PostgreSQL a function of that name comes before the server's own in the search path.

The deciding clock may also jump: the server's on PostgreSQL, the host's wall clock on SQLite. The provider's clock
and the clock that measures durations do not.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from bindings.clock import HostClock

if TYPE_CHECKING:
    from pathlib import Path

_SHIFT = struct.Struct(
    "ddd"
)  # for every clock; how far the deciding one has jumped; how long the host was suspended

SHIFTED_CLOCK_SQL = """
CREATE SCHEMA IF NOT EXISTS faults;
CREATE TABLE IF NOT EXISTS faults.clock (shift interval NOT NULL);
DELETE FROM faults.clock;
INSERT INTO faults.clock VALUES ('0');
CREATE OR REPLACE FUNCTION faults.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  'SELECT pg_catalog.clock_timestamp() + (SELECT shift FROM faults.clock)';
"""


class SharedClock:
    """The machine's clock plus a shift that all processes share. `server`: a PostgreSQL address to shift too."""

    def __init__(self, file: Path, server: str | None = None) -> None:
        self.file = file
        self._server = server
        if not file.exists():
            file.write_bytes(_SHIFT.pack(0.0, 0.0, 0.0))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), _SHIFT.size)

    @property
    def shift(self) -> float:
        """Return how far this clock is ahead of the machine's, in seconds."""
        return float(_SHIFT.unpack_from(self._memory)[0])

    @property
    def jumped(self) -> float:
        """Return how far the deciding clock is ahead of this one, in seconds."""
        return float(_SHIFT.unpack_from(self._memory)[1])

    @property
    def suspended(self) -> float:
        """Return for how many seconds the host was suspended without its monotonic clock."""
        return float(_SHIFT.unpack_from(self._memory)[2])

    def unix(self) -> float:
        """Return the time in Unix seconds, without a jump: the provider's clock."""
        return time.time() + self.shift

    def wall(self) -> float:
        """Return what the host's wall clock reads, in Unix seconds."""
        return self.unix() + (self.jumped if self._server is None else 0.0)

    def monotonic(self) -> float:
        """Return monotonic seconds with the shift, as CLOCK_MONOTONIC continues while a process is stopped."""
        return time.monotonic() + self.shift - self.suspended

    def advance(self, by_s: float) -> None:
        """Let time pass; call it only while no operation runs that a jump would disturb."""
        self._set(self.shift + by_s, self.jumped, self.suspended)

    def jump(self, by_s: float) -> None:
        """Set the deciding clock ahead or back; no time passes."""
        self._set(self.shift, self.jumped + by_s, self.suspended)

    def suspend(self, for_s: float) -> None:
        """Let time pass as for a virtual machine that is paused: its monotonic clock stands still."""
        self._set(self.shift + for_s, self.jumped, self.suspended + for_s)

    def _set(self, shift: float, jumped: float, suspended: float) -> None:
        if self._server is not None:
            shift_server(self._server, shift + jumped)
        _SHIFT.pack_into(self._memory, 0, shift, jumped, suspended)

    @property
    def host_clock(self) -> HostClock:
        """Return the clocks for a service of the product, instead of the machine's."""
        return HostClock(wall=self.wall, monotonic=self.monotonic)


def install_shifted_clock(url: str) -> None:
    """Put the shifted clock before the server's own, for every later connection to this database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SHIFTED_CLOCK_SQL)
        name = sql.Identifier(str(make_url(url).database))
        connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = faults, pg_catalog, public").format(name))


def shift_server(url: str, to_s: float) -> None:
    """Set the shift of one database's clock to `to_s` seconds ahead of the machine's."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE faults.clock SET shift = make_interval(secs => %s)", [to_s])
