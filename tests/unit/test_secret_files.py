"""Files with secrets: what is on disk when one is created, and which are read."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from bindings import secret_files

if TYPE_CHECKING:
    from pathlib import Path


def test_content_and_name_of_a_new_file_are_on_disk_when_create_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []

    def record(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((status.st_ino, stat.S_ISDIR(status.st_mode)))

    monkeypatch.setattr(os, "fsync", record)
    file = tmp_path / "keys"
    secret_files.create(file, b"secret")
    assert synced == [(file.stat().st_ino, False), (tmp_path.stat().st_ino, True)]
    assert secret_files.read(file, max_bytes=6) == (b"secret", None)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_file_is_created_in_a_folder_that_cannot_be_written_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    secret_files.create(tmp_path / "keys", b"secret")
    assert (tmp_path / "keys").read_bytes() == b"secret"


def test_file_is_not_kept_if_its_folder_reports_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(OSError, match="Input/output"):
        secret_files.create(tmp_path / "keys", b"secret")
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_written_completely_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        secret_files.create(tmp_path / "keys", b"secret")
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"1234567")
    with pytest.raises(ValueError, match="more than 6 bytes"):
        secret_files.read(file, max_bytes=6)
