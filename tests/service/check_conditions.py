"""The sentences of the health checks as the code has them, and changes to a database and a provider."""

from __future__ import annotations

import ast
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, insert, text
from uuid_utils import uuid7

from bindings import errors
from bindings.clock import HostClock
from bindings.domain.binding import Caller
from bindings.monitoring import health
from bindings.store import durability, job_runs, reports
from bindings.store.schema import HEAD, deliveries, pool_levels, pools, replicas, schema_info
from tests.service.harness import APP, POOL, A, B, Clock, account_settings, hold_answers, service_at, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Executable

    from bindings.monitoring.check import Check
    from bindings.provider.circuit import CircuitBreaker
    from bindings.service import BindingService
    from bindings.store.database import Transaction
    from tests.service.harness import ServiceHarness

ROOT = Path(health.__file__).parents[1]
MODULES = (
    "monitoring/health.py",
    *sorted(f"monitoring/{path.name}" for path in (ROOT / "monitoring").glob("*_check*.py")),
)
# Sentences that a check takes from other modules, by function.
FUNCTIONS = {
    "domain/text.py": ("first_names",),
    "lifecycle/clock_monitor.py": ("bind_error", "_cause", "remedy"),
    "store/schema_version.py": ("describe", "remedy", "read"),
    "provider/circuit.py": ("describe", "_repeatable"),
    "web/api/ops_routes.py": ("process_checks",),
    "jobs/phone_sealing.py": ("next_step",),
    "monitoring/statistics.py": ("forecast", "_trend"),
}


