"""Processes with keys and without use one database while its phones are encrypted and its keys rotated."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text

from bindings.errors import Busy
from bindings.jobs import phone_sealing
from bindings.service import BindingService
from bindings.store import phone_sealing as store
from bindings.store.schema import metadata, replicas
from tests.service.harness import account_variables
from tests.service.phone_keys import write_ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from bindings.provider.simulator import Simulator

pytestmark = pytest.mark.processes
ROUNDS = 8
ROOT = Path(__file__).parents[2]
OLDER = "0016"  # a revision whose code knows no encrypted phones, and works on the newest schema


class Workers:
    """The processes of a test, by their settings."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.running: list[subprocess.Popen[str]] = []

    def start(self, **settings: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.phone_worker"],
            env=self.environment | {f"BINDINGS_{name.upper()}": value for name, value in settings.items()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def run_rounds(self) -> None:
        """Wait until each process has done some rounds more."""
        for process in self.running:
            assert process.stdout is not None
            for _ in range(ROUNDS):
                assert process.stdout.readline() == "round\n"

    def end(self, process: subprocess.Popen[str]) -> None:
        """Let a process end, and check that no answer was wrong."""
        self.running.remove(process)
        output, _ = process.communicate()
        assert output.splitlines()[-1] == "wrong: []"
        assert process.returncode == 0


@pytest.fixture
def workers(own_database_url: str, simulator: Simulator) -> Iterator[Workers]:
    settings = {
        "BINDINGS_DATABASE_URL": own_database_url,
        **account_variables(simulator.url),
        "BINDINGS_PROVIDER_TIMEOUT_S": "60",
    }
    workers = Workers(
        {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} | settings
    )
    yield workers
    for process in workers.running:
        process.kill()
        process.communicate()


@pytest.mark.soak  # half a minute on each database
def test_no_answer_is_wrong_while_phones_are_encrypted_and_keys_rotated(
    workers: Workers, own_database_url: str, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BATCH", 3)
    first, second = write_ring(tmp_path / "1"), write_ring(tmp_path / "2", data=(1, 2))
    third = write_ring(tmp_path / "3", index=(1, 2), data=(1, 2))

    def in_service(ring: Path, call: str) -> None:
        with BindingService.open(
            environment={}, database_url=own_database_url, phone_keys_file=str(ring)
        ) as service:
            forget = text("DELETE FROM replicas WHERE phone_key_ids NOT LIKE :newest")  # of processes that ended
            if service.runtime.database.postgres:
                forget = text("DELETE FROM replicas WHERE phone_key_ids::text NOT LIKE :newest")
            keys = service.runtime.database.phone_keys
            assert keys is not None
            lacking = [{"newest": f"%{check}%"} for check in keys.checks.values()]
            service.runtime.database.write(lambda tx: tx.connection.execute(forget, lacking))
            assert getattr(phone_sealing, call)(service.runtime).complete

    without_keys = workers.start()
    for _ in range(2):
        workers.start(phone_keys_file=str(first))
    workers.run_rounds()
    workers.end(without_keys)
    in_service(first, "seal")
    workers.run_rounds()
    for ring in (second, third):
        earlier = list(workers.running)
        for _ in range(2):
            workers.start(phone_keys_file=str(ring))
        workers.run_rounds()
        for process in earlier:
            workers.end(process)
        in_service(ring, "rotate")
        workers.run_rounds()
    for process in list(workers.running):
        workers.end(process)
    assert "-35" not in simulator.counts.decided["bind"]
    assert simulator.ledger.overlaps("literal") == ()


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=300).stdout


@pytest.fixture(scope="module")
def older_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder with the newest code of `OLDER` from the history of this repository; skip without it."""
    module, newer = "bindings/store/schema.py", "HEAD"
    try:
        for commit in _git("log", "--format=%H", "--", module).decode().split():
            if f'HEAD = "{OLDER}"' in _git("show", f"{commit}:{module}").decode():
                folder = tmp_path_factory.mktemp("older")
                with tarfile.open(fileobj=io.BytesIO(_git("archive", f"{newer}^", "bindings"))) as archive:
                    archive.extractall(folder, filter="data")
                return folder
            newer = commit
    except (OSError, subprocess.CalledProcessError):
        pass
    pytest.skip(f"the history of this checkout has no code of revision {OLDER}")


BIND_ONCE = """
from bindings.service import BindingService
from bindings.store.schema import HEAD
print(HEAD)
with BindingService.from_env() as service:
    print(service.bind(phone_a="{a}", phone_b="{b}", pool_number="918806", expire_s=3_600, mode="AXB").state)
"""


def row_counts(connection: Connection) -> dict[str, int]:
    return {
        name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for name, table in metadata.tables.items()
    }


@pytest.mark.soak
def test_older_version_is_refused_once_phones_are_encrypted_and_writes_nothing(
    workers: Workers, own_database_url: str, simulator: Simulator, older_code: Path, tmp_path: Path
) -> None:
    environment = workers.environment | {"PYTHONPATH": str(older_code)}
    del environment["BINDINGS_WEBHOOK_NETWORKS"]  # a later setting

    def bind_with_older_code(a: str, b: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", BIND_ONCE.format(a=a, b=b)],
            env=environment,
            cwd=older_code,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    before = bind_with_older_code("9188067701", "9188067702")
    assert before.stdout.split() == [OLDER, "active"], before.stderr
    with BindingService.open(
        environment={}, database_url=own_database_url, phone_keys_file=str(write_ring(tmp_path / "ring"))
    ) as service:
        database = service.runtime.database
        with pytest.raises(Busy, match="know only a schema before 0018; nothing was changed"):
            phone_sealing.seal(service.runtime)
        ended = replicas.delete().where(replicas.c.schema_revision == OLDER)
        database.write(lambda tx: tx.connection.execute(ended))
        assert phone_sealing.seal(service.runtime).complete
        counts = database.read(row_counts)
        refused = bind_with_older_code("9188067703", "9188067704")
        assert refused.returncode == 1
        assert f"too new for this version, which needs {OLDER}; install a newer version" in refused.stderr
        assert database.read(row_counts) == counts
        assert len(service.lookup(phone="9188067701")) == 1
    assert simulator.counts.received["bind"] == 1
