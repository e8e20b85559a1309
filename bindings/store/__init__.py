"""Everything that is SQL.

`schema` holds the tables, `database` the engines, transactions and the clock, `bindings` the life of a
binding, `holds` the phones that others hold, `events` the history and the feed, `queries` the reads, `passes`
the record of passes, `migrations` the way to head. Nothing outside this folder imports SQLAlchemy.
"""
