"""The context of a bench run: its sizes, and its databases, each filled when a measure first uses it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import data

if TYPE_CHECKING:
    from typing import Self

    from benchmarks.data import BenchDatabase, Sizes
    from tests.store.databases import Server

LIVE_SHARE = 10  # ended bindings per live binding


class NotMeasuredError(Exception):
    """A program or server that a measure needs is not installed on this machine; the text names it."""


@dataclass(kw_only=True)
class BenchContext:
    """The sizes of a run and its databases. A context manager that drops what it created, unless `keep` is set."""

    sizes: Sizes
    optional_server: Server | None
    keep: bool = False
    _databases: dict[str, BenchDatabase] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def server(self) -> Server:
        """Return the PostgreSQL server; raise `NotMeasuredError` if there is none."""
        if self.optional_server is None:
            raise NotMeasuredError("there is no PostgreSQL here")
        return self.optional_server

    def postgres(self, ended: int | None = None) -> BenchDatabase:
        """Return a PostgreSQL database with `ended` ended bindings (default: as many as the run's size says)."""
        live = self.sizes.live if ended in {None, self.sizes.ended} else max(60, (ended or 0) // LIVE_SHARE)
        ended = ended or self.sizes.ended
        name = f"postgres {live} {ended}"
        if name not in self._databases:
            database = data.postgres_database(self.server, live=live, ended=ended, keep=self.keep)
            self._databases[name] = self._stack.enter_context(database)
        return self._databases[name]

    def sqlite(self) -> BenchDatabase:
        """Return a SQLite database with the ended bindings of the run's size."""
        if "sqlite" not in self._databases:
            database = data.sqlite_database(
                self.folder(), live=self.sizes.sqlite_live, ended=self.sizes.sqlite_ended
            )
            self._databases["sqlite"] = self._stack.enter_context(database)
        return self._databases["sqlite"]

    def folder(self) -> Path:
        """Return an empty folder, which is removed at the end of the run."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
