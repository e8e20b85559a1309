"""An SQLite file that is moved, deleted or replaced while it is open: writes are refused, and nothing is lost.

What another program does to the file is done here by another process or by the same calls that `mv` and `rm` make.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import Caller, EventKind, State
from bindings.monitoring import health
from bindings.monitoring.check import Check, Level
from bindings.service import BindingService
from bindings.store import events
from bindings.store.database import Database
from tests.service.harness import POOL, A, B, C, D, account_settings, in_threads, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.provider.simulator import Simulator
    from bindings.store.database import Transaction

CALLER = Caller(actor="test")


@pytest.fixture
def file(sqlite_url: str) -> Path:
    """Provide the file of the database."""
    return Path(sqlite_url.removeprefix("sqlite:///"))


@pytest.fixture
def opened(sqlite_url: str, simulator: Simulator) -> Iterator[BindingService]:
    """Provide a service on the file that has bound a pair."""
    with open_service(sqlite_url, simulator) as service:
        bind(service, A, B)
        yield service


def open_service(url: str, simulator: Simulator) -> BindingService:
    return BindingService.open(
        database_url=url,
        **account_settings(simulator.url),
        scan_calls_per_s=1_000.0,
    )


def bind(service: BindingService, phone_a: str, phone_b: str) -> str:
    return service.bind(phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=3_600, mode="AXB").id


def write_event(service: BindingService) -> None:
    def work(tx: Transaction) -> None:
        events.append_without_binding(tx, EventKind.REVEALED, CALLER, {})

    service.runtime.database.write(work)


def copy_of(file: Path) -> Path:
    """Return a copy of the database, as a backup tool makes it."""
    copy = file.with_suffix(".copy")
    with sqlite3.connect(file) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    return copy


def without_wal(file: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def move(file: Path, target: Path) -> None:
    """Move the file of a database with the files beside it."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            Path(f"{file}{suffix}").replace(f"{target}{suffix}")


def move_a_copy_over(file: Path) -> None:
    copy = copy_of(file)
    without_wal(file)
    copy.replace(file)


def delete_and_write_a_copy(file: Path) -> None:
    copy = copy_of(file)
    file.unlink()
    without_wal(file)
    shutil.copyfile(copy, file)


def point_the_link_elsewhere(file: Path) -> None:
    copy = copy_of(file)
    file.unlink()
    file.symlink_to(copy)


def database_check(service: BindingService) -> Check:
    [check] = [check for check in health.readiness_checks(service.runtime) if check.name == "database"]
    return check


@pytest.mark.parametrize("replace", [move_a_copy_over, delete_and_write_a_copy, point_the_link_elsewhere])
def test_replaced_file_refuses_the_write_and_then_waits_for_a_reconciliation_as_after_a_restore(
    opened: BindingService, file: Path, sqlite_url: str, simulator: Simulator, replace: Callable[[Path], None]
) -> None:
    replace(file)
    received = simulator.counts.received["bind"]
    with pytest.raises(errors.Busy, match=r"another SQLite file .* nothing was done"):
        bind(opened, C, D)
    assert simulator.counts.received["bind"] == received
    with pytest.raises(errors.Busy, match="restored"):
        bind(opened, C, D)
    assert opened.lookup(phone=A)[0].state is State.ACTIVE
    opened.reconcile()
    bound = bind(opened, C, D)
    with open_service(sqlite_url, simulator) as later:
        assert later.get(bound).state is State.ACTIVE


def test_writes_that_wait_while_the_file_is_replaced_are_refused_too(opened: BindingService, file: Path) -> None:
    """Regression: after the first refusal those behind it wrote into the new file before it was checked."""
    copy = copy_of(file)
    entered, leave = threading.Event(), threading.Event()

    def hold_lock(_: Transaction) -> None:
        entered.set()
        leave.wait(60)

    holder = threading.Thread(target=lambda: opened.runtime.database.write(hold_lock))
    holder.start()
    assert entered.wait(60)
    raised: list[BaseException] = []
    writes = [lambda: write_event(opened)] * 4
    begun: list[bool] = []
    opened.runtime.database.call_on_use(lambda: begun.append(True))
    waiting = threading.Thread(target=lambda: raised.extend(in_threads(*writes)))
    waiting.start()
    wait_for(lambda: len(begun) == len(writes))
    without_wal(file)
    copy.replace(file)
    leave.set()
    for thread in (holder, waiting):
        thread.join(60)
    assert [type(error) for error in raised] == [errors.Busy] * 4
    with pytest.raises(errors.Busy, match="bindings reconcile"):
        bind(opened, C, D)


