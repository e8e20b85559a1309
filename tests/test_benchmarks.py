"""Tests of the bench: every measure runs to its end on little data. No test checks a time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree as ET

import pytest

import benchmarks.__main__ as bench
from benchmarks import smoke
from benchmarks.capacity import BindCost, simulate
from benchmarks.plot import Curve, Plot
from tests.store.databases import VARIABLE, Server

ROOT = Path(__file__).parents[1]
LIMIT_S = 900.0  # of one run, on a machine that does other work too

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

PLOTS = {"P1,P5,P6,P3,vacuum,burst": 8, "churn,updates,P16": 1}


def _run_bench(folder: Path, targets: str, **variables: str) -> dict[str, list[float | None]]:
    """Return the figures of a quick run by target: ratios or values."""
    completed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", targets, "--results", str(folder)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    (report,) = folder.glob("*.json")
    figures: dict[str, list[float | None]] = {}
    for result in json.loads(report.read_text())["results"]:
        figure = result["ratio"] if result["value"] is None else result["value"]
        figures.setdefault(result["target"], []).append(figure)
    return figures


@pytest.mark.processes
def test_quick_run_without_a_server_measures_sqlite_targets(tmp_path: Path) -> None:
    figures = _run_bench(tmp_path, "P2,P12")
    assert {name: len(values) for name, values in figures.items()} == {"P2": 3, "P12": 2}
    assert None not in figures["P2"] + figures["P12"]


@pytest.mark.processes
@pytest.mark.postgres
@pytest.mark.parametrize(
    ("targets", "lines"),
    [  # each run fills databases of its own
        pytest.param(
            "P1,P5,P6,P3,vacuum,burst",
            {"P1": 4, "P5": 5, "vacuum": 2, "P17": 1, "P6": 1, "P3": 4, "P3b": 2, "P9": 1},
            marks=pytest.mark.soak,
        ),
        pytest.param("churn,updates,P16", {"churn": 10, "updates": 8, "P16": 1}, marks=pytest.mark.soak),
        pytest.param("retention,P10,P11", {"locks": 5, "P10": 2, "P11": 4}, marks=pytest.mark.soak),
        pytest.param(
            "P4,P4b,cost,space,P13",
            {"P4": 4, "P4b": 1, "P4c": 1, "cost": 3, "space": 4, "P13": 2},
            marks=pytest.mark.soak,
        ),
        pytest.param("scale", {"scale": 7}, marks=pytest.mark.soak),
        pytest.param("P7,P14,P21,P22", {"P7": 4, "P8": 1, "P14": 30, "P21": 1, "P22": 2}, marks=pytest.mark.soak),
    ],
)
def test_quick_run_with_a_server_measures_every_target(
    tmp_path: Path, postgres_server: Server, targets: str, lines: dict[str, int]
) -> None:
    figures = _run_bench(tmp_path, targets, **{VARIABLE: postgres_server.url})
    assert {name: len(values) for name, values in figures.items()} == lines
    # P4 needs pgbench and 32 connections to spare, P13 a redis-server.
    assert all(None not in values for name, values in figures.items() if name not in {"P4", "P13"})
    assert len(list(tmp_path.glob("*.svg"))) == PLOTS.get(targets, 0)


COST = BindCost(client_s=0.001, server_s=0.001, flush_s=0.0005, round_trip_s=0.0005, provider_s=0.1)


@pytest.mark.parametrize("cores", [2, 8])
def test_simulated_server_that_is_busy_makes_as_many_binds_as_its_cores_allow(cores: int) -> None:
    capacity = simulate(COST, cores=cores, callers=500 * cores, binds=20_000)
    assert capacity.rate == pytest.approx(cores / COST.server_s, rel=0.02)


def test_simulated_callers_of_an_idle_server_wait_for_nothing_but_their_own_bind() -> None:
    bookkeeping_s = COST.client_s + COST.server_s + 2 * (COST.flush_s + COST.round_trip_s)
    capacity = simulate(COST, cores=64, callers=1, binds=2_000)
    assert capacity.rate == pytest.approx(1 / (bookkeeping_s + COST.provider_s), rel=0.03)
    assert capacity.median_s == pytest.approx(bookkeeping_s, rel=0.1)


def test_simulated_flush_serves_all_statements_that_wait_for_it() -> None:
    """One flush at a time for one statement each would allow 1 000 binds per second."""
    slow_disk = replace(COST, flush_s=0.0005, server_s=0.0001)
    assert simulate(slow_disk, cores=64, callers=1_000, binds=20_000).rate > 5_000


def test_simulated_clients_on_the_server_use_its_cores() -> None:
    together = simulate(replace(COST, client_on_server=True), cores=2, callers=1_000, binds=20_000)
    assert together.rate == pytest.approx(2 / (COST.client_s + COST.server_s), rel=0.02)


def test_every_target_and_measure_can_be_selected() -> None:
    ids = {
        found[1]
        for file in (ROOT / "benchmarks").glob("*.py")
        for found in re.finditer(r'Target\(\s*id="([^"]+)"', file.read_text(encoding="utf-8"))
    }
    assert ids == {target for measure in bench.MEASURES.values() for target in measure.targets}
    for name in ids | bench.MEASURES.keys():
        assert bench.select(name)
    assert bench.select("P9,growth,P3") == ["growth"]
    assert bench.select("P5") == ["sweep", "burst"]


def test_name_that_is_no_measure_and_no_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), mock.patch.object(sys, "argv", ["benchmarks", "--only", "P1,P99"]):
        bench.main()
    assert "'P99' is no measure and no target" in capsys.readouterr().err


def test_figure_over_its_budget_is_named_with_the_excess(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budgets = tmp_path / "budgets.toml"
    budgets.write_text("[budgets]\nlookup-sqlite = 0.001\nbind-sqlite = 1000\n")
    assert smoke.main(["--budgets", str(budgets), "--only", "lookup-sqlite,bind-sqlite"]) == 1
    shown = capsys.readouterr()
    over, within = shown.out.splitlines()
    assert re.fullmatch(r"lookup-sqlite +\d\.\d+ of the fixed workload, budget 0\.001: \d+% OVER", over)
    assert re.fullmatch(r"bind-sqlite +\d+\.\d+ of the fixed workload, budget 1000\.000", within)
    assert f"1 of 2 figures are over their budgets in {budgets}" in shown.err


def test_figure_is_measured_again_if_it_is_over_its_budget() -> None:
    slow_at_first = iter([1_000.0] * (1 + smoke.ROUNDS) + [1e-9] * (1 + smoke.ROUNDS))
    (figure,) = smoke.measure({"lookup-sqlite": lambda: next(slow_at_first)}, {"lookup-sqlite": 1.0})
    assert not figure.is_over


def test_every_figure_has_a_budget() -> None:
    budgets = tomllib.loads(smoke.BUDGETS.read_text(encoding="utf-8"))["budgets"]
    assert list(budgets) == list(smoke.FIGURES)


def test_plot_is_svg_with_a_polyline_per_curve() -> None:
    curve = Curve(name="a < b", points=((10.0, 1.0), (1_000.0, 3.0)))
    plot = Plot(name="p", title="t", x="n", y="ms", curves=(curve, curve))
    document = ET.fromstring(plot.svg())
    assert len(document.findall("{*}polyline")) == 2


def test_plot_with_many_x_values_has_labels_that_do_not_overlap() -> None:
    many = Curve(name="many", points=tuple((1_000.0 * number, 1.0) for number in range(1, 41)))
    document = ET.fromstring(Plot(name="p", title="t", x="n", y="ms", curves=(many,)).svg())
    labels = [
        float(label.attrib["x"]) for label in document.findall("{*}text") if (label.text or "").endswith(" k")
    ]
    assert len(labels) > 5
    assert all(after - before >= 40 for before, after in pairwise(labels))
