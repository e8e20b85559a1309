"""What retention forgets, what it must not, and the partitions of events on PostgreSQL."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import select, text
from uuid_utils import uuid7

from bindings import errors
from bindings.domain.binding import Caller, EventKind, State
from bindings.jobs.retention import apply_retention
from bindings.store import account, holds, partitions, refusals, retention
from bindings.store.schema import account as account_table
from tests.service.harness import Clock, assert_sound, feed_has_caught_up, in_threads, service_at, wait_for
from tests.store.test_feed import read_all
from tests.store.test_reserve import fail, request, reserved, success

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.domain.binding import Binding, Event
    from bindings.jobs.retention import RetentionResult
    from bindings.service import BindingService
    from tests.store.databases import Server

CALLER = Caller(actor="test")
DAY_S = 86_400.0
KEEP_DAYS = 45


class Years:
    """A service on a database of its own, in which months pass."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.url = url
        self.clock = Clock()
        self.service = service_at(url, self.clock, "http://127.0.0.1:1", **settings)
        self._count = 0
        account.register_scope(self.database, "default")

    @property
    def database(self) -> Any:
        return self.service.runtime.database

    def ended(self) -> Binding:
        """Make a binding that has ended, and return it."""
        return fail(self.database, self.open())

    def open(self) -> Binding:
        """Make an intent that is not settled, and return it."""
        self._count += 1
        return reserved(self.database, request(f"91{self._count:08}", f"9155{self._count:08}"))

    def later(self, days: float) -> None:
        self.clock.advance(days * DAY_S)

    def retain(self, **options: Any) -> RetentionResult:
        result: RetentionResult = self.service.apply_retention(**options)
        return result

    def turn_of_the_month(self) -> RetentionResult:
        """Let a month pass, and run the job before anything happens in the new one."""
        self.later(31)
        return self.retain()

    def months(self, count: int) -> list[Binding]:
        """Make an ended binding in each of `count` months, in a partition each on PostgreSQL."""
        bindings = []
        for _ in range(count):
            bindings.append(self.ended())
            self.turn_of_the_month()
        return bindings

    def is_deleted(self, binding: Binding) -> bool:
        try:
            self.service.get(binding.id)
        except errors.NotFound:
            return True
        return False

    def kept_events(self) -> list[str | None]:
        """Return the binding of each event but those of acts, as which each deletion is recorded."""
        kept = self.service.export_events()
        return [event.binding_id for event in kept if event.kind is not EventKind.ADMINISTERED]


@pytest.fixture
def years(own_database_url: str) -> Iterator[Years]:
    years = Years(own_database_url, retention_days=KEEP_DAYS)
    yield years
    assert_sound(years.service)
    years.service.close()


def test_retention_without_the_setting_keeps_everything(own_database_url: str) -> None:
    years = Years(own_database_url)
    ended = years.months(3)
    years.later(4_000)
    assert years.retain().kept_from is None
    assert years.retain(dry_run=True).bindings == 0
    assert not any(map(years.is_deleted, ended))
    assert len(years.kept_events()) == 6
    years.service.close()


def test_old_bindings_and_events_are_deleted_as_the_dry_run_counted(years: Years) -> None:
    first, second = years.ended(), years.ended()
    years.turn_of_the_month()
    third = years.ended()
    years.later(20)
    fourth = years.ended()
    years.later(30)
    dry_run = years.retain(dry_run=True)
    assert not years.is_deleted(first)
    result = years.retain()
    by_month = years.database.postgres
    assert (dry_run.bindings, dry_run.events) == (result.bindings, result.events) == (3, 4 if by_month else 7), (
        "and a move of the limit"
    )
    assert all(map(years.is_deleted, (first, second, third)))
    assert years.kept_events() == [third.id] * 2 * by_month + [fourth.id] * 2
    second_run = years.retain()
    assert (second_run.bindings, second_run.events, second_run.finished) == (0, 0, True)


