"""A running service: a real server on a real socket, and clients with keys."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import requests

from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.testing.http_service import run_server
from bindings.web import executors
from bindings.web.state import AppState
from tests.service.harness import POOL, A, B, account_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.web import server
    from bindings.web.first_sign_in import FirstSignIn

BIND = {"phone_a": A, "phone_b": B, "pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}


@dataclass(kw_only=True)
class Running:
    """A service that listens. `key` creates a key; without its headers a request has none."""

    service: BindingService
    app_state: AppState
    url: str
    uvicorn: server.Server
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.session.trust_env = False

    def key(self, role: str, name: str | None = None, **options: Any) -> dict[str, str]:
        """Create a key and return the headers of a request with it."""
        created = self.service.api_keys.create(name=name or role, role=role, **options)
        return {"Authorization": f"Bearer {created.key}"}

    def get(self, path: str, headers: dict[str, str] | None = None, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, headers=headers, timeout=300, **options)

    def post(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, **options: Any
    ) -> requests.Response:
        return self.session.post(self.url + path, json=body, headers=headers, timeout=300, **options)

    def bind(self, headers: dict[str, str] | None = None, **fields: Any) -> requests.Response:
        return self.post("/v1/bindings", BIND | fields, headers)


@pytest.fixture(autouse=True)
def _no_read_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reads take as long as they need on a busy machine."""
    monkeypatch.setattr(executors, "READ_DEADLINE_S", 300.0)


def run(
    service: BindingService, *, local_admin: bool = True, first_sign_in: FirstSignIn | None = None
) -> Iterator[Running]:
    """Serve in a thread of this process until the test ends."""
    app_state = AppState(service, local_admin=local_admin, first_sign_in=first_sign_in)
    with run_server(app_state) as (uvicorn, url):
        running = Running(service=service, app_state=app_state, url=url, uvicorn=uvicorn)
        with closing(running.session):
            yield running


@contextmanager
def alone(database_url: str) -> Iterator[Running]:
    """Run a service with its own provider, for tests that share no fixture."""
    with (
        Simulator() as simulator,
        BindingService.open(
            database_url=database_url,
            **account_settings(simulator.url),
        ) as service,
    ):
        yield from run(service)


@pytest.fixture
def running(service: BindingService) -> Iterator[Running]:
    """Run a service on the clock of this machine, without any key yet."""
    yield from run(service)
