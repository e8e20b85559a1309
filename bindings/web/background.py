"""Reconciliations started from the console, and their results.

They may outlast the request that started them. They run on the threads for provider calls (`executors`), so that
no read waits for them, and one at a time in a process. This process keeps the results of the latest runs for the
page that shows them; the permanent record is the report, which every replica shows.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bindings.errors import BindingsError, Busy

if TYPE_CHECKING:
    from bindings.jobs.reconcile import ReconcileResult
    from bindings.service import BindingService
    from bindings.web.executors import Executors

_log = logging.getLogger(__name__)

MAX_RUNS = 50
WAIT_FOR_RESULT_S = 1.5  # most runs end within that, and their page needs no reload
RETRY_AFTER_S = 10


@dataclass(kw_only=True, slots=True)
class ReconcileRun:
    """One reconciliation. It is running as long as it has neither a `result` nor a `fault`."""

    actor: str
    reason: str
    dry_run: bool
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    result: ReconcileResult | None = None
    fault: str | None = None

    @property
    def running(self) -> bool:
        """Return whether it has not ended yet."""
        return self.result is None and self.fault is None


class ReconcileRuns:
    """The latest reconciliations of this process. For the event loop's thread only."""

    def __init__(self, executors: Executors) -> None:
        self._executors = executors
        self._runs: dict[str, ReconcileRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = threading.Event()

    def request_stop(self) -> None:
        """Let the reconciliation that is running end after its current page. Callable from any thread."""
        self._stop.set()

    def find(self, run_id: str) -> ReconcileRun | None:
        """Return the run with this id, or None if this process does not have it."""
        return self._runs.get(run_id)

    @property
    def running(self) -> ReconcileRun | None:
        """Return the run that has not ended yet, or None."""
        return next((run for run in self._runs.values() if run.running), None)

    async def reconcile(self, service: BindingService, *, actor: str, reason: str, dry_run: bool) -> ReconcileRun:
        """Start a reconciliation, wait a moment for its end, and return it; raises `Busy` while another runs."""
        if self.running is not None:
            raise Busy("a reconciliation started from the console is running", retry_after_s=RETRY_AFTER_S)
        run = ReconcileRun(actor=actor, reason=reason, dry_run=dry_run)
        self._runs[run.id] = run
        for old_id in list(self._runs)[:-MAX_RUNS]:
            del self._runs[old_id]
        task = asyncio.create_task(self._execute(run, service))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([task], timeout=WAIT_FOR_RESULT_S)
        return run

    async def _execute(self, run: ReconcileRun, service: BindingService) -> None:
        try:
            run.result = await self._executors.run_provider_call(
                run.actor, service.reconcile, dry_run=run.dry_run, reason=run.reason, stop=self._stop
            )
        except BindingsError as error:
            run.fault = str(error)
        except Exception as error:  # noqa: BLE001 -- the task has no other reader; the text may carry a phone
            _log.error("reconciliation failed with %s", type(error).__name__)
            run.fault = f"failed with {type(error).__name__}; see the log"