def _limits(years: Years) -> list[dict[str, Any]]:
    events = years.service.export_events()
    return [event.detail for event in events if event.detail.get("act") == "retention.applied"]


def test_deletion_is_recorded_with_its_limit_before_the_rows_go(
    years: Years, monkeypatch: pytest.MonkeyPatch
) -> None:
    years.months(2)
    years.later(60)
    before = len(_limits(years))
    kept = len(years.kept_events())
    module, name = (partitions, "detach") if years.database.postgres else (retention, "delete_marked_events")
    undisturbed, calls = getattr(module, name), list[int]()

    def stop_after_the_mark(*arguments: Any, **options: Any) -> int:
        calls.append(1)
        first_is_early = not years.database.postgres and len(calls) == 1  # SQLite first deletes what is left over
        if first_is_early:
            return int(undisturbed(*arguments, **options))
        raise ZeroDivisionError

    monkeypatch.setattr(module, name, stop_after_the_mark)
    with pytest.raises(ZeroDivisionError):
        years.retain()
    monkeypatch.setattr(module, name, undisturbed)
    *_, of_events = _limits(years)
    assert len(_limits(years)) > before
    assert len(years.kept_events()) == kept, "the events are still there"
    row = years.database.read(lambda connection: connection.execute(select(account_table)).one())
    assert (of_events["gone_tx"], of_events["gone_position"]) == (row.gone_tx, row.gone_position)
    assert (of_events["kept_from"], of_events["keep_days"]) == (row.kept_from.isoformat(), KEEP_DAYS)
    deleted = years.retain().events
    of_this_day = [limit for limit in _limits(years) if limit["kept_from"] == of_events["kept_from"]]
    assert sum(limit.get("events", 0) for limit in of_this_day) == deleted


def test_mark_of_a_slower_process_does_not_bring_deleted_events_back(years: Years) -> None:
    """Two replicas delete: the one that began first may write its mark last."""
    limit = years.database.write(lambda tx: retention.set_limit(tx, KEEP_DAYS, CALLER))
    columns = select(account_table.c.gone_tx, account_table.c.gone_position)

    def mark(last: tuple[int, int]) -> tuple[int, int]:
        years.database.write(lambda tx: retention.mark_events(tx, limit, CALLER, last=last, count=1))
        return tuple(years.database.read(lambda connection: connection.execute(columns).one()))

    tx = 7 if years.database.postgres else 0
    assert mark((tx, 70)) == (tx, 70)
    recorded = _limits(years)
    for earlier in ((tx, 70), (tx, 69), (tx - 1, 71)):
        assert mark(earlier) == (tx, 70)
    assert _limits(years) == recorded
    assert mark((tx, 71)) == (tx, 71)


def test_limit_moves_once_a_day_and_each_move_is_an_event(years: Years) -> None:
    years.ended()
    years.later(KEEP_DAYS + 1)
    first = years.retain()
    recorded = len(_limits(years))
    years.ended()
    years.later(0.5)
    assert years.retain().kept_from == first.kept_from
    years.later(1)
    second = years.retain()
    assert second.kept_from != first.kept_from
    *earlier, moved = _limits(years)
    assert (len(earlier), moved["kept_from"], moved["earlier"]) == (recorded, second.kept_from, first.kept_from)


def test_open_binding_and_its_events_are_kept(years: Years) -> None:
    stuck, over = years.open(), years.ended()
    for _ in range(3):
        years.turn_of_the_month()
        years.ended()
    result = years.retain()
    assert years.is_deleted(over)
    assert result.partitions_waiting == years.database.postgres
    assert years.service.get(stuck.id).state is State.PENDING
    assert [event.kind for event in years.service.history(stuck.id)] == [EventKind.REQUESTED]


