"""Pass the head of the sealed history to a command of the operator, which keeps it elsewhere."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bindings.sealing.seals import Seal

TIMEOUT_S = 10.0


def anchor(command: str, head: Seal) -> str | None:
    """Run the command with the number and the hash as its last arguments and `N:HASH` on its input.

    Returns None if it exits with 0, else why it has not accepted the head, without its output. Safe to repeat.
    """
    arguments = [*shlex.split(command), str(head.number), head.hash]
    try:
        # No pipe for its output: a program that it leaves behind, as ssh may, would hold the pipe open.
        completed = subprocess.run(  # noqa: S603 -- the operator's command, without a shell
            arguments,
            input=f"{head.head}\n".encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the command did not end within {TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"the command cannot be run: {error.strerror}"
    return None if completed.returncode == 0 else f"the command exited with {completed.returncode}"
