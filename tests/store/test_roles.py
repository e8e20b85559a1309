"""The rights that `bindings db grants` prints suffice for the service, and allow nothing else."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.engine import make_url

from bindings import errors
from bindings.access import api_keys, first_key
from bindings.cli.root import root
from bindings.domain.binding import Caller
from bindings.jobs.registry import EXPIRE, RECONCILE, RETENTION, WARN
from bindings.jobs.runner import JobRunner
from bindings.store import cluster_move
from bindings.store.database import Database
from bindings.store.deliveries import Result
from bindings.store.grants import RIGHTS, sql_for
from bindings.store.schema import metadata
from bindings.store.sessions import Search
from bindings.webhooks.sender import prune
from tests import deliveries
from tests.service.harness import APP, A, C, D, E, F, G, H, ServiceHarness, feed_has_caught_up, service_at
from tests.web.browser import Browser
from tests.web.conftest import run
from tests.web.pages import Page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bindings.service import BindingService

ALEMBIC_TABLE = "alembic_version"
A2, B2 = "9188067711", "9188067712"


def test_rights_name_every_table_and_only_its_columns() -> None:
    assert sorted(RIGHTS) == sorted([*metadata.tables, ALEMBIC_TABLE])
    for name, rights in RIGHTS.items():
        columns = set() if name == ALEMBIC_TABLE else set(metadata.tables[name].columns.keys())
        assert {*(rights.insert or ()), *rights.update} <= columns, name


def test_command_prints_the_sql_for_the_role_with_its_name_quoted() -> None:
    printed = CliRunner().invoke(root, ["db", "grants", "--role", 'an "app"'])
    assert (printed.exit_code, printed.stdout) == (0, sql_for('an "app"'))
    assert 'ON TABLE events TO "an ""app""";' in printed.stdout
    for name in ("", "x" * 64, "a\nb", "a$$b"):
        assert CliRunner().invoke(root, ["db", "grants", "--role", name]).exit_code == 2, name


@contextmanager
def restricted(url: str) -> Iterator[str]:
    """Create a role with the rights of the application, and provide the URL of the database with that role."""
    name = f"Bindings test's role {os.getpid()}"
    role = sql.Identifier(name)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {}").format(role))
        try:
            owner.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}").format(role))
            for _ in range(2):  # takes away what is too much, and may run again
                owner.execute(sql_for(name).encode())
            yield (
                make_url(url)
                .update_query_dict({"options": "-c role=" + name.replace(" ", "\\ ")})
                .render_as_string(hide_password=False)
            )
        finally:
            owner.execute(sql.SQL("DROP OWNED BY {}").format(role))
            owner.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    with restricted(postgres_url) as url:
        yield url


@pytest.fixture
def owner(harness: ServiceHarness, postgres_url: str) -> Iterator[BindingService]:
    """Provide a service of the owner of the tables, as the commands that administer use it."""
    with service_at(postgres_url, harness.clock, harness.simulator.url) as service:
        yield service


def test_granted_rights_suffice_for_the_service_and_its_jobs(
    harness: ServiceHarness, owner: BindingService
) -> None:
    service = harness.service
    harness.bind(expire_s=600, warn_s=60)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    service.unbind(harness.bind(C, D).id)
    service.reveal([], reason="drill", what="export")
    searches = harness.open(phone_search_budget=1).phone_searches
    answers = [searches.record_for_key("find", has_match=False, is_counted=True) for _ in range(2)]
    assert answers == [None, 3_600]
    harness.simulator.add_foreign_binding(phone_a=E, phone_b=F, app_id=APP)
    service.mark_restored()
    assert JobRunner(service.runtime).run_once_per_period(RECONCILE, 60.0) is not None
    harness.clock.advance(550)
    assert JobRunner(service.runtime).run(WARN).warned == 1
    harness.clock.advance(100)
    assert JobRunner(service.runtime).run(EXPIRE).expired == 1
    service.recover()
    _change_ends(harness)
    service.count_pools()
    service.update_statistics()
    assert service.apply_retention().finished
    with_limit = JobRunner(harness.open(retention_days=7).runtime).run(RETENTION)
    assert (with_limit.owner_needed, with_limit.finished, with_limit.bindings) == (True, True, 0)
    list(service.export_bindings())
    _use_console(service, owner)
    _deliver(service, owner)
    assert cluster_move.continue_numbers(service.runtime.database, service.runtime.caller) is False


def _change_ends(harness: ServiceHarness) -> None:
    """Extend, shorten, replace, resolve doubts and refusals, and end all bindings of an order."""
    service = harness.service
    longer = harness.bind(C, D, expire_s=3_600, max_expire_s=7_200, warn_s=60, reference="order-1")
    service.extend(longer.id, expire_s=5_000)
    service.unbind(longer.id, after_s=4_000)
    successor = service.replace(longer.id, phone_b=G, idempotency_key="renewal")
    assert successor.replaces == longer.id
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(H, A2, idempotency_key="lost")
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.BindingsError):
        harness.bind(D, B2, idempotency_key="refused")
    harness.clock.advance(60)
    service.recover()
    assert service.reconcile().adopted == 1
    assert [binding.id for binding in service.unbind_all(reference="order-1", reason="over").bindings] != []


