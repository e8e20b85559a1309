"""What lives as long as the process and every route needs: the service, its threads, the door, the counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from bindings.web.auth import Authenticator
from bindings.web.background import ReconcileRuns
from bindings.web.executors import Executors
from bindings.web.long_poll import FeedNotifier
from bindings.web.metrics import Metrics
from bindings.web.proxies import TrustedProxies
from bindings.web.rate_limit import SignInLimiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.monitoring.health import Check
    from bindings.scheduler import Scheduler
    from bindings.service import BindingService

Answer = TypeVar("Answer")


class AppState:
    """The parts of one process. `loopback` is whether only this host can reach it."""

    def __init__(self, service: BindingService, *, loopback: bool) -> None:
        self.service = service
        self.scheduler: Scheduler | None = None
        self.executors = Executors(bind_limit=service.settings.bind_limit)
        self.reconcile_runs = ReconcileRuns(self.executors)
        self.metrics = Metrics()
        self.notifier = FeedNotifier(service, self.executors)
        self.authenticator = Authenticator(
            service.keys,
            service.sessions,
            self.executors,
            loopback=loopback,
            rate_limit=service.settings.rate_limit,
        )
        self.proxies = TrustedProxies(service.settings.trusted_proxies)
        self.sign_in_limiter = SignInLimiter()
        self.ready: tuple[float, tuple[Check, ...]] = (float("-inf"), ())
        if service.provider is not None:
            service.provider.on_call = self.metrics.record_provider_call

    async def run_read(self, question: Callable[[BindingService], Answer]) -> Answer:
        """Ask the service something."""
        return await self.executors.run_read(lambda: question(self.service))
