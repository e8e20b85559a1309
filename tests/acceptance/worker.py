"""What one process of an acceptance test does: `python -m tests.acceptance.worker TASK`.

It takes its settings from the environment, says "ready" on its standard output, waits for a line on its standard
input, does the task, and prints its findings as one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from bindings import errors
from bindings.scheduler import Scheduler
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Callable

POOL = "918806"


def storm(service: BindingService, *, seed: int, seconds: float, threads: int, phones: int, sweeps: bool) -> Any:
    """Bind and unbind at random; everything but PhoneInUse is a fault."""
    found: Counter[str] = Counter()
    faults: list[str] = []
    numbers = [f"91880660{number:02}" for number in range(phones)]
    deadline = time.monotonic() + seconds

    def run(number: int) -> None:
        dice = random.Random(f"{seed}-{number}")
        while time.monotonic() < deadline:
            try:
                found.update(_turn(service, dice, numbers))
            except BaseException as error:  # noqa: BLE001 -- reported to the test
                faults.append(repr(error))

    with Scheduler(service) if sweeps else nullcontext():
        running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    return {"seed": seed, "found": found, "faults": faults[:20]}


def _turn(service: BindingService, dice: random.Random, numbers: list[str]) -> list[str]:
    a, b = dice.sample(numbers, 2)
    asked: dict[str, Any] = {"expire_s": dice.choice((1, 2)), "mode": dice.choice(("AXB", "AXXB"))}
    try:
        binding = service.bind(phone_a=a, phone_b=b, pool_number=POOL, **asked)
    except errors.PhoneInUse as in_use:
        if type(in_use) is not errors.PhoneInUse:
            raise
        time.sleep(0.002)  # or the refusals' notes crowd out the binds
        return ["refused"]
    if dice.random() < 0.5:
        service.unbind(binding.id)
        return ["bound", "unbound"]
    return ["bound"]


def bind(service: BindingService, **asked: Any) -> Any:
    """Bind once."""
    return {"id": service.bind(pool_number=POOL, **asked).id}


TASKS: dict[str, Callable[..., Any]] = {"storm": storm, "bind": bind}


def main() -> None:
    """Be one process."""
    with BindingService.from_env() as service:
        print("ready", flush=True)  # noqa: T201 -- the signal
        asked = json.loads(sys.stdin.readline())
        print(json.dumps(TASKS[sys.argv[1]](service, **asked)), flush=True)  # noqa: T201 -- the findings
    os._exit(0)  # no thread of a failed run keeps the process


if __name__ == "__main__":
    main()