@pytest.mark.parametrize(
    "forbidden",
    [
        "DELETE FROM bindings",
        "DELETE FROM bindings WHERE state = 'failed'",
        (
            "UPDATE bindings SET state = 'unbound', bind_id = '1', middle_number_a = '1', middle_number_b = '1',"
            " expires_at = held_until WHERE state = 'failed'"
        ),
        "UPDATE bindings SET version = version - 1",
    ],
)
def test_I5_triggers_reject_early_deletes_and_backward_changes(years: Years, forbidden: str) -> None:
    years.open()
    years.ended()
    years.retain()
    with (
        pytest.raises(Exception, match=r"bindings (only move forward|keep what was recorded)"),
        years.database._engine.connect() as connection,
    ):
        connection.execute(text(forbidden))


def test_younger_event_outlives_its_binding_and_history_is_not_found(years: Years) -> None:
    binding = years.ended()
    years.later(20)
    years.service.reveal([binding.id], reason="asked by the police")
    years.later(30)
    years.retain()
    assert years.is_deleted(binding)
    with pytest.raises(errors.NotFound):
        years.service.history(binding.id)
    assert EventKind.REVEALED in [event.kind for event in years.service.export_events()]


def test_I8_key_is_free_again_after_its_binding_is_deleted(years: Years) -> None:
    bind_request = request("9100000001", "915500000001", idempotency_key="order-1")
    fail(years.database, reserved(years.database, bind_request))
    years.later(KEEP_DAYS - 1)
    years.retain()
    years.later(8)
    years.retain()
    assert reserved(years.database, bind_request).state is State.PENDING


def test_cursor_before_deleted_events_is_rejected_and_a_later_one_continues(years: Years) -> None:
    years.ended()
    years.turn_of_the_month()
    years.ended()
    years.later(50)
    years.ended()
    feed_has_caught_up(years.service)
    all_events, _ = read_all(years.service, None)
    assert years.retain().events == (2 if years.database.postgres else 5), "and a move of the limit"
    feed_has_caught_up(years.service)
    remaining = list(years.service.events().data)
    *missed, last = [event for event in all_events if event not in remaining]
    for read in (years.service.events, lambda after: years.service.events_for_actor("test", after=after)):
        with pytest.raises(errors.InvalidRequest, match="deleted") as rejected:
            read(after=missed[0].cursor)
        assert [error.field for error in rejected.value.field_errors] == ["after"]
    assert read_all(years.service, last.cursor)[0] == remaining


def test_feed_can_start_at_latest_after_every_event_is_deleted(years: Years) -> None:
    years.months(1)
    years.turn_of_the_month()
    years.later(KEEP_DAYS)
    feed_has_caught_up(years.service)
    years.retain()
    assert years.database.postgres or years.kept_events() == []  # there the last partition stays
    start = years.service.events(after="latest").next_cursor
    assert read_all(years.service, start) == ([], start)


def test_holds_and_deliveries_are_deleted_and_unsent_events_are_kept(years: Years) -> None:
    hook = years.service.webhooks.add(url="https://example.org/hook").webhook
    late = years.ended()
    years.database.write(lambda tx: holds.hold_late_success(tx, late, success(), CALLER))
    years.turn_of_the_month()
    years.ended()
    years.later(50)
    result = years.retain()
    assert (result.bindings, result.holds, result.events) == (2, 2, 0)
    assert late.id in years.kept_events(), "its events have not been sent to the webhook yet"
    years.service.webhooks.disable(hook.id)
    assert years.retain().events == (3 if years.database.postgres else 6), "with the webhook and the limit"
    assert late.id not in years.kept_events()


def test_refused_binds_are_deleted_by_their_age(years: Years) -> None:
    def refuse(reference: str) -> None:
        refused = request("9100000001", "915500000001", reference=reference)
        years.database.write(
            lambda tx: refusals.record(tx, str(uuid7()), refused, CALLER, code="phone-in-use", event_detail={})
        )

    refuse("order-1")
    refuse("order-2")
    years.later(KEEP_DAYS - 1)
    refuse("order-3")
    years.later(2)
    assert (years.retain(dry_run=True).refusals, years.retain().refusals) == (2, 2)
    assert [refusal.reference for refusal in years.service.search_refusals().data] == ["order-3"]


