"""The SQL of the hot statements, as files to read and to review: `tests/store/sql/NAME.DIALECT.sql`.

The functions of `bindings.store` are called with a connection that compiles each statement and returns no rows;
no database is needed. After an intended change of a statement, rewrite the files and read their diff:

    python -m tests.store.test_sql_text --write

Bound values stand as names (`:phone`). What the statements do to a plan is in test_plans.py.
"""

from __future__ import annotations

import re
import sys
import textwrap
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pytest
from sqlalchemy import create_engine, literal

from bindings.domain.access_log import AccessFilters, AccessKind
from bindings.domain.binding import Caller, EventKind, Reason, State
from bindings.domain.budget import Budget
from bindings.domain.phone import Phone
from bindings.domain.search_filters import Order, RefusalFilters, SearchFilters
from bindings.domain.selection import Selection
from bindings.sealing.seals import Seal
from bindings.store import (
    access_log,
    account,
    binding_list,
    bindings,
    budgets,
    deliveries,
    end_changes,
    erasure,
    events,
    expiry,
    open_bindings,
    phone_holds,
    phone_sealing,
    queries,
    refusals,
    reserve,
    rollback_detection,
    seals,
    search,
    sessions,
    settle,
    webhook_health,
)
from bindings.store.compiled import CompiledStatement
from bindings.store.database import SqlDialect, Transaction
from bindings.store.phone_keys import PLAIN, KeyNumbers, attach
from bindings.store.reserve_call import ReserveCall
from bindings.store.webhooks import Target
from bindings.web.api.samples import FOREIGN_HOLDER
from tests.service.phone_keys import phone_keys
from tests.store.test_reserve import TERMS, request

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Dialect, Executable

FOLDER = Path(__file__).parent / "sql"
WIDTH = 100
INDENT = "    "

ID = "018f0000-0000-7000-8000-000000000000"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
CALLER = Caller(actor="test")
PHONE, OTHER_PHONE = Phone("9188067701"), Phone("9188067799")
SUCCESS = settle.Success(
    bind_id="1",
    middle_number_a="9188067700",
    middle_number_b="9188067700",
    sent_at=NOW,
    answered_at=NOW,
    expires_at=LATER,
    held_until=LATER,
    warn_s=60,
    hold=timedelta(minutes=1),
    longest_hold=LATER,
)


class _Rows(list[Any]):
    """The rows of a statement: none, except for those that a test puts here."""

    rowcount = 0

    def all(self) -> list[Any]:
        return self

    def scalars(self) -> _Rows:
        return self

    def one(self) -> Any:
        return self[0]

    def one_or_none(self) -> Any:
        return self[0] if self else None

    def scalar(self) -> Any:
        return self[0] if self else None

    scalar_one = one


@dataclass
class _Recorder:
    """A connection that compiles each statement, in order, and returns the rows prepared for it or none."""

    dialect: Dialect
    rows: list[list[Any]] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

    def execute(self, statement: Executable, values: object = None, **_options: object) -> _Rows:
        self.statements.append(_text(statement, self.dialect))
        del values
        return _Rows(self.rows.pop(0) if self.rows else [])


def _text(statement: Any, dialect: Dialect) -> str:
    """Return what SQLAlchemy sends to the driver."""
    return str(statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))


def _transaction(recorder: _Recorder) -> Transaction:
    return Transaction(cast("Connection", recorder), _dialect(recorder), attempt=1, started_at=0.0)


def _dialect(recorder: _Recorder) -> SqlDialect:
    postgres = recorder.dialect.name == "postgresql"
    return SqlDialect(postgres=postgres, server_clock=postgres)


def _reserve_lock(recorder: _Recorder) -> None:
    recorder.rows = [[(None, None, None, None, 1)]]
    if recorder.dialect.name == "postgresql":
        recorder.rows = [[(None, None, None, None, None, None, None, 1, NOW)]]
    subqueries = (*account.BEFORE_INTENT, account.PHONES_SEALED_AT, rollback_detection.VERSION)
    _transaction(recorder).lock([1, 2], timeout_s=reserve.LOCK_TIMEOUT_S, reading=subqueries, known_id=ID)


def _reserve_check(recorder: _Recorder) -> None:
    reserve.find_holding_rows(cast("Connection", recorder), [PHONE, OTHER_PHONE], "default", NOW)


def _reserve_check_encrypted(recorder: _Recorder) -> None:
    """While rows in digits may be left, and after that."""
    _use_phone_keys(recorder)
    for index_key in (None, 1):
        phones = [PHONE, OTHER_PHONE]
        reserve.find_holding_rows(cast("Connection", recorder), phones, "default", NOW, index_key)


