"""Each process that uses the database has a row: written at open and once a minute, without delaying a call."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select, text, update

from bindings import __version__
from bindings.clock import HostClock
from bindings.monitoring import health
from bindings.monitoring.check import Check, Level
from bindings.service import BindingService
from bindings.store import replicas
from bindings.store.engine import make_engine
from bindings.store.replicas import INTERVAL_S, Replica
from bindings.store.schema import HEAD
from bindings.store.schema import replicas as table
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

import pytest

ROOT = Path(__file__).parents[2]


class Monotonic:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def monotonic() -> Monotonic:
    return Monotonic()


@pytest.fixture
def service(database_url: str, monotonic: Monotonic) -> Iterator[BindingService]:
    with BindingService.open(database_url=database_url, clock=HostClock(monotonic=monotonic)) as service:
        yield service


def recorded(service: BindingService) -> list[Replica]:
    return service.runtime.database.read(replicas.seen_since, service.runtime.database.clock() - timedelta(days=9))


def make_old(service: BindingService, age: timedelta) -> datetime:
    """Move the last sight of every process into the past and return it."""
    database = service.runtime.database
    seen_at = database.clock() - age
    database.write(lambda tx: tx.connection.execute(update(table).values(seen_at=seen_at)))
    return seen_at


def test_process_has_one_row_however_many_services_it_opens(service: BindingService, database_url: str) -> None:
    BindingService.open(database_url=database_url).close()
    [replica] = recorded(service)
    assert replica.name == service.runtime.replica
    assert replica.version == __version__
    assert replica.phone_key_ids == []
    assert replica.started_at <= replica.seen_at


def test_service_that_connects_at_its_first_call_is_recorded_by_it(database_url: str) -> None:
    with BindingService.open(database_url=database_url, connect=False) as service:
        service.search()
        assert len(recorded(service)) == 1


@pytest.mark.parametrize("use", ["read", "write"])
def test_use_of_the_database_records_the_process_once_a_minute(
    service: BindingService, monotonic: Monotonic, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    old = make_old(service, timedelta(minutes=5))
    monkeypatch.setattr(
        replicas, "INTERVAL_S", 10.0
    )  # a longer step would look like a jump of the database's clock
    service.runtime.heartbeat._due = monotonic() + 10.0
    call = service.search if use == "read" else service.expire_due
    call()
    assert [replica.seen_at for replica in recorded(service)] == [old], "not due yet"
    monotonic.ahead_s += 10.0
    call()
    wait_for(lambda: recorded(service)[0].seen_at > old)
    [replica] = recorded(service)
    assert replica.started_at < replica.seen_at


def test_call_is_neither_delayed_nor_failed_by_the_record(
    service: BindingService, database_url: str, monotonic: Monotonic
) -> None:
    """The write waits for a lock that another transaction holds while the calls return."""
    old = make_old(service, timedelta(minutes=5))
    engine = make_engine(database_url)
    with engine.connect() as other:
        other.execute(update(table).values(version="locked"))
        monotonic.ahead_s += INTERVAL_S
        for _ in range(3):
            assert service.search().data == ()
        thread = service.runtime.heartbeat._thread
        assert thread is not None
        assert thread.is_alive()
        other.rollback()
    engine.dispose()
    wait_for(lambda: recorded(service)[0].seen_at > old)


def test_calls_go_on_if_the_record_cannot_be_written(own_database_url: str, monotonic: Monotonic) -> None:
    with BindingService.open(database_url=own_database_url, clock=HostClock(monotonic=monotonic)) as service:
        service.runtime.database.write(lambda tx: tx.connection.execute(text("DROP TABLE replicas")))
        monotonic.ahead_s += INTERVAL_S
        assert service.search().data == ()
        thread = service.runtime.heartbeat._thread
        assert thread is not None
        thread.join(30)
        assert service.search().data == ()


def test_record_that_failed_is_repeated_after_a_few_seconds(
    service: BindingService, monotonic: Monotonic, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_old(service, timedelta(minutes=5))
    heartbeat, write = service.runtime.heartbeat, service.runtime.database.write
    monkeypatch.setattr(heartbeat._database, "write", lambda _: write(lambda tx: tx.connection.execute(text("x"))))
    monotonic.ahead_s += INTERVAL_S
    service.search()
    assert heartbeat._thread is not None
    heartbeat._thread.join(30)
    monkeypatch.undo()
    service.search()
    assert recorded(service)[0].seen_at == old, "not due yet"
    monotonic.ahead_s += replicas.RETRY_S
    service.search()
    wait_for(lambda: recorded(service)[0].seen_at > old)


def test_child_of_a_fork_has_a_row_of_its_own(service: BindingService, database_url: str) -> None:
    code = (
        "import os, sys; from bindings import BindingService;"
        " url = sys.argv[1]; BindingService.open(database_url=url).close(); child = os.fork();"
        " BindingService.open(database_url=url).close(); child and os.waitpid(child, 0)"
    )
    subprocess.run([sys.executable, "-c", code, database_url], cwd=ROOT, check=True, timeout=60)
    rows = recorded(service)
    assert len({(replica.id, replica.name) for replica in rows}) == len(rows) == 3


def test_row_that_is_a_day_old_is_deleted(service: BindingService) -> None:
    make_old(service, timedelta(days=1, minutes=1))
    database = service.runtime.database
    another = {"id": "0190b5a0-0000-7000-8000-000000000001"}
    database.write(lambda tx: tx.connection.execute(update(table).values(another)))
    database.write(replicas.record)
    ids = database.read(lambda connection: connection.execute(select(table.c.id)).scalars().all())
    assert ids == [replicas._process_id(os.getpid())]


def test_check_names_the_processes_by_version_and_schema(service: BindingService) -> None:
    def check() -> Check:
        checks = health.service_checks(service.runtime)
        return next(check for check in checks if check.name == "replicas")

    version = __version__
    own = f"1 of version {version} for schema {HEAD}: {service.runtime.replica}"
    assert check().seen == f"processes recorded in the last 3 min: {own}"
    assert check().level is Level.OK
    database = service.runtime.database
    now = database.clock()
    others = (
        ("other:7", "9.9", now),
        ("before:9", version, now),
        ("gone:8", version, now - timedelta(minutes=4)),
    )
    rows = [
        {
            "id": f"0190b5a0-0000-7000-8000-00000000000{number}",
            "name": name,
            "version": row_version,
            "phone_key_ids": [],
            "started_at": now,
            "seen_at": seen_at,
        }
        for number, (name, row_version, seen_at) in enumerate(others)
    ]
    database.write(lambda tx: tx.connection.execute(table.insert(), rows))
    assert check().level is Level.WARN
    of_this_version = f"{own}; 1 of version {version} for schema before 0011: before:9"
    assert check().seen.endswith(f": {of_this_version}; 1 of version 9.9 for schema before 0011: other:7")
