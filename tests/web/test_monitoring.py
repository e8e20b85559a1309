"""The dashboard and the alert rules use existing metrics, and no label can carry a number."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.binding import Mode
from bindings.domain.budget import Budget
from bindings.errors import BindingsError
from bindings.jobs.registry import JOBS
from bindings.monitoring import activity_checks, health, reconciliation_checks, seal_check
from bindings.provider.statuses import STATUSES
from bindings.scheduler import Scheduler
from bindings.web import metrics, middleware
from bindings.webhooks import sender
from tests.acceptance.serving import Replica
from tests.service.harness import A, B, C, wait_for
from tests.store.databases import free_port
from tests.web.browser import Browser
from tests.web.receivers import Receiver
from tests.web.test_ops import samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

HOME = Path(__file__).parents[2] / "docs" / "how-to"
ALERTS = HOME / "monitoring" / "alerts.yml"
DASHBOARD = json.loads((HOME / "monitoring" / "dashboard.json").read_text())
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
NEEDS = "{} is not installed (Debian: prometheus)"


@pytest.fixture
def busy(running: Running, simulator: Simulator) -> Iterator[Running]:
    """Run a replica with a scheduler, in which each counted event has happened once."""
    running.app_state.scheduler = Scheduler(
        running.service, on_deliveries=running.app_state.metrics.record_deliveries
    )
    with running.app_state.scheduler, Receiver() as receiver:
        running.service.webhooks.add(url=receiver.url)
        running.bind(reference=A)
        running.bind(phone_b=C)
        simulator.script("lost_reply", times=1, on="bind")
        running.bind(phone_a=C, phone_b="9188067755")
        wait_for(lambda: len(receiver.messages) > 0)
        running.post("/v1/lookup", {"phone": A})
        yield running


def series(running: Running) -> dict[str, set[str]]:
    """Return the labels of each sample by its name."""
    labels_by_name: dict[str, set[str]] = {}
    for sample in samples(running):
        name, _, labels = sample.partition("{")
        labels_by_name.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return labels_by_name


def expressions() -> list[str]:
    """Return every expression of the dashboard and of the alert rules."""
    of_panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return of_panels + re.findall(r"^ +expr: (.+)$", ALERTS.read_text(), re.MULTILINE)


def test_dashboard_and_alerts_use_existing_metrics_and_labels(busy: Running) -> None:
    labels_by_metric = series(busy)
    assert len(expressions()) > 30
    for expression in expressions():
        names = re.findall(r"\bbindings_\w+", expression)
        assert names or expression.startswith("up{"), expression
        assert set(names) <= set(labels_by_metric), expression
        labels = {"le", *(label for name in names for label in labels_by_metric[name])}
        grouped = [
            label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")
        ]
        matched = re.findall(r"[{,]\s*(\w+)\s*=", expression.replace('up{job="bindings"}', ""))
        assert set(grouped + matched) <= labels, expression


def test_every_metric_and_every_alert_is_documented(busy: Running) -> None:
    page = (HOME / "monitor.md").read_text()
    documented = set(re.findall(r"`(bindings_\w+)`", page))
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in series(busy)}
    assert documented == names
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert re.findall(r"^\| `(Bindings\w+)`", page, re.MULTILINE) == alerts
    assert len(set(alerts)) == len(alerts)


def codes() -> set[str]:
    def below(kind: type[BindingsError]) -> Iterator[type[BindingsError]]:
        yield kind
        for inner in kind.__subclasses__():
            yield from below(inner)

    return {kind.code for kind in below(BindingsError)}


def test_labels_have_a_fixed_set_of_values(busy: Running) -> None:
    for path in (f"/v1/bindings/{A}", f"/v1/{A}", f"/v1/bindings?phone={B}", f"/{A}?x={B}"):
        busy.get(path, {"X-Request-ID": A, "User-Agent": A})
    busy.session.request(f"X{A}", f"{busy.url}/v1/lookup", timeout=300)
    busy.bind(pool_number=A, reference=B, headers={"Idempotency-Key": A})
    allowed: dict[str, Any] = {
        "method": {*middleware.METHODS, "other"},
        "status": {str(number) for number in range(600)},
        "outcome": {
            "bound",
            "replayed",
            *codes(),
            "made",
            "refused",
            "not_sent",
            "unknown",
            "confirmed",
            "missing",
        }
        | {"provider_page", "provider_pools"},
        "provider_status": {"none", "other", *(status.code for status in STATUSES)},
        "call": {"bind", "unbind", "page", "pools"},
        "result": set(sender.RESULTS),
        "limit": set(metrics.LIMITS),
        "budget": set(Budget),
        "check": {
            *("clocks", "scheduler", "provider_encryption"),
            *("account", "unbinds", "list"),
            *health.DATABASE_CHECKS,
        },
        "task": {*(job.name for job in JOBS), "deliver"},
    }
    for sample in samples(busy):
        for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample):
            if label == "route":
                assert not re.search(r"\d{3}", value), sample
            elif label != "le":
                assert value in allowed[label], sample
    assert {"AXB", "AXXB"} == set(Mode)


def test_unknown_provider_status_is_counted_as_other(running: Running) -> None:
    error = BindingsError("x")
    error.status = A  # type: ignore[attr-defined]
    running.app_state.metrics.record_bind_error(error)
    assert A not in running.get("/metrics").text


def test_metrics_cover_pools_webhooks_and_jobs(busy: Running, simulator: Simulator) -> None:
    simulator.script("refuse:-41", times=1, on="bind")
    assert busy.bind(phone_a="9188067711", phone_b="9188067712").json()["code"] == "no-middle-number"
    busy.service.count_pools()
    values = samples(busy)
    assert values["bindings_pool_use_ratio"] == 1.0
    assert values["bindings_pools_low"] == 1
    assert values["bindings_database_up"] == 1
    wait_for(lambda: samples(busy)["bindings_webhook_deliveries_pending"] == 0)
    wait_for(lambda: samples(busy)['bindings_webhook_deliveries_total{result="delivered"}'] > 0)
    assert samples(busy)["bindings_webhook_deliveries_dead"] == 0
    tasks = {"expire", "warn", "pools", "recover", "reconcile", "deliver"}
    for name in ("bindings_pass_age_seconds", "bindings_pass_progress_age_seconds"):
        assert {f'{name}{{task="{task}"}}' for task in tasks} <= set(values)
    assert values["bindings_reconcile_interval_seconds"] > values["bindings_reconcile_seconds"] >= 0


def test_checks_are_the_same_on_every_surface(running: Running) -> None:
    """The health call, the metrics and the overview show one set; `bindings doctor` has all that it can see."""
    checks = running.get("/v1/health").json()["checks"]
    levels = {check["name"]: ("ok", "warn", "red").index(check["level"]) for check in checks}
    shown = {name: value for name, value in samples(running).items() if name.startswith("bindings_check_level")}
    assert shown == {f'bindings_check_level{{check="{name}"}}': level for name, level in levels.items()}
    page = Browser(running).sign_in("auditor").get("/overview").text
    assert re.findall(r'<tr><th scope="row">([^<]+)</th><td><span class="state', page) == [
        name.replace("_", " ") for name in levels
    ]
    of_this_process = {"clocks", "account", "unbinds", "list"}
    assert set(levels) - of_this_process == {*health.DATABASE_CHECKS, "provider_encryption"}


def test_alerts_name_checks_that_there_are() -> None:
    checks = set(re.findall(r'bindings_check_level\{check="(\w+)"\}', ALERTS.read_text()))
    assert {"phones", "reconciliation"} <= checks <= {*health.DATABASE_CHECKS}


def test_thresholds_of_the_alerts_are_those_of_the_checks() -> None:
    alerts = dict(re.findall(r"- alert: (\w+)\n +expr: (.+)", ALERTS.read_text()))
    assert alerts["BindingsSweepLags"].endswith(f" > {activity_checks.LAG_WARN_S:.0f}")
    minutes = activity_checks.PERIOD.total_seconds() / 60
    assert f"[{minutes:.0f}m])) >= {activity_checks.RED_BINDS} " in alerts["BindingsBindsFail"]
    assert alerts["BindingsSealsOld"].endswith(f" > {seal_check.OLD_S:.0f}")
    assert alerts["BindingsSweepDead"].endswith(f" > {health.OLD_RUN_S:.0f}")
    assert alerts["BindingsDeliveriesPile"].endswith(f" > {activity_checks.MANY_PENDING}")
    assert f" > {reconciliation_checks.SLOW_AFTER:.0f} * " in alerts["BindingsReconcileSlow"]


def test_metrics_are_served_without_the_database(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from bindings.errors import Busy

    def away(*_: Any) -> None:
        raise Busy("away", retry_after_s=1)

    monkeypatch.setattr("bindings.web.metrics.health_metrics", away)
    assert samples(running)["bindings_database_up"] == 0
    monkeypatch.undo()
    assert samples(running)["bindings_database_up"] == 1


def test_grafana_can_load_the_dashboard() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    panels = DASHBOARD["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    (source,) = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    occupied: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"]["uid"] == f"${{{source['name']}}}"
        assert {"title", "type", "gridPos", "targets", "fieldConfig"} <= set(panel)
        position = panel["gridPos"]
        cells = {
            (position["x"] + column, position["y"] + row)
            for column in range(position["w"])
            for row in range(position["h"])
        }
        assert max(column for column, _ in cells) < 24
        assert not occupied & cells, f"{panel['title']} lies on another panel"
        occupied |= cells
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


@pytest.mark.skipif(PROMTOOL is None, reason=NEEDS.format("promtool"))
def test_promtool_accepts_the_alert_rules() -> None:
    completed = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.soak
@pytest.mark.timeout(240)
@pytest.mark.processes
@pytest.mark.skipif(PROMETHEUS is None, reason=NEEDS.format("prometheus"))
def test_prometheus_scrapes_a_replica_and_alerts_fire(
    sqlite_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    """A low pool and a refused account both make Prometheus fire an alert."""
    import requests

    from tests.acceptance.test_processes import settings

    environment = settings(sqlite_url, simulator)
    with Replica(tmp_path / "serve.log", environment) as replica:
        url = replica.started().url
        rules = tmp_path / "alerts.yml"
        rules.write_text(re.sub(r"for: \d+\w", "for: 2s", ALERTS.read_text()))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": "bindings", "static_configs": [{"targets": [url.removeprefix("http://")]}]}
            ],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # YAML takes JSON
        port = free_port()
        command = [
            str(PROMETHEUS),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (tmp_path / "prometheus.log").open("w") as log:
            prometheus = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            bind = {"phone_a": A, "phone_b": B, "pool_number": "918806", "expire_s": 600, "mode": "AXB"}
            simulator.script("refuse:-41", times=1, on="bind")
            assert requests.post(f"{url}/v1/bindings", json=bind, timeout=300).status_code == 503
            simulator.script("refuse:-30", rate=1.0)
            assert requests.post(f"{url}/v1/bindings", json=bind, timeout=300).status_code == 503

            def firing() -> set[str]:
                try:
                    alerts = requests.get(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=5).json()
                except requests.ConnectionError:
                    return set()
                return {
                    alert["labels"]["alertname"]
                    for alert in alerts["data"]["alerts"]
                    if alert["state"] == "firing"
                }

            wait_for(lambda: {"BindingsPoolLow", "BindingsAccountRefused"} <= firing())
            print("firing:", sorted(firing()))  # noqa: T201 -- what was seen
            assert "BindingsReplicaDown" not in firing()
            replica.kill()
            wait_for(lambda: "BindingsReplicaDown" in firing())
        finally:
            prometheus.terminate()
            prometheus.wait(300)
