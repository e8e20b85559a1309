"""A server is restored from a base backup and its archived WAL to an earlier time, as operators do it.

The provider has continued since that time: binds, unbinds, a lost reply. Whether the restore is announced or not,
no bind gets a -35 and no phone is lent twice. The commands are those of docs/how-to/high-availability.md.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import State
from bindings.errors import Busy, InvalidRequest, OutcomeUnknown, PhoneInUse
from bindings.jobs import scan_evidence
from bindings.provider.simulator import Simulator
from bindings.store import migrations
from tests.faults import cluster
from tests.faults.cluster import Binaries, Node, find_binaries
from tests.faults.test_failover import _open
from tests.service.harness import POOL, account_variables, assert_sound, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bindings.domain.binding import Binding
    from bindings.service import BindingService

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.soak, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
PHONES = [f"91880678{number:02}" for number in range(40)]
CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = replica
archive_mode = on
archive_command = 'test ! -f {archive}/%f && cp %p {archive}/%f'
"""
RECOVERY = """
restore_command = 'cp {archive}/%f %p'
recovery_target_time = '{moment}'
recovery_target_action = 'promote'
"""


@dataclass(kw_only=True)
class RestorableServer:
    """One server at a time on one port, its WAL archive, and a base backup."""

    binaries: Binaries
    folder: Path
    node: Node

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def backup(self) -> Path:
        return self.folder / "backup"

    def start(self) -> None:
        """Start the node on its data and wait until it takes writes."""
        with (self.folder / "server.log").open("ab") as log:
            self.node.process = subprocess.Popen(
                [str(self.binaries.folder / "postgres"), "-D", str(self.node.data), "-p", str(self.node.port)],
                user=self.binaries.user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(
            lambda: self.node.answers() and not self.node.sql("SELECT pg_is_in_recovery()", database="postgres")
        )

    def kill(self) -> None:
        """Kill the server, as the loss of a machine does."""
        assert self.node.process is not None
        cluster._kill_all(self.node.process)
        self.node.process = None

    def back_up(self) -> None:
        """Take a base backup without WAL: the archive has what it needs."""
        source = ("-h", "127.0.0.1", "-p", self.node.port, "-U", "postgres")
        self.binaries.run("pg_basebackup", *source, "-D", self.backup, "-X", "none", "-c", "fast", cwd=self.folder)

    def restore(self, moment: str) -> None:
        """Replace the lost data by the backup, and recover from the archive up to `moment`."""
        shutil.rmtree(self.node.data)
        self.backup.rename(self.node.data)
        with (self.node.data / "postgresql.conf").open("a") as configuration:
            configuration.write(RECOVERY.format(archive=self.archive, moment=moment))
        (self.node.data / "recovery.signal").touch()
        self.start()


@pytest.fixture
def server() -> Iterator[RestorableServer]:
    """Start a server at head that archives its WAL."""
    binaries = find_binaries()
    if binaries is None:
        message = "no PostgreSQL server programs: a restore was NOT tested"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="bindings-server-"))
    server = RestorableServer(
        binaries=binaries,
        folder=folder,
        node=Node(name="n1", port=cluster._free_ports(1)[0], data=folder / "data"),
    )
    try:
        server.archive.mkdir()
        for directory in (folder, server.archive):
            if binaries.user is not None:
                shutil.chown(directory, binaries.user)
        binaries.run("initdb", "--username=postgres", "--auth=trust", "--no-sync", server.node.data, cwd=folder)
        with (server.node.data / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION.format(archive=server.archive))
        server.start()
        server.node.sql(f"CREATE DATABASE {cluster.DATABASE}", database="postgres")
        migrations.upgrade(server.node.url)
        yield server
    finally:
        if server.node.process is not None:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def provider() -> Iterator[Simulator]:
    with Simulator(pool_size=200, timestamp_tolerance_s=5.0) as simulator:
        yield simulator


def run_calls(service: BindingService, provider: Simulator, rng: random.Random, steps: int) -> None:
    """Bind and unbind at random; some replies are lost."""
    for _ in range(steps):
        if rng.random() < 0.1:
            provider.script("reset_after", times=1, on="bind")
        phone_a, phone_b = rng.sample(PHONES, 2)
        try:
            binding = service.bind(phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=3_600, mode="AXB")
        except (PhoneInUse, OutcomeUnknown):
            continue
        if rng.random() < 0.3:
            service.unbind(binding.id)
    provider.clear_faults()


