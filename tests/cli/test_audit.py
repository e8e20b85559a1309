"""`bindings audit` and `bindings seal`: keys, heads, findings, exit codes."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import A, B, C, D

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell


@pytest.fixture
def sealed(shell: Shell, tmp_path: Path) -> Shell:
    """A shell with a key and a sealed binding."""
    created = shell.run("audit", "new-key", str(tmp_path / "seal.pem"), "--json").json
    (tmp_path / "public.pem").write_text(created["public_key"])
    shell.set(seal_key_file=created["file"])
    shell.bind(A, B)
    assert shell.run("seal").out.startswith("sealed: 2  seals: 1  head: 1:")
    return shell


def test_sealed_history_is_sound_and_has_a_head(sealed: Shell, tmp_path: Path) -> None:
    head = sealed.run("audit", "head").out.strip()
    assert sealed.run("audit", "head", "--json").json["head"] == head
    sealed.bind(C, D)
    assert sealed.run("audit", "verify").out == f"head: {head}  events: 5  unsealed: 3  findings: 0\n"
    public = str(tmp_path / "public.pem")
    sealed.set(seal_key_file=None)
    result = sealed.run("audit", "verify", "--public-key", public, "--head", head, "--json")
    assert (result.code, result.json["sound"], result.json["head"]) == (0, True, head)
    assert sealed.run("audit", "verify").code == 2
    assert sealed.run("audit", "verify", "--json").fields == ["public-key"]


def test_changed_event_is_named_with_its_stretch(sealed: Shell) -> None:
    file = sealed.environment["BINDINGS_DATABASE_URL"].removeprefix("sqlite:///")
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TRIGGER events_refuse_update")
        connection.execute("UPDATE events SET actor = 'key:other' WHERE position = 2")
    result = sealed.run("audit", "verify")
    assert result.code == 1
    assert "seal 1 has an event that was changed since (events 0-1 to 0-2)\n" in result.out
    findings = sealed.run("audit", "verify", "--json").json["findings"]
    assert [(finding["subject"], finding["first_seal"]) for finding in findings] == [
        ("trigger", None),
        ("seal", 1),
    ]


def test_another_head_and_a_chain_that_was_cut_off_are_named(sealed: Shell) -> None:
    other = f"1:{64 * 'a'}"
    result = sealed.run("audit", "verify", "--head", other, "--head", f"7:{64 * 'b'}")
    assert result.code == 1
    assert "seal 1 has another hash than the head that was kept" in result.out
    assert "chain has no seal 7: it was cut off" in result.out
    assert sealed.run("audit", "verify", "--head", "1", "--json").fields == ["head"]


def test_history_without_a_seal_is_not_sound(shell: Shell, tmp_path: Path) -> None:
    public = shell.run("audit", "new-key", str(tmp_path / "seal.pem"), "--json").json["public_key"]
    (tmp_path / "public.pem").write_text(public)
    result = shell.run("audit", "verify", "--public-key", str(tmp_path / "public.pem"))
    assert (result.code, result.out.splitlines()[0]) == (1, "chain has no seal")
    head = shell.run("audit", "head")
    assert (head.code, head.err) == (1, "The history is not sealed: no seal is recorded.\n")
    assert shell.run("seal", "--json").fields == ["BINDINGS_SEAL_KEY_FILE"]


def test_new_key_overwrites_nothing_and_prints_no_secret(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "seal.pem"
    created = shell.run("audit", "new-key", str(path))
    assert created.out.startswith("-----BEGIN PUBLIC KEY-----\n")
    private = path.read_text()
    assert private.splitlines()[1] not in created.out + created.err
    assert shell.run("audit", "new-key", str(path), "--json").fields == ["FILE"]
    assert path.read_text() == private


def test_exported_files_verify_without_a_database(sealed: Shell, tmp_path: Path) -> None:
    events, seals = tmp_path / "events.ndjson", tmp_path / "seals.ndjson"
    assert sealed.run("export", "sealed-events", "-o", str(events)).code == 0
    assert sealed.run("export", "seals", "-o", str(seals)).code == 0
    head = sealed.run("audit", "head").out.strip()
    sealed.environment.clear()
    files = ("--events", str(events), "--seals", str(seals), "--public-key", str(tmp_path / "public.pem"))
    assert sealed.run("audit", "verify", *files).out == f"head: {head}  events: 4  unsealed: 2  findings: 0\n"
    lines = events.read_text().splitlines()
    for changed, message in (
        (lines[1:], "seal 1 has 1 event(s) fewer than were sealed"),
        ([lines[1], lines[0], *lines[2:]], "event is not in the order of the feed"),
        ([lines[0], lines[1].replace("cli:", "cli:x"), *lines[2:]], "seal 1 has an event that was changed since"),
    ):
        events.write_text("".join(f"{line}\n" for line in changed))
        result = sealed.run("audit", "verify", *files)
        assert result.code == 1
        assert message in result.out
    twice = [lines[0].replace(name, f"{name} 9, {name}", 1) for name in ('"tx":', '"mode":')]
    assert lines[0] not in twice
    for wrong in ("[]", "{}", "x", *twice):
        events.write_text(wrong)
        assert sealed.run("audit", "verify", *files, "--json").fields == ["events"]
    assert sealed.run("audit", "verify", "--events", str(events), "--json").fields == ["seals"]
