"""A database that was loaded into a PostgreSQL cluster with smaller transaction ids: the feed and webhooks go on.

The cluster before is simulated by an offset: what it wrote has numbers that this one is far from reaching.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import insert, select, update

from bindings.domain.binding import Caller, EventKind
from bindings.errors import InvalidRequest
from bindings.monitoring import health
from bindings.monitoring.check import Level
from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.store import cluster_move, events
from bindings.store.schema import account, seals
from bindings.webhooks.sender import deliver_pending
from tests.service.harness import NOON, A, B, C, D, E, F, ServiceHarness, feed_has_caught_up, in_threads, wait_for
from tests.store.test_feed import _held_open
from tests.store.test_roles import restricted
from tests.web.receivers import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.domain.binding import Event
    from bindings.store.database import Database, Transaction
    from tests.service.harness import Clock

pytestmark = pytest.mark.postgres
COUNTED_BEFORE = 10**9
CALLER = Caller(actor="ops")


@pytest.fixture
def before(postgres_url: str, clock: Clock) -> Iterator[ServiceHarness]:
    """Services on the cluster before."""
    with Simulator(clock=clock.unix, pool_size=200) as simulator:
        harness = ServiceHarness(url=postgres_url, clock=clock, simulator=simulator)
        _set_offset(harness.database, COUNTED_BEFORE)
        yield harness
        harness.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def _set_offset(database: Database, offset: int) -> None:
    database.write(
        lambda tx: tx.connection.execute(
            tx.dialect.insert(account)
            .values(id=1, scope="default", tx_offset=offset)
            .on_conflict_do_update(index_elements=["id"], set_={"tx_offset": offset})
        )
    )


def move(harness: ServiceHarness) -> None:
    """Load the database into a cluster that has run fewer transactions."""
    harness.database.write(lambda tx: tx.connection.execute(update(account).values(tx_offset=0)))


def move_after_deliveries(before: ServiceHarness, receiver: Receiver) -> int:
    """Move the cluster with one binding and a webhook that has all its events, and return their number."""
    before.service.webhooks.add(url=receiver.url)
    before.bind(A, B)
    deliver_all(before)
    delivered = len(receiver.messages)
    move(before)
    return delivered


def deliver_all(harness: ServiceHarness) -> None:
    feed_has_caught_up(harness.service)
    deliver_pending(harness.service.runtime)


def write_hold(tx: Transaction) -> None:
    events.append_without_binding(tx, EventKind.HELD, CALLER, {})


def continue_in_thread(harness: ServiceHarness) -> threading.Thread:
    """Continue the numbers in a thread, and return it when the numbers are no longer behind."""
    continuing = threading.Thread(target=lambda: cluster_move.continue_numbers(harness.database, CALLER))
    continuing.start()
    wait_for(lambda: not cluster_move.numbers_are_behind(harness.database))
    return continuing


def feed_check(service: BindingService) -> Level:
    return next(check.level for check in health.service_checks(service.runtime) if check.name == "feed")


def read_on(harness: ServiceHarness, cursor: str | None) -> list[Event]:
    """Return all final events after a cursor, page by page."""
    feed_has_caught_up(harness.service)
    read: list[Event] = []
    while page := harness.service.events(after=cursor, limit=3).data:
        read += page
        cursor = page[-1].cursor
    return read


def test_readers_and_webhooks_go_on_after_the_move(before: ServiceHarness, receiver: Receiver) -> None:
    service = before.service
    service.webhooks.add(url=receiver.url)
    first = before.bind(A, B)
    deliver_all(before)
    delivered = len(receiver.messages)
    cursor = service.feed_end()
    owed = before.bind(C, D)
    move(before)
    assert feed_check(before.service) is Level.RED
    with pytest.raises(InvalidRequest, match="bindings db moved"):
        service.events(after=cursor)
    assert cluster_move.continue_numbers(before.database, CALLER)
    assert feed_check(before.service) is Level.OK
    assert not cluster_move.continue_numbers(before.database, CALLER), "nothing more to do"
    later = before.bind(E, F)
    read = read_on(before, cursor)
    assert [(event.binding_id, event.kind) for event in read] == [
        *((owed.id, kind) for kind in ("requested", "activated")),
        (None, "administered"),
        *((later.id, kind) for kind in ("requested", "activated")),
    ]
    moved = read[2]
    assert (moved.actor, moved.detail["act"]) == (CALLER.actor, "database.moved")
    offset = before.database.read(lambda connection: connection.execute(select(account.c.tx_offset)).scalar())
    assert moved.detail["tx_offset"] == offset
    numbers = [events.parse_cursor(event.cursor) for event in read]
    assert numbers == sorted(numbers)
    deliver_all(before)
    assert len(set(receiver.ids)) == len(receiver.ids) == delivered + 4, "each once"
    assert service.history(first.id)[-1].kind == "activated"


def test_events_written_before_the_numbers_continue_reach_the_webhooks_once(
    before: ServiceHarness, receiver: Receiver
) -> None:
    delivered = move_after_deliveries(before, receiver)
    shown = before.bind(C, D)
    before.service.reveal([shown.id], reason="a complaint")  # sent only to a webhook that names its kind
    deliver_all(before)
    assert len(receiver.messages) == delivered, "a process that went on has written, and nothing is sent"
    assert cluster_move.continue_numbers(before.database, CALLER)
    before.bind(E, F)
    deliver_all(before)
    deliver_all(before)
    assert len(set(receiver.ids)) == len(receiver.ids) == delivered + 4


def test_webhook_added_since_the_move_gets_no_older_event(before: ServiceHarness, receiver: Receiver) -> None:
    service = before.service
    before.bind(A, B)
    before.clock.advance(60)
    move(before)
    service.webhooks.add(url=receiver.url)
    before.bind(C, D)
    assert cluster_move.continue_numbers(before.database, CALLER)
    deliver_all(before)
    assert len(set(receiver.ids)) == len(receiver.ids) == 2


def test_no_event_of_concurrent_writers_is_skipped(before: ServiceHarness, receiver: Receiver) -> None:
    delivered = move_after_deliveries(before, receiver)
    phones = [(f"918806{number}1", f"918806{number}2") for number in range(1_000, 1_020)]
    failures = in_threads(
        *(lambda pair=pair: before.bind(*pair) for pair in phones[:10]),
        lambda: cluster_move.continue_numbers(before.database, CALLER),
        lambda: cluster_move.continue_numbers(before.database, CALLER),
        *(lambda pair=pair: before.bind(*pair) for pair in phones[10:]),
    )
    assert failures == []
    deliver_all(before)
    assert len(set(receiver.ids)) == len(receiver.ids) == delivered + 2 * len(phones)


def test_opening_a_moved_database_continues_the_numbers_and_says_so(
    before: ServiceHarness, caplog: pytest.LogCaptureFixture
) -> None:
    before.bind(A, B)
    move(before)
    with caplog.at_level(logging.WARNING), BindingService.open(database_url=before.url) as opened:
        assert "has run fewer transactions" in caplog.text
        assert feed_check(opened) is Level.OK
        caplog.clear()
    BindingService.open(database_url=before.url).close()
    assert "has run fewer transactions" not in caplog.text


def test_role_of_the_service_may_continue_the_numbers(before: ServiceHarness) -> None:
    """It may neither change nor lock the table of events."""
    before.bind(A, B)
    move(before)
    with restricted(before.url) as url, BindingService.open(database_url=url) as opened:
        assert feed_check(opened) is Level.OK


def test_event_of_a_statement_that_was_under_way_reaches_the_webhooks(
    before: ServiceHarness, receiver: Receiver
) -> None:
    """Its transaction has a number of before, and commits when the numbers have been continued."""
    delivered = move_after_deliveries(before, receiver)
    with _held_open(before.database, write_hold):
        continuing = continue_in_thread(before)
    continuing.join(30)
    deliver_all(before)
    assert len(set(receiver.ids)) == len(receiver.ids) == delivered + 1


def test_event_of_a_transaction_that_began_during_the_move_reaches_the_webhooks(
    before: ServiceHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction is later than that of the move, and does not see the offset yet."""
    delivered = move_after_deliveries(before, receiver)
    with ExitStack() as open_writers:
        append_act = events.append_act

        def begin_a_writer(*args: Any) -> None:
            append_act(*args)  # in the transaction of the move, which is committed after this
            open_writers.enter_context(_held_open(before.database, write_hold))

        monkeypatch.setattr(events, "append_act", begin_a_writer)
        continuing = continue_in_thread(before)
        continuing.join(0.5)
        assert continuing.is_alive(), "it does not wait for the writer"
    continuing.join(30)
    deliver_all(before)
    assert len(set(receiver.ids)) == len(receiver.ids) == delivered + 1


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_statement_that_reads_the_database_as_before_the_move_is_waited_for(
    before: ServiceHarness, isolation: str
) -> None:
    before.bind(A, B)
    move(before)
    with psycopg.connect(before.url) as reader:
        reader.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        reader.execute("SELECT tx_offset FROM account")
        continuing = continue_in_thread(before)
        continuing.join(0.5 if isolation == "REPEATABLE READ" else 30)
        assert continuing.is_alive() == (isolation == "REPEATABLE READ")
    continuing.join(30)
    assert not continuing.is_alive()


def test_no_recorded_event_is_changed(before: ServiceHarness) -> None:
    def rows() -> list[tuple[object, ...]]:
        statement = select(*events.COLUMNS).order_by(events.COLUMNS[1])
        return [tuple(row) for row in before.database.read(lambda connection: connection.execute(statement).all())]

    before.bind(A, B)
    written = rows()
    move(before)
    assert cluster_move.continue_numbers(before.database, CALLER)
    assert rows()[:-1] == written, "the last one is that of the move"


def test_seals_count_as_recorded_numbers_when_their_events_are_deleted(before: ServiceHarness) -> None:
    _set_offset(before.database, 0)
    assert not cluster_move.numbers_are_behind(before.database)
    seal = {"number": 1, "to_tx": COUNTED_BEFORE, "to_position": 1, "body": "{}", "signature": "x"}
    before.database.write(lambda tx: tx.connection.execute(insert(seals).values(seal | {"created_at": NOON})))
    assert cluster_move.numbers_are_behind(before.database)