def _use_console(service: BindingService, owner: BindingService) -> None:
    key = owner.api_keys.create(name="ann", role="auditor").record
    service.api_keys.record_use(key.id)
    token = service.sessions.create(key.id)
    service.sessions.get_search(token, service.sessions.save_search(token, Search(words="order-1")))
    service.sessions.delete_expired()
    service.sessions.end(token)
    owner.api_keys.revoke(key.id)
    export = service.access_log.start_export(view="find", filters={}, format="csv", reason=None)
    service.access_log.finish_export(export, row_count=0, sha256="")


def _deliver(service: BindingService, owner: BindingService) -> None:
    hooks = owner.webhooks
    feed_has_caught_up(service)
    webhook_id = hooks.add(url="https://example.com/", kinds=["revealed"]).webhook.id
    service.reveal([], reason="drill", what="export")
    feed_has_caught_up(service)
    assert deliveries.fan_out(service, webhook_id)[0] == 1
    batch = deliveries.lease(service, webhook_id, limit=1)
    assert batch is not None
    gone = Result(delivery=batch.deliveries[0], status=410, error=None, retry_s=None)
    deliveries.record(service, [gone])
    prune(service.runtime.database)
    hooks.rotate(webhook_id)
    hooks.remove(webhook_id)


FORBIDDEN = [
    "DELETE FROM bindings",
    "UPDATE bindings SET phone_a = '9199999999'",
    "UPDATE bindings SET actor = 'key:innocent', reference = 'x', mode = 'AXB'",
    "UPDATE events SET actor = 'x'",
    "DELETE FROM events",
    "TRUNCATE events",
    "TRUNCATE events_start",
    "UPDATE exports SET reason = NULL, actor = 'key:innocent'",
    "DELETE FROM exports",
    "UPDATE account SET gone_tx = 1, gone_position = 1",
    "UPDATE account SET kept_from = now()",
    "UPDATE account SET maintenance_until = 'infinity'",
    "UPDATE account SET scope = 'other'",
    (
        "INSERT INTO keys (id, name, role, hash, prefix, created_at, created_by)"
        " VALUES (gen_random_uuid(), 'x', 'admin', 'x', 'x', now(), 'x')"
    ),
    "UPDATE keys SET role = 'admin'",
    "UPDATE keys SET revoked_at = NULL",
    "UPDATE webhooks SET url = 'https://elsewhere.example/'",
    "DELETE FROM webhooks",
    "DELETE FROM refusals",
    "UPDATE reports SET cases = '[]'",
    "SELECT setval('events_position_seq', 1)",
    "DROP TABLE holds",
    "ALTER TABLE events DISABLE TRIGGER USER",
    "UPDATE schema_info SET readable_from = '0001'",
]


def test_granted_rights_do_not_allow_changing_what_was_recorded(harness: ServiceHarness) -> None:
    harness.bind()
    for forbidden in FORBIDDEN:
        with pytest.raises(errors.Busy, match=r"permission denied|must be owner"):
            harness.database.write(lambda tx, sql=forbidden: tx.connection.execute(text(sql)))  # type: ignore[misc]


def test_first_key_is_recorded_by_the_owner_and_accepted_by_the_service(
    database_url: str, postgres_url: str
) -> None:
    key, caller = api_keys.generate(), Caller(actor="cli:operator")
    restricted_database, owners_database = Database(database_url), Database(postgres_url)
    try:
        with pytest.raises(errors.Busy, match="permission denied for table keys"):
            first_key.record(restricted_database, key, caller)
        assert first_key.record(owners_database, key, caller) is not None
        assert first_key.record(restricted_database, key, caller) is None
    finally:
        restricted_database.close()
        owners_database.close()


def test_role_of_the_application_cannot_erase(harness: ServiceHarness, tmp_path: Path) -> None:
    journal = tmp_path / "erasures"
    service = harness.open(erasure_journal=str(journal))
    with pytest.raises(
        errors.InvalidRequest, match="BINDINGS_DATABASE_URL must name the role that owns the tables"
    ):
        service.erasure.erase(phone=A, reason="request 17")
    with pytest.raises(errors.InvalidRequest, match="owns the tables"):
        service.erasure.replay()
    assert not journal.exists()


def test_console_says_that_keys_and_webhooks_are_changed_elsewhere(
    harness: ServiceHarness, owner: BindingService
) -> None:
    key = owner.api_keys.create(name="ops", role="admin")
    webhook = owner.webhooks.add(url="https://receiver.example/events").webhook
    for running in run(harness.service, local_admin=False):
        browser = Browser(running)
        assert browser.post("/sign-in", {"key": key.key}).status_code == 303
        for path in ("/keys", "/webhooks"):
            page = browser.get(path)
            assert "user of the database may not write keys and webhooks" in page.text
            assert not [link for link in Page(page.text).links if link.endswith(("/create", "/add", "/revoke"))]
        page = browser.get(f"/webhooks/{webhook.id}")
        assert {form.action for form in Page(page.text).forms} >= {f"/webhooks/{webhook.id}/disable"}
        assert f"/webhooks/{webhook.id}/rotate" not in Page(page.text).links
        assert browser.post(f"/webhooks/{webhook.id}/disable").status_code == 303
        for path in (
            *("/keys/create", f"/keys/{key.record.id}/revoke", "/webhooks/add"),
            *(f"/webhooks/{webhook.id}/rotate", f"/webhooks/{webhook.id}/remove"),
        ):
            for response in (browser.get(path), browser.post(path, {"id": webhook.id, "name": "x"})):
                assert (response.status_code, "use the command line" in response.text) == (403, True)
    assert [record.id for record in owner.api_keys.list()] == [key.record.id]
