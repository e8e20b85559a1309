"""`bindings serve` while another process moves, deletes or replaces its SQLite file."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from tests.acceptance.serving import ROOT, Replica
from tests.acceptance.test_processes import settings
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.provider.simulator import Simulator

pytestmark = pytest.mark.processes


@pytest.fixture
def replica(sqlite_url: str, simulator: Simulator, tmp_path: Path) -> Iterator[Replica]:
    """Provide a replica that serves an SQLite file and reconciles every second."""
    environment = settings(sqlite_url, simulator, reconcile_interval_s="1")
    with Replica(tmp_path / "log", environment) as replica:
        yield replica.started()


@pytest.fixture
def file(sqlite_url: str) -> Path:
    """Provide the file of the database."""
    return Path(sqlite_url.removeprefix("sqlite:///"))


def bind(replica: Replica, number: int) -> requests.Response:
    body = {
        "phone_a": f"91880671{number:02}",
        "phone_b": f"91880672{number:02}",
        "pool_number": "918806",
        "expire_s": 600,
        "mode": "AXB",
    }
    return requests.post(f"{replica.url}/v1/bindings", json=body, timeout=300)


def readiness(replica: Replica) -> tuple[int, str]:
    response = requests.get(f"{replica.url}/readyz", timeout=300)
    return response.status_code, response.text


def shell(*commands: str) -> None:
    subprocess.run(["sh", "-ec", "; ".join(commands)], check=True, timeout=60)


def back_up(file: Path, copy: Path) -> None:
    source, target = sqlite3.connect(file), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()


def state_by_command_line(sqlite_url: str, simulator: Simulator, binding_id: str) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "bindings", "get", binding_id, "--json"],
        cwd=ROOT,
        env=settings(sqlite_url, simulator),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return str(json.loads(process.stdout)["state"])


def test_backup_that_is_moved_over_the_file_refuses_binds_until_it_is_reconciled(
    replica: Replica, file: Path, sqlite_url: str, simulator: Simulator
) -> None:
    before = bind(replica, 1).json()["id"]
    copy = file.with_suffix(".copy")
    back_up(file, copy)
    assert bind(replica, 2).status_code == 201  # the backup lacks it
    shell(f"rm -f '{file}-wal' '{file}-shm'", f"mv '{copy}' '{file}'")
    refused = bind(replica, 3)
    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    wait_for(lambda: bind(replica, 4).status_code == 201, seconds=60)
    wait_for(lambda: readiness(replica)[0] == 200, seconds=60)
    assert bind(replica, 2).status_code == 409  # its phones are held at the provider
    after = bind(replica, 5).json()["id"]
    assert replica.end() == 0
    assert "another SQLite file is at the path" in replica.log.read_text()
    assert [state_by_command_line(sqlite_url, simulator, binding_id) for binding_id in (before, after)] == [
        "active"
    ] * 2


def test_deleted_file_refuses_binds_and_is_red_until_it_is_put_back(
    replica: Replica, file: Path, sqlite_url: str, simulator: Simulator
) -> None:
    bind(replica, 1)
    shell(f"ln '{file}' '{file}.kept'", f"rm '{file}'")
    refused = bind(replica, 2)
    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    status, text = readiness(replica)
    assert (status, "deleted or moved away" in text) == (503, True)
    assert not file.exists()
    shell(f"mv '{file}.kept' '{file}'")
    wait_for(lambda: readiness(replica)[0] == 200, seconds=60)
    after = bind(replica, 2).json()["id"]
    assert replica.end() == 0
    assert state_by_command_line(sqlite_url, simulator, after) == "active"
