"""SIGTERM in a long reconciliation: each process ends after its current page or row, and the next reads again."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from tests.acceptance.serving import ROOT, Command, Replica
from tests.acceptance.test_processes import _settings_values, settings
from tests.service.harness import APP, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.store.reports import Report

pytestmark = pytest.mark.processes

ROWS = 20_000
PAGES = ROWS // 100
ORPHANS = 1_000


def simulator_with(rows: int) -> Simulator:
    simulator = Simulator(pool_size=1, max_concurrency=10**9)
    for number in range(rows):
        simulator.add_foreign_binding(phone_a=f"917{number:08}", phone_b=f"918{number:08}", app_id=APP)
    return simulator


@pytest.fixture(scope="module")
def long_list() -> Iterator[Simulator]:
    """Provide a provider whose list takes 20 s to read at any rate."""
    with simulator_with(ROWS) as simulator:
        simulator.script("delay", rate=1.0, on="page", seconds=20 / PAGES)
        yield simulator


def pages(simulator: Simulator) -> int:
    return simulator.counts.received.get("page", 0)


def newest_report(database_url: str, simulator: Simulator) -> Report:
    with BindingService.open(**_settings_values(database_url, simulator)) as service:
        return service.reports().data[0]


@pytest.mark.parametrize(
    ("command", "calls_per_s"),
    [("scheduler", "1000"), ("scheduler", "1"), ("serve", "1000"), ("reconcile", "1000")],
)
def test_sigterm_ends_a_scan_of_a_long_list_and_the_next_process_reads_again(
    sqlite_url: str, long_list: Simulator, tmp_path: Path, command: str, calls_per_s: str
) -> None:
    environment = settings(sqlite_url, long_list, scan_calls_per_s=calls_per_s)
    arguments = ("serve", "--port", "0") if command == "serve" else (command,)
    before = pages(long_list)
    with Command(tmp_path / "log", environment, *arguments) as process:
        wait_for(lambda: pages(long_list) > before + 1, seconds=300)
        exit_code = process.end(within_s=300)
    read = pages(long_list) - before
    assert read < PAGES / 2
    assert exit_code == (5 if command == "reconcile" else 0), (tmp_path / "log").read_text()
    report = newest_report(sqlite_url, long_list)
    assert (report.counts["stopped"], report.counts["incomplete"], report.counts["orphans"]) == (True, 1, 0)
    with Command(tmp_path / "log", environment, *arguments) as process:
        wait_for(lambda: pages(long_list) > before + read + 1, seconds=300)
        process.end(within_s=300)


SIGNAL_AT_START = """
import os, signal, sys
from bindings.service import BindingService
from bindings.web import server

with BindingService.open() as service:
    def listening(url, sign_in_url):
        os.kill(os.getpid(), signal.SIGTERM)
        print(url, flush=True)

    server.serve(service, host="127.0.0.1", port=0, scheduler=True, local_admin=True, listening=listening)
print("ended in order", flush=True)
"""


def test_sigterm_before_the_first_request_ends_the_server_in_order(
    sqlite_url: str, long_list: Simulator, tmp_path: Path
) -> None:
    environment = settings(sqlite_url, long_list)
    with Command(tmp_path / "log", environment, "db", "upgrade") as process:
        process.process.wait(300)
    ended = subprocess.run(
        [sys.executable, "-c", SIGNAL_AT_START],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "ended in order"


def other_threads(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid]


def signal_to_another_thread(pid: int) -> None:
    """Deliver SIGTERM to a thread that is not the main one, which goes on waiting: the system may do so."""
    wait_for(lambda: bool(other_threads(pid)), seconds=300)
    if ctypes.CDLL(None, use_errno=True).tgkill(pid, other_threads(pid)[0], signal.SIGTERM):
        raise OSError(ctypes.get_errno(), "tgkill")


@pytest.mark.parametrize("command", ["scheduler", "serve", "simulator"])
def test_sigterm_that_another_thread_receives_ends_the_process_in_order(
    sqlite_url: str, tmp_path: Path, command: str
) -> None:
    log = tmp_path / "log"
    with Simulator() as simulator:
        arguments = ("serve", "--port", "0") if command == "serve" else (command,)
        with Command(log, settings(sqlite_url, simulator), *arguments) as process:
            wait_for(lambda: "SIGTERM or Ctrl-C ends it" in log.read_text(), seconds=300)
            signal_to_another_thread(process.process.pid)
            assert process.process.wait(300) == 0, log.read_text()


SIGNAL_UNDER_THE_LOCK = """
import os, signal
from bindings.cli.context import stop_on_signal

with stop_on_signal() as stop:
    with stop._cond:  # the main thread is about to wait
        os.kill(os.getpid(), signal.SIGTERM)
    stop.wait()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
print("ended in order")
"""


@pytest.mark.parametrize("before", ["", "import signal; del signal.SIGHUP"], ids=["", "no SIGHUP, as on Windows"])
def test_signal_while_the_main_thread_holds_the_lock_of_the_event_sets_it(before: str) -> None:
    program = [sys.executable, "-c", before + SIGNAL_UNDER_THE_LOCK]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.stdout == "ended in order\n", ended.stderr


def test_sigterm_ends_a_reconciliation_that_the_console_started(
    sqlite_url: str, long_list: Simulator, tmp_path: Path
) -> None:
    before = pages(long_list)
    with Replica(tmp_path / "log", settings(sqlite_url, long_list), "--no-scheduler") as replica:
        url = replica.started().url
        session = requests.Session()
        form = session.get(f"{url}/doubts", timeout=300).text
        token = form.partition('name="csrf" value="')[2].partition('"')[0]
        body = {"csrf": token, "reason": "a test", "action": "run"}
        answer = session.post(f"{url}/doubts/resolve", data=body, headers={"Origin": url}, timeout=300)
        assert answer.status_code == 200, answer.text
        wait_for(lambda: pages(long_list) > before + 1, seconds=300)
        assert replica.end(within_s=300) == 0
    assert pages(long_list) - before < PAGES / 2
    assert newest_report(sqlite_url, long_list).counts["stopped"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_signal_ends_the_writing_of_many_orphans(sqlite_url: str, tmp_path: Path, number: int) -> None:
    with (
        simulator_with(ORPHANS) as simulator,
        BindingService.open(**_settings_values(sqlite_url, simulator)) as service,
        Command(tmp_path / "log", settings(sqlite_url, simulator), "reconcile") as process,
    ):
        first = {"phone_a": "91700000000", "phone_b": "91999999999", "mode": "AXB"}
        wait_for(lambda: bool(service.check(**first)), seconds=300)
        process.process.send_signal(number)
        assert process.process.wait(300) == 5, (tmp_path / "log").read_text()
        assert "Stopped by a signal" in (tmp_path / "log").read_text()
        stopped = service.reports().data[0].counts
        assert stopped["stopped"] is True
        assert 0 < stopped["orphans"] < ORPHANS
        assert service.reconcile().orphans == ORPHANS - stopped["orphans"]
