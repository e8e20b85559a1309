"""What an error of the database means: the cause, what to do, and whether it may pass by itself.

Every error of a driver becomes a `Failure` here, and `Busy` for the caller. A cause names the variable
BINDINGS_DATABASE_URL where that is wrong. It never contains the password, the host or the user of the URL, nor a
value of a row: of the server's words only those are repeated that carry none.

Nothing here runs a statement or waits; `retry` does that.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import exc

from bindings.errors import Busy

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

READ_ONLY = "25006"  # the SQLSTATE of a server that accepts no writes
PROTOCOL = "08P01"  # that of every refusal of pgbouncer
RETRY_SOON_S = 2
RETRY_LATE_S = 30  # the cause stays until an operator has corrected it
URL_VARIABLE = "BINDINGS_DATABASE_URL"
SEE_LOG = "see the log of the database server"
FIND_LOCK = "find the process that holds the lock of the file: a backup, a shell, an older replica"
POOL_TODO = "set pool_mode = transaction for this database in the pooler"
WAIT_TODO = "find out what the calls before it wait for: `bindings doctor`, and the locks in the database"


class DatabaseWaitTimeout(Exception):
    """The time for a free connection or for the write lock of this process is over; nothing was begun."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the database did not do what was requested, and what the operator can do about it."""

    cause: str
    todo: str
    may_pass: bool = False

    def error(self) -> Busy:
        """Return the error for the caller."""
        retry_after_s = RETRY_SOON_S if self.may_pass else RETRY_LATE_S
        return Busy(f"{self.cause}; nothing more was done", retry_after_s=retry_after_s, todo=self.todo)


class ConstraintViolated(Busy):
    """A write violated a constraint and was rolled back; `constraint` is its name, or its columns on SQLite."""

    def __init__(self, constraint: str) -> None:
        message = f"the write violated {constraint} and was rolled back"
        super().__init__(message, retry_after_s=RETRY_LATE_S, todo="see whether `bindings doctor` is red")
        self.constraint = constraint


def explain(error: exc.DBAPIError | DatabaseWaitTimeout, url: URL) -> Failure:
    """Return what an error of the database at `url` means."""
    if isinstance(error, DatabaseWaitTimeout):
        return Failure(str(error), WAIT_TODO, may_pass=True)
    if url.get_backend_name() == "sqlite":
        return _explain_sqlite(error, url)
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return _explain_state(state, error)
    if error.connection_invalidated:
        return Failure(
            "the connection to the database was lost, or it did not answer in time", SEE_LOG, may_pass=True
        )
    if isinstance(error, exc.DataError) and error.statement is not None:  # such as a text with a NUL character
        return Failure("a value cannot be sent to the database; nothing was sent", SEE_LOG)
    return _explain_connect(error)


def constraint_of(error: exc.IntegrityError) -> str:
    """Return the name of the violated constraint, or what was violated if it has none; on SQLite its columns."""
    diagnosis = getattr(error.orig, "diag", None)
    if diagnosis is None:
        return str(error.orig).rpartition(": ")[2]
    if diagnosis.column_name:
        return f"NOT NULL of the column {diagnosis.table_name}.{diagnosis.column_name}"
    name: str = diagnosis.constraint_name or f"the bounds of the partitions of {diagnosis.table_name}"
    return name


# PostgreSQL, connected.

