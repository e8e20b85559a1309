"""Shares SQLAlchemy's compiled statements among all engines of a test process.

SQLAlchemy keeps the compiled form of a statement per engine. The product has a few engines for a long time; the
tests make thousands, and would spend a fifth of their time on compiling the same statements again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy.util import LRUCache

from bindings.store import engine as engine_module
from bindings.store.phone_keys import keys_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

_shared: LRUCache[Any, Any] = LRUCache(2_000)


class SharedCache:
    """A cache of compiled statements; its keys name what text and conversions depend on, not the engine."""

    def get(self, key: tuple[Any, ...]) -> Any:
        """Return the compiled form of a statement, or None."""
        return _shared.get(_shared_key(key))

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        """Keep the compiled form of a statement."""
        _shared[_shared_key(key)] = compiled


def install() -> None:
    """Let the engines that `bindings.store.engine` creates from now on share their compiled statements."""
    engine_module.__dict__["create_engine"] = _create_engine


def _create_engine(url: Any, **settings: Any) -> Engine:
    engine = sqlalchemy.create_engine(url, **settings)
    engine.update_execution_options(compiled_cache=SharedCache())
    return engine


def _shared_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    dialect, *rest = key
    return dialect.name, dialect.driver, dialect.paramstyle, keys_of(dialect), *rest
