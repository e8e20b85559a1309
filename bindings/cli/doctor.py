"""doctor and config: check everything that a bind needs, and show the effective settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bindings.monitoring.check import Check

COLOURS = {"ok": "green", "warn": "yellow", "red": "bold red"}  # by level


@click.command()
@options.as_json
@click.pass_context
def doctor(command: click.Context, *, as_json: bool) -> None:
    """Check settings, database, schema, clocks, jobs and the provider's account.

    Changes no binding. Requests one row of the provider's list, and one of its pools. Exits with 1 if any check is
    red.
    """
    context.configure_logging(as_json=as_json)
    from bindings.monitoring import health
    from bindings.monitoring.check import Level

    with output.spinner("checking ...", as_json=as_json):
        checks = health.run_diagnostics()
    worst = health.worst_level(checks)
    if as_json:
        output.emit({"level": worst, "data": checks, "next_cursor": None})
    else:
        output.table(
            ["", "CHECK", "OBSERVED"],
            [[check.level, check.name, output.escape_unprintable(check.seen)] for check in checks],
            colours=COLOURS,
        )
        for todo, names in _names_by_todo(checks).items():
            label = names[0] if len(names) == 1 else f"{len(names)} checks"
            output.message(f"{label}: {output.escape_unprintable(todo)}")
    if worst is Level.RED:
        command.exit(1)


def _names_by_todo(checks: Iterable[Check]) -> dict[str, list[str]]:
    """Return what to do, once each, with the checks that say it: one that fails can keep many from running."""
    names: dict[str, list[str]] = {}
    for check in checks:
        if check.todo is not None:
            names.setdefault(check.todo, []).append(check.name)
    return names


@click.command()
@options.as_json
def config(*, as_json: bool) -> None:
    """Show the effective settings, by variable. Secrets are masked."""
    from bindings.monitoring import encryption_checks
    from bindings.validation import requests as validation

    loaded = validation.settings()
    effective = loaded.effective()
    if as_json:
        output.emit(effective)
        return
    output.table(
        ["VARIABLE", "VALUE"],
        [[name, output.escape_unprintable(value) or "-"] for name, value in effective.items()],
    )
    encryption = encryption_checks.of_provider(loaded)
    if encryption.todo is not None:
        output.message(f"warning: {encryption.seen}; {encryption.todo}")
