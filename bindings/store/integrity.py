"""Whether the database has its indexes and constraints, and whether new events get new positions.

After a restore that ended with errors, a command of an operator or a move by logical replication it may not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from bindings.store.events import PARTITION_SPAN
from bindings.store.partitions import number_of
from bindings.store.schema import events, metadata
from bindings.store.sql import is_postgres

if TYPE_CHECKING:
    from sqlalchemy import Connection

_OF_SQLITE = text("SELECT name, 1 AS valid FROM sqlite_master WHERE type = 'index'")
_OF_POSTGRESQL = text(
    "WITH own AS (SELECT relnamespace AS id FROM pg_class WHERE oid = CAST('bindings' AS regclass))"
    " SELECT relname AS name, indisvalid AND indisready AS valid FROM pg_index JOIN pg_class ON oid = indexrelid"
    " WHERE relnamespace = (SELECT id FROM own)"
    " UNION ALL SELECT conname, convalidated FROM pg_constraint"
    " WHERE connamespace = (SELECT id FROM own) AND contype IN ('c', 'f')"
    " UNION ALL SELECT relname, NULL FROM pg_inherits JOIN pg_class ON oid = inhrelid"  # a partition
    " WHERE inhparent = CAST('events' AS regclass)"
)
_OF_A_PARTITION = "uq_{}_binding_id_sequence", "uq_{}_terminal"  # see `partitions`
_POSITIONS = text(
    "SELECT greatest((SELECT max(position) FROM events), (SELECT max(position) FROM webhooks),"
    " (SELECT max(position) FROM tally_marks), (SELECT max(to_position) FROM seals), 0) AS highest,"
    " last_value + CAST(is_called AS integer) AS next,"
    " ARRAY(SELECT pg_get_expr(relpartbound, oid) FROM pg_inherits JOIN pg_class ON oid = inhrelid"
    " WHERE inhparent = CAST('events' AS regclass) AND NOT inhdetachpending) AS attached"
    " FROM events_position_seq"
)
_CONTINUE_POSITIONS = text("SELECT setval('events_position_seq', :highest)")


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingObjects:
    """The names of what is missing or not valid.

    `constraints` are constraints and unique indexes, which keep rows right; `indexes` only make queries fast.
    """

    constraints: tuple[str, ...]
    indexes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewPositions:
    """What is wrong with the positions that new events get.

    `recorded_to` is the highest recorded position if new ones do not come after it. `missing` are the bounds of
    the partition for new events if it is missing or detached.
    """

    recorded_to: int | None = None
    missing: tuple[int, int] | None = None


def missing_objects(connection: Connection) -> MissingObjects:
    """Return which unique indexes, constraints and other indexes of the schema are missing or not valid.

    SQLite: indexes alone. A constraint is a part of its table there, and cannot be removed.
    """
    rows = connection.execute(_OF_POSTGRESQL if is_postgres(connection) else _OF_SQLITE).all()
    valid = {row.name for row in rows if row.valid}
    tables = metadata.tables.values()
    constraints = {str(index.name) for table in tables for index in table.indexes if index.unique}
    indexes = {str(index.name) for table in tables for index in table.indexes} - constraints
    if is_postgres(connection):
        constraints |= {str(constraint.name) for table in tables for constraint in table.constraints}
        constraints -= {pattern.format(events.name) for pattern in _OF_A_PARTITION}
        partitions = [row.name for row in rows if row.valid is None]
        constraints |= {pattern.format(name) for name in partitions for pattern in _OF_A_PARTITION}
    return MissingObjects(constraints=tuple(sorted(constraints - valid)), indexes=tuple(sorted(indexes - valid)))


def new_positions(connection: Connection) -> NewPositions:
    """Return what is wrong with the positions of new events (PostgreSQL). One statement."""
    if not is_postgres(connection):
        return NewPositions()
    row = connection.execute(_POSITIONS).one()
    number = row.next // PARTITION_SPAN
    is_attached = not {number, None}.isdisjoint(map(number_of, row.attached))  # a default partition takes them too
    return NewPositions(
        recorded_to=row.highest if row.highest >= row.next else None,
        missing=None if is_attached else (number * PARTITION_SPAN, (number + 1) * PARTITION_SPAN),
    )


def continue_positions(connection: Connection) -> bool:
    """Let positions of events continue after the highest one recorded; return False if they did (PostgreSQL).

    For the owner of the tables.
    """
    highest = new_positions(connection).recorded_to
    if highest is None:
        return False
    connection.execute(_CONTINUE_POSITIONS, {"highest": highest})
    return True