_ENCODING = Failure(
    "the encoding of the database lacks a character of a text",
    "move to a database that was created with ENCODING 'UTF8'",
)
# By SQLSTATE or its class. Of these the server's message repeats no value: it is shown.
_STATES: dict[str, Failure] = {
    "08": Failure("the connection to the database was lost", SEE_LOG, may_pass=True),
    PROTOCOL: Failure("the database server, or a pooler before it, ended the connection", SEE_LOG, may_pass=True),
    "40": Failure("the database rolled back a transaction that collided with others", SEE_LOG, may_pass=True),
    "53": Failure("the database server has run out of a resource", "free it on the server", may_pass=True),
    "53100": Failure("the disk of the database server is full", "free space on the server", may_pass=True),
    "53300": Failure(
        "the database server accepts no more connections",
        "raise its max_connections, or lower BINDINGS_POOL_SIZE of each process",
        may_pass=True,
    ),
    "55006": Failure("an object of the database is in use", SEE_LOG, may_pass=True),
    "55P03": Failure("a lock of the database was not free in time", SEE_LOG, may_pass=True),
    "57": Failure("an operator of the database server intervened", SEE_LOG, may_pass=True),
    "57P01": Failure(
        "the database server shuts down, or an administrator ended the connection", SEE_LOG, may_pass=True
    ),
    "57P02": Failure("a process of the database server crashed: it ended all connections", SEE_LOG, may_pass=True),
    "57P03": Failure("the database server starts or shuts down", SEE_LOG, may_pass=True),
    "57P04": Failure("the database was dropped", SEE_LOG),
    "57P05": Failure("the database server closed a connection that was not in use", SEE_LOG, may_pass=True),
    "57014": Failure("the database server cancelled the statement: it took too long", SEE_LOG, may_pass=True),
    "58030": Failure("the database server cannot read or write its files", SEE_LOG, may_pass=True),
    READ_ONLY: Failure(
        "the database server accepts no writes",
        f"see that {URL_VARIABLE} leads to the primary, and that it is not set to read-only",
        may_pass=True,
    ),
    "25P03": Failure("the server ended a transaction that waited for this process", SEE_LOG, may_pass=True),
    "25P04": Failure("the server ended a transaction that took too long", SEE_LOG, may_pass=True),
    "2200H": Failure(
        "a sequence of the database has given out its last number",
        "raise its limit: ALTER SEQUENCE ... NO MAXVALUE",
    ),
    "54": Failure("the database server has reached a limit of its own", SEE_LOG),  # such as that of wraparound
    "0A000": Failure("the schema was changed while this process ran", SEE_LOG, may_pass=True),
    "26000": Failure("the database has lost a prepared statement", SEE_LOG, may_pass=True),
    "28": Failure(f"the database server refuses the user of {URL_VARIABLE}", "correct the user or the password"),
    "3D000": Failure(
        f"the server has no database of the name in {URL_VARIABLE}", f"create it, or correct {URL_VARIABLE}"
    ),
    "42501": Failure(
        f"the database refuses the user of {URL_VARIABLE}",
        "give the user this permission, or the role that owns the tables",
    ),
    "3F000": Failure(
        f"the search path of the user of {URL_VARIABLE} names no schema that exists",
        "create the schema, or correct the search_path of the role, of the database or in PGOPTIONS",
    ),
    "42P01": Failure("a table is missing in the database", "`bindings doctor` shows the schema"),
    "42703": Failure("a column is missing in the database", "`bindings doctor` shows the schema"),
    "22P05": _ENCODING,
    "22021": _ENCODING,
    "XX": Failure("the database server reports damaged data or an internal error", SEE_LOG),
}
_SAFE_MESSAGES = {"53", "53100", "54", "42501", PROTOCOL}
_STATEMENT_POOLING = "statement pooling"
_NO_SCHEMA_PERMISSION = re.compile(r"permission denied for schema (\w+)")


def _explain_state(state: str, error: exc.DBAPIError) -> Failure:
    failure = _STATES.get(state) or _STATES.get(state[:2])
    if failure is None:
        return Failure(f"the database failed with SQLSTATE {state} ({type(error.orig).__name__})", SEE_LOG)
    if state not in _SAFE_MESSAGES and state[:2] not in _SAFE_MESSAGES:
        return failure
    message = str(getattr(getattr(error.orig, "diag", None), "message_primary", None) or error.orig)
    if state == PROTOCOL and _STATEMENT_POOLING in message:
        return Failure(f"{URL_VARIABLE} leads to a pooler that allows no transactions: {message}", POOL_TODO)
    schema = _NO_SCHEMA_PERMISSION.search(message)
    todo = failure.todo if schema is None else schema_todo(schema[1])
    return Failure(f"{failure.cause}: {message}", todo, failure.may_pass)


