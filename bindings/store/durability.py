"""Whether PostgreSQL keeps a commit that it has acknowledged, by the settings of a connection of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, func, null, select

from bindings.store.one_row import one_row

if TYPE_CHECKING:
    from sqlalchemy import Select

OFF = "off"
WEAKER_THAN_ON = "local", "remote_write"  # what synchronous_commit does for a standby


def _weak_values(commit: str | None, standbys: str, fsync: str, full_page_writes: str) -> dict[str, str]:
    if commit is None:
        return {}
    return weak_values(commit, fsync, full_page_writes, has_standbys=standbys != "")


@one_row(_weak_values, by_dialect=True)
def weak_settings(*, postgres: bool) -> Select[*tuple[Any, ...]]:
    """Return the settings by which a crash may lose a commit or damage the database, with their values.

    The connection's own value of synchronous_commit counts: server, database, role and URL may each set it. Values
    weaker than `on` count only where there are synchronous standbys. Empty on SQLite, where each commit waits for
    the disk (`engine.SQLITE_PRAGMAS`).
    """
    names = "synchronous_commit", "synchronous_standby_names", "fsync", "full_page_writes"
    return select(*(func.current_setting(name, type_=Text) if postgres else null().label(name) for name in names))


def weak_values(commit: str, fsync: str, full_page_writes: str, *, has_standbys: bool) -> dict[str, str]:
    """Return which of the values of synchronous_commit, fsync and full_page_writes are weak."""
    is_weak = commit == OFF or (has_standbys and commit in WEAKER_THAN_ON)
    values = {"fsync": fsync, "full_page_writes": full_page_writes}
    weak = {name: value for name, value in values.items() if value == OFF}
    return {"synchronous_commit": commit, **weak} if is_weak else weak
