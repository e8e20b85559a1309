"""P12: how long `bindings --help` and `import bindings` take, against a bare click program and bare Python.

Both sides are whole processes, from start to exit; their CPU time is what the system counted for them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.measure import Result, Sample, Target, interleave, microseconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench_context import Place
    from benchmarks.data import Sizes

HELP = "from bindings.cli import main; main()"  # what the console script does
BARE_CLICK = """
import click

@click.group()
def main(): "A bare program."

@main.command()
@click.argument("name")
@click.option("--loud", is_flag=True, help="Say it loudly.")
def say(name, loud): "Say a name."

main()
"""
HEAVY = ("sqlalchemy", "requests", "apscheduler")
LOADED = f"""
import sys
try:
    {HELP}
except SystemExit:
    pass
print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""


def measure(place: Place) -> list[Result]:
    """P12: the two times, and what must not be loaded."""
    sizes = place.sizes
    return [
        _compare("bindings --help / click", sizes, (HELP, "--help"), (BARE_CLICK, "--help")),
        _compare("import bindings / python", sizes, ("import bindings",), ("pass",)),
    ]


def _compare(what: str, sizes: Sizes, ours: tuple[str, ...], bare: tuple[str, ...]) -> Result:
    target = Target(id="P12", what=what, bound=2.0)
    if "--help" in ours and "Usage" not in _python(*ours).stdout:
        return Result(target=target, note="not measured: `bindings --help` does not work")
    rounds = interleave(sizes.starts, _started(ours), _started(bare))
    heavy = _python(LOADED, *ours[1:]).stderr.split() if "--help" in ours else []
    note = microseconds(rounds) + (f"; LOADS {', '.join(heavy)}" if heavy else "")
    return Result(target=target, rounds=rounds, note=note, holds=not heavy)


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def _started(code: tuple[str, ...]) -> Callable[[int], Sample]:
    def one_round(_: int) -> Sample:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", *code], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise AssertionError(f"python -c {code[0]!r} ended with {process.returncode}")
        return Sample(figure=elapsed, cpu_s=used.ru_utime + used.ru_stime)

    return one_round
