"""Processes with keys and without use one database while its phones are encrypted and its keys rotated."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from bindings.jobs import phone_sealing
from bindings.service import BindingService
from bindings.store import phone_sealing as store
from tests.service.harness import APP, KEY, SECRET
from tests.service.phone_keys import write_ring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bindings.provider.simulator import Simulator

pytestmark = pytest.mark.processes
ROUNDS = 8


class Workers:
    """The processes of a test, by their settings."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.running: list[subprocess.Popen[str]] = []

    def start(self, **settings: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.phone_worker"],
            env=self._environment | {f"BINDINGS_{name.upper()}": value for name, value in settings.items()},
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
        "BINDINGS_PROVIDER_URL": simulator.url,
        "BINDINGS_PROVIDER_API_KEY": KEY,
        "BINDINGS_PROVIDER_API_SECRET": SECRET,
        "BINDINGS_PROVIDER_APP_ID": APP,
        "BINDINGS_PROVIDER_TIMEOUT_S": "60",
    }
    workers = Workers(
        {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} | settings
    )
    yield workers
    for process in workers.running:
        process.kill()
        process.communicate()


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
