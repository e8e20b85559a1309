"""The version of the database's schema, and whether this code can work on it.

During a rolling upgrade processes of two versions work on one schema. So a schema may be newer than the code, if
the migration that made it has recorded in `schema_info` that code of this version can work on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import column, inspect, select, table, text, update

from bindings.errors import InvalidRequest, SchemaOutOfDate
from bindings.store.failures import URL_VARIABLE
from bindings.store.schema import HEAD, metadata, schema_info
from bindings.store.sql import is_postgres

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from bindings.store.read_once import Reads

_OWN_REVISION = re.compile(r"\d{4}")
_SCHEMA_IN_USE = text(
    "SELECT nspname, EXISTS (SELECT FROM pg_class AS version WHERE version.relname = 'alembic_version'"
    " AND version.relnamespace = pg_namespace.oid AND version.relkind IN ('r', 'p')) AS has_version"
    " FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE pg_class.oid = to_regclass('schema_info')"
)
_SCHEMA_AFTER = text(
    "SELECT name FROM unnest(current_schemas(false)) AS name WHERE name <> current_schema()"
    " AND to_regclass(quote_ident(name) || '.' || :table) IS NOT NULL LIMIT 1"
)
_SCHEMA_WITHOUT_USAGE = text(
    "SELECT nspname FROM unnest(string_to_array(current_setting('search_path'), ',')) AS entry"
    " JOIN pg_namespace ON nspname = replace(trim(entry, ' \"'), '$user', current_user)"
    " WHERE NOT has_schema_privilege(pg_namespace.oid, 'USAGE')"
    " AND EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = pg_namespace.oid AND relname = 'schema_info')"
)
_CREATE_PERMISSION = text("SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')")


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaVersion:
    """The revision of a schema (None: no migration has run).

    `readable_from` is the oldest revision whose code can work on it; it is read only if the schema is newer than
    this code, and None if the migration has recorded none. `fault` is why the revision cannot be read, and what to
    do about it.
    """

    revision: str | None
    readable_from: str | None = None
    fault: tuple[str, str] | None = None

    @property
    def foreign(self) -> bool:
        """Return whether the revision is one of another program."""
        return self.revision is not None and not _OWN_REVISION.fullmatch(self.revision)

    @property
    def newer(self) -> bool:
        """Return whether the schema is newer than the one that this code needs."""
        return self.revision is not None and not self.foreign and self.revision > HEAD

    @property
    def upgradable(self) -> bool:
        """Return whether the migrations of this code can bring the schema to what it needs."""
        return self.fault is None and not (self.accepted or self.newer or self.foreign)

    @property
    def accepted(self) -> bool:
        """Return whether this code can work on the schema."""
        return self.revision == HEAD or (
            self.newer and self.readable_from is not None and self.readable_from <= HEAD
        )

    def describe(self) -> str:
        """Return the revision and what this code needs, as part of a sentence."""
        if self.fault is not None:
            return self.fault[0]
        if self.revision == HEAD:
            return f"at {HEAD}, as this version needs"
        if self.accepted:
            return f"at {self.revision}: newer than this version needs ({HEAD}), which can work on it"
        if self.foreign:
            return f"that of another program: its alembic_version is {self.revision!r}"
        if self.newer:
            return f"at {self.revision}: too new for this version, which needs {HEAD}"
        return (
            f"missing, this version needs {HEAD}"
            if self.revision is None
            else f"at {self.revision}, this version needs {HEAD}"
        )

    def remedy(self) -> str | None:
        """Return what to do if the schema is not accepted, else None."""
        if self.accepted:
            return None
        if self.fault is not None:
            return self.fault[1]
        if self.foreign:
            return f"give bindings a database, or a schema by search_path, of its own in {URL_VARIABLE}"
        return "install a newer version of bindings" if self.newer else "run `bindings db upgrade`"

    def require(self) -> None:
        """Raise `SchemaOutOfDate` unless this code can work on the schema, `InvalidRequest` if it is foreign."""
        if self.foreign:
            raise another_program(f"its alembic_version is {self.revision!r}")
        if not self.accepted:
            raise SchemaOutOfDate(f"the database schema is {self.describe()}; {self.remedy()}")


def read(database: Reads) -> SchemaVersion:
    """Return the version of the database's schema; creates no file. `Busy` if the database does not answer."""
    if database.missing_file is not None:
        sentence = f"missing: there is no SQLite file at {database.missing_file}"
        todo = f"correct {URL_VARIABLE}, or run `bindings db upgrade` to create the file"
        return SchemaVersion(revision=None, fault=(sentence, todo))
    return database.read(_read)


