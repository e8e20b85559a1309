"""A run with encrypted phones: nothing that leaves the process or stays in the database has a trace of a phone."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bindings.scheduler import Scheduler
from bindings.service import BindingService
from tests.service.harness import account_settings, wait_for
from tests.service.phone_keys import write_ring, write_sealed
from tests.service.phone_traces import dump_of, traces_in
from tests.web.conftest import Running, run
from tests.web.receivers import Receiver

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from bindings.provider.simulator import Simulator

PAIRS = [(f"86{71_000_000_000 + 7_919 * n}", f"86{83_000_000_000 + 7_907 * n}") for n in range(500)]
BOUND = 6


def use(running: Running, simulator: Simulator) -> list[bytes]:
    """Bind, look up, be refused and erase; return what was answered to callers who may see no phone."""
    admin, app, auditor = (running.key(role) for role in ("admin", "app", "auditor"))
    for n, (a, b) in enumerate(PAIRS[:BOUND]):
        bound = running.bind(app, phone_a=a, phone_b=b, reference=f"order {n}")
        assert bound.status_code == 201
    answers = [running.bind(app, phone_a=PAIRS[0][0], phone_b=PAIRS[20][1])]  # held here
    simulator.script("refuse:-35", times=1, on="bind")
    answers.append(running.bind(app, phone_a=PAIRS[21][0], phone_b=PAIRS[21][1]))
    simulator.script("refuse:-22", times=1, on="bind")
    answers.append(running.bind(app, phone_a=PAIRS[22][0], phone_b=PAIRS[22][1], reference="order 22"))
    simulator.script("lost_reply", times=1, on="bind")
    answers.append(running.bind(app, phone_a=PAIRS[23][0], phone_b=PAIRS[23][1]))
    answers.append(running.bind(app, phone_a=PAIRS[24][0], phone_b=PAIRS[24][0]))
    answers.append(running.bind(app, phone_a=f"{PAIRS[24][0]}x", phone_b=PAIRS[24][1]))
    assert [answer.status_code for answer in answers] == [409, 409, 502, 202, 422, 422]
    del answers[3]  # an application gets its own binding with the phones that it sent
    answers.append(running.post("/v1/bindings/search", {"phone": PAIRS[1][0]}, auditor))
    answers.append(running.post("/v1/refusals/search", {"phone": PAIRS[0][0]}, auditor))
    answers.append(running.get("/v1/events", admin))
    assert {answer.status_code for answer in answers[5:]} == {200}
    for a, b in PAIRS[:60]:
        phone = a if len(answers) % 2 else b
        answers.append(running.post("/v1/lookup", {"phone": phone}, auditor))
    assert {answer.status_code for answer in answers[5:]} <= {200, 429}
    assert running.service.erasure.erase(phone=PAIRS[22][0], reason="request 17").bindings == 1
    answers.append(running.get("/metrics", admin))
    answers.append(running.get("/v1/health", admin))
    return [answer.content + str(answer.headers).encode() for answer in answers]


def test_run_with_encrypted_phones_leaves_no_trace_of_a_thousand_phones(
    own_database_url: str, simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with BindingService.open(
        database_url=own_database_url,
        **account_settings(simulator.url),
        phone_keys_file=str(write_ring(tmp_path / "ring")),
        erasure_journal=str(tmp_path / "erasures.jsonl"),
    ) as service:
        write_sealed(service.runtime.database)
        with contextmanager(run)(service) as running, Receiver() as receiver:
            scheduler = Scheduler(service, on_deliveries=running.app_state.metrics.record_deliveries)
            running.app_state.scheduler = scheduler
            service.webhooks.add(url=receiver.url)
            with scheduler:
                answers = use(running, simulator)
                wait_for(lambda: len(receiver.messages) >= BOUND)
        messages = [message.body for message in receiver.messages]
    logs = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records).encode()
    left = {
        "logs": logs,
        "answers": b"\n".join(answers),
        "webhooks": b"\n".join(messages),
        "journal": (tmp_path / "erasures.jsonl").read_bytes(),
        "dump": dump_of(own_database_url),
    }
    assert all(left.values())
    phones = [digits for pair in PAIRS for digits in pair]
    assert traces_in("\n".join(phones).encode(), phones) > {digits.encode() for digits in phones}
    assert {name: traces_in(content, phones) for name, content in left.items()} == {name: set() for name in left}