def schema_todo(schema: str) -> str:
    """Return what to do if the user may not create tables in the schema, as in `public` since PostgreSQL 15."""
    return f"make this role the owner of the database, or grant it CREATE: GRANT CREATE ON SCHEMA {schema} TO ..."


# PostgreSQL, not connected: the driver has the server's text only, and no SQLSTATE.

_REFUSED_CONNECTIONS: tuple[tuple[str, Failure], ...] = (
    (
        r"not known|No address associated|nodename nor servname",
        Failure(f"the host in {URL_VARIABLE} is not known", "correct the host, or the name resolution"),
    ),
    (
        r'role ".*" does not exist',
        Failure(f"the server has no role of the name in {URL_VARIABLE}", "correct the user, or create the role"),
    ),
    (
        r"password|authentication failed",
        Failure(f"the server refuses the password of {URL_VARIABLE}", "correct the user or the password"),
    ),
    (
        r"pg_hba\.conf",
        Failure(
            f"the server accepts no connection from this host for the user and database of {URL_VARIABLE}",
            "correct the pg_hba.conf of the server, or the URL",
        ),
    ),
    (r'database ".*" does not exist', _STATES["3D000"]),
    (
        r"is not permitted to log in",
        Failure(f"the role of {URL_VARIABLE} may not log in", "correct the user, or ALTER ROLE ... LOGIN"),
    ),
    (
        r"too many connections for (role|database)",
        Failure(
            f"the role or the database of {URL_VARIABLE} has reached its connection limit",
            "raise the CONNECTION LIMIT, or lower BINDINGS_POOL_SIZE of each process",
            may_pass=True,
        ),
    ),
    (r"too many clients|connection slots are reserved|no more connections allowed", _STATES["53300"]),
    (
        r"not currently accepting connections",
        Failure(
            f"the database in {URL_VARIABLE} accepts no connections",
            "wait for the end of its maintenance, or ALTER DATABASE ... ALLOW_CONNECTIONS true",
            may_pass=True,
        ),
    ),
    (r"starting up|shutting down|in recovery mode|not yet accepting connections", _STATES["57P03"]),
    (
        r"permission denied for database",
        Failure(f"the database refuses the user of {URL_VARIABLE}", "grant the user CONNECT on the database"),
    ),
    (
        r"SSL|certificate",
        Failure(f"the server and {URL_VARIABLE} do not agree on TLS", "correct sslmode and the certificates"),
    ),
)
_CORRECT_PARAMETERS = "correct the part after the question mark"
_SEVERITY = re.compile(r"\w+:\s\s")  # before what the server itself says, in the language of the server
_QUOTED = re.compile("[\"'\u00ab\u00bb\u201e].+?[\"'\u00ab\u00bb\u201c]")  # may be the user of the URL


def _explain_connect(error: exc.DBAPIError) -> Failure:
    if not isinstance(error, exc.OperationalError):
        return Failure(
            f"{URL_VARIABLE} has a parameter that the driver does not accept ({type(error.orig).__name__})",
            _CORRECT_PARAMETERS,
        )
    text = str(error.orig)
    attempts = re.findall(r"^- host: .*$", text, re.MULTILINE) or [text]
    failures = [_explain_attempt(attempt) for attempt in attempts]
    return next((failure for failure in failures if failure.may_pass), failures[0])


def _explain_attempt(text: str) -> Failure:
    for pattern, failure in _REFUSED_CONNECTIONS:
        if re.search(pattern, text):
            return failure
    if invalid := re.search(r"invalid (\w+) value: ", text):
        return Failure(f"{URL_VARIABLE} has a value of {invalid[1]} that libpq does not know", _CORRECT_PARAMETERS)
    reason = text.rpartition("failed: ")[2].strip().partition("\n")[0]
    if _SEVERITY.match(reason):
        words = _QUOTED.sub('"..."', _SEVERITY.sub("", reason))
        return Failure(f"the server in {URL_VARIABLE} refuses the connection: {words}", SEE_LOG, may_pass=True)
    return Failure(
        f"the server in {URL_VARIABLE} does not accept connections: {reason}",
        f"see that it runs, and that host and port in {URL_VARIABLE} are right",
        may_pass=True,
    )


