"""What a test of an application needs, opened together: a service, its database and its provider on one clock.

The parts are the product's own: real statements, real HTTP to the simulator. Only the clocks are replaced.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bindings.errors import Busy
from bindings.lifecycle.runtime import open_runtime
from bindings.provider.simulator import API_KEY, API_SECRET, Simulator
from bindings.service import BindingService
from bindings.testing.databases import temporary_database
from bindings.testing.final_events import wait_until_final
from bindings.testing.ledger_checks import list_differences
from bindings.testing.manual_clock import ManualClock
from bindings.testing.timer import JobTimer
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime
    from typing import Unpack

    from bindings.domain.binding import Event
    from bindings.provider.simulator import Entry
    from bindings.settings import SettingsValues
    from bindings.testing.http_service import HttpService
    from bindings.testing.timer import JobRun
    from bindings.testing.webhook_receiver import WebhookReceiver

APP_ID = "test-app"
POOL_SIZE = 200  # middle numbers of each pool at the simulator
DEFAULTS: SettingsValues = {
    "provider_api_key": API_KEY,
    "provider_api_secret": API_SECRET,
    "provider_app_id": APP_ID,
    "scan_calls_per_s": 1_000.0,  # a scan waits for nothing
}


class Environment:
    """A service, a simulated provider and a database on one clock; made by `open_environment`.

    `clock` is the clock of the host, the database and the provider. `simulator` takes faults and has the ledger,
    `service` is open, and `settings` are those of each service that `open` opens. For one thread, as the jobs are
    run by the caller; the service itself may be used in several.
    """

    def __init__(self, *, clock: ManualClock, simulator: Simulator, settings: SettingsValues) -> None:
        self.clock = clock
        self.simulator = simulator
        self.settings = settings
        self._resources = ExitStack()
        self._is_closed = False
        self._feed_position: str | None = None
        self.service = self.open()
        self._timer = JobTimer(self.service, clock)

    def open(self, *, actor: str = "library", **settings: Unpack[SettingsValues]) -> BindingService:
        """Open another service, as another replica would, with these settings instead of its own.

        It is closed together with the environment. `Busy` if the environment is closed.
        """
        self._require_open()
        values: SettingsValues = {**self.settings, **settings}
        checked = validation.settings({}, **values)
        caller = validation.caller(actor=actor, request_id=None)
        runtime = open_runtime(checked, caller, clock=self.clock.host_clock(), read_clock=self.clock.now)
        return self._resources.enter_context(BindingService(runtime))

    def close(self) -> None:
        """Close every service and receiver. Safe to repeat."""
        self._is_closed = True
        self._resources.close()

    def _require_open(self) -> None:
        if self._is_closed:
            raise Busy("the environment is closed; nothing was done", todo="open another one")

    # Time.

    def pass_time(self, seconds: float) -> list[JobRun]:
        """Move the clock by `seconds`, run each job that is due meanwhile, as a scheduler does; return the runs.

        Also sends webhook deliveries. What a job raises is raised, and leaves the clock where it is.
        """
        return self._timer.pass_time(seconds)

    def run_job(self, name: str) -> JobRun:
        """Run one job of the scheduler now, also if it is not due; return the run. ValueError lists the names."""
        return self._timer.run(name)

    # The provider.

    def live_at_provider(self) -> tuple[Entry, ...]:
        """Return the provider's bindings that are live now, in the order of their acceptance."""
        return self.simulator.ledger.live(self.clock.unix())

    def calls(self, call: str) -> int:
        """Return how many calls the provider received: "bind", "unbind", "page" or "pools"."""
        return self.simulator.counts.received.get(call, 0)

    @contextmanager
    def provider_unreachable(self) -> Iterator[None]:
        """Refuse every connection to the provider in the block."""
        self._require_open()
        self.simulator.stop()
        try:
            yield
        finally:
            self.simulator.start()

    def assert_agreement(self) -> None:
        """Raise AssertionError, which lists what differs, unless the service and the provider agree now.

        Each binding that is active here lives there; what lives there is active here, in doubt, or on its way to
        an end; and no two bindings violated the provider's rule. Foreign bindings of the simulator are left out.
        """
        differences = list_differences(self.service, self.simulator, self.clock.now())
        if differences:
            raise AssertionError("; ".join(differences))

    # What others see.

    def new_events(self) -> list[Event]:
        """Return the events of the change feed since the last call, in order; the first call returns all."""
        wait_until_final(self.service)
        events: list[Event] = []
        while page := self.service.events(after=self._feed_position, limit=200).data:
            events += page
            self._feed_position = page[-1].cursor
        return events

    def receive_webhooks(self, *kinds: str) -> WebhookReceiver:
        """Add a webhook for later events (of these kinds; none: the usual ones) and return its receiver.

        Deliveries are sent by `pass_time`, and by `run_job("deliver")`. Needs the extra `server`.
        """
        self._require_open()
        from bindings.testing.webhook_receiver import WebhookReceiver

        receiver = self._resources.enter_context(WebhookReceiver())
        receiver.secret = self.service.webhooks.add(url=receiver.url, kinds=kinds or None).secret
        return receiver

    def serve(self) -> AbstractContextManager[HttpService]:
        """Serve the HTTP service on a free port in the block; it shares the service. Needs the extra `server`."""
        self._require_open()
        from bindings.testing.http_service import serve

        return serve(self.service)


@contextmanager
def open_environment(
    *, start: datetime | None = None, **settings: Unpack[SettingsValues]
) -> Iterator[Environment]:
    """Open an environment for the block, with these settings of `BindingService.open`; close it afterwards.

    Without `database_url` the database is a temporary SQLite file (see `temporary_database`). The clock starts at
    `start` (aware; None: this machine's time, in whole seconds). No environment variable is read.
    """
    clock = ManualClock(start)
    with ExitStack() as resources:
        if "database_url" not in settings:
            settings = {**settings, "database_url": resources.enter_context(temporary_database())}
        simulator = resources.enter_context(Simulator(clock=clock.unix, pool_size=POOL_SIZE))
        values: SettingsValues = {**DEFAULTS, "provider_url": simulator.url, **settings}
        environment = Environment(clock=clock, simulator=simulator, settings=values)
        resources.callback(environment.close)
        yield environment
