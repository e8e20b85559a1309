"""The first API key from a file: recorded once, by any process, printed by none, refused if others may read it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from bindings.access import api_keys, first_key
from bindings.domain.binding import Caller
from bindings.service import BindingService
from bindings.store.database import Database

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

OPERATOR = Caller(actor="cli:operator")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return a file with a new key, which only its owner can read."""
    file = tmp_path / "admin.key"
    file.touch(mode=0o600)
    file.write_text(api_keys.generate() + "\n")
    return file


def test_generated_key_has_the_form_of_a_key_and_needs_no_database(shell: Shell) -> None:
    shell.set(database_url="mysql://nowhere")
    assert api_keys.well_formed(shell.run("keys", "generate").out.strip())
    assert api_keys.well_formed(shell.run("keys", "generate", "--json").json["key"])


def test_upgrade_records_the_key_once_as_admin_and_never_prints_it(shell: Shell, key_file: Path) -> None:
    key = key_file.read_text().strip()
    shell.set(bootstrap_key_file=str(key_file))
    first, again, as_json = (shell.run("db", "upgrade", *more) for more in ((), (), ("--json",)))
    [record] = shell.run("keys", "list", "--json").json["data"]
    assert (record["name"], record["role"], record["revoked_at"]) == ("bootstrap", "admin", None)
    assert record["created_by"].startswith("cli:")
    message = f"recorded the key in the file of BINDINGS_BOOTSTRAP_KEY_FILE as admin key {record['id']}\n"
    assert (first.code, first.err, again.code, again.err) == (0, message, 0, "")
    assert (as_json.code, as_json.err) == (0, "")
    assert not [result for result in shell.results if key in result.out + result.err]
    with BindingService.open(database_url=shell.environment["BINDINGS_DATABASE_URL"]) as service:
        valid = service.api_keys.authenticate(key)
        assert valid is not None
        assert valid.id == record["id"]


def test_revoked_key_in_the_file_stays_revoked(shell: Shell, key_file: Path) -> None:
    shell.set(bootstrap_key_file=str(key_file))
    shell.run("db", "upgrade")
    [record] = shell.run("keys", "list", "--json").json["data"]
    shell.run("keys", "revoke", record["id"])
    assert shell.run("db", "upgrade").err == ""
    [revoked] = shell.run("keys", "list", "--json").json["data"]
    assert revoked["id"] == record["id"]
    assert revoked["revoked_at"] is not None


@pytest.mark.parametrize(
    ("mode", "content", "message"),
    [
        (0o644, None, "other users may use (its mode is 0644): run `chmod 600 FILE`"),
        (0o602, None, "other users may use (its mode is 0602)"),
        (0o640, None, "other users may use (its mode is 0640)"),
        (0o600, "", "without an API key in it; `bindings keys generate` prints one"),
        (0o600, "bnd_" + "x" * 33, "without an API key in it"),
        (0o600, "\xff", "without an API key in it"),
        (None, None, "cannot be read"),
    ],
)
def test_wrong_file_is_refused_before_the_schema_changes(
    shell: Shell, key_file: Path, mode: int | None, content: str | None, message: str
) -> None:
    if content is not None:
        key_file.write_text(content)
    if mode is None:
        key_file.unlink()
    else:
        key_file.chmod(mode)
    shell.set(database_url=f"sqlite:///{key_file.parent / 'new.db'}", bootstrap_key_file=str(key_file))
    refused = shell.run("db", "upgrade", "--json")
    assert (refused.code, refused.fields) == (2, ["BINDINGS_BOOTSTRAP_KEY_FILE"])
    assert message in refused.problem["errors"][0]["message"]
    assert shell.run("db", "current", "--json").json["revision"] is None


def test_group_may_read_the_file_of_another_user(
    shell: Shell, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Kubernetes the group of the pod reads a secret, which belongs to root."""
    key_file.chmod(0o440)
    owner = key_file.stat().st_uid
    monkeypatch.setattr("bindings.secret_files.os.getuid", lambda: owner + 1)
    shell.set(bootstrap_key_file=str(key_file))
    assert shell.run("db", "upgrade").code == 0
    assert len(shell.run("keys", "list", "--json").json["data"]) == 1


def test_processes_that_record_the_key_at_the_same_time_record_it_once(database_url: str) -> None:
    key, database = api_keys.generate(), Database(database_url)
    start = threading.Barrier(8)
    records = []

    def record() -> None:
        start.wait(60)
        records.append(first_key.record(database, key, OPERATOR))

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    database.close()
    assert len(records) == 8
    assert len([record for record in records if record is not None]) == 1
