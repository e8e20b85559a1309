"""A service against the simulator, all on one clock that moves only when a test says so."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from bindings.domain.binding import Binding, Caller, EventKind, State
from bindings.service import BindingService
from bindings.settings import load
from bindings.store import events
from bindings.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Event
    from bindings.lifecycle.admission import BindAdmission
    from bindings.provider.simulator import Entry, Simulator

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
E, F, G, H = "9188067704", "9188067705", "9188067706", "9188067707"
POOL = "918806"
APP = "4luaKsL2"
KEY, SECRET = "bDqJFiq9", "7bz1lzh9"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """An instant that stands still until it is moved. Callable, as `Database(read_clock=...)` wants it."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def unix(self) -> float:
        return self.at.timestamp()

    def advance(self, seconds: float) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at


@dataclass(kw_only=True)
class World:
    """One database, one simulated provider, one clock, and as many services (replicas) as a test opens."""

    url: str
    clock: Clock = field(default_factory=Clock)
    simulator: Simulator
    opened: list[BindingService] = field(default_factory=list)

    @property
    def service(self) -> BindingService:
        return self.opened[0] if self.opened else self.open()

    @property
    def database(self) -> Database:
        return self.service._database

    def open(self, **settings: Any) -> BindingService:
        """Another replica on the same database."""
        service = service_at(self.url, self.clock, settings.pop("provider_url", self.simulator.url), **settings)
        self.opened.append(service)
        return service

    def close(self) -> None:
        for service in self.opened:
            service.close()

    def bind(self, phone_a: str = A, phone_b: str = B, mode: str = "AXB", **asked: Any) -> Binding:
        given: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600} | asked
        return self.service.bind(phone_a=phone_a, phone_b=phone_b, mode=mode, **given)

    def kinds(self, binding: Binding) -> list[EventKind]:
        return [event.kind for event in self.service.history(binding.id)]

    def all_kinds(self) -> list[EventKind]:
        """Every event's kind, also of those that the feed does not show yet."""
        kinds = select(events.COLUMNS[4]).order_by(events.COLUMNS[1])
        return [EventKind(kind) for kind in self.database.read(lambda found: found.execute(kinds).scalars().all())]

    def received(self, call: str) -> int:
        """How many calls of this kind the provider has seen."""
        return self.simulator.counts.received.get(call, 0)

    def entry(self, binding: Binding) -> Entry:
        found = self.simulator.ledger.get(int(binding.bind_id or 0))
        assert found is not None
        return found


def service_at(url: str, clock: Clock, provider_url: str, **settings: Any) -> BindingService:
    """A service whose database, host and skew measurements all go by `clock`."""
    given = {
        "provider_url": provider_url,
        "provider_api_key": KEY,
        "provider_api_secret": SECRET,
        "provider_app_id": APP,
        "provider_timeout_s": 5.0,
        "scan_calls_per_s": 1_000.0,
    }
    config = load({}, database_url=url, **(given | settings))
    service = BindingService(config, Database(url, read_clock=clock), caller=Caller(actor="test"))
    service._admission._wall = clock.unix
    _forget_steps(service._admission)
    if service._client is not None:
        service._client._wall = clock.unix
    return service


def _forget_steps(admission: BindAdmission) -> None:
    """The clock of a test jumps on purpose, which in earnest stops the binds of a process."""
    learn = admission.observe_database_clock

    def compare_clocks(database_time: datetime, read_at: float) -> None:
        admission._anchor = None
        learn(database_time, read_at)

    admission.observe_database_clock = compare_clocks  # type: ignore[method-assign]


def wait_for(holds: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Wait for what another thread or process brings about; fails loudly where it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.005)


def feed_has_caught_up(service: BindingService) -> None:
    """Wait until what is committed is in the feed: transactions of other databases of the server hold it back."""
    if not service._database.postgres:
        return
    number = text("SELECT pg_current_xact_id()::text::bigint")
    oldest = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    mine = service._database.write(lambda tx: tx.connection.execute(number).scalar_one())
    wait_for(lambda: service._database.read(lambda found: found.execute(oldest).scalar_one()) > mine, seconds=60.0)


