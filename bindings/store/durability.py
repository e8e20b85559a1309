"""Whether PostgreSQL keeps a commit that it has acknowledged, by the settings of a connection of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection

OFF = "off"
WEAKER_THAN_ON = "local", "remote_write"  # what synchronous_commit does for a standby

_SETTINGS = text(
    "SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names') <> '',"
    " current_setting('fsync'), current_setting('full_page_writes')"
)


def weak_settings(connection: Connection) -> dict[str, str]:
    """Return the settings by which a crash may lose a commit or damage the database, with their values.

    The connection's own value of synchronous_commit counts: server, database, role and URL may each set it. Values
    weaker than `on` count only where there are synchronous standbys. Empty on SQLite, where each commit waits for
    the disk (`engine.SQLITE_PRAGMAS`).
    """
    if connection.dialect.name == "sqlite":
        return {}
    commit, has_standbys, fsync, full_page_writes = connection.execute(_SETTINGS).one()
    return weak_values(commit, fsync, full_page_writes, has_standbys=has_standbys)


def weak_values(commit: str, fsync: str, full_page_writes: str, *, has_standbys: bool) -> dict[str, str]:
    """Return which of the values of synchronous_commit, fsync and full_page_writes are weak."""
    is_weak = commit == OFF or (has_standbys and commit in WEAKER_THAN_ON)
    values = {"fsync": fsync, "full_page_writes": full_page_writes}
    weak = {name: value for name, value in values.items() if value == OFF}
    return {"synchronous_commit": commit, **weak} if is_weak else weak
