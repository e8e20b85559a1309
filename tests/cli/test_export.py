"""export: two formats, complete files, safe cells, constant memory, and a reader that closes the pipe."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import os
import pty
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING
from weakref import WeakSet

import pytest

from bindings.access.binding_list import BindingList
from bindings.cli.export import _progress
from bindings.domain.binding import Binding, Event
from bindings.domain.record_lines import RecordColumns
from bindings.service import BindingService
from tests.cli.conftest import A, B, C, D

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bindings.domain.search_filters import Order, SearchFilters
    from tests.cli.conftest import Shell


def rows_of_csv(text: str) -> list[dict[str, str]]:
    assert text.startswith("\ufeff"), "Excel needs the mark of UTF-8"
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


@pytest.mark.parametrize(("command", "kind"), [("bindings", Binding), ("events", Event)])
def test_csv_and_ndjson_have_the_same_rows(shell: Shell, command: str, kind: type) -> None:
    shell.bind(A, B)
    shell.bind(C, D)
    in_csv, in_ndjson = (shell.run("export", command, "--format", form) for form in ("csv", "ndjson"))
    rows, objects = rows_of_csv(in_csv.out), [json.loads(line) for line in in_ndjson.out.splitlines()]
    names = [field.name for field in dataclasses.fields(kind)]
    begun = 0 if command == "bindings" else 1  # the start of an export is an event that it contains
    assert len(rows) == (2 if command == "bindings" else 4) + begun
    assert len(objects) == len(rows) + 2 * begun
    assert list(rows[0]) == list(objects[0]) == names
    assert f"{len(rows)} {command} exported" in in_csv.err


def test_json_option_implies_ndjson_and_refuses_other_formats(shell: Shell) -> None:
    shell.bind()
    assert json.loads(shell.run("export", "bindings", "--json").out)["state"] == "active"
    for wrong in (["--json", "--format", "csv"], ["--json", "--format", "xml"]):
        result = shell.run("export", "bindings", *wrong)
        assert (result.code, result.fields) == (2, ["format"])


def test_exported_file_is_complete_and_readable_by_its_owner_only(shell: Shell, tmp_path: Path) -> None:
    shell.bind()
    target = tmp_path / "out.csv"
    target.write_text("the old one")
    target.chmod(0o644)
    result = shell.program("export", "bindings", "-o", str(target))
    assert (result.code, result.out) == (0, "")
    assert f"1 bindings exported to {target}" in result.err
    assert len(rows_of_csv(target.read_text())) == 1
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert A not in target.read_text()


def test_failed_export_keeps_the_old_file_and_leaves_no_other(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.bind()
    folder = tmp_path / "exports"
    folder.mkdir()
    target = folder / "out.csv"
    target.write_text("the old one")

    whole = BindingList.export

    def broken(
        bindings: BindingList, filters: SearchFilters, *, order: Order, file_format: str
    ) -> Iterator[RecordColumns]:
        yield from whole(bindings, filters, order=order, file_format=file_format)
        raise RuntimeError("9188067701")

    monkeypatch.setattr(BindingList, "export", broken)
    result = shell.run("export", "bindings", "-o", str(target))
    assert result.code == 1
    assert "RuntimeError" in result.err
    assert [path.name for path in folder.iterdir()] == ["out.csv"]
    assert target.read_text() == "the old one"


# An export that prints "writing" after its first batch, then waits for a signal, or has a full disk.
HALF_WRITTEN = """
import resource, signal, sys
from bindings.access.binding_list import BindingList
from bindings.cli import main
whole, end = BindingList.export, sys.argv.pop(1)

def half(*arguments, **options):
    yield from whole(*arguments, **options)
    if end == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        return
    print("writing", flush=True)
    signal.pause()

