"""All SQL. Nothing outside this folder imports SQLAlchemy.

The database: `schema` holds the tables, `column_types` the types of their columns, `engine` makes connections
(`deadline_connection` one whose waits end), `database` runs transactions, retries them and reads the clock,
`compiled` runs hot statements past SQLAlchemy, `sql` has what statements share, `migrations` brings the schema to
head, `account` is the row that names the provider account, `rollback_detection` notices an older database.

A binding: `bindings` is its row, `reserve`, `settle` and `expiry` are its transitions, `reserve_call` is `reserve`
in one round trip, `holds` the phones that the provider holds for something else, `events` the history and the
feed, `partitions` and `retention` how long both are kept, `reports` the results of reconciliations, `pools` and
`statistics` the counts, `job_runs` which job ran.

The callers: `queries` and `number_history` read bindings, `keys` and `sessions` authenticate, `access_log` records
reveals and exports, `webhooks` and `deliveries` are the receivers of events and what is sent to them.
"""
