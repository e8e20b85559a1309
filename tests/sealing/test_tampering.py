"""Each way to change what was sealed is refused to the application's role, or shows in a verification.

A case changes a sealed history in a transaction that is rolled back: first with the rights of the application and
the triggers, then as the owner of the tables without triggers.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, delete, event, func, insert, select, text, true, update
from sqlalchemy.exc import DBAPIError

from bindings import errors
from bindings.jobs import seal as seal_job
from bindings.monitoring.audit import verify_connection
from bindings.provider.simulator import Simulator
from bindings.sealing.keys import PublicKeys, create_key_file
from bindings.store import schema
from bindings.store.account import register_scope
from bindings.store.column_types import BindingId, Instant, PhoneKeyNumber, PhoneNumber
from bindings.store.grants import sql_for
from bindings.store.phone_keys import attach
from tests.service import phone_keys
from tests.service.harness import APP, A, B, C, Clock, D, E, F, G, H, ServiceHarness, feed_has_caught_up
from tests.store.databases import MOSTLY_SQLITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Column, Connection, Engine, Executable, Table

    from bindings.sealing.findings import Finding
    from bindings.service import BindingService

ROOT = Path(__file__).parents[2]
OLDEST_EVENT = "DELETE FROM events WHERE position = (SELECT min(position) FROM events)"
LAST_SEAL = "DELETE FROM seals WHERE number = (SELECT max(number) FROM seals)"
LATER = datetime(2031, 1, 1, tzinfo=UTC)
SPECIAL_VALUES: dict[str, Any] = {
    "mode": "AXXB",
    "state": "failed",
    "why": "late_success",
    "detail": {"x": 1},
    "facts_salt": "00" * 16,
    "phone_key": 7,
    "phone_a_sealed": b"x",
    "phone_b_sealed": b"x",
    "phone_sealed": b"x",
    "kinds": ["expired"],
    "filter": {"x": 1},
    "salt": b"x",
}
OTHER_ID = "0190b5a0-0000-7000-8000-000000000001"

VERIFIED = (
    *(schema.events, schema.seals, schema.bindings, schema.holds, schema.texts),
    *(schema.keys, schema.webhooks, schema.exports, schema.account),
)

SUBJECTS = dict(
    zip(
        VERIFIED,
        ("seal", "chain", "binding", "hold", "text", "key", "webhook", "export", "account"),
        strict=True,
    )
)

# What a verification cannot see: the application writes it, and no event has it. docs/how-to/prove-the-history.md
# lists these columns.
UNSEEN = {
    "keys": {"last_used_at"},
    "webhooks": {"secret", "old_secret", "tx", "position"},
    "account": {"host", "host_seen_at"},
}


@dataclass
class Sealed:
    """A sealed history that a case may change: the engine of the owner, and the role of the application."""

    engine: Engine
    role: str | None
    keys: PublicKeys
    binding_id: str
    hold_id: str
    position: int
    heads: dict[int, str] = field(default_factory=dict)

    @property
    def postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.engine.connect() as connection, connection.begin() as running:
            yield connection
            running.rollback()

    def findings(self, connection: Connection, *, heads: bool = False) -> list[Finding]:
        result = verify_connection(connection, self.keys, self.heads if heads else {})
        return [finding for finding in result.findings if finding.subject != "trigger"]


def _seed(harness: ServiceHarness) -> str:
    """Make a history with events of most kinds; return the id of its oldest binding."""
    service = harness.service
    ended = harness.bind(A, B, reference="order-1", idempotency_key="k1", warn_s=60, max_expire_s=7_200)
    service.extend(ended.id, expire_s=5_000)
    service.unbind(ended.id, reason="over")
    replaced = harness.bind(A, B, mode="AXXB")
    service.replace(replaced.id, phone_b=C)
    harness.simulator.script("refuse:-22", times=1, on="bind")
    with pytest.raises(errors.BindingsError):
        harness.bind(D, E, idempotency_key="k2")
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.BindingsError):
        harness.bind(D, E)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(D, F)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(F, G)
    harness.simulator.add_foreign_binding(phone_a=H, phone_b="9188067711", app_id=APP)
    harness.clock.advance(70)
    service.recover()
    service.reconcile()
    _administer(service)
    return ended.id


def _administer(service: BindingService) -> None:
    """Do what leaves events of administrative acts and exports."""
    service.api_keys.revoke(service.api_keys.create(name="ann", role="auditor").record.id)
    webhook = service.webhooks.add(url="https://example.com/secret", kinds=["activated"]).webhook
    service.webhooks.rotate(webhook.id)
    service.webhooks.disable(webhook.id)
    export_id = service.access_log.start_export(view="find", filters={}, format="csv", reason="drill")
    service.access_log.finish_export(export_id, row_count=3, sha256="ab")
    service.mark_restored()
    service.mark_restored(waive=True)


@pytest.fixture(scope="module", params=MOSTLY_SQLITE)
def sealed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    with _sealed_history(request, tmp_path_factory.mktemp("sealed")) as sealed:
        yield sealed


@pytest.fixture(scope="module", params=MOSTLY_SQLITE)
def encrypted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    """Provide a sealed history whose phones are encrypted."""
    with _sealed_history(request, tmp_path_factory.mktemp("encrypted"), phones=phone_keys.SEALED) as sealed:
        yield sealed


@contextmanager
def _sealed_history(
    request: pytest.FixtureRequest, folder: Path, *, phones: str = phone_keys.PLAIN
) -> Iterator[Sealed]:
    server = role = None
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), folder / "sealed.db")
        url = f"sqlite:///{folder / 'sealed.db'}"
    else:
        server = request.getfixturevalue("postgres_server")
        url = server.create(template=request.getfixturevalue("postgres_template"))
        role = f"tampering_{phones}_{os.getpid()}"
    settings = {}
    if phones == phone_keys.SEALED:
        settings = {"phone_keys_file": str(phone_keys.write_ring(folder / "ring"))}
    key = create_key_file(str(folder / "key.pem"), "key")
    clock = Clock()
    with Simulator(clock=clock.unix, pool_size=200) as simulator:
        harness = ServiceHarness(url=url, clock=clock, simulator=simulator, settings=settings, phones=phones)
        register_scope(harness.database, harness.service.settings.scope)
        binding_id = _seed(harness)
        feed_has_caught_up(harness.service)
        result = seal_job.seal_events(harness.database, key, harness.service.runtime.caller, batch=4)
        harness.close()
    assert result.seals > 4
    engine = _engine(url)
    if settings:
        attach(engine.dialect, phone_keys.phone_keys())
    with engine.begin() as connection:
        hold_id = connection.execute(select(schema.holds.c.id).limit(1)).scalar_one()
        position = (
            connection.execute(select(schema.events.c.position).order_by("position").offset(3)).scalars().first()
        )
        if role is not None:
            connection.execute(text(f"CREATE ROLE {role}"))
    if role is not None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.connection.cursor().execute(sql_for(role))
    head = result.head or ""
    yield Sealed(
        engine=engine,
        role=role,
        keys=PublicKeys(key.public_pem, "key"),
        binding_id=binding_id,
        hold_id=hold_id,
        position=position or 0,
        heads={int(head.partition(":")[0]): head.partition(":")[2]},
    )
    if role is not None:
        with engine.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()
    if server is not None:
        server.drop(url)


def _engine(url: str) -> Engine:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _: object) -> None:
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    return engine


def _other_value(column: Column[Any]) -> Any:
    if isinstance(column.type, Instant):
        return LATER
    if isinstance(column.type, BindingId):
        return OTHER_ID
    if column.name in SPECIAL_VALUES:
        return SPECIAL_VALUES[column.name]
    return 77 if column.type.python_type is int else "919999999999"


@dataclass(frozen=True)
class Case:
    """One way to change the history: its name, the change, and what the findings must say."""

    name: str
    change: Callable[[Connection, Sealed], None]
    subject: str
    postgres_only: bool = False
    sqlite_only: bool = False
    needs_head: bool = False

    def fits(self, sealed: Sealed) -> bool:
        return not (self.sqlite_only if sealed.postgres else self.postgres_only)


def _update(table: Table, column: str, where: Callable[[Sealed], Any]) -> Callable[[Connection, Sealed], None]:
    def change(connection: Connection, sealed: Sealed) -> None:
        values = {column: _other_value(table.c[column])}
        if table is schema.bindings and column == "state":
            values["ended_at"] = LATER
        result = connection.execute(update(table).where(where(sealed)).values(values))
        assert result.rowcount == 1

    return change


def _columns(table: Table, subject: str, where: Callable[[Sealed], Any], leave_out: set[str]) -> Iterator[Case]:
    for column in table.columns:
        if column.name not in leave_out:
            yield Case(f"{table.name}.{column.name}", _update(table, column.name, where), subject)


def _run(*statements: str) -> Callable[[Connection, Sealed], None]:
    def change(connection: Connection, sealed: Sealed) -> None:
        values = {"binding": sealed.binding_id, "hold": sealed.hold_id, "position": sealed.position}
        for statement in statements:
            used = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(text(statement), used)

    return change


def _set_detail(detail: str) -> Callable[[Connection, Sealed], None]:
    def change(connection: Connection, sealed: Sealed) -> None:
        kind = "jsonb" if sealed.postgres else "text"
        statement = text(f"UPDATE events SET detail = CAST(:detail AS {kind}) WHERE position = :position")
        connection.execute(statement, {"detail": detail, "position": sealed.position})

    return change


def _copy(table: Table, where: Callable[[Sealed], Any], **changed: Any) -> Callable[[Connection, Sealed], None]:
    """Insert a row like another one, with other values in some columns."""

    def change(connection: Connection, sealed: Sealed) -> None:
        row = connection.execute(select(table).where(where(sealed)).limit(1)).one()._asdict()
        row |= {name: value(row) if callable(value) else value for name, value in changed.items()}
        statement: Executable = insert(table).values(row)
        if table is schema.events and sealed.postgres:
            columns = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            statement = text(
                f"INSERT INTO events ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})"
            ).bindparams(*(_bind(table, name, value) for name, value in row.items()))
        connection.execute(statement)

    return change


def _bind(table: Table, name: str, value: Any) -> Any:
    from sqlalchemy import bindparam

    return bindparam(name, value, type_=table.c[name].type)


def _move(connection: Connection, sealed: Sealed) -> None:
    """Give an event another position: on PostgreSQL that is an event deleted and one inserted."""
    if not sealed.postgres:
        connection.execute(update(schema.events).where(_event(sealed)).values(position=900))
        return
    _copy(schema.events, _event, position=900, sequence=77, kind="revealed")(connection, sealed)
    connection.execute(delete(schema.events).where(_event(sealed)))


def _swap(connection: Connection, sealed: Sealed) -> None:
    """Let two neighbouring events change their places."""
    rows = connection.execute(
        select(schema.events).where(schema.events.c.position.in_([sealed.position, sealed.position + 1]))
    ).all()
    first, second = (row._asdict() for row in rows)
    names = [name for name in first if name not in ("position", "tx")]
    for row, other in ((first, second), (second, first)):
        values = {name: other[name] for name in names}
        if row is first:  # (binding_id, sequence) is unique
            parked = {"binding_id": None, "sequence": 0, "kind": "x"}
            connection.execute(update(schema.events).where(_at(second["position"])).values(parked))
        connection.execute(update(schema.events).where(_at(row["position"])).values(values))


def _at(position: int) -> Any:
    return schema.events.c.position == position


def _binding(sealed: Sealed) -> Any:
    return schema.bindings.c.id == sealed.binding_id


def _event(sealed: Sealed) -> Any:
    return schema.events.c.position == sealed.position


def _hold(sealed: Sealed) -> Any:
    return schema.holds.c.id == sealed.hold_id


def _seal(sealed: Sealed) -> Any:
    del sealed
    return schema.seals.c.number == 3


def _any(_: Sealed) -> Any:
    return true()


def _text(sealed: Sealed) -> Any:
    del sealed
    return schema.texts.c.event_position == select(func.min(schema.texts.c.event_position)).scalar_subquery()


def _new_id(_: object) -> str:
    return str(uuid.uuid4())


def _later(row: dict[str, Any]) -> datetime:
    at: datetime = row["created_at"]
    return at + timedelta(seconds=10)


CASES = [
    *_columns(schema.bindings, "binding", _binding, {"id"}),
    *_columns(schema.events, "seal", _event, {"position", "binding_id"}),
    *_columns(schema.holds, "hold", _hold, set()),
    *_columns(schema.seals, "seal", _seal, {"number"}),
    *_columns(schema.keys, "key", _any, UNSEEN["keys"]),
    *_columns(schema.webhooks, "webhook", _any, UNSEEN["webhooks"]),
    *_columns(schema.exports, "export", _any, set()),
    *_columns(schema.account, "account", _any, UNSEEN["account"] | {"id"}),
    *_columns(schema.texts, "text", _text, {"event_position"}),
    *(
        Case(
            f"truncate the table {table.name}", _run(f"TRUNCATE {table.name} CASCADE"), subject, postgres_only=True
        )
        for table, subject in SUBJECTS.items()
    ),
    Case("bindings.id", _update(schema.bindings, "id", _binding), "binding"),
    Case("events.binding_id", _run("UPDATE events SET binding_id = NULL WHERE position = :position"), "seal"),
    Case("events.position", _move, "seal"),
    Case("seals.number", _run("UPDATE seals SET number = 77 WHERE number = 3"), "seal"),
    Case("delete a binding", _run("DELETE FROM bindings WHERE id = :binding"), "binding"),
    Case("delete every binding", _run("DELETE FROM bindings"), "binding"),
    Case("insert a binding", _copy(schema.bindings, _binding, id=_new_id, idempotency_key=None), "binding"),
    Case("delete an event", _run("DELETE FROM events WHERE position = :position"), "seal"),
    Case(
        "delete the oldest event",
        _run(OLDEST_EVENT),
        "seal",
    ),
    Case("delete every event", _run("DELETE FROM events"), "seal"),
    Case(
        "delete a binding with its events",
        _run("DELETE FROM bindings WHERE id = :binding", "DELETE FROM events WHERE binding_id = :binding"),
        "seal",
    ),
    Case(
        "insert an event",
        _copy(schema.events, _event, position=-1, tx=-1, binding_id=None, sequence=0, kind="held"),
        "event",
    ),
    Case(
        "insert an event of a binding",
        _copy(schema.events, _event, position=901, sequence=77, kind="revealed"),
        "binding",
    ),
    Case("reorder events", _swap, "seal"),
    Case("delete a hold", _run("DELETE FROM holds WHERE id = :hold"), "hold"),
    Case("insert a hold", _copy(schema.holds, _hold, id=_new_id, bind_id="9999"), "hold"),
    Case("delete a key", _run("DELETE FROM keys"), "key"),
    Case("insert a key", _copy(schema.keys, _any, id=_new_id, hash="x", created_at=LATER), "key"),
    Case("delete an export", _run("DELETE FROM exports"), "export"),
    Case("insert an export", _copy(schema.exports, _any, id=_new_id, began_at=LATER), "export"),
    Case("delete a webhook", _run("DELETE FROM webhooks"), "webhook"),
    Case("insert a webhook", _copy(schema.webhooks, _any, id=_new_id, created_at=LATER), "webhook"),
    Case("insert a text", _copy(schema.texts, _text, name="other"), "text"),
    Case("delete the account", _run("DELETE FROM account"), "account"),
    Case("delete a seal", _run("DELETE FROM seals WHERE number = 3"), "seal"),
    Case("delete the first seal", _run("DELETE FROM seals WHERE number = 1"), "seal"),
    Case(
        "cut the last seal off",
        _run(LAST_SEAL),
        "chain",
        needs_head=True,
    ),
    Case("delete every seal", _run("DELETE FROM seals"), "chain"),
    Case("append a forged seal", _copy(schema.seals, _seal, number=900, created_at=_later), "seal"),
    Case(
        "exchange two seals",
        _run(
            "UPDATE seals SET number = -1 WHERE number = 2",
            "UPDATE seals SET number = 2 WHERE number = 3",
            "UPDATE seals SET number = 3 WHERE number = -1",
        ),
        "seal",
    ),
    Case("delete every text", _run("DELETE FROM texts"), "text"),
    Case("delete a text without a binding", _run("DELETE FROM texts WHERE binding_id IS NULL"), "text"),
    Case("texts.event_position", _run("UPDATE texts SET event_position = event_position + 100000"), "text"),
    Case("events.detail: a number that is too long", _set_detail('{"a": %s}' % (5_000 * "9")), "event"),
    Case("events.detail: no JSON", _set_detail("{"), "event", sqlite_only=True),
    Case(
        "events.detail: a name twice, which SQL and Python read differently",
        _run('UPDATE events SET detail = \'{"mode":"AXXB",\' || substr(detail, 2) WHERE position = 1'),
        "event",
        sqlite_only=True,
    ),
    Case(
        "events.at: infinity",
        _run("UPDATE events SET at = 'infinity' WHERE position = :position"),
        "event",
    ),
    Case("seals.body: no text", _run("UPDATE seals SET body = x'ff' WHERE number = 1"), "seal", sqlite_only=True),
    Case("seals.created_at: infinity", _run("UPDATE seals SET created_at = 'infinity' WHERE number = 2"), "seal"),
    Case("keys.created_at: infinity", _run("UPDATE keys SET created_at = 'infinity'"), "key"),
]


def test_untouched_history_is_sound(sealed: Sealed) -> None:
    with sealed.transaction() as connection:
        result = verify_connection(connection, sealed.keys, sealed.heads)
        assert result.findings == ()
        assert result.unsealed == 1, "the event of the last seal"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tampering_is_refused_to_the_application_or_shows(sealed: Sealed, case: Case) -> None:
    if not case.fits(sealed):
        pytest.skip("the other database only")
    with sealed.transaction() as connection:
        if sealed.role is not None:
            connection.execute(text(f"SET LOCAL ROLE {sealed.role}"))
        savepoint = connection.begin_nested()
        try:
            case.change(connection, sealed)
        except DBAPIError:
            savepoint.rollback()
        else:
            if sealed.role is not None:
                connection.execute(text("RESET ROLE"))
            assert sealed.findings(connection, heads=case.needs_head), (
                "the application changed it, and it does not show"
            )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tampering_by_the_owner_without_triggers_shows(sealed: Sealed, case: Case) -> None:
    if not case.fits(sealed):
        pytest.skip("the other database only")
    with sealed.transaction() as connection:
        _disable_triggers(connection, sealed)
        case.change(connection, sealed)
        findings = sealed.findings(connection, heads=case.needs_head)
    assert case.subject in {finding.subject for finding in findings}
    if case.subject in ("seal", "event", "binding") and case.name != "insert a binding":
        assert any(finding.first_seal is not None for finding in findings), "the stretch is named"


def _of_another(table: str, row: str, *names: str) -> Callable[[Connection, Sealed], None]:
    """Give a row (`:binding` or `:hold`) the values of another one in some columns."""
    columns = ", ".join(names)
    other = f"SELECT {columns} FROM {table} WHERE id <> {row} AND {names[0]} IS NOT NULL ORDER BY id LIMIT 1"
    return _run(f"UPDATE {table} SET ({columns}) = ({other}) WHERE id = {row}")


OF_PHONES = {
    schema.bindings: ("phone_a", "phone_b", "phone_a_sealed", "phone_b_sealed", "phone_key", "facts_salt"),
    schema.holds: ("phone", "phone_sealed", "phone_key", "facts_salt"),
}
IN_DIGITS = "phone_a = '919999999999', phone_a_sealed = NULL, phone_b = '919999999998', phone_b_sealed = NULL"
ENCRYPTED_CASES = [
    *(
        Case(f"{table.name}.{name}", _update(table, name, where), subject)
        for table, subject, where in ((schema.bindings, "binding", _binding), (schema.holds, "hold", _hold))
        for name in OF_PHONES[table]
    ),
    *(
        Case(
            f"{table.name}.{name}: none",
            _run(f"UPDATE {table.name} SET {name} = NULL WHERE id = :{subject}"),
            subject,
        )
        for table, subject in ((schema.bindings, "binding"), (schema.holds, "hold"))
        for name in OF_PHONES[table]
        if table.c[name].nullable
    ),
    Case(
        "phones of a binding in digits, others",
        _run(f"UPDATE bindings SET {IN_DIGITS}, phone_key = NULL WHERE id = :binding"),
        "binding",
    ),
    Case(
        "phones of a binding exchanged",
        _run(
            "UPDATE bindings SET phone_a = phone_b, phone_b = phone_a, phone_a_sealed = phone_b_sealed,"
            " phone_b_sealed = phone_a_sealed WHERE id = :binding"
        ),
        "binding",
    ),
    Case(
        "phone of another binding",
        _of_another("bindings", ":binding", "phone_a", "phone_a_sealed", "phone_key"),
        "binding",
    ),
    Case("salt of another binding", _of_another("bindings", ":binding", "facts_salt"), "binding"),
    *(
        Case(f"account.{name}: none", _run(f"UPDATE account SET {name} = NULL"), "account")
        for name in ("phone_index_key", "phone_data_key")
    ),
    Case("phone of another hold", _of_another("holds", ":hold", "phone_sealed"), "hold"),
    Case(
        "blind index of another phone",
        _run("UPDATE holds SET phone = (SELECT phone_a FROM bindings WHERE id = :binding) WHERE id = :hold"),
        "hold",
    ),
]


def test_untouched_history_with_encrypted_phones_is_sound(encrypted: Sealed) -> None:
    with encrypted.transaction() as connection:
        assert verify_connection(connection, encrypted.keys, encrypted.heads).findings == ()


@pytest.mark.parametrize("case", ENCRYPTED_CASES, ids=lambda case: case.name)
def test_tampering_with_encrypted_phones_shows(encrypted: Sealed, case: Case) -> None:
    with encrypted.transaction() as connection:
        _disable_triggers(connection, encrypted)
        case.change(connection, encrypted)
        findings = encrypted.findings(connection)
    assert {finding.subject for finding in findings} == {case.subject}
    assert not any("91880677" in finding.message for finding in findings)


def _disable_triggers(connection: Connection, sealed: Sealed) -> None:
    if sealed.postgres:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        return
    for name in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
        connection.execute(text(f"DROP TRIGGER {name}"))


def test_events_that_cannot_be_read_do_not_hide_what_else_was_changed(sealed: Sealed) -> None:
    positions = [sealed.position + n for n in (0, 1, 5)]
    with sealed.transaction() as connection:
        _disable_triggers(connection, sealed)
        for position in positions:
            connection.execute(text(f"UPDATE events SET at = 'infinity' WHERE position = {position}"))
        later = {"position": sealed.position + 10}
        connection.execute(text("UPDATE events SET actor = 'other' WHERE position = :position"), later)
        connection.execute(text("UPDATE holds SET strikes = 77 WHERE id = :hold"), {"hold": sealed.hold_id})
        findings = sealed.findings(connection)
        seals_by_position = {
            row.to_position: row.number for row in connection.execute(select(schema.seals).order_by("number"))
        }
    read = [finding.first for finding in findings if finding.subject == "event"]
    assert [str(place).partition("-")[2] for place in read] == list(map(str, positions))
    changed = min(number for position, number in seals_by_position.items() if position >= later["position"])
    assert changed in {finding.first_seal for finding in findings if finding.subject == "seal"}
    assert [finding.id for finding in findings if finding.subject == "hold"] == [sealed.hold_id]


def test_how_to_lists_the_columns_that_a_verification_cannot_see() -> None:
    page = (ROOT / "docs" / "how-to" / "prove-the-history.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE)
    listed = {table: set(re.findall(r"`(\w+)`", columns)) for table, columns in rows}
    assert listed == UNSEEN | {"bindings": {"idempotency_key", "duplicate_key"}}, "every other column has a case"
    known = {table.name: set(table.c.keys()) for table in VERIFIED}
    assert all(columns <= known[name] for name, columns in listed.items())


def test_each_column_of_each_table_has_a_case() -> None:
    """`account.id` is always 1. A new column or table needs one, or is named in `UNSEEN` and on the page."""
    names = {case.name for case in CASES}
    unseen = {f"{table}.{column}" for table, columns in UNSEEN.items() for column in columns}
    columns = {str(column) for table in VERIFIED for column in table.columns}
    assert columns - unseen - names == {"account.id"}
    assert not unseen & names
    encrypted_names = {case.name for case in ENCRYPTED_CASES}
    sealed_columns = {
        str(column)
        for table in OF_PHONES
        for column in table.columns
        if column.name.endswith("_sealed") or isinstance(column.type, PhoneNumber | PhoneKeyNumber)
    }
    assert sealed_columns <= encrypted_names


def test_each_trigger_that_is_off_shows(sealed: Sealed) -> None:
    query = (
        "SELECT tgname, CAST(tgrelid AS regclass) FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0"
        if sealed.postgres
        else "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
    )
    with sealed.transaction() as connection:
        triggers = connection.execute(text(query)).all()
        unreported = []
        for trigger, table in triggers:
            savepoint = connection.begin_nested()
            statement = (
                f"ALTER TABLE {table} DISABLE TRIGGER {trigger}" if sealed.postgres else f"DROP TRIGGER {trigger}"
            )
            connection.execute(text(statement))
            result = verify_connection(connection, sealed.keys, {})
            if "trigger" not in {finding.subject for finding in result.findings}:
                unreported.append(trigger)
            savepoint.rollback()
    assert len(triggers) > 5
    assert unreported == []


def test_trigger_that_is_off_shows(sealed: Sealed) -> None:
    statement = (
        "ALTER TABLE seals DISABLE TRIGGER seals_refuse_change"
        if sealed.postgres
        else "DROP TRIGGER seals_refuse_update"
    )
    with sealed.transaction() as connection:
        connection.execute(text(statement))
        result = verify_connection(connection, sealed.keys, {})
    assert [finding.subject for finding in result.findings] == ["trigger"]


def test_maintenance_that_goes_on_shows(sealed: Sealed) -> None:
    with sealed.transaction() as connection:
        connection.execute(update(schema.account).values(maintenance_until=LATER))
        result = verify_connection(connection, sealed.keys, {})
    assert [finding.subject for finding in result.findings] == ["account"]


# Values that no column should have. A row that has one is a finding, and does not stop the verification.
STRANGE = {
    "sqlite": ("CAST(x'ff' AS TEXT)", "x'ff'", "'~'", "'[]'", "'0001-01-01T00:00:00+14:00'"),
    "postgresql": ("'infinity'", "'-infinity'", "'[]'", "'~'", "chr(10)"),
}


@pytest.mark.parametrize("table", VERIFIED, ids=lambda table: table.name)
def test_no_value_of_a_column_stops_the_verification(sealed: Sealed, table: Table) -> None:
    unreported = []
    row = "ctid" if sealed.postgres else "rowid"
    with sealed.transaction() as connection:
        _disable_triggers(connection, sealed)
        for name, value in product(table.c.keys(), STRANGE[sealed.engine.dialect.name]):
            savepoint = connection.begin_nested()
            try:
                first = f"{row} = (SELECT min({row}) FROM {table.name})"
                connection.execute(text(f"UPDATE {table.name} SET {name} = {value} WHERE {first}"))
            except DBAPIError:
                continue  # the type or a constraint of the column refuses it
            else:
                if not sealed.findings(connection):
                    unreported.append((name, value))
            finally:
                savepoint.rollback()
    assert {name for name, _ in unreported} <= UNSEEN.get(table.name, set()), unreported
