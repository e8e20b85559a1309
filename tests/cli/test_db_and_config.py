"""db, config, and the handling of unexpected errors."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, update

from bindings.service import BindingService
from bindings.store.database import Database
from bindings.store.replicas import seen_since
from bindings.store.schema import HEAD, account

if TYPE_CHECKING:
    from pathlib import Path

    from bindings.store.replicas import Replica
    from tests.cli.conftest import Shell


def test_db_upgrade_needs_no_provider_and_is_safe_to_repeat(shell: Shell, tmp_path: Path) -> None:
    shell.environment.clear()
    shell.set(database_url=f"sqlite:///{tmp_path / 'new.db'}")
    assert (shell.run("db", "check", "--json").code, shell.results[-1].problem["code"]) == (
        1,
        "schema-out-of-date",
    )
    checked = shell.results[-1].json
    assert [checked[name] for name in ("revision", "head", "at_head", "accepted")] == [None, HEAD, False, False]
    assert "bindings db upgrade" in shell.run("list").err
    first = shell.program("db", "upgrade", "--json")
    assert (first.code, first.err, first.json["revision"], first.json["before"]) == (0, "", HEAD, None)
    assert shell.run("db", "upgrade", "--json").json["before"] == HEAD
    assert shell.run("db", "current", "--json").json == {
        "revision": HEAD,
        "head": HEAD,
        "at_head": True,
        "accepted": True,
    }
    assert shell.run("db", "check").code == 0
    assert shell.run("list", "--json").code == 0


@pytest.mark.parametrize(
    "command", ["reports", "doctor", "db check", "db current", "export events", "expire", "serve"]
)
def test_commands_create_no_database(shell: Shell, tmp_path: Path, command: str) -> None:
    file = tmp_path / "new.db"
    shell.set(database_url=f"sqlite:///{file}")
    result = shell.run(*command.split(), "--json")
    assert f"there is no SQLite file at {file}" in result.out + result.err or command == "db current"
    assert not file.exists()


def test_db_downgrade_names_what_it_needs_and_undoes_migrations(shell: Shell) -> None:
    shell.run("list")  # a command counts as a process
    name = _replicas(shell)[0].name
    planned = shell.run("db", "downgrade", "0019", "--dry-run")
    assert (planned.code, planned.out) == (0, f"schema at {HEAD}; nothing was changed\n")
    assert "undo 0020: nothing is lost\n" in planned.err
    assert f"at work in the last three minutes: {name} (for {HEAD})\n" in planned.err
    refused = shell.run("db", "downgrade", "0019", "--json")
    assert (refused.code, refused.fields) == (2, ["--processes-ended"])
    undone = shell.run("db", "downgrade", "0019", "--processes-ended", "--json").json
    assert (undone["before"], undone["revision"], undone["migrations"][-1]["losses"]) == (HEAD, "0019", [])
    assert shell.run("db", "downgrade", "0019").out == "schema at 0019 already\n"
    assert shell.run("db", "check").code == 1
    assert shell.run("db", "upgrade").code == 0


def test_commands_count_as_processes_except_doctor_and_those_of_the_schema(shell: Shell) -> None:
    for words in (("doctor",), ("db", "upgrade"), ("db", "check"), ("db", "current"), ("list",)):
        assert [replica.version for replica in _replicas(shell)] == [], words
        shell.run(*words)
    assert len(_replicas(shell)) == 1


def _replicas(shell: Shell) -> list[Replica]:
    database = Database(shell.environment["BINDINGS_DATABASE_URL"])
    recent = database.read(seen_since, database.clock() - timedelta(minutes=3))
    database.close()
    return recent


@pytest.mark.postgres
def test_commands_work_on_postgresql(shell: Shell, postgres_url: str) -> None:
    shell.set(database_url=postgres_url)
    assert shell.run("db", "check").code == 0
    bound = shell.bind()
    assert bound.code == 0
    assert shell.run("lookup", "--phone", "9188067701", "--json").json["data"] == [bound.json]
    assert len(shell.run("export", "bindings", "--json").out.splitlines()) == 1
    assert shell.run("doctor", "--json").code == 0


@pytest.mark.postgres
def test_db_moved_continues_the_feed_after_a_move_to_another_cluster(shell: Shell, postgres_url: str) -> None:
    """The cluster before is simulated by an offset, so that its numbers are far above those of this one."""
    shell.set(database_url=postgres_url)
    assert shell.run("db", "moved", "--json").json == {"continued": False}
    database = Database(postgres_url)
    with_offset = insert(account).values(id=1, scope="default", tx_offset=10**9)
    database.write(lambda tx: tx.connection.execute(with_offset))
    assert shell.bind().code == 0
    database.write(lambda tx: tx.connection.execute(update(account).values(tx_offset=0)))
    database.close()
    doctor = shell.run("doctor", "--json")
    assert doctor.code == 1
    (feed,) = (check for check in doctor.json["data"] if check["name"] == "feed")
    assert (feed["level"], feed["todo"]) == ("red", "run `bindings db moved`")
    moved = shell.run("db", "moved")
    assert moved.code == 0
    assert "the feed and webhooks continue" in moved.out
    assert "nothing to do" in shell.run("db", "moved").out
    assert shell.run("doctor", "--json").code == 0


def test_db_commands_with_unreachable_database_report_it_without_the_password(shell: Shell) -> None:
    shell.set(database_url="postgresql://u:hunter2@127.0.0.1:9/none")
    for command in ("upgrade", "current", "check"):
        result = shell.run("db", command)
        assert result.code == 1
        assert "the server in BINDINGS_DATABASE_URL does not accept connections: Connection refused" in result.err
        assert "hunter2" not in result.err


def test_config_shows_effective_settings_and_no_secret(shell: Shell) -> None:
    shell.set(database_url="postgresql://u:hunter2@h/db", scope="mine")
    config = shell.run("config", "--json")
    assert config.json["BINDINGS_SCOPE"] == "mine"
    assert config.json["BINDINGS_PROVIDER_API_SECRET"] == "***"
    assert config.json["BINDINGS_BIND_LIMIT"] == "32"
    plain = shell.program("config")
    assert plain.code == 0
    for secret in ("hunter2", "7bz1lzh9", "bDqJFiq9"):
        assert secret not in config.out + plain.out


def test_wrong_settings_stop_every_command_and_are_named(shell: Shell) -> None:
    shell.set(scope="a b", bind_limit="0")
    for command in (["config"], ["list"], ["db", "current"], ["simulator"], ["scheduler"]):
        result = shell.run(*command, "--json")
        assert (result.code, sorted(result.fields)) == (2, ["BINDINGS_BIND_LIMIT", "BINDINGS_SCOPE"])


def test_unexpected_error_prints_one_line_without_its_text(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password hunter2 of 9188067701")

    monkeypatch.setattr(BindingService, "get", broken)
    result = shell.run("get", str(uuid.uuid4()))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: unexpected RuntimeError at ")
    assert "hunter2" not in result.err
    assert shell.run("get", str(uuid.uuid4()), "--json").problem["code"] == "unexpected"


def test_interrupt_exits_with_130(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BindingService, "get", interrupted)
    result = shell.run("get", str(uuid.uuid4()))
    assert result.code == 130
    assert "bindings doubts" in result.err


def test_db_restored_turns_doctor_red_until_it_is_waived(shell: Shell) -> None:
    assert shell.run("db", "restored", "--json").json == {"scan_owed": True}
    checks = {check["name"]: check["level"] for check in shell.run("doctor", "--json").json["data"]}
    assert checks["restore"] == "red"
    assert "-35" in shell.run("db", "restored", "--waive").out
    checks = {check["name"]: check["level"] for check in shell.run("doctor", "--json").json["data"]}
    assert checks["restore"] == "ok"
