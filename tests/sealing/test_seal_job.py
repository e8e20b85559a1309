"""The job `seal`, its key, and the verification of the chain, on both databases."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING, TypeAlias

import pytest
from sqlalchemy import select

from bindings import errors, failpoints
from bindings.jobs import seal as seal_job
from bindings.jobs.registry import SEAL
from bindings.jobs.runner import JobRunner
from bindings.monitoring.audit import Verification, verify_database
from bindings.sealing.keys import PublicKeys, SigningKey, create_key_file, load_signing_key
from bindings.store.schema import seals as table
from tests.service.harness import A, B, C, D, ServiceHarness, feed_has_caught_up, in_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bindings.service import BindingService

Seal: TypeAlias = "Callable[..., seal_job.SealResult]"
NAME = "BINDINGS_SEAL_KEY_FILE"


def verify(harness: ServiceHarness, key: SigningKey, heads: dict[int, str] | None = None) -> Verification:
    return verify_database(harness.database, PublicKeys(key.public_pem, "key"), heads or {})


def test_sealed_history_verifies(
    harness: ServiceHarness, sealer: BindingService, seal: Seal, key: SigningKey
) -> None:
    for own_event in (0, 1, 1):
        harness.service.unbind(harness.bind(A, B).id)
        result = seal()
        assert (result.events, result.seals, result.finished) == (4 + own_event, 1, True)
    harness.bind(C, D)
    verification = verify(harness, key)
    assert (verification.findings, verification.events, verification.unsealed) == ((), 17, 3)
    assert verification.head == result.head
    assert seal(batch=1).seals == 3
    assert seal().seals == 0
    assert verify(harness, key).unsealed == 0


def test_job_runs_only_where_the_key_is(harness: ServiceHarness, sealer: BindingService, seal: Seal) -> None:
    harness.bind()
    feed_has_caught_up(sealer)
    assert JobRunner(harness.open().runtime).run_once_per_period(SEAL, 10.0) is None
    result = JobRunner(sealer.runtime).run_once_per_period(SEAL, 10.0)
    assert result is not None
    assert result.events == 2
    assert JobRunner(sealer.runtime).run_once_per_period(SEAL, 10.0) is None, "the period is claimed"
    with pytest.raises(errors.InvalidRequest, match=f"{NAME} is needed to seal"):
        harness.open().seal_events()


def test_run_that_is_out_of_time_is_continued(harness: ServiceHarness, sealer: BindingService, seal: Seal) -> None:
    harness.bind()
    assert not seal(batch=1, budget_s=-1).finished
    assert seal().events == 1


def test_two_sealers_make_one_chain(
    harness: ServiceHarness, sealer: BindingService, seal: Seal, key: SigningKey
) -> None:
    for phone in (B, C, D):
        harness.service.unbind(harness.bind(A, phone).id)
    feed_has_caught_up(sealer)
    runs = [
        lambda: seal_job.seal_events(sealer.runtime.database, key, sealer.runtime.caller, batch=1)
        for _ in range(4)
    ]
    assert in_threads(*runs) == []
    assert verify(harness, key).findings == ()
    numbers = harness.database.read(lambda connection: connection.execute(select(table.c.number)).scalars().all())
    assert sorted(numbers) == list(range(1, 13))


def test_run_that_another_process_overtakes_goes_on_from_the_seal_of_that_one(
    harness: ServiceHarness, sealer: BindingService, seal: Seal, key: SigningKey
) -> None:
    bound = harness.bind()
    overtaking: list[seal_job.SealResult] = []

    def overtake(point: str) -> None:
        if point == "seal.before_insert":
            failpoints.install(None)
            harness.service.unbind(harness.bind(C, D).id)
            overtaking.append(seal())

    feed_has_caught_up(sealer)
    failpoints.install(overtake)
    try:
        overtaken = seal(batch=1_000)
    finally:
        failpoints.install(None)
    assert (overtaking[0].events, overtaken.events, overtaken.seals) == (6, 0, 0)
    assert overtaken.head == overtaking[0].head
    harness.service.unbind(bound.id)
    assert seal().events == 3
    assert verify(harness, key).findings == ()


@pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_event_that_commits_late_is_sealed_in_its_place(
    harness: ServiceHarness, sealer: BindingService, seal: Seal, key: SigningKey
) -> None:
    """Others that began later have committed: the stretch of a seal must not be closed before it."""
    bound = harness.bind()
    written, may_commit = threading.Event(), threading.Event()

    def wait(point: str) -> None:
        if point == "unbind.request_in_transaction":
            written.set()
            assert may_commit.wait(300)

    feed_has_caught_up(sealer)
    runtime = sealer.runtime
    failpoints.install(wait)
    late = threading.Thread(target=harness.service.unbind, args=(bound.id,), daemon=True)
    try:
        late.start()
        assert written.wait(300)
        harness.bind(C, D)
        during = seal_job.seal_events(runtime.database, runtime.require_seal_key(), runtime.caller)
    finally:
        failpoints.install(None)
        may_commit.set()
        late.join(300)
    assert during.events == 2
    assert seal().events == 5, "two of the unbind, two of the later bind, and that of the first seal"
    assert verify(harness, key).findings == ()


def test_key_file_is_for_its_owner_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    key = create_key_file(str(path), NAME)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_signing_key(str(path), NAME).key_id == key.key_id
    assert str(key) == f"SigningKey({key.key_id})"
    with pytest.raises(errors.InvalidRequest, match="FILE must name a new file"):
        create_key_file(str(path), "FILE")
    with pytest.raises(errors.InvalidRequest, match="FILE must be writable"):
        create_key_file(str(tmp_path / "missing" / "key.pem"), "FILE")


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (None, 0o600, "cannot be read"),
        (b"", 0o600, "must name a file with an Ed25519 private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "Ed25519 private key"),
        (b"", 0o640, r"allows other users \(0640\)"),
        (b"", 0o604, r"allows other users \(0604\)"),
    ],
)
def test_service_with_a_wrong_key_file_does_not_open(
    harness: ServiceHarness, tmp_path: Path, content: bytes | None, mode: int, message: str
) -> None:
    path = tmp_path / "wrong.pem"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(errors.InvalidRequest, match=f"{NAME}.*{message}"):
        harness.open(seal_key_file=str(path))


def test_group_may_read_a_key_file_that_another_user_owns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.pem"
    key = create_key_file(str(path), NAME)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    path.chmod(0o440)  # as a secret is mounted in a container
    assert load_signing_key(str(path), NAME).key_id == key.key_id
    path.chmod(0o444)
    with pytest.raises(errors.InvalidRequest, match=r"allows other users \(0444\)"):
        load_signing_key(str(path), NAME)


def test_public_keys_of_another_kind_are_refused() -> None:
    for pem in ("", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(errors.InvalidRequest, match="public-key must have"):
            PublicKeys(pem, "public-key")
