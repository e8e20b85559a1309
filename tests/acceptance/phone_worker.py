"""A process that binds, looks up and unbinds the same few phones as others, until its standard input is closed.

`python -m tests.acceptance.phone_worker` takes its settings from the environment. It writes a line for each round,
and at its end one with the answers that were wrong.
"""

from __future__ import annotations

import random
import sys
import threading

from bindings.errors import PhoneInUse
from bindings.service import BindingService

PHONES = [f"91880677{number:02}" for number in range(8)]


def main() -> None:
    """Run rounds until standard input ends."""
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    wrong: list[str] = []
    with BindingService.from_env() as service:
        while not ended.is_set():
            _round(service, wrong)
            sys.stdout.write("round\n")
            sys.stdout.flush()
    sys.stdout.write(f"wrong: {wrong}\n")


def _round(service: BindingService, wrong: list[str]) -> None:
    a, b = random.sample(PHONES, 2)
    try:
        binding = service.bind(phone_a=a, phone_b=b, pool_number="918806", expire_s=3_600, mode="AXB")
    except PhoneInUse as in_use:
        if in_use.holder.id is None or in_use.binding_id is not None:
            wrong.append(f"a conflict that was not seen here: {in_use.holder.why}")
        return
    if service.lookup(phone=b) != [binding] or service.lookup(phone=a) != [binding]:
        wrong.append("a lookup without the binding")
    if not service.check(phone_a=a, phone_b=b, mode="AXB"):
        wrong.append("a check without the holder")
    service.unbind(binding.id)


if __name__ == "__main__":
    main()
