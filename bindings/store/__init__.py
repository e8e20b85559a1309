"""Everything that is SQL.

`schema` holds the tables, `database` the engines, transactions and the clock, `bindings` the life of a
binding (`reserve`, `settle`, `overdue` its steps), `holds` the phones that others hold, `events` the history and the feed, `queries` the reads, `passes`
the record of passes, `reports` what reconciliations found, `migrations` the way to head. Nothing outside this folder imports SQLAlchemy.
"""