def test_check_names_the_replaced_file_and_then_the_reconciliation_that_is_needed(
    opened: BindingService, file: Path
) -> None:
    assert database_check(opened).level is Level.OK
    move_a_copy_over(file)
    check = database_check(opened)
    assert (check.level, "another SQLite file" in check.seen) == (Level.RED, True)
    assert database_check(opened).level is Level.OK
    assert "restore" in {c.name for c in health.readiness_checks(opened.runtime) if c.level is Level.RED}


def test_deleted_file_is_never_made_again_and_refuses_writes(opened: BindingService, file: Path) -> None:
    file.unlink()
    for _ in range(2):
        with pytest.raises(errors.Busy, match=r"deleted or moved away .* nothing was done"):
            bind(opened, C, D)
        check = database_check(opened)
        assert (check.level, "deleted or moved away" in check.seen) == (Level.RED, True)
        assert "put it back" in (check.todo or "")
    opened.runtime.database._close_idle()  # a pool that opens new connections finds no file
    with pytest.raises(errors.Busy, match="deleted or moved away"):
        opened.lookup(phone=A)
    assert not file.exists()


def test_file_that_is_put_back_goes_on_without_a_reconciliation(opened: BindingService, file: Path) -> None:
    aside = file.with_suffix(".aside")
    file.replace(aside)
    with pytest.raises(errors.Busy, match="moved away"):
        bind(opened, C, D)
    aside.replace(file)
    assert database_check(opened).level is Level.OK
    assert opened.get(bind(opened, C, D)).state is State.ACTIVE


def test_file_that_is_replaced_and_put_back_waits_for_a_reconciliation_again(
    opened: BindingService, file: Path
) -> None:
    copy, aside = copy_of(file), file.with_suffix(".aside")
    move(file, aside)
    copy.replace(file)
    with pytest.raises(errors.Busy, match="another SQLite file"):
        write_event(opened)
    opened.reconcile()
    bound = bind(opened, C, D)
    without_wal(file)
    move(aside, file)
    with pytest.raises(errors.Busy, match="another SQLite file"):
        write_event(opened)
    with pytest.raises(errors.Busy, match="restored"):
        bind(opened, C, D)
    opened.reconcile()
    with pytest.raises(errors.NotFound):
        opened.get(bound)
    with pytest.raises(errors.PhoneInUse):
        bind(opened, C, D)


def test_file_beside_the_wal_file_of_the_former_one_is_not_opened(
    opened: BindingService, file: Path, sqlite_url: str
) -> None:
    copy_of(file).replace(file)
    content = file.read_bytes()
    for _ in range(2):
        with pytest.raises(errors.Busy, match="beside the -wal file") as refused:
            bind(opened, C, D)
        assert "move the -wal and -shm files away" in (refused.value.todo or "")
        assert database_check(opened).level is Level.RED
    assert file.read_bytes() == content
    without_wal(file)
    with pytest.raises(errors.Busy, match="another SQLite file"):
        bind(opened, C, D)
    opened.reconcile()
    assert opened.get(bind(opened, C, D)).state is State.ACTIVE


def test_deleted_wal_file_refuses_writes_with_what_to_do(opened: BindingService, file: Path) -> None:
    Path(f"{file}-wal").unlink()
    wait_for(lambda: database_check(opened).level is Level.RED)
    with pytest.raises(errors.Busy, match="-wal file") as refused:
        opened.runtime.database.check_file()
    assert "stop every process" in (refused.value.todo or "")


def test_emptied_file_refuses_the_next_write_with_what_to_do(opened: BindingService, file: Path) -> None:
    os.truncate(file, 0)
    with pytest.raises(errors.Busy, match="was emptied") as refused:
        bind(opened, C, D)
    assert "restore a backup" in (refused.value.todo or "")
    assert database_check(opened).level is Level.RED


def test_path_stays_the_same_after_a_change_of_the_folder(
    file: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(file.parent)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with open_service(f"sqlite:///{file.name}", simulator) as service:
        bound = bind(service, A, B)
        os.chdir(elsewhere)
        service.runtime.database._close_idle()
        assert service.get(bound).state is State.ACTIVE
        assert service.get(bind(service, C, D)).state is State.ACTIVE
    assert not list(elsewhere.iterdir())


def test_relative_path_in_a_deleted_working_directory_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_DATABASE_URL is a relative path"):
        Database("sqlite:///bindings.db")
