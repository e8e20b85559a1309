"""subject: one file of all rows about a person."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from tests.cli.conftest import A, B

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

SUBJECT = ("subject", "--phone", "-", "--reason", "request 18")


def test_subject_writes_one_file_for_its_owner_and_records_it(shell: Shell, tmp_path: Path) -> None:
    binding = shell.bind(A, B).json
    path = tmp_path / "person.ndjson"
    result = shell.run(*SUBJECT, "-o", str(path), "--json", stdin=A)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert result.json == {"rows": len(rows), "file": str(path)}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [row["table"] for row in rows] == ["bindings", "events", "events", "events"]
    assert (rows[0]["id"], rows[0]["phone_a"], rows[0]["phone_b"]) == (binding["id"], A, binding["phone_b"])
    last = shell.run("history", binding["id"], "--json").json["data"][-1]
    assert (last["kind"], last["detail"]["reason"]) == ("revealed", "request 18")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in shell.run("export", "events", "--json").out


def test_subject_needs_a_file_and_writes_none_if_it_fails(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("subject", "--json").fields == ["phone", "reason", "output"]
    assert shell.run(*SUBJECT, "-o", "-", "--json", stdin=A).fields == ["output"]
    refused = shell.run(*SUBJECT, "-o", str(tmp_path / "none" / "person"), "--json", stdin=A)
    assert (refused.code, refused.fields) == (2, ["output"])
    assert list(tmp_path.glob("*.ndjson")) == []
