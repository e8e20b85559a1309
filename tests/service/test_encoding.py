"""Databases whose encoding or whose defaults for dates and texts are not those that the product needs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from alembic import command
from psycopg import sql

from bindings.domain.binding import State
from bindings.errors import InvalidRequest, ProviderRefused
from bindings.monitoring import health
from bindings.monitoring.check import Level
from bindings.service import BindingService
from bindings.store import migrations
from bindings.store.engine import make_engine
from bindings.store.temporary_database import name_of
from tests.provider import sockets
from tests.service.harness import POOL, A, B, C, account_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.provider.simulator import Simulator
    from tests.store.databases import Server

pytestmark = pytest.mark.postgres

BIND: dict[str, Any] = {"pool_number": POOL, "expire_s": 600, "mode": "AXB"}
CHINESE = "参数异常"


@contextmanager
def database_in(server: Server, encoding: str) -> Iterator[str]:
    """Provide an empty database in an encoding."""
    name = f"bindings_test_{encoding.lower()}_{os.getpid()}"
    options = " ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + sql.SQL(options).format(encoding)
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(create)
    try:
        yield server.address(name)
    finally:
        server.drop(server.address(name))


def migrate(url: str) -> None:
    """Bring the schema to head, as a version did that checked no encoding."""
    engine = make_engine(url)
    with engine.connect() as connection:
        config = migrations.config_of_scripts()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    engine.dispose()


def opened(url: str, provider_url: str) -> BindingService:
    return BindingService.open(
        database_url=url,
        **account_settings(provider_url),
    )


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_new_database_in_another_encoding_is_refused_by_name(postgres_server: Server, encoding: str) -> None:
    with database_in(postgres_server, encoding) as url:
        with pytest.raises(
            InvalidRequest, match=f"BINDINGS_DATABASE_URL names a database in the encoding {encoding}"
        ):
            migrations.upgrade(url)
        assert migrations.current(url).revision is None


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1251"])
def test_old_database_in_another_encoding_loses_no_refusal_and_no_reference(
    postgres_server: Server, simulator: Simulator, encoding: str
) -> None:
    refusal = sockets.says(sockets.answer(status="-22", reason=CHINESE, data=None))
    with database_in(postgres_server, encoding) as url, sockets.Server(refusal) as provider:
        migrate(url)
        assert migrations.upgrade(url)
        with opened(url, provider.url) as service:
            with pytest.raises(ProviderRefused) as refused:
                service.bind(phone_a=A, phone_b=B, **BIND)
            assert refused.value.reason == CHINESE
            assert service.get(refused.value.binding_id or "").state is State.FAILED
            assert service.history(refused.value.binding_id or "")[-1].detail["said"] == "?" * len(CHINESE)
            with pytest.raises(InvalidRequest) as invalid:
                service.bind(phone_a=A, phone_b=C, reference=CHINESE, idempotency_key=CHINESE, **BIND)
            assert [error.field for error in invalid.value.field_errors] == ["reference", "idempotency_key"]
            assert provider.posts == 1
        with opened(url, simulator.url) as service:
            assert service.bind(phone_a=A, phone_b=C, reference="order 1", **BIND).state is State.ACTIVE
            check = health.database_checks(service.runtime.database, service.settings)[0]
        assert (check.name, check.level) == ("database", Level.WARN)
        assert f"its encoding is {encoding}" in check.seen


@pytest.mark.parametrize(
    "defaults",
    [
        {"DateStyle": "German", "TimeZone": "Asia/Kolkata"},
        {"DateStyle": "Postgres, DMY", "IntervalStyle": "iso_8601", "bytea_output": "escape"},
        {"client_encoding": "LATIN1", "standard_conforming_strings": "off"},
    ],
    ids=["German", "Postgres", "texts"],
)
def test_defaults_of_the_database_change_no_value(
    postgres_server: Server, postgres_template: str, simulator: Simulator, defaults: dict[str, str]
) -> None:
    url = postgres_server.create(template=postgres_template)
    with psycopg.connect(url, autocommit=True) as admin:
        for name, value in defaults.items():
            change = sql.SQL("ALTER DATABASE {} SET {} = {}")
            admin.execute(change.format(sql.Identifier(name_of(url)), sql.Identifier(name), value))
    reference = f"{CHINESE} \\ ' é"
    with opened(url, simulator.url) as service:
        binding = service.bind(phone_a=A, phone_b=B, reference=reference, **BIND)
        assert service.get(binding.id) == binding
        assert binding.reference == reference
        assert binding.expires_at is not None
        entry = simulator.ledger.get(int(binding.bind_id or 0))
        assert entry is not None
        assert abs(binding.expires_at.timestamp() - entry.expires_at) < 60
        assert [event.kind for event in service.history(binding.id)] == ["requested", "activated"]
    postgres_server.drop(url)