def _use_phone_keys(recorder: _Recorder) -> None:
    recorder.dialect = copy(recorder.dialect)
    attach(recorder.dialect, phone_keys())


def _convert_phones(recorder: _Recorder) -> None:
    _use_phone_keys(recorder)
    numbers = KeyNumbers(index=1, data=1)
    for table in ("bindings", "holds"):
        phone_sealing.convert_batch(_transaction(recorder), table, numbers, ID, CALLER)


def _seal(recorder: _Recorder) -> None:
    connection, seal = (
        cast("Connection", recorder),
        Seal(number=2, to_tx=1, to_position=1, body="{}", signature="", created_at=NOW),
    )
    seals.last(connection)
    seals.unsealed(connection, seal, limit=5_000)
    seals.insert(_transaction(recorder), seal)


def _reserve_insert(recorder: _Recorder) -> None:
    tx = _transaction(recorder)
    reserve._insert(tx, reserve.new_intent(ID, request(), TERMS, CALLER, NOW), CALLER, "idempotency_key", PLAIN)


def _reserve_call(recorder: _Recorder) -> None:
    recorder.rows = [[(None,)]]
    committed = rollback_detection.CommittedVersion(id=ID, version=1, at=NOW, since=0.0)
    ReserveCall().reserve(
        _transaction(recorder),
        ID,
        request(),
        TERMS,
        CALLER,
        committed=committed,
        trusted_range=lambda _: (NOW, LATER),
    )


def _reserve_replay(recorder: _Recorder) -> None:
    reserve.replay(cast("Connection", recorder), request(idempotency_key="order-1"), CALLER.actor)


def _webhook_health(recorder: _Recorder) -> None:
    webhook_health.list_all(cast("Connection", recorder))


def _holds_in_force(recorder: _Recorder) -> None:
    phone_holds.in_force(cast("Connection", recorder), literal(NOW), after=(NOW, ID), limit=51)


def _sessions_list(recorder: _Recorder) -> None:
    sessions.list_valid(cast("Connection", recorder), literal(NOW), limit=200)


def _event_insert(recorder: _Recorder) -> None:
    events.append_without_binding(_transaction(recorder), EventKind.HELD, CALLER, {})


def _refusal_record(recorder: _Recorder) -> None:
    recorder.rows = [[], [(1, NOW)]] if recorder.dialect.name == "sqlite" else [[(ID,)]]
    tx, holder = _transaction(recorder), FOREIGN_HOLDER
    refusals.record(tx, ID, request(), CALLER, code="phone-in-use", holder=holder, event_detail={})


def _refusals_page(recorder: _Recorder) -> None:
    refusals.search(cast("Connection", recorder), RefusalFilters(phone=PHONE), before=(NOW, ID), limit=100)


def _activate(recorder: _Recorder) -> None:
    settle.activate(_transaction(recorder), reserve.new_intent(ID, request(), TERMS, CALLER, NOW), SUCCESS, CALLER)


def _extend(recorder: _Recorder) -> None:
    end_changes.extend(_transaction(recorder), ID, CALLER, expire_s=60, now=NOW, actor=None)


def _open_bindings(
    phone: Phone | None = None, middle_number: str | None = None, reference: str | None = None
) -> Callable[[_Recorder], None]:
    selection = Selection(phone=phone, middle_number=middle_number, reference=reference)

    def find(recorder: _Recorder) -> None:
        open_bindings.find(cast("Connection", recorder), selection, NOW, actor="key:rides", limit=1_001)

    return find


def _request_unbinds(recorder: _Recorder) -> None:
    open_bindings.request_unbinds(_transaction(recorder), [ID], CALLER, "order closed")


def _releases_owed(recorder: _Recorder) -> None:
    queries.releases_owed(cast("Connection", recorder), NOW, limit=500)


def _settle_failed(recorder: _Recorder) -> None:
    with suppress(bindings.BindingLost):
        settle.settle_failed(_transaction(recorder), ID, CALLER, reason=Reason.REQUEST, status="-1", detail={})


def _settle_unknown(recorder: _Recorder) -> None:
    with suppress(bindings.BindingLost):
        settle.settle_unknown(
            _transaction(recorder), ID, CALLER, reason=Reason.NO_CLEAR_ANSWER, status=None, message=""
        )


def _erase_binding(recorder: _Recorder) -> None:
    change = erasure._erasing(_dialect(recorder), "a")
    change.run(_transaction(recorder), EventKind.ERASED, CALLER, {}, {"of_id": ID, "token": "x"})


