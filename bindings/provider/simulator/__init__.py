"""The simulator: a local HTTP server with the provider's rules and scripted fault injection.

Part of the product: `bindings simulator` and `make demo` run it, and the acceptance tests compare with it. It
imports neither the store, the service nor the client, so that it is an independent check of every binding: its
ledger is what the provider really did.

`ledger` keeps the accepted bindings, `rules` decides, `behaviour` what tests change while it runs, `faults` the
fault injection, `replies` and `server` the HTTP, `journal` the recorded requests, `control` the /_simulator calls.
"""

from __future__ import annotations

import time
import warnings
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any, Self, Unpack

from bindings.domain.conflict import Policy
from bindings.fork_safety import ProcessMark
from bindings.provider import wire
from bindings.provider.simulator.behaviour import Behaviour, BehaviourChanges
from bindings.provider.simulator.control import SimulatorState, foreign_request
from bindings.provider.simulator.faults import Call, Fault, FaultKind, FaultScript, fault, parse_fault
from bindings.provider.simulator.journal import Counts, RecordedRequest, RequestLog
from bindings.provider.simulator.ledger import FIRST_BIND_ID, Entry, Ledger, Overlap, find_overlaps
from bindings.provider.simulator.rules import Account, Rules
from bindings.provider.simulator.server import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
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

API_KEY = "bDqJFiq9"  # of the documented test vector
API_SECRET = "7bz1lzh9"  # noqa: S105 -- of the documented test vector
ZONE = timezone(timedelta(hours=8))


