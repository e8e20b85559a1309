"""P16: `extend` against the same change by one hand-written statement on an open connection of the bare driver.

Each side extends bindings of its own, each to a later end in each round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from benchmarks import bind, data
from benchmarks.lookup import COLUMNS
from benchmarks.measure import Result, Target, interleave, microseconds, timed

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext
    from benchmarks.measure import Sample

FIRST_S = 1_000  # the first end, in seconds from the call; each round adds a minute
ROUND_S = 60
POSTGRES = f"""
WITH extended AS (
    UPDATE bindings SET expires_at = clock_timestamp() + make_interval(secs => %(seconds)s),
        version = version + 1, change_tx = greatest(change_tx, pg_current_xact_id()::text::bigint)
    WHERE id = %(id)s AND state = 'active' AND unbind_requested_at IS NULL AND expires_at > clock_timestamp()
        AND expires_at < clock_timestamp() + make_interval(secs => %(seconds)s)
        AND provider_expires_at >= clock_timestamp() + make_interval(secs => %(seconds)s)
    RETURNING {COLUMNS}, change_tx),
logged AS (
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail)
    SELECT change_tx, id, version, 'extended', clock_timestamp(), 'bench', NULL,
        jsonb_build_object('expires_at', expires_at) FROM extended)
SELECT {COLUMNS} FROM extended
"""


def measure(context: BenchContext) -> list[Result]:
    """Return P16 on PostgreSQL."""
    bench_db, count = context.postgres(), context.sizes.lookups
    first = bench_db.add_due(2 * count, after_s=FIRST_S - ROUND_S, over_s=1, provider_after_s=2 * data.DAY_S)
    ids = [data.binding_id(number) for number in range(first, first + 2 * count)]
    with (
        bind.open_service(bench_db.url) as service,
        psycopg.connect(bench_db.url, autocommit=True) as connection,
    ):

        def product(number: int) -> Sample:
            expire_s = FIRST_S + number * ROUND_S
            return timed(lambda binding_id: service.extend(binding_id, expire_s=expire_s), ids[:count])

        def baseline(number: int) -> Sample:
            seconds = FIRST_S + number * ROUND_S
            return timed(lambda binding_id: extend_by_hand(binding_id, seconds), ids[count:])

        def extend_by_hand(binding_id: str, seconds: int) -> None:
            values = {"id": binding_id, "seconds": seconds}
            if len(connection.execute(POSTGRES, values, prepare=True).fetchall()) != 1:
                raise AssertionError("the baseline extended nothing")

        product(0), baseline(0)  # prepares the statements
        rounds = interleave(
            context.sizes.rounds, lambda number: product(number + 1), lambda number: baseline(number + 1)
        )
    bench_db.execute(
        "UPDATE bindings SET state = 'expired', ended_at = expires_at, provider_expires_at = NULL"
        f" WHERE id BETWEEN '{ids[0]}' AND '{ids[-1]}'"
    )
    target = Target(id="P16", title="extend on PostgreSQL", bound=1.3)
    return [Result(target=target, rounds=rounds, note=microseconds(rounds))]
