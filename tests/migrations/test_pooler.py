"""Migrations behind a connection pooler: refused where it lends a session of the server to several clients."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.engine import make_url

from bindings.domain.binding import Caller
from bindings.errors import InvalidRequest
from bindings.store import downgrade, engine, migrations
from bindings.store.downgrade import PREVIOUS
from bindings.store.schema import HEAD
from tests.faults.proxy import CommitProxy
from tests.service.harness import wait_for
from tests.store.databases import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.databases import Server

pytestmark = pytest.mark.postgres
CALLER = Caller(actor="cli:ann")
REFUSED = "BINDINGS_DATABASE_URL leads to a connection pooler"
PGBOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"


@pytest.fixture
def url(postgres_server: Server, postgres_template: str) -> Iterator[str]:
    url = postgres_server.create(template=postgres_template)
    yield url
    postgres_server.drop(url)


@pytest.fixture
def proxy_url(url: str) -> Iterator[str]:
    with CommitProxy(f"{url}?sslmode=disable", pools=True) as proxy:
        yield proxy.url


def _assert_refused(pooled_url: str, url: str) -> None:
    """Assert that a migration either way is refused and changes nothing, and that an up-to-date schema is not."""
    assert migrations.upgrade(pooled_url) == HEAD
    plan = downgrade.plan(url, PREVIOUS)
    with pytest.raises(InvalidRequest, match=REFUSED):
        downgrade.run(pooled_url, plan, CALLER)
    assert migrations.current(url).revision == HEAD
    downgrade.run(url, plan, CALLER)
    with pytest.raises(InvalidRequest, match=REFUSED):
        migrations.upgrade(pooled_url)
    assert migrations.current(url).revision == plan.revision


def _assert_accepted(pooled_url: str, url: str) -> None:
    plan = downgrade.plan(url, PREVIOUS)
    downgrade.run(pooled_url, plan, CALLER)
    assert migrations.current(url).revision == plan.revision
    assert migrations.upgrade(pooled_url) == HEAD
    assert migrations.current(url).revision == HEAD


@pytest.mark.parametrize("sessions", [1, 3], ids=["one session", "three sessions in turn"])
def test_migrations_are_refused_behind_a_pooler_that_shares_sessions(
    url: str, proxy_url: str, sessions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.cycle(range(sessions))
    monkeypatch.setattr(engine, "_session_number", lambda _: next(numbers))
    _assert_refused(proxy_url, url)


def test_migrations_run_behind_a_proxy_with_process_numbers_of_its_own(url: str, proxy_url: str) -> None:
    _assert_accepted(proxy_url, url)


@pytest.mark.skipif(shutil.which(PGBOUNCER) is None, reason="needs pgbouncer")
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_pgbouncer_is_refused_in_transaction_mode_and_accepted_in_session_mode(
    url: str, tmp_path: Path, mode: str
) -> None:
    with _pgbouncer(url, tmp_path, mode) as pooled_url:
        assert_outcome = _assert_refused if mode == "transaction" else _assert_accepted
        assert_outcome(pooled_url, url)


@contextmanager
def _pgbouncer(url: str, folder: Path, mode: str) -> Iterator[str]:
    """Yield the URL of a pgbouncer before the database."""
    target, port = make_url(url), free_port()
    password = f" password={target.password}" if target.password else ""
    server = f"host={target.host} port={target.port} user={target.username}{password} dbname={target.database}"
    config, log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
    config.write_text(
        f"[databases]\n{target.database} = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 10\nlogfile = {log}\n"
    )
    folder.chmod(0o777)  # pgbouncer does not run as root
    for parent in list(folder.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    as_other_user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([PGBOUNCER, "-q", *as_other_user, str(config)])
    try:
        wait_for(lambda: log.exists() and "listening on" in log.read_text())
        yield target.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait()