def _read(connection: Connection) -> SchemaVersion:
    revisions: list[Any] = []
    schema, has_version = _schema_in_use(connection)
    if has_version:
        version_table = table("alembic_version", column("version_num"), schema=schema)
        revisions = sorted(connection.execute(select(version_table.c.version_num)).scalars())
    if len(revisions) > 1:
        sentence = f"not clear: alembic_version has the rows {', '.join(revisions)}"
        todo = "delete the rows that are wrong: the tables are at the last revision of schema_info"
        return SchemaVersion(revision=None, fault=(sentence, todo))
    revision = revisions[0] if revisions else None
    if revision is None and is_postgres(connection):
        denied = connection.execute(_SCHEMA_WITHOUT_USAGE).scalar()
        if denied is not None:
            sentence = f"not readable: the user of {URL_VARIABLE} may not use the schema {denied}"
            todo = f"run the SQL of `bindings db grants`, and GRANT USAGE ON SCHEMA {denied} TO ..."
            return SchemaVersion(revision=None, fault=(sentence, todo))
        if connection.execute(_CREATE_PERMISSION).one()[0] is None:
            sentence = f"missing: the search_path of the user of {URL_VARIABLE} names no schema that exists"
            todo = "create the schema, or correct the search_path of the role, of the database or in PGOPTIONS"
            return SchemaVersion(revision=None, fault=(sentence, todo))
    version = SchemaVersion(revision=revision)
    if not version.newer:
        return version
    readable_from = select(schema_info.c.readable_from).where(schema_info.c.revision == revision)
    return SchemaVersion(revision=revision, readable_from=connection.execute(readable_from).scalar())


def _schema_in_use(connection: Connection) -> tuple[str | None, bool]:
    """Return the schema whose tables the statements of this connection use, or would use once they exist.

    Also returns whether it has a version.
    """
    in_use = connection.execute(_SCHEMA_IN_USE).one_or_none() if is_postgres(connection) else None
    if in_use is not None:
        return in_use.nspname, in_use.has_version
    schema = connection.dialect.default_schema_name
    return schema, connection.dialect.has_table(connection, "alembic_version", schema=schema)


def require_own_tables(connection: Connection) -> None:
    """Raise `InvalidRequest` if a migration could take a table of a later schema of `search_path` for its own.

    Each name means the first schema that has it: the version of another program, or an index of another
    installation, which a migration would drop as the rest of a build that was interrupted. PostgreSQL only.
    """
    names = ["schema_info"] if _has_own(connection, "alembic_version") else ["alembic_version", "schema_info"]
    for name in names:
        schema = connection.execute(_SCHEMA_AFTER, {"table": name}).scalar()
        if schema is not None:
            message = (
                f"names a search_path in which {schema!r} follows {connection.dialect.default_schema_name!r}"
                f" and has the table {name}; nothing was changed; name one schema in search_path"
            )
            raise InvalidRequest.of_field(URL_VARIABLE, message)


def _has_own(connection: Connection, table: str) -> bool:
    """Return whether the table is in the schema in which this connection creates tables, not in a later one."""
    return connection.dialect.has_table(connection, table, schema=connection.dialect.default_schema_name)


def refuse_code_before(connection: Connection, revision: str) -> None:
    """Let no code start that was made for an older revision, also if its migration allowed that."""
    readable_by_older = schema_info.c.revision >= revision, schema_info.c.readable_from < revision
    connection.execute(update(schema_info).where(*readable_by_older).values(readable_from=revision))


def own_table_names(connection: Connection) -> list[str]:
    """Return which tables of this product exist, by name alone."""
    schema = connection.dialect.default_schema_name
    return sorted(set(inspect(connection).get_table_names(schema)) & set(metadata.tables))


def schema_without_create(connection: Connection) -> str | None:
    """Return the schema in which the user of the URL may not create tables; None if it may (PostgreSQL)."""
    row: Any = connection.execute(_CREATE_PERMISSION).one()
    return None if row[1] else row[0]


def another_program(evidence: str) -> InvalidRequest:
    """Return the error for a database whose tables are not ours."""
    message = (
        f"names a database of another program: {evidence};"
        " give bindings a database of its own, or a schema of its own by search_path"
    )
    return InvalidRequest.of_field(URL_VARIABLE, message)


def without_revision() -> InvalidRequest:
    """Return the error for a database that has our tables, and no row that says of which revision they are."""
    message = (
        "names a database with the tables of bindings whose alembic_version has no row, as after a restore of some"
        " tables; restore it, or insert the last revision of schema_info"
    )
    return InvalidRequest.of_field(URL_VARIABLE, message)


def wrong_encoding(encoding: str) -> InvalidRequest:
    """Return the error for a new database whose encoding does not have every character."""
    message = f"names a database in the encoding {encoding}; create one with ENCODING 'UTF8' TEMPLATE template0"
    return InvalidRequest.of_field(URL_VARIABLE, message)
