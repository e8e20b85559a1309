"""`bindings serve` as a process: its logs, and a kill during a delivery."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import requests
from sqlalchemy import text

from bindings.service import BindingService
from tests.acceptance.serving import Replica
from tests.acceptance.test_processes import _settings_values, settings
from tests.service.harness import A, B, in_threads, wait_for
from tests.web.receivers import Receiver

if TYPE_CHECKING:
    from pathlib import Path

    from bindings.provider.simulator import Simulator

pytestmark = pytest.mark.processes

BIND = {"pool_number": "918806", "expire_s": 600, "mode": "AXB"}
MANY = 8


def bind(url: str, number: int = 0, **headers: str) -> requests.Response:
    body = BIND | {"phone_a": f"91880671{number:02}", "phone_b": f"91880672{number:02}"}
    return requests.post(f"{url}/v1/bindings", json=body, headers=headers, timeout=300)


def test_account_that_may_not_read_the_list_binds_under_serve(
    sqlite_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.script("refuse:-31", rate=1.0, on="page")
    with Replica(tmp_path / "log", settings(sqlite_url, simulator)) as replica:
        url = replica.started().url
        wait_for(lambda: simulator.counts.received.get("page", 0) > 0)  # the first reconcile runs at start
        assert [bind(url, number).status_code for number in range(3)] == [201] * 3
        assert replica.end() == 0


def test_log_lines_of_a_request_carry_its_id_and_no_phone(
    sqlite_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    with Replica(tmp_path / "log", settings(sqlite_url, simulator)) as replica:
        url = replica.started().url
        request_ids = [f"order-x{number}" for number in range(MANY)]
        calls = [
            lambda number=number, name=name: bind(url, number, **{"X-Request-ID": name})
            for number, name in enumerate(request_ids)
        ]
        assert in_threads(*calls) == []
        requests.post(f"{url}/v1/lookup", json={"phone": A, "middle_number": B}, timeout=300)
        replica.end()
        lines = [json.loads(line) for line in replica.log.read_text().splitlines() if line.startswith("{")]
    sent = [line for line in lines if str(line["event"]).startswith("bind: ")]
    assert sorted(line["request_id"] for line in sent) == request_ids, "calls run on other threads"
    request_lines = [line for line in lines if line["event"] == "request" and line["route"] == "/v1/bindings"]
    assert sorted(line["request_id"] for line in request_lines) == request_ids
    assert all(
        {"method", "status", "elapsed_ms", "actor", "binding_id", "timestamp"} <= set(line)
        for line in request_lines
    )
    passes = [line for line in lines if line["logger"].startswith("bindings") and "request_id" not in line]
    assert all("route" not in line for line in passes)
    assert not re.search(r"918806[0-9]{4}", replica.log.read_text())


def test_delivery_of_a_killed_replica_is_repeated_after_restart(
    database_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    environment = settings(database_url, simulator)
    with Receiver() as receiver:
        receiver.answers = receiver.hangs
        with BindingService.open(**_settings_values(database_url, simulator)) as service:
            hook = service.webhooks.add(url=receiver.url, kinds=["activated"])
            with Replica(tmp_path / "first", environment) as replica:
                assert bind(replica.started().url).status_code == 201
                wait_for(lambda: len(receiver.messages) == 1)
                replica.kill()
            (waiting,) = service.webhooks.deliveries(hook.webhook.id).data
            assert (waiting.state, waiting.attempts) == ("pending", 1)
            _a_minute_later(service)
            receiver.released.set()
            with Replica(tmp_path / "second", environment) as replica:
                url = replica.started().url
                wait_for(lambda: _states(service, hook.webhook.id) == ["delivered"])
                assert receiver.ids == [waiting.id] * 2, "the same id, so that the receiver can tell"
                wait_for(lambda: 'deliveries_total{result="delivered"} 1.0' in _metrics(url))
                wait_for(lambda: requests.get(f"{url}/readyz", timeout=300).status_code == 200)


def _states(service: BindingService, webhook_id: str) -> list[Any]:
    return [delivery.state for delivery in service.webhooks.deliveries(webhook_id).data]


def _metrics(url: str) -> str:
    return requests.get(f"{url}/metrics", timeout=300).text


def _a_minute_later(service: BindingService) -> None:
    """Make deliveries that a sender had leased due again."""
    service.runtime.database.write(
        lambda tx: tx.connection.execute(text("UPDATE deliveries SET next_at = created_at"))
    )
