"""Everything that is SQL.

`schema` holds the tables, `database` the engines, transactions and the clock, `bindings` a binding's row and
`reserve`, `settle`, `overdue` the steps of its life, `holds` the phones that others hold, `events` the history
and the feed, `queries` the reads, `hot` what runs
them past SQLAlchemy, `passes` the record of passes, `reports` what reconciliations found, `account`
whom the database belongs to, `migrations` the way to head. Nothing outside this folder imports SQLAlchemy.
"""
