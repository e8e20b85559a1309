"""Application state shared by all routes: service, executors, authenticator, metrics and the other parts.

One instance lives as long as the process. No request's data belongs here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.web import open_files
from bindings.web.auth import Authenticator
from bindings.web.background import ReconcileRuns
from bindings.web.connections import Connections
from bindings.web.executors import Executors
from bindings.web.long_poll import FeedNotifier
from bindings.web.metrics import Metrics
from bindings.web.phone_questions import HeldAnswers
from bindings.web.proxies import TrustedProxies
from bindings.web.proxy_sign_in import ProxySignIn

if TYPE_CHECKING:
    from bindings.monitoring.check import Check
    from bindings.scheduler import Scheduler
    from bindings.service import BindingService
    from bindings.web.first_sign_in import FirstSignIn


class AppState:
    """The parts of one process. `local_admin` and `first_sign_in`: see `Authenticator`."""

    def __init__(
        self, service: BindingService, *, local_admin: bool, first_sign_in: FirstSignIn | None = None
    ) -> None:
        self.service = service
        self.scheduler: Scheduler | None = None
        self.executors = Executors(bind_limit=service.settings.bind_limit)
        self.reconcile_runs = ReconcileRuns(self.executors)
        self.metrics = Metrics()
        self.notifier = FeedNotifier(service, self.executors)
        self.proxies = TrustedProxies(service.settings.trusted_proxies)
        self.authenticator = Authenticator(
            service.api_keys,
            service.sessions,
            self.executors,
            local_admin=local_admin,
            first_sign_in=first_sign_in,
            proxy_sign_in=ProxySignIn(service.settings, self.proxies),
            rate_limit=service.settings.rate_limit,
        )
        self.held_answers = HeldAnswers()
        room = open_files.connections_within(open_files.limit(), service.settings)
        self.connections = Connections(self.proxies, room)
        self.readiness: tuple[float, tuple[Check, ...]] = (float("-inf"), ())  # when it was checked, the checks
        if service.runtime.client is not None:
            service.runtime.client.on_call = self.metrics.record_provider_call

    def request_stop(self) -> None:
        """Let the jobs and the console's reconciliation end early: the process ends. Callable from any thread."""
        self.reconcile_runs.request_stop()
        if self.scheduler is not None:
            self.scheduler.request_stop()
