"""What lives as long as the process and every route needs: the service, its threads, the door, the counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from bindings.web.auth import Doorkeeper
from bindings.web.background import Errands
from bindings.web.executors import Desk
from bindings.web.long_poll import Bell
from bindings.web.metrics import Metrics
from bindings.web.proxies import Proxies
from bindings.web.rate_limit import Tries

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.monitoring.health import Check
    from bindings.scheduler import Scheduler
    from bindings.service import BindingService

Answer = TypeVar("Answer")


class Office:
    """The parts of one process. `loopback` is whether only this host can reach it."""

    def __init__(self, service: BindingService, *, loopback: bool) -> None:
        self.service = service
        self.scheduler: Scheduler | None = None
        self.desk = Desk(bind_limit=service.settings.bind_limit)
        self.errands = Errands(self.desk)
        self.metrics = Metrics()
        self.bell = Bell(service, self.desk)
        self.door = Doorkeeper(
            service.keys,
            service.sessions,
            self.desk,
            loopback=loopback,
            rate_limit=service.settings.rate_limit,
        )
        self.proxies = Proxies(service.settings.trusted_proxies)
        self.tries = Tries()
        self.ready: tuple[float, tuple[Check, ...]] = (float("-inf"), ())
        if service.provider is not None:
            service.provider.watch = self.metrics.called

    async def ask(self, question: Callable[[BindingService], Answer]) -> Answer:
        """Ask the service something."""
        return await self.desk.ask(lambda: question(self.service))
