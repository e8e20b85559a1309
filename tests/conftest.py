"""Fixtures for every folder: a database of each kind, the simulated provider, and a service between them.

A test that asks for `database_url` runs twice, on SQLite and on PostgreSQL, each time on a fresh database.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.store import migrations
from tests.service.world import APP, KEY, SECRET, Clock, World, assert_sound
from tests.store import databases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.databases import Server


@pytest.fixture(autouse=True)
def _no_settings_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell sets is none of the tests' business."""
    for variable in list(os.environ):
        if variable.startswith("BINDINGS_") and not variable.startswith("BINDINGS_TEST_"):
            monkeypatch.delenv(variable)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server; without one the tests fail in CI, and are skipped elsewhere."""
    server = databases.find_postgres()
    if server is None:
        message = f"no PostgreSQL: set {databases.VARIABLE}, start one on 127.0.0.1:5432, or install one"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(f"HALF OF THIS SUITE DID NOT RUN: {message}")
    try:
        yield server
    finally:
        server.clean()
        server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Server) -> Iterator[str]:
    """The name of a migrated database to copy."""
    url = postgres_server.create()
    try:
        migrations.upgrade(url)
        yield databases.name_of(url)
    finally:
        postgres_server.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy."""
    return databases.migrated_file(tmp_path_factory.mktemp("template"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which of the two databases a test runs on."""
    return str(request.param)


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path, database_kind: str) -> Iterator[str]:
    """A database without any table."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: Server = request.getfixturevalue("postgres_server")
    url = server.create()
    try:
        yield url
    finally:
        server.drop(url)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path, database_kind: str) -> Iterator[str]:
    """A fresh database at head."""
    if database_kind == "sqlite":
        file = tmp_path / "bindings.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), file)
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
    """A fresh PostgreSQL database at head, for what SQLite does not have."""
    url = postgres_server.lend(template=postgres_template)
    try:
        yield url
    finally:
        postgres_server.take_back(url)


@pytest.fixture
def own_database_url(request: pytest.FixtureRequest, sqlite_url: str, database_kind: str) -> Iterator[str]:
    """A database at head that no other test is lent afterwards: for many rows, or another schema."""
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
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database at head, for what PostgreSQL does not have."""
    file = tmp_path / "only.db"
    shutil.copyfile(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture
def clock() -> Clock:
    """The clock of a `world`."""
    return Clock()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A provider on the machine's own clock."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def service(database_url: str, simulator: Simulator) -> Iterator[BindingService]:
    """A service as an application opens it, on the database's own clock."""
    with BindingService.open(
        database_url=database_url,
        provider_url=simulator.url,
        provider_api_key=KEY,
        provider_api_secret=SECRET,
        provider_app_id=APP,
        provider_timeout_s=5.0,
        scan_calls_per_s=1_000.0,
    ) as service:
        yield service


@pytest.fixture
def world(database_url: str, clock: Clock) -> Iterator[World]:
    """A service, a provider and a database on one clock; everything is checked for soundness at the end."""
    with Simulator(clock=clock.unix, pool_size=200) as simulator:
        world = World(url=database_url, clock=clock, simulator=simulator)
        try:
            yield world
            assert_sound(world.service)
        finally:
            world.close()
