"""db: migrate the database schema to this version, show its revision, and check it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from bindings.settings import Settings
    from bindings.store.schema_version import SchemaVersion


@click.group(no_args_is_help=False)
def db() -> None:
    """Migrate the database schema, and show or check its revision."""


@db.command()
@options.as_json
def upgrade(*, as_json: bool) -> None:
    """Run the missing migrations. Safe to repeat, and to run concurrently from several hosts.

    Then record the API key in the file that BINDINGS_BOOTSTRAP_KEY_FILE names, if that is set, as an admin key.
    """
    settings = _settings(as_json=as_json)
    url = settings.database_url.get_secret_value()
    from bindings.access import first_key
    from bindings.store import migrations

    key = first_key.read(settings.bootstrap_key_file) if settings.bootstrap_key_file else None
    before = migrations.current(url).revision  # an unreachable database is reported here, before the spinner
    with output.spinner("migrating ...", as_json=as_json):
        after = migrations.upgrade(url)
    if as_json:
        output.emit({**_summary(migrations.current(url)), "before": before})
    else:
        changed = "there was none before" if before is None else f"was at {before}"
        click.echo(f"schema at {after} already" if before == after else f"schema at {after}, {changed}")
    if key is not None:
        _record_first_key(url, key, as_json=as_json)


@db.command()
@click.argument("revision")
@click.option("--dry-run", is_flag=True, help="Only show what would be undone and what would be lost.")
@click.option("--lose-data", is_flag=True, help="Undo migrations also if that deletes data.")
@click.option(
    "--processes-ended",
    is_flag=True,
    help="State that the processes which need a newer schema have ended: they are known for three minutes.",
)
@options.as_json
def downgrade(*, revision: str, dry_run: bool, lose_data: bool, processes_ended: bool, as_json: bool) -> None:
    """Undo migrations, the newest first, down to REVISION: four digits, or `previous` for the newest one only.

    Run it with the newer version, which has the migrations, after processes of the older one have taken over. It
    is refused, and nothing is changed, if data would be lost or if processes at work need a newer schema, until
    the options confirm that. Back up first.
    """
    url = _url(as_json=as_json)
    from bindings.domain.binding import Caller
    from bindings.store import downgrade as undo

    plan = undo.plan(url, revision)
    if not as_json:
        for migration in plan.migrations:
            losses = [f"lost: {loss}" for loss in migration.losses] or ["nothing is lost"]
            output.message(f"undo {migration.revision}: {'; '.join(migration.obstacles or losses)}")
        for process in plan.processes:
            output.message(f"at work in the last three minutes: {output.escape_unprintable(process)}")
    if not dry_run:
        with options.rename_fields(lose_data="--lose-data", processes_ended="--processes-ended"):
            plan.require(lose_data=lose_data, processes_ended=processes_ended)
        with output.spinner("undoing migrations ...", as_json=as_json):
            undo.run(url, plan, Caller(actor=context.actor()))
    if as_json:
        output.emit(plan)
    elif not plan.migrations:
        click.echo(f"schema at {plan.revision} already")
    elif dry_run:
        click.echo(f"schema at {plan.before}; nothing was changed")
    else:
        click.echo(f"schema at {plan.revision}, was at {plan.before}")


@db.command()
@options.as_json
def current(*, as_json: bool) -> None:
    """Show the schema revision of the database."""
    url = _url(as_json=as_json)
    from bindings.store import migrations

    version = migrations.current(url)
    if as_json:
        output.emit(_summary(version))
    else:
        click.echo(f"schema {version.describe()}")


@db.command()
@options.as_json
@click.pass_context
def check(command: click.Context, *, as_json: bool) -> None:
    """Exit with 1 unless this version can work on the schema, with its triggers, indexes and the keys for phones.

    Warns of modes of files that allow other users, and of rights that the service does not need; that does not
    change the exit code.
    """
    settings = _settings(as_json=as_json)
    from bindings.monitoring import protection_checks
    from bindings.monitoring.check import Level
    from bindings.store import migrations, phone_key_source
    from bindings.store.database import Database

    url = settings.database_url.get_secret_value()
    version = migrations.current(url)
    database = Database(url, phone_keys=phone_key_source.load(settings))
    try:
        checks = [] if database.missing_file is not None else protection_checks.of_database(database)
    finally:
        database.close()
    if as_json:
        output.emit({**_summary(version), "checks": checks})
    else:
        click.echo(f"schema {version.describe()}")
        for result in checks:
            if result.level is not Level.OK:
                output.message(f"warning: {output.escape_unprintable(f'{result.seen}; {result.todo}')}")
    version.require()
    if any(result.level is Level.RED for result in checks):
        command.exit(1)


@db.command()
@click.option(
    "--role", metavar="NAME", default="bindings_app", show_default=True, help="The role to grant them to."
)
@options.as_json
def grants(*, role: str, as_json: bool) -> None:
    """Print the SQL that gives a PostgreSQL role the rights that the service needs, and no others.

    Run it as the owner of the tables, after each upgrade too. Needs no database. Safe to repeat.
    """
    context.configure_logging(as_json=as_json)
    from bindings.store.grants import sql_for

    statements = sql_for(role)
    if as_json:
        output.emit({"role": role, "sql": statements})
    else:
        click.echo(statements, nl=False)


@db.command()
@click.option("--waive", is_flag=True, help="Allow binds without that reconciliation.")
@click.option("--head", metavar="N:HASH", help="Last head of the sealed history that was kept elsewhere.")
@options.as_json
def restored(*, waive: bool, head: str | None, as_json: bool) -> None:
    """Record that the database was restored from a backup: binds are refused until a full reconciliation.

    Run it after the restore and before any replica starts. With --waive binds are allowed immediately; use it
    only if the account's list cannot be read. The provider may then refuse a phone that was bound after the
    backup with -35.
    """
    with context.open_service(as_json=as_json) as service:
        service.mark_restored(waive=waive, head=head)
        has_journal = service.settings.erasure_journal is not None
    if as_json:
        output.emit({"scan_owed": not waive})
        return
    if waive:
        click.echo("binds are allowed; the provider may refuse a phone that was bound after the backup with -35")
    else:
        click.echo("binds are refused until `bindings reconcile` has compared everything with the provider's list")
    if has_journal:
        output.message(
            "Run `bindings erase --replay` before a replica starts: the backup has what was erased since."
        )


@db.command()
@options.as_json
def moved(*, as_json: bool) -> None:
    """Continue the change feed and webhooks after the database was loaded into another PostgreSQL cluster.

    A process does the same when it opens the database. Run it if processes went on through the move and `doctor`
    says that the feed waits, or if only rows were moved, as by logical replication: it also lets the positions of
    events continue, as the owner of the tables. Safe to repeat. Events that were written since the move are sent
    to the webhooks; a feed reader that was further on does not get them.
    """
    url = _url(as_json=as_json)
    from bindings.domain.binding import Caller
    from bindings.store import cluster_move, integrity, migrations
    from bindings.store.database import Database

    migrations.current(url).require()
    database = Database(url)
    try:
        positions = database.write(lambda tx: integrity.continue_positions(tx.connection))
        numbers = cluster_move.continue_numbers(database, Caller(actor=context.actor()))
    finally:
        database.close()
    if as_json:
        output.emit({"continued": positions or numbers})
    elif positions or numbers:
        click.echo("the feed and webhooks continue after the events of the cluster before")
    else:
        click.echo("nothing to do: new events follow the older ones")


def _summary(version: SchemaVersion) -> dict[str, object]:
    from bindings.store.schema import HEAD

    return {
        "revision": version.revision,
        "head": HEAD,
        "at_head": version.revision == HEAD,
        "accepted": version.accepted,
    }


def _record_first_key(url: str, key: str, *, as_json: bool) -> None:
    from bindings.access import first_key
    from bindings.domain.binding import Caller
    from bindings.store.database import Database

    database = Database(url)
    try:
        record = first_key.record(database, key, Caller(actor=context.actor()))
    finally:
        database.close()
    if record is not None and not as_json:
        output.message(context.first_key_message(record))


def _url(*, as_json: bool) -> str:
    return _settings(as_json=as_json).database_url.get_secret_value()


def _settings(*, as_json: bool) -> Settings:
    from bindings.validation import requests as validation

    context.configure_logging(as_json=as_json)
    return validation.settings()