class Simulator:
    """A provider on a local port. Thread-safe; a context manager.

    `clock` returns Unix seconds; inject one to let bindings expire without sleeping. `seed` determines which calls
    a fault with a rate is injected into. `port=0` takes any free port; `path_prefix` begins the path of each call.
    Ids count from `first_bind_id`; with a database that was used with another simulator, choose one above its ids.
    `api_key`, `api_secret` and `app_ids` (None: any) say which calls are accepted, `zone` is the time zone of the
    list; every other argument is a field of `Behaviour`. A forked child can call it by its URL; the object
    belongs to the process that made it.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        path_prefix: str = wire.PATH_PREFIX,
        api_key: str = API_KEY,
        api_secret: str = API_SECRET,
        app_ids: Iterable[str] | None = None,
        policy: Policy | str = Policy.LITERAL,
        zone: tzinfo = ZONE,
        timestamp_tolerance_s: float = 300.0,
        release_lag_s: float = 0.0,
        list_lag_s: float = 0.0,
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
        behaviour = Behaviour(
            policy=Policy(policy),
            timestamp_tolerance_s=timestamp_tolerance_s,
            release_lag_s=release_lag_s,
            list_lag_s=list_lag_s,
            pool_size=pool_size,
            max_concurrency=max_concurrency,
        )
        rules = Rules(account=account, behaviour=behaviour, ledger=Ledger(first_bind_id), clock=clock, seed=seed)
        self._state = SimulatorState(rules=rules, faults=FaultScript(seed=seed), journal=RequestLog())
        self._host = host
        self._path_prefix = path_prefix
        self._port = port
        self._listener: Listener | None = None
        self._process = ProcessMark()

    def start(self) -> Self:
        """Listen, and return self. After a `stop` it listens on the same port again, with the same ledger.

        Raises OSError if the port is taken, RuntimeError if it is already listening.
        """
        if self._listener is not None:
            raise RuntimeError("the simulator is already listening")
        self._listener = Listener(
            host=self._host, port=self._port, path_prefix=self._path_prefix, state=self._own_state
        )
        self._port = self._listener.port
        self._listener.start()
        return self

    def stop(self) -> None:
        """Close the port and every connection, within about a second. Safe to repeat; only in its own process."""
        if not self._process.is_this_process:
            return
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()

    def __enter__(self) -> Self:
        return self.start() if self._listener is None else self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Return the base address, for BINDINGS_PROVIDER_URL; it does not change after the first start."""
        if self._port == 0:
            raise RuntimeError("the simulator has no port before it is started")
        return f"http://{self._host}:{self._port}"

    @property
    def _own_state(self) -> SimulatorState:
        self._process.check("this simulator", "call it by its URL, or start one in this process")
        return self._state

    @property
    def ledger(self) -> Ledger:
        """Return the ledger: every binding that was ever accepted."""
        return self._own_state.rules.ledger

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """Return the last 20 000 requests, in the order of arrival."""
        return self._own_state.journal.requests()

    @property
    def counts(self) -> Counts:
        """Return a snapshot of the counts since the simulator was created."""
        return self._own_state.journal.counts(self._own_state.faults.fired())

    @property
    def behaviour(self) -> Behaviour:
        """Return the current behaviour of the provider."""
        return self._own_state.rules.behaviour

    def now(self) -> float:
        """Return the simulator's clock with its offset, in Unix seconds."""
        return self._own_state.rules.now()

    def change(self, **changes: Unpack[BehaviourChanges]) -> Behaviour:
        """Change fields of `Behaviour`, also during calls. Raises ValueError, and then changes nothing."""
        return self._own_state.rules.change(changes)

    def script(
        self,
        kind: str | Fault,
        *,
        rate: float | None = None,
        times: int | None = None,
        on: str | None = None,
        seconds: float | None = None,
    ) -> Fault:
        """Inject a fault: at a `rate` (0..1), or into the next `times` calls; `on` limits it to one kind of call.

        `kind` is written as in `faults.fault` ("lost_reply", "refuse:-35"). Raises ValueError that lists the
        kinds. Not safe to repeat: faults add up, and the one that was scripted first has precedence.
        """
        scripted = kind if isinstance(kind, Fault) else fault(kind, rate=rate, times=times, on=on, seconds=seconds)
        self._own_state.faults.add(scripted)
        return scripted

    def clear_faults(self) -> None:
        """Remove all scripted faults. A pause that has begun continues. Safe to repeat."""
        self._own_state.faults.clear()

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
        """Add a live binding that was not requested by a call, bypassing the -35 rule: an orphan to the product.

        Raises ValueError if the pool has no middle number available.
        """
        return self._own_state.rules.add_foreign_binding(
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
        """End a live binding without an unbind: a ghost to the product. Raises KeyError if none has that id."""
        entry = self._own_state.rules.remove_binding(int(bind_id))
        if entry is None:
            raise KeyError(bind_id)
        return entry

    def list_as(
        self, bind_id: int | str, values: Mapping[str, object] | None = None, *, hidden: bool = False
    ) -> None:
        """Show a binding differently in the list: with other values, or not at all (`hidden`); neither: as it is.

        The names in `values` are `bind_id`, `phone_a`, `phone_b`, `middle_number_a`, `middle_number_b` and
        `ends_at`; a value is sent as it is, also None. Raises ValueError for any other name. A repeated call
        replaces what was set.
        """
        self._own_state.rules.list_as(int(bind_id), hidden=hidden, replaced=values or {})

    def restore_binding(self, bind_id: int | str) -> Entry:
        """Take back the unbind or removal of a binding: a revenant to the product.

        Raises KeyError if none has that id, or if it is live or past its expiry.
        """
        entry = self._own_state.rules.restore_binding(int(bind_id))
        if entry is None:
            raise KeyError(bind_id)
        return entry

    def plant(self, **fields: Any) -> Entry:
        """Call `add_foreign_binding`. Deprecated: the old name, kept for one version."""
        warnings.warn("Simulator.plant is now add_foreign_binding", DeprecationWarning, stacklevel=2)
        return self.add_foreign_binding(**fields)

    def vanish(self, bind_id: int | str) -> Entry:
        """Call `remove_binding`. Deprecated: the old name, kept for one version."""
        warnings.warn("Simulator.vanish is now remove_binding", DeprecationWarning, stacklevel=2)
        return self.remove_binding(bind_id)
