"""The tasks of one process of an acceptance test: `python -m tests.acceptance.worker TASK`.

It takes its settings from the environment, says "ready" on its standard output, waits for a line on its standard
input, does the task, and prints its findings as one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Callable

POOL = "918806"


def bind(service: BindingService, **arguments: Any) -> Any:
    """Bind once."""
    return {"id": service.bind(pool_number=POOL, **arguments).id}


TASKS: dict[str, Callable[..., Any]] = {"bind": bind}


def main() -> None:
    """Run the task that the command line names."""
    with BindingService.from_env() as service:
        print("ready", flush=True)  # noqa: T201 -- the signal
        arguments = json.loads(sys.stdin.readline())
        print(json.dumps(TASKS[sys.argv[1]](service, **arguments)), flush=True)  # noqa: T201 -- the findings
    os._exit(0)  # no thread of a failed run keeps the process


if __name__ == "__main__":
    main()
