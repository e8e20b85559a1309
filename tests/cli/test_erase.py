"""erase: a phone from standard input, its counts, what it refuses, and the replay after a restore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cli.conftest import A, B, C

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

ERASE = ("erase", "--phone", "-", "--reason", "request 17")


def failed_bind(shell: Shell) -> None:
    """Make a binding that holds nothing any more: the provider has no such pool."""
    shell.set(provider_url="http://127.0.0.1:1")
    assert shell.bind(A, B, "--reference", "order-1").code == 5


def test_erase_counts_what_it_erases_and_replay_finds_nothing_to_do(shell: Shell, tmp_path: Path) -> None:
    shell.set(erasure_journal=str(tmp_path / "erasures"))
    failed_bind(shell)
    preview = shell.run(*ERASE, "--dry-run", stdin=A)
    assert preview.out.startswith("Would be erased: the phone in 1 binding(s), 0 text(s)")
    erased = shell.run(*ERASE, "--ticket", "T-17", stdin=A)
    assert (erased.code, erased.out[:39]) == (0, "Erased: the phone in 1 binding(s), 0 te")
    assert "VACUUM" in erased.err
    (row,) = shell.run("list", "--json").json["data"]
    assert (row["phone_a"], row["reference"]) == ("erased", None)
    assert shell.run("list", "--phone", "-", "--json", stdin=A).json["data"] == []
    assert shell.run(*ERASE, "--json", stdin=A).json["bindings"] == 0
    replayed = shell.run("erase", "--replay", "--json")
    assert (replayed.code, replayed.json["entries"], replayed.json["complete"]) == (0, 2, 2)
    assert "0 waiting" in shell.run("erase", "--replay").out


def test_erase_takes_a_phone_from_standard_input_only(shell: Shell, tmp_path: Path) -> None:
    shell.set(erasure_journal=str(tmp_path / "erasures"))
    refused = shell.run("erase", "--phone", A, "--reason", "r", "--json")
    assert (refused.code, refused.fields) == (2, ["phone"])
    assert shell.run("erase", "--json").fields == ["phone", "reason"]
    assert shell.run("erase", "--replay", "--reason", "r", "--json").fields == ["reason"]


def test_erase_names_the_setting_that_it_needs(shell: Shell) -> None:
    refused = shell.run(*ERASE, "--json", stdin=A)
    assert (refused.code, refused.fields) == (2, ["BINDINGS_ERASURE_JOURNAL"])


def test_erase_is_refused_while_a_binding_is_open_and_names_it(shell: Shell, tmp_path: Path) -> None:
    shell.set(erasure_journal=str(tmp_path / "erasures"))
    binding = shell.bind(A, C).json
    refused = shell.run(*ERASE, stdin=A)
    assert refused.code == 3
    assert f"bindings unbind {binding['id']}" in refused.err


def test_restore_says_that_erasures_must_be_replayed(shell: Shell, tmp_path: Path) -> None:
    assert "erase --replay" not in shell.run("db", "restored").err
    shell.set(erasure_journal=str(tmp_path / "erasures"))
    assert "bindings erase --replay" in shell.run("db", "restored").err
