"""Everything that is SQL. Nothing outside this folder imports SQLAlchemy.

The database: `schema` holds the tables, `column_types` what their columns hold, `engine` how they are reached
(`deadline` a connection that stops waiting), `database` transactions, retries and the clock, `hot` what runs past
SQLAlchemy, `migrations` the way to head, `account` whom the database belongs to, `memory` what it must not have
lost.

A binding's life: `bindings` its row, `reserve`, `settle`, `overdue` the steps, `holds` the phones that others
hold, `events` the history and the feed, `partitions` and `retention` how long they are kept, `reports` what
reconciliations found, `pools` and `tallies` the counts, `passes` who ran which pass.

Who asks: `queries` and `numbers` the reads, `keys` and `sessions` who it is, `access_log` who was shown what,
`webhooks` and `deliveries` who is told.
"""