# SQLite.

_SQLITE_CODES: dict[int, Failure] = {
    sqlite3.SQLITE_BUSY: Failure("another process holds the lock of the SQLite file", FIND_LOCK, may_pass=True),
    sqlite3.SQLITE_LOCKED: Failure("another statement holds the lock of a table", FIND_LOCK, may_pass=True),
    sqlite3.SQLITE_SCHEMA: Failure("the schema was changed while this process ran", SEE_LOG, may_pass=True),
    sqlite3.SQLITE_FULL: Failure("the disk of the SQLite file is full", "free space on it"),
    sqlite3.SQLITE_READONLY: Failure(
        "the SQLite file cannot be written",
        "correct its permissions, those of its folder, or the mount",
    ),
    sqlite3.SQLITE_IOERR: Failure("the disk reports an error for the SQLite file", "see the disk and its mount"),
    sqlite3.SQLITE_NOTADB: Failure(
        f"the file in {URL_VARIABLE} is not an SQLite database",
        f"correct the path in {URL_VARIABLE}, or restore the file",
    ),
    sqlite3.SQLITE_CORRUPT: Failure("the SQLite file is damaged", "restore it from a backup"),
    sqlite3.SQLITE_PERM: Failure("access to the SQLite file is denied", "correct its permissions"),
    sqlite3.SQLITE_AUTH: Failure("access to the SQLite file is denied", "correct its permissions"),
    sqlite3.SQLITE_NOMEM: Failure("this host has no memory left for SQLite", "free memory", may_pass=True),
}
_SQLITE_MOVED = sqlite3.SQLITE_READONLY_DBMOVED


def _explain_sqlite(error: exc.DBAPIError, url: URL) -> Failure:
    code: int = getattr(error.orig, "sqlite_errorcode", None) or 0
    if code == _SQLITE_MOVED:
        return Failure("the SQLite file was moved or deleted while it was open here", "restart the process")
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_CANTOPEN:
        return _explain_cannot_open(url)
    if primary == sqlite3.SQLITE_IOERR and _has_full_disk(url):  # SQLite says so of its main file alone
        primary = sqlite3.SQLITE_FULL
    failure = _SQLITE_CODES.get(primary)
    if failure is not None:
        return failure
    if "no such table" in str(error.orig) or "no such column" in str(error.orig):
        return Failure("a table or column is missing in the database", "`bindings doctor` shows the schema")
    if not code and isinstance(error, exc.OperationalError):
        return Failure("SQLite did not run the statement", FIND_LOCK, may_pass=True)
    name: str = getattr(error.orig, "sqlite_errorname", None) or type(error.orig).__name__
    return Failure(f"SQLite failed with {name}", "restore the file if it is damaged")


def _has_full_disk(url: URL) -> bool:
    try:
        return shutil.disk_usage(Path(url.database or "").parent).free == 0
    except OSError:
        return False


def _explain_cannot_open(url: URL) -> Failure:
    file = Path(url.database or "")
    if file.is_symlink():
        file = Path(os.path.realpath(file))
        if file.is_symlink():
            return Failure(
                f"the symbolic link in {URL_VARIABLE} leads back to itself", "correct the link or the path"
            )
    if not file.parent.is_dir():
        return Failure(
            f"the folder in {URL_VARIABLE} does not exist", f"create it, or correct the path in {URL_VARIABLE}"
        )
    if file.is_dir():
        return Failure(f"{URL_VARIABLE} names a folder, not a file", "correct the path")
    needed = file if file.exists() else file.parent
    if not os.access(needed, os.R_OK | os.W_OK):
        return Failure(
            f"this user may not read and write the file in {URL_VARIABLE}",
            "correct the permissions of the file and its folder",
        )
    return Failure(f"the file in {URL_VARIABLE} cannot be opened", "see the disk, and the limit of open files")
