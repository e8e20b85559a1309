"""Real processes of the command line: replicas that serve HTTP, and schedulers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]


class Command:
    """A running `bindings ...` with standard error in a file. A context manager that ends the process.

    `root` is the folder of its code.
    """

    def __init__(self, log: Path, environment: Mapping[str, str], *arguments: str, root: Path = ROOT) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BINDINGS_")}
        self.log = log
        self._out = log.open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bindings", *arguments],
            cwd=root,
            env=inherited | dict(environment),
            text=True,
            stdout=subprocess.PIPE,
            stderr=self._out,
        )

    def end(self, *, within_s: float = 30.0) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(300)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._out.close()


class Replica(Command):
    """A running `bindings serve`; `url` is its address after `started` was called."""

    def __init__(
        self, log: Path, environment: Mapping[str, str], *arguments: str, port: int = 0, root: Path = ROOT
    ) -> None:
        serve = "serve", "--local-admin", "--json", "--port", str(port)
        super().__init__(log, environment, *serve, *arguments, root=root)
        self.url = f"http://127.0.0.1:{port}"

    def started(self) -> Self:
        """Wait until it listens, and return it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.url = json.loads(line)["url"]
        return self
