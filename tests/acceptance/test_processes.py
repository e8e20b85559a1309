"""The product in real processes, on real clocks, checked against the provider's ledger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bindings import errors
from bindings.domain.binding import Caller, EventKind, Reason, State
from bindings.lifecycle.runtime import new_runtime
from bindings.provider.simulator import Simulator
from bindings.scheduler import Scheduler
from bindings.service import BindingService
from bindings.settings import load
from bindings.store.database import Database
from tests.service.harness import POOL, A, B, account_settings, account_variables, assert_sound, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.processes


def settings(database_url: str, simulator: Simulator, **changed: str) -> dict[str, str]:
    """Return the environment of a process."""
    return {
        "BINDINGS_DATABASE_URL": database_url,
        **account_variables(simulator.url),
        "BINDINGS_SCAN_CALLS_PER_S": "1000",
        "BINDINGS_WEBHOOK_NETWORKS": "127.0.0.0/8,::1",
    } | {f"BINDINGS_{name.upper()}": value for name, value in changed.items()}


@contextmanager
def processes(task: str, environment: dict[str, str], count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that wait for their arguments; they are killed at the end in every case."""
    command = [sys.executable, "-m", "tests.acceptance.worker", task]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BINDINGS_")}
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=inherited | environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "ready\n", process.communicate()[1]
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def go(process: subprocess.Popen[str], **arguments: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(arguments) + "\n")
    process.stdin.flush()


def _settings_values(database_url: str, simulator: Simulator, **changed: Any) -> dict[str, Any]:
    return {
        "database_url": database_url,
        **account_settings(simulator.url),
        "scan_calls_per_s": 1_000.0,
        "bind_limit": 64,
    } | changed


def test_I5_I6_short_bindings_expire_once_and_are_never_shown_past_their_end(
    database_url: str,
) -> None:
    interval_s = 1.0
    with Simulator(pool_size=300) as simulator:
        arguments = _settings_values(database_url, simulator, sweep_interval_s=interval_s, guard_s=1.0)
        with BindingService.open(**arguments) as service, Scheduler(service):
            created = []
            for number in range(300):
                a, b = f"9177{number:06}", f"9178{number:06}"
                created.append(service.bind(phone_a=a, phone_b=b, pool_number=POOL, expire_s=2, mode="AXB"))
                before = datetime.now(UTC)
                for binding in service.lookup(phone=created[len(created) // 2].phone_a):
                    assert binding.expires_at is not None
                    assert binding.expires_at > before
            last = created[-1].expires_at
            assert last is not None
            wait_for(lambda: service.stats()["by_state"] == {"expired": 300})
            late = []
            for binding in created:
                ends = [event for event in service.history(binding.id) if event.kind is EventKind.EXPIRED]
                assert len(ends) == 1
                ended = service.get(binding.id)
                assert ended.ended_at == ended.expires_at == binding.expires_at
                late.append((ends[0].at - (binding.expires_at or ends[0].at)).total_seconds())
            assert min(late) >= 0
            assert max(late) <= 2.5 * interval_s


def test_I2_lost_reply_is_in_doubt_until_a_scan_adopts_it(service: BindingService, simulator: Simulator) -> None:
    simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=600, mode="AXB")
    assert service.get(unknown.value.binding.id).state is State.IN_DOUBT
    assert service.reconcile().adopted == 1
    adopted = service.get(unknown.value.binding.id)
    (entry,) = simulator.ledger
    assert (adopted.state, adopted.bind_id) == (State.ACTIVE, str(entry.bind_id))
    assert service.lookup(phone=A) == [adopted]
    assert simulator.counts.received["bind"] == 1


def test_I2_process_killed_between_its_two_transactions_loses_nothing(database_url: str) -> None:
    with Simulator() as simulator:
        simulator.script("delay", times=1, seconds=60, on="bind")
        environment = settings(database_url, simulator, provider_timeout_s="30")
        with processes("bind", environment, 1) as (victim,):
            go(victim, phone_a=A, phone_b=B, expire_s=600, mode="AXB")
            wait_for(lambda: len(simulator.ledger) == 1)
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait(300)
        simulator.clear_faults()
        # Another process, after settle_by by the clock that decides, without waiting for it.
        later = Database(database_url, read_clock=lambda: datetime.now(UTC) + timedelta(seconds=40))
        config = load({}, **_settings_values(database_url, simulator))
        service = BindingService(new_runtime(config, later, caller=Caller(actor="heir")))
        try:
            (intent,) = service.search().data
            assert intent.state is State.PENDING
            assert service.recover().in_doubt == 1
            assert service.reconcile().adopted == 1
            adopted = service.get(intent.id)
            (entry,) = simulator.ledger
            assert (adopted.state, adopted.reason) == (State.ACTIVE, Reason.ADOPTED)
            assert adopted.bind_id == str(entry.bind_id)
            assert simulator.counts.received["bind"] == 1
            assert_sound(service)
        finally:
            service.close()


def test_scheduler_process_sweeps_and_drains_on_sigterm(database_url: str) -> None:
    with Simulator() as simulator:
        environment = settings(database_url, simulator, sweep_interval_s="0.2", guard_s="0")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BINDINGS_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "bindings", "scheduler"],
            cwd=ROOT,
            env=inherited | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with BindingService.open(**_settings_values(database_url, simulator)) as service:
                created = service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=1, mode="AXB")
                wait_for(lambda: service.get(created.id).state is State.EXPIRED)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        finally:
            process.kill()
            process.communicate()