def _expire(recorder: _Recorder) -> None:
    recorder.rows = [[(0, None)]]
    expiry.expire(_transaction(recorder), CALLER, limit=500)


def _warn(recorder: _Recorder) -> None:
    recorder.rows = [[(0, None)]]
    expiry.warn(_transaction(recorder), CALLER, limit=500)


def _mark_unsettled(recorder: _Recorder) -> None:
    expiry.mark_unsettled_in_doubt(_transaction(recorder), CALLER, limit=500)


def _lapse(recorder: _Recorder) -> None:
    expiry.lapse(_transaction(recorder), CALLER, limit=500)


def _recover_unbinds(recorder: _Recorder) -> None:
    queries.unbinding(cast("Connection", recorder), limit=500)


def _lookup(name: str, form_count: int = 1) -> Callable[[_Recorder], None]:
    def look_up(recorder: _Recorder) -> None:
        dialect = _dialect(recorder)
        lookups = queries.Lookups(dialect.now_once, postgres=dialect.postgres, form_count=form_count)
        queries.lookup(cast("Connection", recorder), getattr(lookups, name))

    return look_up


def _search(recorder: _Recorder) -> None:
    filters = SearchFilters(active=True, state=State.ACTIVE, reference="order-1", requested_from=NOW)
    now = _dialect(recorder).now_once
    search.search(cast("Connection", recorder), filters, now, before=(NOW, ID), limit=100)


def _search_by_number(
    *counts: object, before: tuple[datetime, str] | None = None, **filters: Any
) -> Callable[[_Recorder], None]:
    def search_by_number(recorder: _Recorder) -> None:
        recorder.rows = [[count] for count in counts]
        now = _dialect(recorder).now_once
        search.search(cast("Connection", recorder), SearchFilters(**filters), now, before=before, limit=51)

    return search_by_number


def _list_page(recorder: _Recorder) -> None:
    """One of the filters has an index and matches too many bindings, so the order of the list is read."""
    filters = SearchFilters(reference_prefix="order-", state=State.FAILED, requested_from=NOW)
    recorder.rows = [[binding_list.ROWS_READ + 1]]
    now, order = _dialect(recorder).now_once, Order.NEWEST
    binding_list.read_page(cast("Connection", recorder), filters, now, order=order, after=(NOW, ID), limit=51)


def _list_counts(recorder: _Recorder) -> None:
    recorder.rows = [[10]]
    filters = SearchFilters(active=True)
    now = _dialect(recorder).now_once
    binding_list.count_values(cast("Connection", recorder), filters, now, only_actor="key:rides")


def _trace(party: Phone | None) -> Callable[[_Recorder], None]:
    def trace(recorder: _Recorder) -> None:
        queries.bindings_with_middle_number(
            cast("Connection", recorder), middle_number="9188067700", party=party, since=NOW, until=LATER
        )

    return trace


def _feed_page(recorder: _Recorder) -> None:
    events.feed(cast("Connection", recorder), after=(1, 1), limit=100)


def _lease_deliveries(recorder: _Recorder) -> None:
    recorder.rows = [[ID]]
    target = Target(webhook_id=ID, url="", kinds=None, secrets=())
    with mock.patch("bindings.store.webhooks.target", return_value=target):
        deliveries.lease(_transaction(recorder), ID, limit=50, lease_s=60.0)


def _in_doubt(recorder: _Recorder) -> None:
    queries.doubts(cast("Connection", recorder), _dialect(recorder).now_once, limit=100, after=(NOW, ID))


def _phone_searches_page(recorder: _Recorder) -> None:
    access_log.list_phone_searches(cast("Connection", recorder), AccessFilters(), before=(NOW, 1), limit=51)


def _use_budget(recorder: _Recorder) -> None:
    recorder.rows = [[SimpleNamespace(began_at=NOW, used=0, used_up_at=None, now=NOW)]]
    budgets.use(_transaction(recorder), CALLER, Budget.PHONE_SEARCHES, limit=60, amount=1)


def _unsettled(recorder: _Recorder) -> None:
    queries.unsettled(cast("Connection", recorder), "4luaKsL2")


def _access_log_reads(recorder: _Recorder) -> None:
    connection, before = cast("Connection", recorder), (NOW, 1)
    narrow = AccessFilters(kind=AccessKind.SESSION, actor="key:eve", key_id=ID, reason_prefix="case", since=NOW)
    access_log.list_events(connection, narrow, before=before, limit=51)
    access_log.list_events(connection, AccessFilters(binding_id=ID), before=before, limit=51)
    in_full = AccessFilters(kind=AccessKind.EXPORT_IN_FULL, binding_id=ID, until=NOW)
    access_log.list_exports(connection, in_full, before=(NOW, ID), limit=51)


