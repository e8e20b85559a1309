"""A service against the simulator, all on one clock that moves only when a test says so."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bindings.binding import Binding, Caller, EventKind, State
from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.settings import load
from bindings.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.provider.simulator import Entry

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
        service = service_at(self.url, self.clock, self.simulator.url, **settings)
        self.opened.append(service)
        return service

    def close(self) -> None:
        for service in self.opened:
            service.close()

    def bind(self, phone_a: str = A, phone_b: str = B, mode: str = "AXB", **asked: Any) -> Binding:
        given = {"pool_number": POOL, "expire_s": 3_600} | asked
        return self.service.bind(phone_a=phone_a, phone_b=phone_b, mode=mode, **given)

    def kinds(self, binding: Binding) -> list[EventKind]:
        return [event.kind for event in self.service.history(binding.id)]

    def all_kinds(self) -> list[EventKind]:
        return [event.kind for event in self.service.export_events()]

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
    if service._client is not None:
        service._client._wall = clock.unix
    return service


def wait_for(holds: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait for what another thread or process brings about; fails loudly where it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.005)


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
    for binding in list(service.export_bindings()):
        history = service.history(binding.id)
        assert [event.sequence for event in history] == list(range(1, len(history) + 1)), "gapless"
        assert binding.version == len(history)
        state: State | None = None
        bind_id = provider_status = reason = wished = None
        for event in history:
            following = FORWARD.get(event.kind)
            if following is not None:
                if state is None:
                    assert following is State.PENDING
                else:
                    assert following in state.follows, f"{state} -> {following}"
                state = following
            match event.kind:
                case EventKind.ACTIVATED:
                    bind_id, provider_status, reason = event.detail["bind_id"], None, None
                case EventKind.ADOPTED:
                    bind_id, reason = event.detail["bind_id"], "adopted"
                case EventKind.FAILED | EventKind.IN_DOUBT:
                    provider_status, reason = event.detail["status"], event.detail["reason"]
                case EventKind.UNBOUND:
                    reason = event.detail["reason"]
                case EventKind.UNBIND_REQUESTED:
                    wished = event.at
                case _:
                    pass
        assert binding.state is state, "the row's state is what its events replay to"
        assert (binding.bind_id, binding.provider_status, binding.reason) == (
            bind_id,
            provider_status,
            reason,
        )
        assert (binding.unbind_requested_at is None) == (wished is None)
    phones = {phone.digits for row in service.export_bindings() for phone in (row.phone_a, row.phone_b)}
    for event in service.export_events():
        assert not any(phone in str(event.detail) for phone in phones if len(phone) > 6), "no phones in events"
