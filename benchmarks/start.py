"""P12: the time of `bindings --help` and `import bindings`, against a minimal click program and Python alone.

Both sides are whole processes, from start to exit; their CPU time is as counted by the operating system.
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

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import Sizes

HELP = "from bindings.cli import main; main()"  # the same as the installed command
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


def measure(context: BenchContext) -> list[Result]:
    """Return P12: both times, and which heavy modules `--help` loads (none may be)."""
    sizes = context.sizes
    return [
        _compare("bindings --help / click", sizes, (HELP, "--help"), (BARE_CLICK, "--help")),
        _compare("import bindings / python", sizes, ("import bindings",), ("pass",)),
    ]


def _compare(title: str, sizes: Sizes, product: tuple[str, ...], baseline: tuple[str, ...]) -> Result:
    target = Target(id="P12", title=title, bound=2.0)
    if "--help" in product and "Usage" not in _python(*product).stdout:
        return Result(target=target, note="not measured: `bindings --help` does not work")
    rounds = interleave(sizes.starts, _timed_start(product), _timed_start(baseline))
    heavy = _python(LOADED, *product[1:]).stderr.split() if "--help" in product else []
    note = microseconds(rounds) + (f"; LOADS {', '.join(heavy)}" if heavy else "")
    return Result(target=target, rounds=rounds, note=note, conditions_met=not heavy)


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def _timed_start(code: tuple[str, ...]) -> Callable[[int], Sample]:
    def one_round(_: int) -> Sample:
        started_at = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", *code], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - started_at
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise AssertionError(f"python -c {code[0]!r} ended with {process.returncode}")
        return Sample(figure=elapsed, cpu_s=usage.ru_utime + usage.ru_stime)

    return one_round