def unbind_some(service: BindingService, rng: random.Random, count: int) -> list[Binding]:
    active = service.search(state="active", limit=200).data
    return [service.unbind(binding.id) for binding in rng.sample(active, count)]


def program(server: RestorableServer, provider: Simulator, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line on this database."""
    environment = {
        "BINDINGS_DATABASE_URL": server.node.url,
        **account_variables(provider.url),
    }
    command = [sys.executable, "-m", "bindings", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, text=True, capture_output=True, timeout=300, check=False
    )


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
def test_server_restored_to_an_earlier_time_lends_no_phone_twice(
    server: RestorableServer, provider: Simulator, monkeypatch: pytest.MonkeyPatch, *, announced: bool
) -> None:
    monkeypatch.setattr(scan_evidence, "LIST_LAG", timedelta(0))  # the test's bindings are seconds old
    seed = int(os.environ.get("BINDINGS_TEST_SEED") or random.SystemRandom().randrange(1_000_000))
    sys.stdout.write(f"\nseed {seed}\n")
    rng = random.Random(seed)
    service = _open(server.node.url, provider.url)
    try:
        run_calls(service, provider, rng, 12)
        server.back_up()
        run_calls(service, provider, rng, 12)
        time.sleep(0.1)
        moment = server.node.sql("SELECT clock_timestamp()::text")
        time.sleep(0.1)
        at_the_moment = {row.id for row in service.export_bindings()}
        unbound = unbind_some(service, rng, 2)
        run_calls(service, provider, rng, 20)
        cursor_ahead = service.feed_end()
        wait_for_archive(server)
        server.kill()
        server.restore(moment)
        if announced:
            service.close()
            result = program(server, provider, "db", "restored")
            assert result.returncode == 0, result.stderr
            service = _open(server.node.url, provider.url)
        judge(server, provider, service, at_the_moment, unbound, cursor_ahead)
    finally:
        service.close()


def wait_for_archive(server: RestorableServer) -> None:
    """Wait until the last segment is archived too: it contains the target time and what came after it."""
    segment = server.node.sql("SELECT pg_walfile_name(pg_switch_wal())")
    wait_for((server.archive / segment).exists)


def judge(
    server: RestorableServer,
    provider: Simulator,
    service: BindingService,
    at_the_moment: set[str],
    unbound: list[Binding],
    cursor_ahead: str,
) -> None:
    """Check that later binds are unknown here, are held before any bind, and that all of it is reported."""
    with _open(server.node.url, provider.url) as fresh:
        assert {row.id for row in fresh.export_bindings()} == at_the_moment, "restored to exactly that time"
        bound_since = [e for e in provider.ledger if e.live(provider.now()) and not is_known(fresh, e)]
        assert bound_since, "the provider has what the database lacks"
        with pytest.raises(InvalidRequest, match="restored"):
            fresh.events(after=cursor_ahead)
        (a, b), *_ = [pair for pair in itertools.pairwise(PHONES) if not is_held(fresh, *pair)]
    with pytest.raises(Busy):
        bind(service, a, b)
    assert program(server, provider, "doctor").returncode == 1
    with _open(server.node.url, provider.url) as fresh:
        assert fresh.reconcile().made_good
    for binding in unbound:
        assert service.get(binding.id).reason == "gone_at_provider", (
            "unbound since, active in the restored database"
        )
    for entry in bound_since:
        with pytest.raises(PhoneInUse):
            bind(service, entry.phone_a, entry.phone_b)
    bound = [new for pair in itertools.pairwise(PHONES) if (new := bind_if_free(service, *pair))]
    sys.stdout.write(f"{len(bound_since)} live at the provider and unknown here, then {len(bound)} bound\n")
    assert "-35" not in provider.counts.decided["bind"]
    assert provider.ledger.overlaps() == ()
    assert_sound(service)


def is_known(service: BindingService, entry: Any) -> bool:
    return bool(service.search(bind_id=str(entry.bind_id)).data)


def is_held(service: BindingService, phone_a: str, phone_b: str) -> bool:
    return bool(service.check(phone_a=phone_a, phone_b=phone_b, mode="AXB"))


def bind(service: BindingService, phone_a: str, phone_b: str) -> Binding:
    return service.bind(phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=600, mode="AXB")


def bind_if_free(service: BindingService, phone_a: str, phone_b: str) -> Binding | None:
    try:
        binding = bind(service, phone_a, phone_b)
    except PhoneInUse:
        return None
    assert binding.state is State.ACTIVE
    return binding
