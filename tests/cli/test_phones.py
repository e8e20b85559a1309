"""`bindings phones`: keys, the four steps, a rotation, and the blind index; no output has a key or a phone."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import A, B, C, D
from tests.service.phone_keys import key

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


@pytest.fixture
def shell_with_keys(shell: Shell, tmp_path: Path) -> Shell:
    """A shell with keys, over a database that has a binding in digits."""
    shell.bind(A, B)
    file = str(tmp_path / "phone keys.json")
    created = shell.run("phones", "new-keys", file)
    assert (created.code, created.out) == (0, f"{file}\n")
    assert "Keep a copy apart" in created.err
    assert shell.run("phones", "new-keys", file, "--json").fields == ["FILE"]
    shell.set(phone_keys_file=file)
    return shell


def _forms(shell: Shell) -> set[str]:
    file = shell.environment["BINDINGS_DATABASE_URL"].removeprefix("sqlite:///")
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT phone_a FROM bindings UNION SELECT phone_b FROM bindings").fetchall()
    return {row[0] for row in rows}


def test_database_is_encrypted_and_found_by_its_blind_index(shell_with_keys: Shell) -> None:
    shell = shell_with_keys
    assert "phones are written in digits" in shell.run("phones", "status").out
    dry_run = shell.run("phones", "seal", "--dry-run")
    assert dry_run.out.splitlines() == [
        "bindings: 1 to convert",
        *(f"{table}: 0 to convert" for table in ("refusals", "holds", "searches")),
    ]
    assert _forms(shell) == {A, B}
    sealed = shell.run("phones", "seal")
    assert sealed.code == 0
    assert "bindings: 1 converted\n" in sealed.out
    assert sealed.out.endswith("every phone is encrypted with index key 1 and data key 1\n")
    assert "backups" in sealed.err
    shell.bind(C, D)
    assert {form[:3] for form in _forms(shell)} == {"~1."}
    index = shell.run("phones", "index", "-", "--reason", "ticket 7", stdin=f"{C}\n")
    assert index.out.strip() in _forms(shell)
    assert shell.run("phones", "index", "-", "--json", stdin=f"{C}\n").fields == ["reason"]
    [row] = shell.run("lookup", "--phone", A, "--json").json["data"]
    assert row["phone_a"] == f"91{'*' * 6}01"
    status = shell.run("phones", "status", "--json").json
    assert (status["index_key"], status["data_key"], status["next_step"]) == (1, 1, None)
    assert status["rows"]["bindings"] == {"digits": 0, "data:1": 2, "index:1": 2}
    shell.set(phone_keys_file=None)
    doctor = shell.run("doctor", "--json")
    [check] = [check for check in doctor.json["data"] if check["name"] == "phones"]
    assert (doctor.code, check["level"]) == (1, "red")
    assert check["seen"].endswith(
        "must have the keys data:1, index:1: phones in this database are encrypted with them; take them from the"
        " backup of the keys"
    )
    assert shell.run("db", "check").code == 1
    for command in ("serve", "scheduler", "seal", "lookup --phone 9188067701"):
        assert "take them from the backup of the keys" in shell.run(*command.split()).err
    assert shell.run("lookup", "--phone", A, "--json").fields == [
        "BINDINGS_PHONE_KEYS_FILE or BINDINGS_PHONE_KEYS_COMMAND"
    ]


def test_newer_key_is_taken_by_a_rotation(shell_with_keys: Shell) -> None:
    shell = shell_with_keys
    assert shell.run("phones", "rotate", "--json").fields == ["phones"]
    shell.run("phones", "seal")
    file = Path(shell.environment["BINDINGS_PHONE_KEYS_FILE"])
    ring = json.loads(file.read_text(encoding="ascii"))
    ring["index"]["2"] = b64encode(key("index", 2)).decode()
    file.write_text(json.dumps(ring), encoding="ascii")
    assert "run `bindings phones rotate`" in shell.run("phones", "status").err
    rotated = shell.run("phones", "rotate", "--json").json
    assert (rotated["complete"], rotated["removable"], rotated["converted"]["bindings"]) == (True, ["index:1"], 1)
    assert {form[:3] for form in _forms(shell)} == {"~2."}
    assert "remove from the keys what no row needs: index:1" in shell.run("doctor").err
