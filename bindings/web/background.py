"""Work that may outlast a request: a reconciliation that somebody asked for, and what came of it.

It runs where binds run (`executors`), so that no question waits for it, and one at a time. What it found is kept in
this process for a look; for good it stands in its report, which every replica shows.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bindings.errors import BindingsError, Busy

if TYPE_CHECKING:
    from bindings.jobs.reconcile import ReconcileResult
    from bindings.service import BindingService
    from bindings.web.executors import Executors

_log = logging.getLogger(__name__)

KEPT = 50
PATIENCE_S = 1.5  # most are done by then, and need no second look
RETRY_AFTER_S = 10


@dataclass(kw_only=True, slots=True)
class ReconcileRun:
    """One reconciliation: under way while it has neither a `result` nor a `fault`."""

    actor: str
    reason: str
    dry_run: bool
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    result: ReconcileResult | None = None
    fault: str | None = None

    @property
    def running(self) -> bool:
        """Whether it is under way."""
        return self.result is None and self.fault is None


class ReconcileRuns:
    """The errands of one process. For the event loop's thread."""

    def __init__(self, executors: Executors) -> None:
        self._executors = executors
        self._known: dict[str, ReconcileRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, errand_id: str) -> ReconcileRun | None:
        """The errand with this id, if it is this process's."""
        return self._known.get(errand_id)

    @property
    def running(self) -> ReconcileRun | None:
        """The one that is under way."""
        return next((errand for errand in self._known.values() if errand.running), None)

    async def reconcile(self, service: BindingService, *, actor: str, reason: str, dry_run: bool) -> ReconcileRun:
        """Begin a reconciliation, and wait a moment for its end; `Busy` while another one is under way."""
        if self.running is not None:
            raise Busy("a reconciliation that somebody asked for is under way", retry_after_s=RETRY_AFTER_S)
        errand = ReconcileRun(actor=actor, reason=reason, dry_run=dry_run)
        self._known[errand.id] = errand
        for old in list(self._known)[:-KEPT]:
            del self._known[old]
        task = asyncio.create_task(self._run(errand, service))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([task], timeout=PATIENCE_S)
        return errand

    async def _run(self, errand: ReconcileRun, service: BindingService) -> None:
        try:
            errand.result = await self._executors.run_provider_call(
                lambda: service.reconcile(dry_run=errand.dry_run, reason=errand.reason)
            )
        except BindingsError as error:
            errand.fault = str(error)
        except Exception as error:  # noqa: BLE001 -- nobody else would ever hear of it; its text may carry a phone
            _log.error("reconciliation failed with %s", type(error).__name__)
            errand.fault = f"failed with {type(error).__name__}; the log says where"