def _access_log_counts(recorder: _Recorder) -> None:
    connection, narrow = cast("Connection", recorder), AccessFilters(key_id=ID, reason_prefix="case", since=NOW)
    access_log.count_events(connection, narrow)
    access_log.count_exports(connection, narrow)
    access_log.count_phone_searches(connection, narrow)


# The name of the file, the call, and how many of the statements that it sends belong to the file.
EMPTY_PAGE, TOO_MANY = (SimpleNamespace(number=number, id=None) for number in (0, search.MOST_SORTED + 1))
CALLS: dict[str, tuple[Callable[[_Recorder], None], int]] = {
    "reserve_lock": (_reserve_lock, 1),
    "reserve_check": (_reserve_check, 1),
    "reserve_check_encrypted": (_reserve_check_encrypted, 2),
    "reserve_insert": (_reserve_insert, 1),
    "reserve_call": (_reserve_call, 1),
    "reserve_replay": (_reserve_replay, 1),
    "event_insert": (_event_insert, 1),
    "refusal_record": (_refusal_record, 3),
    "refusals_page": (_refusals_page, 1),
    "activate": (_activate, 1),
    "extend": (_extend, 1),
    "open_by_phone": (_open_bindings(phone=PHONE), 1),
    "open_by_middle_number": (_open_bindings(middle_number="9188067700"), 1),
    "open_by_reference": (_open_bindings(reference="order-42"), 1),
    "request_unbinds": (_request_unbinds, 1),
    "settle_failed": (_settle_failed, 1),
    "settle_unknown": (_settle_unknown, 1),
    "erase_binding": (_erase_binding, 1),
    "expire_batch": (_expire, 2),
    "warn_batch": (_warn, 2),
    "recover_unsettled_batch": (_mark_unsettled, 1),
    "recover_lapsed_batch": (_lapse, 1),
    "recover_unbinds": (_recover_unbinds, 1),
    "recover_releases": (_releases_owed, 1),
    "lookup_by_phone": (_lookup("by_phone"), 1),
    "lookup_by_phone_encrypted": (_lookup("by_phone", form_count=2), 1),
    "lookup_by_middle_number": (_lookup("by_middle_number"), 1),
    "lookup_by_party": (_lookup("by_party"), 1),
    "lookup_by_party_encrypted": (_lookup("by_party", form_count=2), 1),
    "lookup_by_reference": (_lookup("by_reference"), 1),
    "search": (_search, 1),
    "search by phone": (_search_by_number(EMPTY_PAGE, phone=PHONE), 1),
    "search by phone, second page": (_search_by_number(EMPTY_PAGE, phone=PHONE, before=(NOW, ID)), 1),
    "search by phone and pool": (
        _search_by_number((search.MOST_SORTED,), phone=PHONE, pool_number="918806"),
        2,
    ),
    "search by middle number": (_search_by_number(TOO_MANY, middle_number="9188067700"), 2),
    "list_page": (_list_page, 3),
    "list_counts": (_list_counts, 2),
    "trace": (_trace(None), 1),
    "trace_with_party": (_trace(OTHER_PHONE), 1),
    "feed_page": (_feed_page, 1),
    "webhook_health": (_webhook_health, 1),
    "holds_in_force": (_holds_in_force, 1),
    "sessions_list": (_sessions_list, 1),
    "lease_deliveries": (_lease_deliveries, 3),
    "in_doubt_page": (_in_doubt, 1),
    "unsettled": (_unsettled, 1),
    "phone_searches_page": (_phone_searches_page, 1),
    "access_log": (_access_log_reads, 5),
    "access_log_counts": (_access_log_counts, 6),
    "use_budget": (_use_budget, 2),
    "convert_phones": (_convert_phones, 2),
    "seal": (_seal, 3),
}
DIALECTS: dict[str, Dialect] = {
    "postgresql": create_engine("postgresql+psycopg://", paramstyle="named").dialect,
    "sqlite": create_engine("sqlite://", paramstyle="named").dialect,
}

ONLY_POSTGRESQL = {"reserve_call"}
TEXTS = [
    (name, dialect)
    for name in CALLS
    for dialect in DIALECTS
    if dialect == "postgresql" or name not in ONLY_POSTGRESQL
]


