"""Processes that encrypt phones, or seal the history, are killed at every fail point: the next one goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, select

from bindings import failpoints
from bindings.errors import PhoneInUse
from bindings.jobs import phone_sealing
from bindings.monitoring.audit import verify_database
from bindings.sealing.keys import PublicKeys, create_key_file
from bindings.store.schema import bindings, replicas, seals
from tests.faults.harness import KILLED
from tests.faults.test_pause import bind_request
from tests.faults.test_restore import A, B, C, D, E, F, bind
from tests.service.harness import feed_has_caught_up
from tests.service.phone_keys import write_ring
from tests.store.databases import MOSTLY_POSTGRES

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from sqlalchemy import Select

    from bindings.monitoring.audit import Verification
    from bindings.sealing.keys import SigningKey
    from bindings.service import BindingService
    from tests.faults.harness import Experiment, FaultHarness, Process

pytestmark = pytest.mark.processes

PHONE_POINTS = tuple(name for name in failpoints.NAMES if name.startswith("phones."))
SEAL_POINTS = tuple(name for name in failpoints.NAMES if name.startswith("seal."))
VERSIONS = select(bindings.c.id, bindings.c.version, bindings.c.change_tx).order_by(bindings.c.id)
SEAL_NUMBERS = select(seals.c.number).order_by(seals.c.number)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    """Create a key in `seal.pem`."""
    return create_key_file(str(tmp_path / "seal.pem"), "BINDINGS_SEAL_KEY_FILE")


def rows(service: BindingService, query: Select[Any]) -> list[Any]:
    return list(service.runtime.database.read(lambda connection: connection.execute(query).all()))


def verify(service: BindingService, key: SigningKey) -> Verification:
    return verify_database(service.runtime.database, PublicKeys(key.public_pem, "key"), {})


def answers(service: BindingService) -> list[object]:
    """Return what the service answers about every phone, and what holds two of them."""
    of_phones = [(service.lookup(phone=phone), service.holds(phone=phone)) for phone in (A, B, C, D, E, F)]
    holders = service.check(phone_a=A, phone_b=E, mode="AXB")
    return [*of_phones, [(holder.id, holder.why) for holder in holders], service.search().data]


@pytest.mark.parametrize("kind", MOSTLY_POSTGRES)
def test_R1_encryption_killed_at_each_fail_point_goes_on_where_it_was(
    fault_harness: FaultHarness, kind: str, tmp_path: Path, key: SigningKey
) -> None:
    files: dict[str, Any] = {
        "phone_keys_file": str(write_ring(tmp_path / "ring")),
        "seal_key_file": str(tmp_path / "seal.pem"),
    }
    with fault_harness.experiment(kind, **files) as experiment, experiment.service() as service:
        for number, pair in enumerate(((A, B), (C, D))):
            bind(service, *pair, f"9{number}", key=f"order-{number}")
        experiment.simulator.script("refuse:-35", times=1, on="bind")
        with pytest.raises(PhoneInUse):
            bind(service, E, F, "92")
        before, versions = answers(service), rows(service, VERSIONS)
        feed_has_caught_up(service)
        service.seal_events()
        for point, nth in zip(PHONE_POINTS, (1, 2, 3), strict=True):
            assert experiment.run("encrypt_phones", batch=1, hook=(point, nth, "KILL")) == KILLED, point
            assert answers(service) == before, point
            assert verify(service, key).findings == (), point
            assert not phone_sealing.report(service.runtime).sealed_at, point
        assert experiment.run("encrypt_phones", batch=1) == 0
        [encrypted] = [line for line in experiment.records() if line["kind"] == "encrypted"]
        assert encrypted["complete"]
        assert rows(service, VERSIONS) == versions
        acts = [event.detail["act"] for event in service.export_events() if event.kind == "administered"]
        assert acts == ["phones.keys_changed", "phones.sealed"]
        assert answers(service) == before
        for number, pair in enumerate(((A, B), (C, D))):
            repeated = bind(service, *pair, f"9{number}", key=f"order-{number}")
            assert [repeated] == service.lookup(phone=pair[0])
        feed_has_caught_up(service)
        service.seal_events()
        assert verify(service, key).findings == ()
        assert experiment.simulator.counts.received["bind"] == 3, "no repeated bind was sent"


@pytest.mark.parametrize("kind", MOSTLY_POSTGRES)
@pytest.mark.parametrize(
    ("point", "phone_a", "answer"),
    [
        ("bind.before_reserve", C, None),
        ("bind.after_reserve", A, None),  # a refused bind is recorded
        ("bind.after_answer", C, None),
        ("bind.after_answer", C, "refuse:-35"),  # the phones are held
    ],
)
def test_process_without_keys_that_was_stopped_while_phones_were_encrypted_writes_no_digits(
    fault_harness: FaultHarness, kind: str, tmp_path: Path, point: str, phone_a: str, answer: str | None
) -> None:
    """A process that is silent for three minutes does not hinder the encryption."""
    keys = {"phone_keys_file": str(write_ring(tmp_path / "ring"))}
    with fault_harness.experiment(kind) as experiment:
        with experiment.service() as service:
            bind(service, A, B, "90")
        if answer is not None:
            experiment.simulator.script(answer, times=1, on="bind")
        request = bind_request("91") | {"phone_a": phone_a, "phone_b": D}
        stopped = experiment.start("run_binds", requests=[request], hook=(point, 1, "STOP"))
        if not experiment.wait_until_stopped(stopped):
            pytest.fail(experiment.log(stopped))
        with experiment.service(**keys) as service:
            forgotten = delete(replicas).where(replicas.c.phone_key_ids == [])
            service.runtime.database.write(lambda tx: tx.connection.execute(forgotten))
            assert phone_sealing.seal(service.runtime).complete
            experiment.resume(stopped)
            experiment.wait(stopped)
            rows_by_table = phone_sealing.report(service.runtime).rows
            assert {table: counts["digits"] for table, counts in rows_by_table.items() if counts["digits"]} == {}


def start_sealer(experiment: Experiment, point: str, signal_name: str) -> Process:
    return experiment.start("run_job", job="seal_events", hook=(point, 1, signal_name))


@pytest.mark.parametrize("kind", MOSTLY_POSTGRES)
def test_R1_sealer_killed_at_each_fail_point_leaves_one_chain(
    fault_harness: FaultHarness, kind: str, tmp_path: Path, key: SigningKey
) -> None:
    settings: dict[str, Any] = {"seal_key_file": str(tmp_path / "seal.pem")}
    with fault_harness.experiment(kind, **settings) as experiment, experiment.service() as service:
        for number, (point, seal_count) in enumerate(zip(SEAL_POINTS, (0, 0, 1), strict=True)):
            bind(service, *((A, B), (C, D), (E, F))[number], f"9{number}")
            feed_has_caught_up(service)
            assert experiment.wait(start_sealer(experiment, point, "KILL")) == KILLED, point
            assert len(rows(service, SEAL_NUMBERS)) == seal_count, point
        feed_has_caught_up(service)
        paused = start_sealer(experiment, "seal.before_insert", "STOP")
        assert not experiment.wait_until_stopped(paused), "the events of the last seal wait for others"
        experiment.wait(paused)
        service.unbind(service.lookup(phone=A)[0].id)
        feed_has_caught_up(service)
        paused = start_sealer(experiment, "seal.before_insert", "STOP")
        assert experiment.wait_until_stopped(paused)
        assert experiment.run("run_job", job="seal_events") == 0
        experiment.resume(paused)
        assert experiment.wait(paused) == 0
        assert [row.number for row in rows(service, SEAL_NUMBERS)] == [1, 2]
        verification = verify(service, key)
        assert verification.findings == ()
        assert verification.unsealed == 1, "the event of the last seal"