BindingList.export = half
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background ignores it
main()
"""


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "SIGHUP", "full disk"])
def test_export_that_is_ended_keeps_the_old_file_and_leaves_no_other(
    shell: Shell, tmp_path: Path, end: str, name: str
) -> None:
    shell.bind()
    folder = tmp_path / "exports"
    folder.mkdir()
    target = folder / name
    target.write_text("the old one")
    program = subprocess.Popen(
        [sys.executable, "-c", HALF_WRITTEN, end, "export", "bindings", "-o", str(target)],
        env=dict(shell.whole_environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if end != "full disk":
        assert program.stdout is not None
        assert program.stdout.readline() == "writing\n"
        assert len(list(folder.iterdir())) == 2
        program.send_signal(signal.Signals[end])
    _, stderr = program.communicate(timeout=300)
    code, text = (1, "could not be written") if end == "full disk" else (130, "interrupted")
    assert program.returncode == code
    assert text in stderr
    assert [path.name for path in folder.iterdir()] == [name]
    assert target.read_text() == "the old one"


@pytest.mark.parametrize("command", ["bindings", "events"])
def test_export_prints_nothing_if_the_database_does_not_fit(shell: Shell, tmp_path: Path, command: str) -> None:
    shell.set(database_url=f"sqlite:///{tmp_path / 'empty.db'}")
    result = shell.run("export", command)
    assert (result.code, result.out) == (1, "")


def test_output_that_cannot_be_written_is_refused(shell: Shell, tmp_path: Path) -> None:
    for wrong in (str(tmp_path), str(tmp_path / "missing" / "out.csv"), "/dev/null"):
        result = shell.run("export", "bindings", "--format", "ndjson", "-o", wrong, "--json")
        assert (result.code, result.fields) == (2, ["output"])


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stream_that_is_a_file_is_not_replaced(shell: Shell, tmp_path: Path, name: str) -> None:
    """As with `bindings export bindings -o /dev/stdout > out.csv`."""
    with (tmp_path / "out.csv").open("wb") as out:
        program = subprocess.run(
            [sys.executable, "-m", "bindings", "export", "bindings", "-o", name],
            env=shell.whole_environment(),
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (program.returncode, b"- is standard output" in program.stderr) == (2, True)


def test_symbolic_link_stays_and_its_file_is_replaced(shell: Shell, tmp_path: Path) -> None:
    shell.bind()
    target, link = tmp_path / "monday.csv", tmp_path / "latest.csv"
    target.write_text("the old one")
    link.symlink_to(target.name)
    assert shell.run("export", "bindings", "-o", str(link)).code == 0
    assert link.is_symlink()
    assert len(rows_of_csv(target.read_text())) == 1
    target.unlink()
    assert shell.run("export", "bindings", "-o", str(link)).code == 0
    assert len(rows_of_csv(target.read_text())) == 1
    target.unlink()
    target.symlink_to(link.name)  # a loop: there is no file to replace
    assert shell.run("export", "bindings", "-o", str(link)).code == 0
    assert len(rows_of_csv(link.read_text())) == 1


def test_wrong_period_is_refused_before_the_reveal_is_recorded(shell: Shell, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    arguments = ["--from", "2026-01-01", "--to", "x", "--reveal", "--reason", "x", "-o", str(target), "--json"]
    result = shell.run("export", "bindings", *arguments)
    assert (result.code, result.fields) == (2, ["from", "to"])
    assert not target.exists()
    assert shell.run("stats", "--json").json["by_event"] == {}


@pytest.mark.parametrize("command", ["bindings", "events"])
def test_period_that_ends_before_it_starts_is_refused(shell: Shell, tmp_path: Path, command: str) -> None:
    target = tmp_path / "out.csv"
    for end in ("2026-11-02T00:00:00Z", "2026-11-01T00:00:00Z"):
        period = ["--from", "2026-11-02T00:00:00Z", "--to", end]
        result = shell.run("export", command, *period, "-o", str(target), "--json")
        assert (result.code, result.fields) == (2, ["from", "to"])
    assert not target.exists()


@pytest.mark.parametrize("command", ["bindings", "events"])
def test_period_may_say_how_long_ago_it_began_and_ended(shell: Shell, command: str) -> None:
    shell.bind()
    whole = shell.run("export", command, "--from", "1h", "--json")
    assert (whole.code, len(whole.out.splitlines()) > 0) == (0, True)
    assert shell.run("export", command, "--since", "2h", "--until", "1h", "--json").out == ""


@pytest.mark.parametrize("command", ["bindings", "events"])
def test_export_is_recorded_with_its_rows_and_hash(shell: Shell, tmp_path: Path, command: str) -> None:
    shell.bind()
    at, target = shell.bind(C, D).json["requested_at"], tmp_path / "out.csv"
    shell.run("export", command, "--from", at, "-o", str(target))
    with BindingService.open(database_url=shell.environment["BINDINGS_DATABASE_URL"]) as service:
        (entry,) = service.access_log.entries().data
        export = service.access_log.get_export(str(entry.export_id))
    assert (export.view, export.filter["from"], export.filter["to"]) == (command, at, None)
    assert export.row_count == len(rows_of_csv(target.read_text(encoding="utf-8")))
    assert export.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert (entry.actor.startswith("cli:"), entry.complete, entry.reason) == (True, True, None)


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
def test_file_that_ends_with_gz_is_the_same_file_compressed(
    shell: Shell, tmp_path: Path, file_format: str
) -> None:
    shell.bind()
    plain, compressed = tmp_path / "rows", tmp_path / "rows.gz"
    for target in (plain, compressed):
        shell.run("export", "bindings", "--format", file_format, "-o", str(target))
    assert gzip.decompress(compressed.read_bytes()) == plain.read_bytes()
    with BindingService.open(database_url=shell.environment["BINDINGS_DATABASE_URL"]) as service:
        entry = service.access_log.entries().data[0]
        export = service.access_log.get_export(str(entry.export_id))
    assert export.sha256 == hashlib.sha256(compressed.read_bytes()).hexdigest()
    assert compressed.stat().st_mode & 0o777 == 0o600


def test_period_of_an_export_is_half_open(shell: Shell) -> None:
    at = shell.bind().json["requested_at"]
    assert len(shell.run("export", "bindings", "--from", at, "--json").out.splitlines()) == 1
    assert shell.run("export", "bindings", "--to", at, "--json").out == ""


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@SUM(A1)", " =1+1", "\uff1d1+1", "\u3000\uff0b1"])
def test_csv_cell_is_never_a_formula(shell: Shell, evil: str) -> None:
    shell.bind(A, B, "--reference", evil)
    (row,) = rows_of_csv(shell.run("export", "bindings").out)
    assert row["reference"] == f"'{evil}"
    assert json.loads(shell.run("export", "bindings", "--json").out)["reference"] == evil


def test_digits_in_csv_stay_text_and_numbers_stay_numbers(shell: Shell) -> None:
    bound = shell.bind(A, B, "--reference", "2026-11").json
    (row,) = rows_of_csv(shell.run("export", "bindings", "--reveal", "--reason", "audit").out)
    for name in ("phone_a", "phone_b", "middle_number_a", "bind_id", "pool_number", "reference"):
        value = {"phone_a": A, "phone_b": B}.get(name, bound[name])
        assert row[name] == f"'{value}", name
    assert (row["expire_s"], row["id"], row["requested_at"]) == ("3600", bound["id"], bound["requested_at"])


@pytest.mark.parametrize("destination", ["file", "pipe"])
def test_csv_is_utf_8_with_its_mark_in_any_locale(shell: Shell, tmp_path: Path, destination: str) -> None:
    shell.bind(A, B, "--reference", "\u8ba2\u5355-42")
    path = tmp_path / "out.csv"
    with (tmp_path / "pipe.csv").open("wb") as pipe:
        command = [sys.executable, "-m", "bindings", "export", "bindings"]
        subprocess.run(
            command + (["-o", str(path)] if destination == "file" else []),
            env={**shell.whole_environment(), "PYTHONIOENCODING": "latin-1"},
            stdout=pipe,
            timeout=60,
            check=True,
        )
    content = (path if destination == "file" else tmp_path / "pipe.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    assert "\u8ba2\u5355-42" in content.decode("utf-8-sig")


class Batch(RecordColumns):
    """A batch that a weak set can hold: the class itself has slots."""


def test_export_holds_two_batches_at_a_time(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.bind()
    whole, alive, most = BindingList.export, WeakSet[Batch](), 0

    def many(
        bindings: BindingList, filters: SearchFilters, *, order: Order, file_format: str
    ) -> Iterator[RecordColumns]:
        nonlocal most
        [batch] = whole(bindings, filters, order=order, file_format=file_format)
        for _ in range(50):
            alive.add(copy := Batch(batch.by_name, len(batch)))
            most = max(most, len(alive))
            yield copy
            del copy

    monkeypatch.setattr(BindingList, "export", many)
    result = shell.run("export", "bindings", "--json")
    assert len(result.out.splitlines()) == 50
    assert most <= 3  # one is encoded, one waits for that, and the next is read


def test_export_to_closed_pipe_exits_with_141_without_an_error(shell: Shell) -> None:
    for number in range(3):
        shell.bind(f"91880{number}0001", f"91880{number}0002")
    program = subprocess.Popen(
        [sys.executable, "-m", "bindings", "export", "bindings", "--json"],
        env=dict(shell.whole_environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    stderr = program.stderr.read().decode()
    program.stderr.close()
    assert program.wait(300) == 141
    assert "Traceback" not in stderr
    assert "error" not in stderr


@pytest.mark.parametrize(("total", "text"), [(4_000, "1,000 of 4,000 (25%)"), (None, "1,000"), (999, "1,000")])
def test_progress_names_the_total_while_it_can_be_true(total: int | None, text: str) -> None:
    assert _progress(1_000, total) == text


def test_export_of_bindings_in_a_terminal_counts_them_first(shell: Shell, tmp_path: Path) -> None:
    shell.bind(A, B)
    shell.bind(C, D)
    file = str(tmp_path / "out.csv")
    terminal, end = pty.openpty()
    script = "from bindings.cli import root; from bindings.store import sql; sql.EXPORT_BATCH = 1"
    program = [sys.executable, "-c", f"{script}; root.main()", "export", "bindings", "-o", file]
    subprocess.run(program, env=shell.whole_environment(), stderr=end, check=True)
    os.close(end)
    with open(terminal, "rb", buffering=0) as reader:  # noqa: PTH123 -- it is a descriptor
        shown = reader.read(10_000).decode()
    assert "1 of 2 (50%) bindings" in shown
    assert "2 of 2 (100%) bindings" in shown
