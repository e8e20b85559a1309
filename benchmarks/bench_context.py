"""Where the bench measures: the databases of a run, each filled once, when it is first asked for."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import data

if TYPE_CHECKING:
    from typing import Self

    from benchmarks.data import Filled, Sizes
    from tests.store.databases import Server

LIVE_SHARE = 10  # one live binding for so many that have ended


class NotMeasuredError(Exception):
    """Something that a measurement needs is not on this machine; the text says what."""


@dataclass(kw_only=True)
class Place:
    """The sizes of a run and its databases. A context manager: what was made goes with it, unless it is kept."""

    sizes: Sizes
    find_server: Server | None
    keep: bool = False
    _filled: dict[str, Filled] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def server(self) -> Server:
        """The PostgreSQL server."""
        if self.find_server is None:
            raise NotMeasuredError("there is no PostgreSQL here")
        return self.find_server

    def postgres(self, ended: int | None = None) -> Filled:
        """PostgreSQL with so much history, or with that of the run's size."""
        live = self.sizes.live if ended in {None, self.sizes.ended} else max(60, (ended or 0) // LIVE_SHARE)
        ended = ended or self.sizes.ended
        name = f"postgres {live} {ended}"
        if name not in self._filled:
            opened = data.on_postgres(self.server, live=live, ended=ended, keep=self.keep)
            self._filled[name] = self._stack.enter_context(opened)
        return self._filled[name]

    def sqlite(self) -> Filled:
        """SQLite with the run's history."""
        if "sqlite" not in self._filled:
            opened = data.on_sqlite(self.folder(), live=self.sizes.sqlite_live, ended=self.sizes.sqlite_ended)
            self._filled["sqlite"] = self._stack.enter_context(opened)
        return self._filled["sqlite"]

    def folder(self) -> Path:
        """An empty folder, removed at the end."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
