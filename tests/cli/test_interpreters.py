"""Commands under a Python without docstrings (-OO), and in a locale whose encoding is ASCII."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import A, B

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

ORDER = "订单-7"
NOT_TEXT = "is not text in ascii: set PYTHONUTF8=1 for values in UTF-8"


@pytest.fixture
def ascii_shell(shell: Shell) -> Shell:
    shell.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return shell


@pytest.mark.parametrize("command", ["", "bind", "keys", "keys create", "expire"])
def test_help_is_the_same_without_docstrings(shell: Shell, command: str) -> None:
    help_text = shell.program(*command.split(), "--help").out
    shell.environment["PYTHONOPTIMIZE"] = "2"
    assert shell.program(*command.split(), "--help").out == help_text


def test_error_has_its_own_title_without_docstrings(shell: Shell) -> None:
    arguments = ("get", "01900000-0000-7000-8000-000000000000", "--json")
    title = shell.program(*arguments).problem["title"]
    shell.environment["PYTHONOPTIMIZE"] = "2"
    assert shell.program(*arguments).problem["title"] == title


def test_text_in_utf_8_is_read_where_the_locale_is_ascii(ascii_shell: Shell, tmp_path: Path) -> None:
    options = ("--phone-a", A, "--phone-b", B, "--mode", "AXB", "--pool-number", "918806", "--expire-s", "60")
    made = ascii_shell.program("bind", *options, "--reference", ORDER, "--json")
    assert made.json["reference"] == ORDER
    assert len(ascii_shell.program("list", "--reference", ORDER, "--json").json["data"]) == 1
    file = tmp_path / "导出.csv"
    assert ascii_shell.program("export", "bindings", "-o", str(file)).code == 0
    assert ORDER in file.read_text(encoding="utf-8-sig")


@pytest.mark.parametrize("variable", ["BINDINGS_DATABASE_URL", "BINDINGS_PHONE_KEYS_FILE"])
def test_setting_that_the_encoding_of_the_locale_cannot_read_is_refused(
    ascii_shell: Shell, tmp_path: Path, variable: str
) -> None:
    path = tmp_path / "数据"
    ascii_shell.environment[variable] = f"sqlite:///{path}" if variable == "BINDINGS_DATABASE_URL" else str(path)
    refused = ascii_shell.program("stats")
    assert (refused.code, refused.err.partition(".")[0]) == (2, f"error: {variable} {NOT_TEXT}")


def test_sqlite_file_that_the_locale_cannot_name_is_refused(ascii_shell: Shell, tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text(f"sqlite:///{tmp_path}/数据.db", encoding="utf-8")
    ascii_shell.set(database_url=None, database_url_file=str(url))
    refused = ascii_shell.program("db", "upgrade")
    assert refused.code == 2
    assert (
        "BINDINGS_DATABASE_URL has a character that file names of this process (ascii) cannot have" in refused.err
    )
