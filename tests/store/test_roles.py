"""The rights that docs/how-to/use-postgresql.md grants suffice for the service, and allow nothing else."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.engine import make_url

from bindings import errors
from bindings.jobs.registry import EXPIRE, RECONCILE, WARN
from bindings.jobs.runner import JobRunner
from bindings.store.deliveries import Result
from bindings.store.schema import metadata
from bindings.store.sessions import Search
from bindings.webhooks.sender import prune
from tests import deliveries
from tests.service.harness import APP, A, C, D, E, F, ServiceHarness, feed_has_caught_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-postgresql.md"
ALEMBIC_TABLE = "alembic_version"


def grants() -> str:
    block = re.search(r"^```sql\n(GRANT.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert block is not None
    return block[1]


def test_grants_name_every_table_once() -> None:
    lists = re.findall(r"\sON\s+([a-z_, ]+?)\s+TO ", grants())
    tables = [table for names in lists for table in names.split(", ")]
    assert sorted(tables) == sorted([*metadata.tables, ALEMBIC_TABLE])


@contextmanager
def restricted(url: str) -> Iterator[str]:
    """Create a role with the grants of the page, and provide the URL of the database with that role."""
    name = f"bindings_test_role_{os.getpid()}"
    role = sql.Identifier(name)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {}").format(role))
        try:
            owner.execute(grants().replace("bindings_app", name).encode())
            yield (
                make_url(url)
                .update_query_dict({"options": f"-c role={name}"})
                .render_as_string(hide_password=False)
            )
        finally:
            owner.execute(sql.SQL("DROP OWNED BY {}").format(role))
            owner.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    with restricted(postgres_url) as url:
        yield url


def test_granted_rights_suffice_for_the_service_and_its_jobs(harness: ServiceHarness) -> None:
    service = harness.service
    harness.bind(expire_s=600, warn_s=60)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    service.unbind(harness.bind(C, D).id)
    service.reveal([], reason="drill", what="export")
    harness.simulator.add_foreign_binding(phone_a=E, phone_b=F, app_id=APP)
    service.mark_restored()
    assert JobRunner(service.runtime).run_once_per_period(RECONCILE, 60.0) is not None
    harness.clock.advance(550)
    assert JobRunner(service.runtime).run(WARN).warned == 1
    harness.clock.advance(100)
    assert JobRunner(service.runtime).run(EXPIRE).expired == 1
    service.recover()
    service.count_pools()
    service.update_statistics()
    assert service.apply_retention().finished
    list(service.export_bindings())
    _administer(service)
    _deliver(service)


def _administer(service: BindingService) -> None:
    key = service.api_keys.create(name="ann", role="auditor").record
    service.api_keys.record_use(key.id)
    token = service.sessions.create(key.id)
    service.sessions.get_search(token, service.sessions.save_search(token, Search(words="order-1")))
    service.sessions.delete_expired()
    service.sessions.end(token)
    service.api_keys.revoke(key.id)
    export = service.access_log.start_export(view="find", narrowed={}, format="csv", reason=None)
    service.access_log.finish_export(export, row_count=0, sha256="")


def _deliver(service: BindingService) -> None:
    hooks = service.webhooks
    feed_has_caught_up(service)
    webhook_id = hooks.add(url="https://example.com/", kinds=["revealed"]).webhook.id
    service.reveal([], reason="drill", what="export")
    feed_has_caught_up(service)
    assert deliveries.fan_out(service, webhook_id)[0] == 1
    batch = deliveries.lease(service, webhook_id, limit=1)
    assert batch is not None
    deliveries.record(service, [Result(delivery=batch.deliveries[0], status=200, error=None, retry_s=None)])
    prune(service.runtime.database)
    hooks.rotate(webhook_id)
    hooks.remove(webhook_id)


@pytest.mark.parametrize(
    "forbidden", ["DELETE FROM bindings", "UPDATE events SET actor = 'x'", "DROP TABLE holds"]
)
def test_granted_rights_do_not_allow_changing_the_history(harness: ServiceHarness, forbidden: str) -> None:
    with pytest.raises(errors.Busy, match=r"permission denied|must be owner"):
        harness.database.write(lambda tx: tx.connection.execute(text(forbidden)))