def in_threads(*calls: Callable[[], object], seconds: float = 60.0) -> list[BaseException]:
    """Run the calls at once, each in a thread of its own; what they raised, once all of them have ended."""
    together = threading.Barrier(len(calls))
    raised: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        together.wait(10)
        try:
            call()
        except BaseException as error:  # noqa: BLE001 -- handed to the test
            raised.append(error)

    # Daemons: one that hangs must fail its test, not keep the whole run from ending.
    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a call did not end"
    return raised


REPLAYED = (
    "bind_id",
    "middle_number_a",
    "middle_number_b",
    "provider_status",
    "reason",
    "sent_at",
    "answered_at",
    "expires_at",
    "held_until",
)
FORWARD = {
    EventKind.REQUESTED: State.PENDING,
    EventKind.ACTIVATED: State.ACTIVE,
    EventKind.ADOPTED: State.ACTIVE,
    EventKind.FAILED: State.FAILED,
    EventKind.IN_DOUBT: State.IN_DOUBT,
    EventKind.EXPIRED: State.EXPIRED,
    EventKind.UNBOUND: State.UNBOUND,
    EventKind.LAPSED: State.LAPSED,
}


def assert_sound(service: BindingService) -> None:
    """I5 and I7 over everything in the database, and no phone in any event: run after every test."""
    written = service._database.read(
        lambda connection: [
            events.to_event(row) for row in connection.execute(select(*events.COLUMNS).order_by(events.COLUMNS[1]))
        ]
    )
    histories: dict[str, list[Event]] = {}
    for event in written:
        histories.setdefault(str(event.binding_id), []).append(event)
    phones: set[str] = set()
    for binding in service.export_bindings():
        phones |= {phone.digits for phone in (binding.phone_a, binding.phone_b) if len(phone.digits) > 6}
        _assert_replays(binding, sorted(histories[binding.id], key=lambda event: event.sequence))
    for event in written:
        assert not any(phone in str(event.detail) for phone in phones), "no phones in events"


def _assert_replays(binding: Binding, history: list[Event]) -> None:
    assert [event.sequence for event in history] == list(range(1, len(history) + 1)), "gapless"
    assert binding.version == len(history)
    state: State | None = None
    row: dict[str, Any] = dict.fromkeys(REPLAYED)
    for event in history:
        following = FORWARD.get(event.kind)
        if following is not None:
            allowed = {State.PENDING} if state is None else state.next_states
            assert following in allowed, f"{state} -> {following}"
            state = following
        row = _replayed(row, event)
    assert binding.state is state, "the row's state is what its events replay to"
    for name in ("bind_id", "middle_number_a", "middle_number_b", "provider_status", "reason"):
        assert getattr(binding, name) == row[name], f"{name} is what its events replay to"
    for name in ("sent_at", "answered_at", "expires_at"):
        replayed = None if row[name] is None else datetime.fromisoformat(row[name])
        assert getattr(binding, name) == replayed, f"{name} is what its events replay to"
    wished = any(event.kind is EventKind.UNBIND_REQUESTED for event in history)
    assert (binding.unbind_requested_at is not None) == wished


def _replayed(row: dict[str, Any], event: Event) -> dict[str, Any]:
    """The row after an event."""
    after = row | {name: value for name, value in event.detail.items() if name in REPLAYED}
    match event.kind:
        case EventKind.ACTIVATED:
            return after | {"provider_status": None, "reason": None}
        case EventKind.ADOPTED:
            return after | {"reason": "adopted"}
        case EventKind.FAILED | EventKind.IN_DOUBT:
            return after | {"provider_status": event.detail["status"]}
        case EventKind.DRIFTED:
            return row | {"expires_at": after["expires_at"]}
        case kind if kind in FORWARD:
            return after
        case _:
            return row  # it tells of a wish, a late answer or a look, and changes none of these
