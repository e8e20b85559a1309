"""Where the keys for phones come from: a file that only its owner may read, or the output of a command."""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from bindings import secret_files
from bindings.errors import InvalidRequest
from bindings.extras import require_extra
from bindings.store.phone_keys import DATA_KEY_BYTES, INDEX_KEY_BYTES, PhoneKeys

if TYPE_CHECKING:
    from pathlib import Path

    from bindings.settings import Settings

FILE, COMMAND = "BINDINGS_PHONE_KEYS_FILE", "BINDINGS_PHONE_KEYS_COMMAND"
COMMAND_TIMEOUT_S = 30.0
MAX_NUMBER = 32_767
MAX_BYTES = 1_000_000  # of the file
SIZES = {"index": INDEX_KEY_BYTES, "data": DATA_KEY_BYTES}


def load(settings: Settings) -> PhoneKeys | None:
    """Return the keys of the settings for their scope, or None if there are none.

    Reads the file or runs the command, of at most 30 s. Raises `InvalidRequest` with the name of the setting, and
    never with a key. Safe to repeat.
    """
    if settings.phone_keys_file is not None and settings.phone_keys_command is not None:
        raise _wrong(COMMAND, f"is set together with {FILE}; set only one of them")
    if settings.phone_keys_file is not None:
        source, ring = FILE, _parse(FILE, _read(settings.phone_keys_file))
    elif settings.phone_keys_command is not None:
        source, ring = COMMAND, _parse(COMMAND, _run(settings.phone_keys_command.get_secret_value()))
    else:
        return None
    with require_extra("encryption", field=source):
        return PhoneKeys(settings.scope, index=ring["index"], data=ring["data"])


def write_new(path: Path) -> None:
    """Write a new ring to a new file that only its owner may read. `InvalidRequest` if the file exists."""
    ring = {kind: {"1": b64encode(secrets.token_bytes(size)).decode()} for kind, size in SIZES.items()}
    try:
        secret_files.create(path, f"{json.dumps(ring, indent=2)}\n".encode())
    except FileExistsError:
        raise _wrong("FILE", "must name a new file: it exists, and was not changed") from None
    except OSError as error:
        raise _wrong("FILE", f"must be writable: {error.strerror}") from None


def _read(path: str) -> str:
    try:
        content, shared_mode = secret_files.read(path, max_bytes=MAX_BYTES)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise _wrong(FILE, f"names a file that cannot be read: {secret_files.cause(error)}") from None
    if shared_mode is not None:
        raise _wrong(FILE, f"names a file that other users may open: run `chmod 600 {shlex.quote(path)}`")
    return text


def _run(command: str) -> str:
    try:
        arguments = shlex.split(command)
        result = subprocess.run(  # noqa: S603 -- the operator's command, and no shell
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, ValueError, IndexError):
        raise _wrong(COMMAND, "names a command that cannot be run") from None
    except subprocess.TimeoutExpired:
        raise _wrong(COMMAND, f"names a command that did not end in {COMMAND_TIMEOUT_S:.0f} s") from None
    if result.returncode != 0:
        raise _wrong(COMMAND, f"names a command that failed with exit code {result.returncode}")
    return result.stdout.decode("utf-8", "replace")


def _parse(variable: str, text: str) -> dict[str, dict[int, bytes]]:
    form = 'must give {"index": {"1": KEY}, "data": {"1": KEY}} with keys in base64, of'
    expected = f"{form} {INDEX_KEY_BYTES} and {DATA_KEY_BYTES} bytes"
    try:
        document: Any = json.loads(text)
        ring = {kind: {int(name): _decode(key) for name, key in document[kind].items()} for kind in SIZES}
    except (ValueError, TypeError, AttributeError, KeyError):  # without its cause, which may show the text
        raise _wrong(variable, expected) from None
    if set(document) != set(SIZES):
        raise _wrong(variable, expected)
    for kind, keys in ring.items():
        fits = all(0 < number <= MAX_NUMBER and len(key) == SIZES[kind] for number, key in keys.items())
        if not keys or not fits or len(set(keys.values())) != len(document[kind]):
            raise _wrong(variable, expected)
    return ring


def _decode(key: str) -> bytes:
    return b64decode(key, validate=True)


def _wrong(name: str, message: str) -> InvalidRequest:
    return InvalidRequest.of_field(name, message)