def compiled_text(name: str, dialect: str) -> str:
    """Return the text of the file of one call: its statements, wrapped, each with a semicolon at its end."""
    call, number = CALLS[name]
    recorder = _Recorder(DIALECTS[dialect])

    def record(compiled: CompiledStatement, connection: Any, values: Any) -> _Rows:
        rows: _Rows = connection.execute(compiled._statement, values)
        return rows

    with (
        mock.patch.object(CompiledStatement, "fetch_all", record),
        mock.patch.object(Transaction, "instant", return_value=NOW),
    ):
        call(recorder)
    return "\n".join(f"{wrap(statement)};\n" for statement in recorder.statements[:number])


# Each of these starts a line, unless it stands in parentheses that are not a subquery's.
CLAUSE = re.compile(
    r"(WITH(?! TIME ZONE)|SELECT|FROM|(LEFT OUTER )?JOIN|WHERE|AND|GROUP BY|ORDER BY|LIMIT|FOR UPDATE|UNION( ALL)?"
    r"|INSERT INTO|VALUES|UPDATE|SET|RETURNING|ON CONFLICT|DELETE FROM)\b"
)
SUBQUERY = re.compile(r"(WITH|SELECT|INSERT INTO|UPDATE|DELETE FROM) ")
NO_BREAK_TIMESTAMP = "TIMESTAMP\0WITH\0TIME\0ZONE"
TOKEN = re.compile(r"'(?:[^']|'')*'|[()]|\s+|[^\s()']+")


def wrap(statement: str) -> str:
    """Break a statement before its clauses, indent its subqueries, and wrap the lines that are too long."""
    text = " ".join(statement.split())
    lines = [(0, "")]
    subqueries: list[bool] = []  # one for each parenthesis that is open

    def start_line() -> None:
        lines.append((sum(subqueries), ""))

    for match in TOKEN.finditer(text):
        token, following = match.group(), text[match.end() :]
        clause = CLAUSE.match(following) if token == " " and all(subqueries[-1:]) else None
        if clause and lines[-1][1].split()[-1:] not in (["FOR"], ["DO"]):
            start_line()
            if clause.group() == "AND":
                lines[-1] = lines[-1][0], "  "
        elif token == ")" and subqueries.pop():
            start_line()
        if token != " " or lines[-1][1].strip():
            depth, line = lines[-1]
            lines[-1] = depth, line + token
        if token == "(":
            subqueries.append(SUBQUERY.match(following.lstrip()) is not None)
            if subqueries[-1]:
                start_line()
    wrapper = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    wrapped: list[str] = []
    for depth, line in lines:
        wrapper.initial_indent = INDENT * depth
        wrapper.subsequent_indent = INDENT * (depth + 1)
        # An alias stays beside its expression, and a type is not broken.
        joined = re.sub(r" AS (?=\w)", "\0AS\0", line).replace("TIMESTAMP WITH TIME ZONE", NO_BREAK_TIMESTAMP)
        wrapped.extend(part.replace("\0", " ") for part in wrapper.wrap(joined))
    return "\n".join(wrapped)


@pytest.mark.parametrize(("name", "dialect"), TEXTS)
def test_compiled_text_of_a_hot_statement_is_the_text_in_its_file(name: str, dialect: str) -> None:
    path = FOLDER / f"{name}.{dialect}.sql"
    assert path.is_file(), f"{path.name} is missing: {_HOW_TO_WRITE}"
    assert compiled_text(name, dialect) == path.read_text(encoding="utf-8"), f"{path.name}: {_HOW_TO_WRITE}"


def test_every_file_of_the_folder_has_a_statement() -> None:
    expected = {f"{name}.{dialect}.sql" for name, dialect in TEXTS}
    assert {path.name for path in FOLDER.iterdir()} == expected


def test_wrapping_changes_nothing_but_white_space() -> None:
    statement = "WITH a AS (SELECT f(b), 'it''s ( here' FROM c WHERE b IN (1, 2) AND d = 1) UPDATE e SET f = 1"
    assert wrap(statement).splitlines() == [
        "WITH a AS (",
        "    SELECT f(b), 'it''s ( here'",
        "    FROM c",
        "    WHERE b IN (1, 2)",
        "      AND d = 1",
        ")",
        "UPDATE e",
        "SET f = 1",
    ]
    for name, dialect in TEXTS:
        text = compiled_text(name, dialect)
        assert "".join(wrap(text).split()) == "".join(text.split())


_HOW_TO_WRITE = "run `python -m tests.store.test_sql_text --write` and review the difference"


def main() -> None:
    """Write the files again if `--write` is given."""
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {_HOW_TO_WRITE}")
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        path.unlink()
    for name, dialect in TEXTS:
        (FOLDER / f"{name}.{dialect}.sql").write_text(compiled_text(name, dialect), encoding="utf-8")


if __name__ == "__main__":
    main()
