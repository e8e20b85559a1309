"""Fixtures for all test folders: databases of both kinds, the simulated provider, and a service that uses them.

A test with the fixture `database_url` runs twice, on SQLite and on PostgreSQL, each time on a new database.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.store import migrations
from bindings.testing.databases import memory_folder
from tests.service import phone_keys
from tests.service.harness import Clock, ServiceHarness, account_settings, assert_sound
from tests.store import compiled_cache, databases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.store.databases import Server

# Rewriting the asserts takes two thirds of a collection: each worker would do it again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # also for the processes that tests start
settings.register_profile("no time limit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no time limit")
compiled_cache.install()


@pytest.fixture(autouse=True)
def _clear_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the product's settings in the environment, so that the developer's shell cannot affect a test."""
    for variable in list(os.environ):
        if variable.startswith("BINDINGS_") and not variable.startswith("BINDINGS_TEST_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("BINDINGS_WEBHOOK_NETWORKS", "127.0.0.0/8,::1")  # where the receivers of the tests listen


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Provide a PostgreSQL server; without one the test fails in CI and is skipped elsewhere."""
    server = databases.find_postgres()
    if server is None:
        message = f"no PostgreSQL: set {databases.VARIABLE}, start one on 127.0.0.1:5432, or install one"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(f"POSTGRESQL TESTS DID NOT RUN: {message}")
    try:
        yield server
    finally:
        server.clean()
        server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Server) -> Iterator[str]:
    """Provide the URL of a migrated database to copy."""
    url = postgres_server.create()
    try:
        migrations.upgrade(url)
        yield url
    finally:
        postgres_server.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a migrated SQLite file to copy."""
    return databases.migrated_file(tmp_path_factory.mktemp("template"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Return the database that the test runs on: "sqlite" or "postgresql"."""
    return str(request.param)


@pytest.fixture
def sqlite_folder() -> Iterator[Path]:
    """Provide an empty folder for SQLite files, in memory if possible."""
    with tempfile.TemporaryDirectory(
        prefix="bindings-", dir=memory_folder(), ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest, sqlite_folder: Path, database_kind: str) -> Iterator[str]:
    """Provide a database without tables."""
    if database_kind == "sqlite":
        yield f"sqlite:///{sqlite_folder / 'empty.db'}"
        return
    server: Server = request.getfixturevalue("postgres_server")
    url = server.create()
    try:
        yield url
    finally:
        server.drop(url)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, sqlite_folder: Path, database_kind: str) -> Iterator[str]:
    """Provide a new database with the newest schema."""
    if database_kind == "sqlite":
        file = sqlite_folder / "bindings.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), file)  # with its mode
        yield f"sqlite:///{file}"
        return
    server: Server = request.getfixturevalue("postgres_server")
    url = server.lend(template=request.getfixturevalue("postgres_template"))
    try:
        yield url
    finally:
        server.take_back(url)


@pytest.fixture
def postgres_url(postgres_server: Server, postgres_template: str) -> Iterator[str]:
    """Provide a new PostgreSQL database with the newest schema, for tests that do not apply to SQLite."""
    url = postgres_server.lend(template=postgres_template)
    try:
        yield url
    finally:
        postgres_server.take_back(url)


@pytest.fixture
def own_database_url(request: pytest.FixtureRequest, sqlite_url: str, database_kind: str) -> Iterator[str]:
    """Provide a new database that is not reused afterwards, for tests with many rows or another schema."""
    if database_kind == "sqlite":
        yield sqlite_url
        return
    server: Server = request.getfixturevalue("postgres_server")
    url = server.create(template=request.getfixturevalue("postgres_template"))
    try:
        yield url
    finally:
        server.drop(url)


@pytest.fixture
def sqlite_url(sqlite_template: Path, sqlite_folder: Path) -> str:
    """Provide a new SQLite database with the newest schema, for tests that do not apply to PostgreSQL."""
    file = sqlite_folder / "only.db"
    shutil.copy(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture
def clock() -> Clock:
    """Provide the clock of the `harness`."""
    return Clock()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Provide a simulated provider on the clock of the machine."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def service(database_url: str, simulator: Simulator) -> Iterator[BindingService]:
    """Provide a service as an application opens it, on the clock of the database."""
    with BindingService.open(
        database_url=database_url,
        **account_settings(simulator.url),
        provider_timeout_s=60.0,
        scan_calls_per_s=1_000.0,
    ) as service:
        yield service


@pytest.fixture
def phones() -> str:
    """Return how the harness writes phones: "plain", "sealed", or "mixed", which is both in turn."""
    return os.environ.get("BINDINGS_TEST_PHONES", phone_keys.PLAIN)


@pytest.fixture
def harness(
    request: pytest.FixtureRequest,
    database_url: str,
    clock: Clock,
    phones: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ServiceHarness]:
    """Provide services, a provider and a database on one clock; run `assert_sound` at the end of the test."""
    if phones == phone_keys.MIXED:
        phone_keys.alternate(monkeypatch)
    keys = {"phone_keys_file": str(phone_keys.write_ring(tmp_path / "phone_keys.json"))}
    with Simulator(clock=clock.unix, pool_size=200) as simulator:
        harness = ServiceHarness(
            url=database_url,
            clock=clock,
            simulator=simulator,
            settings={} if phones == phone_keys.PLAIN else keys,
            phones=phones,
        )
        try:
            yield harness
            # The comparison takes a tenth of the suite's time, and tests/sealing compares on both databases.
            compares_rows = request.path.parent.name == "service" and not harness.database.postgres
            assert_sound(harness.service, compares_rows=compares_rows and not harness.has_rewritten)
        finally:
            harness.close()
