"""The pytest plugin: fixtures over `open_environment`. pytest loads it at each start: it imports only pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings import BindingService
    from bindings.settings import SettingsValues
    from bindings.testing import Environment, HttpService, ManualClock, Simulator, WebhookReceiver
    from bindings.testing.databases import DatabaseTemplate

OPTION = "bindings_database_server"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and the setting that name a PostgreSQL server."""
    text = (
        "URL of a database on a PostgreSQL server where the tests create databases of their own; default: SQLite"
    )
    parser.getgroup("bindings").addoption("--bindings-database-server", dest=OPTION, metavar="URL", help=text)
    parser.addini(OPTION, text)


@pytest.fixture(scope="session")
def _bindings_database_template(pytestconfig: pytest.Config) -> Iterator[DatabaseTemplate]:
    from bindings.testing.databases import database_template

    server_url = pytestconfig.getoption(OPTION) or pytestconfig.getini(OPTION)
    with database_template(server_url or None) as template:
        yield template


@pytest.fixture
def bindings_database_url(_bindings_database_template: DatabaseTemplate) -> Iterator[str]:
    """Provide the URL of a new database with the newest schema, which is deleted after the test."""
    with _bindings_database_template.copy() as url:
        yield url


@pytest.fixture
def bindings_settings() -> SettingsValues:
    """Return settings for the service of `bindings_environment`; override this fixture to change them."""
    return {}


@pytest.fixture
def bindings_environment(bindings_database_url: str, bindings_settings: SettingsValues) -> Iterator[Environment]:
    """Provide a service, a simulated provider and a database on a clock that the test moves."""
    from bindings.testing import open_environment

    settings: SettingsValues = {"database_url": bindings_database_url, **bindings_settings}
    with open_environment(**settings) as environment:
        yield environment


@pytest.fixture
def bindings_service(bindings_environment: Environment) -> BindingService:
    """Return the service of `bindings_environment`."""
    return bindings_environment.service


@pytest.fixture
def bindings_simulator(bindings_environment: Environment) -> Simulator:
    """Return the simulated provider of `bindings_environment`."""
    return bindings_environment.simulator


@pytest.fixture
def bindings_clock(bindings_environment: Environment) -> ManualClock:
    """Return the clock of `bindings_environment`."""
    return bindings_environment.clock


@pytest.fixture
def bindings_http(bindings_environment: Environment) -> Iterator[HttpService]:
    """Provide the HTTP service of `bindings_environment` on a local port."""
    with bindings_environment.serve() as http_service:
        yield http_service


@pytest.fixture
def bindings_webhooks(bindings_environment: Environment) -> WebhookReceiver:
    """Return a receiver of the webhooks of `bindings_environment`."""
    return bindings_environment.receive_webhooks()