class _Sentences(ast.NodeVisitor):
    """Collects each text with a space, and each literal `seen` and `todo`; `{}` stands for a value."""

    def __init__(self) -> None:
        self.texts: set[str] = set()

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        self._add("".join(map(str, parts)))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and " " in node.value:
            self._add(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        literal = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if node.arg in ("seen", "todo") and literal:
            self._add(str(node.value.value))  # type: ignore[attr-defined]
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # else a docstring
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Skip: no check shows it."""

    def _add(self, template: str) -> None:
        if re.search(r"[a-z].*[a-z].*[a-z]", template.replace("{}", "")):
            self.texts.add(template)


@cache
def sentences_of_the_code() -> frozenset[str]:
    """Return every text of the check functions; `{}` stands for a value."""
    collected = _Sentences()
    for module in MODULES:
        collected.visit(ast.parse((ROOT / module).read_text()))
    for module, names in FUNCTIONS.items():
        for node in ast.walk(ast.parse((ROOT / module).read_text())):
            if isinstance(node, ast.FunctionDef) and node.name in names:
                collected.visit(node)
    return frozenset(collected.texts)


def sentences_in(check: Check) -> set[str]:
    """Return the sentences that a check has, without those that are only a part of another one."""
    shown = f"{check.seen}\n{check.todo or ''}"
    matches = [template for template in sentences_of_the_code() if _pattern(template).search(shown)]
    return {
        template
        for template in matches
        if not any(_pattern(template).search(other) and not _pattern(other).search(template) for other in matches)
    }


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(r"[^\n]*?".join(re.escape(part) for part in template.split("{}")))


AWAY = "postgresql://nobody@127.0.0.1:9/none"
PAIRS = [(f"91770000{number:02}", f"91770001{number:02}") for number in range(10)]


def ignore_durability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the settings of the tests' PostgreSQL count as those of a server that keeps its commits."""
    monkeypatch.setattr(durability, "weak_settings", lambda _: {})


@dataclass
class World:
    """A database and a provider, and the changes to them that the conditions are made of."""

    harness: ServiceHarness
    monkeypatch: pytest.MonkeyPatch

    def checks(self, service: BindingService | None = None) -> Sequence[Check]:
        """Return the checks of `GET /v1/health`, of this process or of another."""
        runtime = (service or self.harness.service).runtime
        return (*health.readiness_checks(runtime), *health.service_checks(runtime))

    def check(self, name: str) -> Check:
        return next(check for check in self.checks() if check.name == name)

    def environment(self, **settings: str | None) -> dict[str, str]:
        values: dict[str, str | None] = {
            "database_url": self.harness.url,
            **account_settings(self.harness.simulator.url),
        }
        present = {name: value for name, value in (values | settings).items() if value is not None}
        return {f"BINDINGS_{name.upper()}": value for name, value in present.items()}

    def diagnostics(self, **settings: str) -> Sequence[Check]:
        """Return what `bindings doctor` shows. Its clock is that of this host."""
        self.harness.clock.at = datetime.now(UTC)
        return health.run_diagnostics(self.environment(**settings))

    def execute(self, *statements: Executable) -> None:
        def run(tx: Transaction) -> None:
            for statement in statements:
                tx.connection.execute(statement)

        self.harness.database.write(run)

    def with_schema(self, revision: str, *, readable_from: str | None = None) -> Sequence[Check]:
        """Return the checks of a database whose schema has another revision."""
        database = self.harness.database
        set_revision = text("UPDATE alembic_version SET version_num = :revision")
        row = insert(schema_info).values(revision=revision, readable_from=readable_from)
        self.execute(set_revision.bindparams(revision=revision), *([row] if readable_from else []))
        try:
            return health.database_checks(database, self.harness.service.settings)
        finally:
            remove_row = delete(schema_info).where(schema_info.c.revision == revision)
            self.execute(set_revision.bindparams(revision=HEAD), *([remove_row] if readable_from else []))

    def finish_expire_job(self) -> None:
        self.harness.database.write(lambda tx: job_runs.record_heartbeat(tx, "expire", "a replica"))

    def claim_reconciliation(self, *, ends_after_s: float | None = None) -> None:
        slot = self.harness.database.write(lambda tx: job_runs.claim_slot(tx, "reconcile", 300.0, "a replica"))
        assert slot is not None
        if ends_after_s is not None:
            self.harness.clock.advance(ends_after_s)
            self.harness.database.write(lambda tx: job_runs.finish(tx, "reconcile", slot, {}))

    def binds(self, count: int, *, first: int = 0) -> None:
        for phone_a, phone_b in PAIRS[first : first + count]:
            self.harness.bind(phone_a, phone_b)

    def failing_binds(self, count: int, fault: str, *, first: int = 0, **values: Any) -> None:
        self.harness.simulator.script(fault, times=count, on="bind")
        for phone_a, phone_b in PAIRS[first : first + count]:
            with pytest.raises(errors.BindingsError):
                self.harness.bind(phone_a, phone_b, **values)

    def during_a_bind(self) -> Sequence[Check]:
        """Return the checks while a bind waits for the provider."""
        answers = hold_answers(self.harness.simulator)
        thread = threading.Thread(target=self.harness.bind, daemon=True)
        thread.start()
        try:
            wait_for(lambda: self.harness.received("bind") == 1)
            return self.checks()
        finally:
            answers.set()
            thread.join(300)

    def circuit_of_binds(self) -> CircuitBreaker:
        client = self.harness.service.runtime.client
        assert client is not None
        return client.circuits.bind

    def bind_without_list(self) -> None:
        self.harness.clock.at = datetime.now(UTC) - timedelta(minutes=1)
        self.harness.simulator.script("refuse:-1", rate=1.0, on="page")
        self.harness.service.reconcile()
        self.harness.clock.advance(1)
        self.binds(1)

    def refused_timestamp(self) -> None:
        self.harness.simulator.change(clock_offset_s=120, timestamp_tolerance_s=60)
        with pytest.raises(errors.BindingsError):
            self.harness.bind(A, B)

    def after_a_jump(self, *, by_s: float, read_before: bool = True) -> Sequence[Check]:
        """Return the checks of a process whose database's clock has jumped."""
        host = Clock()
        service = service_at(
            self.harness.url,
            self.harness.clock,
            self.harness.simulator.url,
            host_clock=HostClock(wall=host.unix, monotonic=host.unix),
            accept_jumps=False,
        )
        with service:
            if read_before:
                health.readiness_checks(service.runtime)
            self.harness.clock.advance(by_s)
            return health.readiness_checks(service.runtime)

    def pool(
        self,
        *,
        live: int | None,
        capacity: int | None,
        earlier: int | None = None,
        low: bool = False,
        number: str = POOL,
    ) -> None:
        """Record a pool and, if `earlier` is given, how full it was one hour before."""
        now = self.harness.clock()
        values = {"app_id": APP, "pool_number": number}
        self.execute(
            insert(pools).values(
                **values, live=live, capacity=capacity, counted_at=now, low_at=now if low else None
            )
        )
        if live is not None and earlier is not None:
            for minutes, level in ((60, earlier), (30, (earlier + live) // 2), (0, live)):
                row = insert(pool_levels).values(**values, at=now - timedelta(minutes=minutes), live=level)
                self.execute(row)

    def report(self, **counts: Any) -> None:
        self.harness.clock.advance(1)
        caller, now = Caller(actor="test"), self.harness.clock()
        self.harness.database.write(lambda tx: reports.store(tx, caller, began_at=now, counts=counts, cases=[]))

    def owed_release(self) -> None:
        binding = self.harness.bind(A, B, max_expire_s=4 * 3_600)
        assert binding.expires_at is not None
        self.harness.clock.at = binding.expires_at
        assert self.harness.service.expire_due().expired == 1

    def deliveries(self, state: str, *, count: int) -> None:
        webhook = self.harness.service.webhooks.add(url="http://127.0.0.1:9/hook")
        now = self.harness.clock()
        for position in range(count):
            self.execute(
                insert(deliveries).values(
                    id=str(uuid7()),
                    webhook_id=webhook.webhook.id,
                    event_position=position,
                    state=state,
                    attempts=0,
                    created_at=now,
                    next_at=now,
                    finished_at=None if state == "pending" else now,
                )
            )

    def replica(self, *, version: str, seen_s_ago: float) -> None:
        seen_at = self.harness.clock() - timedelta(seconds=seen_s_ago)
        row = insert(replicas).values(
            id=str(uuid7()), name="host:1", version=version, phone_key_ids=[], started_at=seen_at, seen_at=seen_at
        )
        self.execute(row)
