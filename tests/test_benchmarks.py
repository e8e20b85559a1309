"""The bench runs to its end on little data. Nothing here judges a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.databases import VARIABLE, Server

ROOT = Path(__file__).parents[1]


def _measured(folder: Path, targets: str, **variables: str) -> dict[str, list[float | None]]:
    """The ratios by target of a quick run."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", targets, "--results", str(folder)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = folder.glob("*.json")
    ratios: dict[str, list[float | None]] = {}
    for result in json.loads(written.read_text())["results"]:
        ratios.setdefault(result["target"], []).append(result["ratio"])
    return ratios


@pytest.mark.processes
def test_the_bench_measures_without_a_server(tmp_path: Path) -> None:
    ratios = _measured(tmp_path, "P2,P12")
    assert {name: len(found) for name, found in ratios.items()} == {"P2": 3, "P12": 2}
    assert None not in ratios["P2"] + ratios["P12"]


@pytest.mark.processes
@pytest.mark.postgres
@pytest.mark.parametrize(("target", "lines"), [("P1", 3), ("P4", 2), ("P14", 9)])
def test_the_bench_measures_on_a_server(tmp_path: Path, postgres_server: Server, target: str, lines: int) -> None:
    ratios = _measured(tmp_path, target, **{VARIABLE: postgres_server.url})
    assert {name: len(found) for name, found in ratios.items()} == {target: lines}
    assert target == "P4" or None not in ratios[target], "P4 needs pgbench, and 32 connections to spare"