@pytest.mark.postgres
def test_big_partition_is_read_in_stretches_and_kept_if_it_has_a_young_event(
    years: Years, database_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_kind == "sqlite":
        pytest.skip("SQLite keeps one table")
    monkeypatch.setattr(partitions, "STRETCH", 3)
    for _ in range(5):
        years.ended()
    years.turn_of_the_month()
    years.ended()
    years.later(80)
    years.ended()
    years.later(-80)
    years.ended()
    years.later(1)
    years.turn_of_the_month()
    years.ended()
    years.later(80)
    assert years.retain(dry_run=True).events == 10
    result = years.retain()
    assert (result.partitions, result.events, result.partitions_waiting) == (1, 10, 1)
    assert len(years.kept_events()) == 8
    years.later(60)
    assert years.retain().events == 10, "with those of the limit's moves"


@pytest.mark.postgres
def test_drop_waits_for_a_vacuum_longer_than_the_deadlock_timeout(years: Years, database_kind: str) -> None:
    """The test takes the lock that a VACUUM takes."""
    if database_kind == "sqlite":
        pytest.skip("SQLite keeps one table")
    years.months(2)
    years.later(60)
    first = years.database.read(partitions.list_partitions)[0].name
    partitions.detach(years.database, first)
    results: list[RetentionResult] = []
    run = threading.Thread(target=lambda: results.append(years.retain()))
    waits = (
        "SELECT clock_timestamp() - waitstart > CAST(current_setting('deadlock_timeout') AS interval)"
        " FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)"
    )
    with psycopg.connect(years.url) as vacuum, psycopg.connect(years.url, autocommit=True) as watcher:
        vacuum.execute(f"LOCK TABLE {first} IN SHARE UPDATE EXCLUSIVE MODE")
        run.start()
        wait_for(lambda: watcher.execute(waits, (first,)).fetchall() == [(True,)])
        vacuum.commit()
        run.join(300)
    assert [result.finished for result in results] == [True]
    with psycopg.connect(years.url) as watcher:
        assert watcher.execute("SELECT to_regclass(%s)", (first,)).fetchall() == [(None,)]


@pytest.mark.postgres
def test_retention_is_unfinished_if_a_partition_could_not_be_started(years: Years, database_kind: str) -> None:
    if database_kind == "sqlite":
        pytest.skip("SQLite keeps one table")
    years.ended()
    years.later(31)
    with psycopg.connect(years.url) as writer:
        writer.execute("LOCK TABLE ONLY events IN ROW EXCLUSIVE MODE")
        blocked = years.retain()
    assert (blocked.partitions_begun, blocked.finished) == (0, False)
    assert (years.retain().partitions_begun, years.retain().finished) == (1, True)


@pytest.mark.postgres
def test_month_with_events_starts_a_partition_and_an_empty_month_none(years: Years, database_kind: str) -> None:
    if database_kind == "sqlite":
        pytest.skip("SQLite keeps one table")
    years.months(3)
    years.later(200)
    assert years.retain().partitions_begun == 1, "the last deletion is an event"
    assert years.turn_of_the_month().partitions_begun == 1, "a move of the limit too"
    assert years.turn_of_the_month().partitions_begun == 1
    names = [partition.name for partition in years.database.read(partitions.list_partitions)]
    assert names == ["events_2026_12", "events_2027_01", "events_2027_02"], "the oldest were dropped"
    for begun in (1, 0):  # without a limit nothing moves: no event was written since
        years.later(31)
        assert apply_retention(years.database, CALLER, None).partitions_begun == begun
    years.ended()
    triggers = (
        "SELECT relname, tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
        " WHERE relname LIKE 'events%' AND NOT tgisinternal"
    )
    with psycopg.connect(years.url) as server:
        installed = set(server.execute(triggers).fetchall())
        for name in ("events", *names):
            assert {(name, "events_refuse_change"), (name, "events_refuse_truncate")} <= installed
            for statement in (f"DELETE FROM {name}", f"UPDATE {name} SET actor = 'x'", f"TRUNCATE {name}"):
                with pytest.raises(psycopg.Error, match="append-only"):
                    server.execute(statement)
                server.rollback()


@pytest.mark.postgres
def test_default_partition_of_an_operator_stops_no_new_month(years: Years, database_kind: str) -> None:
    if database_kind == "sqlite":
        pytest.skip("SQLite has no partitions")
    with psycopg.connect(years.url, autocommit=True) as server:
        server.execute("CREATE TABLE events_rest PARTITION OF events DEFAULT")
        years.months(2)
        assert years.turn_of_the_month().partitions_begun == 1
        years.later(200)
        assert not years.retain().finished, "beside it none can be detached concurrently"
        server.execute("DROP TABLE events_rest")
    assert years.retain().partitions == 3


def _write(service: BindingService, stop: threading.Event, prefix: str) -> None:
    turn = 0
    while not stop.is_set():
        turn += 1
        bind_request = request(f"91{prefix}{turn:07}", f"92{prefix}{turn:07}")
        fail(service.runtime.database, reserved(service.runtime.database, bind_request))


def _sweep(service: BindingService, stop: threading.Event) -> None:
    while not stop.is_set():
        service.expire_due()
        service.recover()


def _follow(service: BindingService, stop: threading.Event, into: list[Event]) -> None:
    cursor = None
    while True:
        last = stop.is_set()
        received, cursor = read_all(service, cursor)
        into.extend(received)
        if last:
            return


@pytest.mark.postgres
def test_partition_changes_block_no_writer_job_or_reader(postgres_server: Server, postgres_template: str) -> None:
    """No statement waits for a lock for a second, and a reader of the feed gets every event once and in order."""
    url = postgres_server.create(template=postgres_template)
    years = Years(url, retention_days=7)
    service = service_at(f"{url}?options=-c%20lock_timeout%3D1s", years.clock, "http://127.0.0.1:1")
    stop = threading.Event()
    followed: list[Event] = []

    def turn_months() -> None:
        try:
            for _ in range(5):
                count = len(followed)
                wait_for(lambda: len(followed) > count + 20)  # noqa: B023
                years.later(31)
                wait_for(lambda: years.retain().partitions_begun == 1)  # the lock may be busy at first
            feed_has_caught_up(service)
        finally:
            stop.set()

    calls = (
        lambda: _write(service, stop, "1"),
        lambda: _write(service, stop, "2"),
        lambda: _sweep(service, stop),
        lambda: _follow(service, stop, followed),
        turn_months,
    )
    assert in_threads(*calls, seconds=120) == []
    feed_has_caught_up(service)
    followed += read_all(service, followed[-1].cursor)[0]
    _assert_once_and_in_order(followed)
    assert years.retain().finished
    assert len(years.database.read(partitions.list_partitions)) <= 3
    assert {event.cursor for event in years.service.export_events()} <= {event.cursor for event in followed}
    years.service.close()
    service.close()
    postgres_server.drop(url)


def _assert_once_and_in_order(followed: list[Event]) -> None:
    assert len({event.cursor for event in followed}) == len(followed)
    latest: dict[str, int] = {}
    for event in (event for event in followed if event.binding_id is not None):
        assert event.sequence == latest.get(str(event.binding_id), 0) + 1
        latest[str(event.binding_id)] = event.sequence


def test_texts_are_deleted_with_their_events(years: Years) -> None:
    def positions(statement: str) -> list[int]:
        return list(years.database.read(lambda connection: connection.execute(text(statement)).scalars()))

    (first,) = years.months(1)
    years.service.reveal([first.id], reason="case 7")
    years.turn_of_the_month()
    years.service.reveal([years.ended().id], reason="case 8")
    counts = []
    for _ in range(6):
        stored = positions("SELECT event_position FROM texts WHERE name = 'reason' ORDER BY 1")
        assert stored == positions("SELECT position FROM events WHERE kind = 'revealed' ORDER BY 1")
        counts.append(len(stored))
        years.months(1)
    assert (counts[0], counts[-1]) == (2, 0)
