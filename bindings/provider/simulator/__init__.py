"""The simulator: a real local HTTP server with the provider's rules, and faults that can be scripted.

Part of the product: `bindings simulator` and `make demo` run it, and the acceptance tests judge by it. It
needs the standard library only, imports neither store nor service nor the client, and is the second opinion
on every binding: its ledger holds what the provider really did.

`ledger` keeps what was accepted, `rules` decides, `conditions` is how it behaves, `faults` what goes wrong,
`replies` and `server` are the HTTP, `journal` what was asked, `control` the /_simulator calls.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any, Self

from bindings.domain.conflict import Policy
from bindings.provider.simulator.conditions import Behaviour
from bindings.provider.simulator.control import SimulatorState, foreign_request
from bindings.provider.simulator.faults import Call, Fault, FaultKind, FaultScript, fault, parse_fault
from bindings.provider.simulator.journal import Counts, RecordedRequest, RequestLog
from bindings.provider.simulator.ledger import FIRST_BIND_ID, Entry, Ledger, Overlap, find_overlaps
from bindings.provider.simulator.rules import Account, Rules
from bindings.provider.simulator.server import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import tzinfo

__all__ = [
    "Behaviour",
    "Call",
    "Counts",
    "Entry",
    "Fault",
    "FaultKind",
    "Ledger",
    "Overlap",
    "RecordedRequest",
    "Simulator",
    "fault",
    "find_overlaps",
    "parse_fault",
]

API_KEY = "bDqJFiq9"  # the documented test vector's
API_SECRET = "7bz1lzh9"  # noqa: S105 -- the documented test vector's
ZONE = timezone(timedelta(hours=8))


class Simulator:
    """A provider on a local port. Thread-safe; a context manager.

    `clock` gives Unix seconds; inject one to let bindings expire without sleeping. `seed` fixes which calls a
    fault with a rate strikes, call by call. `port=0` takes any free port. Ids count from `first_bind_id`; with a
    database that has seen another simulator, choose one beyond. Every other argument is a field of `Conditions`,
    or says who may call.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        api_key: str = API_KEY,
        api_secret: str = API_SECRET,
        app_ids: Iterable[str] | None = None,
        policy: Policy | str = Policy.LITERAL,
        zone: tzinfo = ZONE,
        timestamp_tolerance_s: float = 300.0,
        release_lag_s: float = 0.0,
        pool_size: int = 20,
        max_concurrency: int = 100_000,
        seed: int = 0,
        first_bind_id: int = FIRST_BIND_ID,
        clock: Callable[[], float] = time.time,
    ) -> None:
        account = Account(
            api_key=api_key,
            api_secret=api_secret,
            app_ids=None if app_ids is None else frozenset(app_ids),
            zone=zone,
        )
        conditions = Behaviour(
            policy=Policy(policy),
            timestamp_tolerance_s=timestamp_tolerance_s,
            release_lag_s=release_lag_s,
            pool_size=pool_size,
            max_concurrency=max_concurrency,
        )
        rules = Rules(account=account, conditions=conditions, ledger=Ledger(first_bind_id), clock=clock, seed=seed)
        self._world = SimulatorState(rules=rules, faults=FaultScript(seed=seed), journal=RequestLog())
        self._host = host
        self._port = port
        self._listener: Listener | None = None
        self._stopped = threading.Event()

    def start(self) -> Self:
        """Listen. After a `stop` it comes back on the same port with the same ledger.

        Raises OSError where the port is taken, RuntimeError where it is already listening.
        """
        if self._listener is not None:
            raise RuntimeError("the simulator is already listening")
        self._listener = Listener(host=self._host, port=self._port, world=self._world)
        self._port = self._listener.port
        self._stopped.clear()
        self._listener.start()
        return self

    def stop(self) -> None:
        """Close the port and every connection, within about a second. Safe to repeat."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()
        self._stopped.set()

    def serve_forever(self) -> None:
        """Listen until `stop` is called from another thread, or KeyboardInterrupt is raised in this one."""
        if self._listener is None:
            self.start()
        try:
            self._stopped.wait()
        finally:
            self.stop()

    def __enter__(self) -> Self:
        return self.start() if self._listener is None else self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base address, as BINDINGS_PROVIDER_URL takes it; stays the same once it has been started."""
        if self._port == 0:
            raise RuntimeError("the simulator has no port before it is started")
        return f"http://{self._host}:{self._port}"

    @property
    def ledger(self) -> Ledger:
        """What was accepted, for ever."""
        return self._world.rules.ledger

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """The last 20 000 requests, in the order of arrival."""
        return self._world.journal.requests()

    @property
    def counts(self) -> Counts:
        """A snapshot of the counts since the simulator was made."""
        return self._world.journal.counts(self._world.faults.fired())

    @property
    def conditions(self) -> Behaviour:
        """How the provider behaves now."""
        return self._world.rules.conditions

    def now(self) -> float:
        """The simulator's clock with its offset, in Unix seconds."""
        return self._world.rules.now()

    def change(self, **changes: Any) -> Behaviour:
        """Change fields of `Conditions` while calls run. Raises ValueError, and then changes nothing."""
        return self._world.rules.change(changes)

    def script(
        self,
        kind: str | Fault,
        *,
        rate: float | None = None,
        times: int | None = None,
        on: str | None = None,
        seconds: float | None = None,
    ) -> Fault:
        """Script a fault: at a `rate` (0..1), or for the next `times` calls; `on` limits it to one call.

        `kind` is written as in `faults.fault` ("lost_reply", "refuse:-35"). Raises ValueError that lists the
        kinds. Not to be repeated: faults add up, and the one scripted first is asked first.
        """
        made = kind if isinstance(kind, Fault) else fault(kind, rate=rate, times=times, on=on, seconds=seconds)
        self._world.faults.add(made)
        return made

    def clear_faults(self) -> None:
        """Let nothing go wrong any more; a pause that has begun runs on."""
        self._world.faults.clear()

    def add_foreign_binding(
        self,
        *,
        phone_a: str,
        phone_b: str,
        app_id: str,
        pool_number: str = "918806",
        expire_s: int = 3_600,
        mode: str = "AXB",
    ) -> Entry:
        """Put a live binding in the ledger that nobody asked us for, past the -35 rule: an orphan.

        Raises ValueError where the pool has no middle number left.
        """
        return self._world.rules.plant(
            foreign_request(
                phone_a=phone_a,
                phone_b=phone_b,
                app_id=app_id,
                pool_number=pool_number,
                expire_s=expire_s,
                mode=mode,
            )
        )

    def remove_binding(self, bind_id: int | str) -> Entry:
        """End a live binding without an unbind. Raises KeyError where there is no live one of that id."""
        entry = self._world.rules.vanish(int(bind_id))
        if entry is None:
            raise KeyError(bind_id)
        return entry
