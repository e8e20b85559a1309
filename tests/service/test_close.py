"""A closed service: every later call is refused, records nothing and leaves no connection open."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from bindings.errors import Busy, OutcomeUnknown
from bindings.service import BindingService
from tests.service.harness import POOL, A, B, C, D, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.store.database import Transaction
    from tests.service.harness import ServiceHarness

BIND: dict[str, Any] = {"phone_a": C, "phone_b": D, "pool_number": POOL, "expire_s": 60, "mode": "AXB"}
CALLS: dict[str, Callable[[BindingService], object]] = {
    "bind": lambda service: service.bind(**BIND),
    "lookup": lambda service: service.lookup(phone=A),
    "search": lambda service: service.search(),
    "export": lambda service: list(service.export_bindings()),
    "expire_due": lambda service: service.expire_due(),
    "recover": lambda service: service.recover(),
    "reconcile": lambda service: service.reconcile(),
    "as_caller": lambda service: service.as_caller(actor="other").lookup(phone=A),
}


def connections(harness: ServiceHarness) -> int:
    """Return how many connections the PostgreSQL server has for this database; SQLite: 0."""
    database = harness.services[0].runtime.database
    if not database.postgres:
        return 0
    count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    return int(database.read(lambda connection: connection.execute(count).scalar_one()))


@pytest.mark.parametrize("name", CALLS)
def test_call_after_close_is_refused_and_records_nothing(harness: ServiceHarness, name: str) -> None:
    harness.bind()
    opened, received = connections(harness), dict(harness.simulator.counts.received)
    service = harness.open()
    CALLS["lookup"](service)
    service.close()
    with pytest.raises(Busy, match="the service is closed; nothing was done") as refused:
        CALLS[name](service)
    assert "open another one" in refused.value.next_step().lower()
    wait_for(lambda: connections(harness) <= opened)
    assert harness.simulator.counts.received == received
    assert len(harness.service.search().data) == 1
    service.close()


def test_connection_that_is_in_use_is_closed_when_it_is_returned(harness: ServiceHarness) -> None:
    harness.bind()
    opened = connections(harness)
    service = harness.open()
    entered, go_on = threading.Event(), threading.Event()

    def work(_: Transaction) -> None:
        entered.set()
        assert go_on.wait(300)

    thread = threading.Thread(target=lambda: service.runtime.database.write(work, budget_s=300))
    thread.start()
    assert entered.wait(300)
    service.close()
    go_on.set()
    thread.join(300)
    assert service.runtime.database.connections_in_use() == 0
    wait_for(lambda: connections(harness) <= opened)


def test_bind_whose_service_is_closed_during_the_call_is_in_doubt(harness: ServiceHarness) -> None:
    assert harness.service.search().data == ()
    service = harness.open()
    database = service.runtime.database
    client = service.runtime.require_client()
    client.on_call = lambda *_: database.close()
    with pytest.raises(OutcomeUnknown) as unknown:
        service.bind(**BIND | {"phone_a": A, "phone_b": B})
    harness.clock.advance(60)
    harness.service.recover()
    assert harness.service.get(unknown.value.binding.id).state == "in_doubt"


def test_service_of_anything_but_a_runtime_says_how_to_open_one() -> None:
    with pytest.raises(TypeError, match=r"BindingService.open\(...\)"):
        BindingService("sqlite:///bindings.db")  # type: ignore[arg-type]
