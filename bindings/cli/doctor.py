"""doctor and config: what is set, and whether everything that a bind needs is in order."""

from __future__ import annotations

import click

from bindings.cli import context as session
from bindings.cli import options, output


@click.command()
@options.as_json
@click.pass_context
def doctor(context: click.Context, *, as_json: bool) -> None:
    """Check settings, database, schema, clocks, passes and the provider's account.

    Changes no binding; the provider is asked for one row of its list. Exits with 1 where anything is red.
    """
    session.configure_logging(as_json=as_json)
    from bindings.monitoring import health

    with output.spinner("looking ...", as_json=as_json):
        checks = health.run_diagnostics()
    worst = health.worst_level(checks)
    if as_json:
        output.emit({"level": worst, "data": checks, "next_cursor": None})
    else:
        output.table(
            ["", "CHECK", "SEEN"],
            [[check.level, check.name, output.escape_unprintable(check.seen)] for check in checks],
        )
        for check in checks:
            if check.todo is not None:
                output.message(f"{check.name}: {output.escape_unprintable(check.todo)}")
    if worst is health.Level.RED:
        context.exit(1)


@click.command()
@options.as_json
def config(*, as_json: bool) -> None:
    """Show the settings in force, by variable; secrets are masked."""
    from bindings.validation import requests as validation

    effective = validation.settings().effective()
    if as_json:
        output.emit(effective)
        return
    output.table(
        ["VARIABLE", "VALUE"],
        [[name, output.escape_unprintable(value) or "-"] for name, value in effective.items()],
    )
