"""A function that records the intent of a bind in one round trip (PostgreSQL).

It does what the first transaction of a bind does: it locks both phones, checks, and inserts the binding and its
`requested` event. If anything is in the way it changes nothing and returns NULL, and the caller runs the
transaction, which decides. Code of 0008 to 0021 does not know the function; later code does without if it is
missing.

The function has a version in its name. A migration that changes it creates the next version beside it, and leaves
this one to the version before.

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}
NAME = "reserve_intent_1"
COMMENT = "records the intent of a bind in the plain case; NULL: it is not that case, and nothing was changed"
PARAMETERS = """
    lock_wait text,
    lock_keys bigint[],
    fixed_clock timestamptz,
    earliest timestamptz,
    latest timestamptz,
    index_key integer,
    data_key integer,
    all_sealed boolean,
    known_id uuid,
    known_version integer,
    stored_phones text[],
    allowed_holders text[],
    send_us bigint,
    settle_us bigint,
    held_us bigint,
    facts text,
    trace text,
    event_key_id uuid,
    new_id uuid,
    new_mode text,
    new_phone_a text,
    new_phone_b text,
    new_phone_a_sealed bytea,
    new_phone_b_sealed bytea,
    new_phone_key integer,
    new_pool_number text,
    new_app_id text,
    new_scope text,
    new_reference text,
    new_idempotency_key text,
    new_fingerprint text,
    new_expire_s integer,
    new_max_expire_s integer,
    new_warn_s integer,
    new_actor text,
    new_request_id text,
    new_facts_salt text
"""
BODY = """
DECLARE
    lock_key bigint;
    instant timestamptz;
BEGIN
    -- At another level the snapshot would be older than the locks, and the checks would miss what was committed
    -- while this call waited for them.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'an intent is recorded at the isolation level read committed only'
            USING ERRCODE = '25004';
    END IF;
    -- Without the second setting, what is planned while a table is nearly empty would read all of it, until its
    -- first ANALYZE.
    PERFORM set_config('lock_timeout', lock_wait, true), set_config('enable_seqscan', 'off', true);
    FOREACH lock_key IN ARRAY lock_keys LOOP
        PERFORM pg_advisory_xact_lock(lock_key);
    END LOOP;
    -- Each statement of a volatile function has a snapshot of its own: from here on it is younger than the locks.
    instant := coalesce(fixed_clock, clock_timestamp());
    -- A comparison with NULL refuses too.
    IF (instant BETWEEN earliest AND latest) IS NOT TRUE
        OR (new_phone_a = ANY (stored_phones) AND new_phone_b = ANY (stored_phones)) IS NOT TRUE
    THEN
        RETURN NULL;
    END IF;
    IF NOT coalesce(
            (
                SELECT (
                    scan_owed_since IS NULL
                    AND phone_index_key IS NOT DISTINCT FROM index_key
                    AND phone_data_key IS NOT DISTINCT FROM data_key
                    AND (phones_sealed_at IS NOT NULL) = all_sealed
                ) IS TRUE
                FROM account
                WHERE id = 1
            ),
            index_key IS NULL AND data_key IS NULL AND all_sealed IS FALSE
        )
        OR known_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM bindings WHERE id = known_id AND version >= known_version
        )
        OR EXISTS (
            SELECT FROM bindings
            WHERE phone_a = ANY (stored_phones) AND held_until > instant AND scope = new_scope
                AND state <> 'failed'
                AND (
                    concat_ws(' ', mode, state, CASE WHEN phone_b = ANY (stored_phones) THEN 'pair' END)
                    = ANY (allowed_holders)
                ) IS NOT TRUE
        )
        OR EXISTS (
            SELECT FROM bindings
            WHERE phone_b = ANY (stored_phones) AND held_until > instant AND scope = new_scope
                AND state <> 'failed'
                AND (
                    concat_ws(' ', mode, state, CASE WHEN phone_a = ANY (stored_phones) THEN 'pair' END)
                    = ANY (allowed_holders)
                ) IS NOT TRUE
        )
        OR EXISTS (
            SELECT FROM holds
            WHERE phone = ANY (stored_phones) AND held_until > instant AND scope = new_scope
        )
    THEN
        RETURN NULL;
    END IF;
    WITH recorded AS (
        INSERT INTO bindings (
            id, mode, phone_a, phone_b, phone_a_sealed, phone_b_sealed, phone_key, pool_number, app_id, scope,
            reference, idempotency_key, fingerprint, expire_s, max_expire_s, warn_s, state, actor, request_id,
            requested_at, send_by, settle_by, held_until, version, change_tx, facts_salt
        )
        VALUES (
            new_id, new_mode, new_phone_a, new_phone_b, new_phone_a_sealed, new_phone_b_sealed, new_phone_key,
            new_pool_number, new_app_id, new_scope, new_reference, new_idempotency_key, new_fingerprint,
            new_expire_s, new_max_expire_s, new_warn_s, 'pending', new_actor, new_request_id, instant,
            instant + send_us * interval '1 microsecond', instant + settle_us * interval '1 microsecond',
            instant + held_us * interval '1 microsecond', 1,
            pg_current_xact_id()::text::bigint + coalesce((SELECT tx_offset FROM account WHERE id = 1), 0),
            new_facts_salt
        )
        ON CONFLICT DO NOTHING
        RETURNING *
    )
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
    SELECT change_tx, id, version, 'requested', coalesce(fixed_clock, clock_timestamp()), actor, request_id,
        jsonb_strip_nulls(jsonb_build_object(
            'mode', mode, 'pool_number', pool_number, 'app_id', app_id, 'expire_s', expire_s,
            'max_expire_s', max_expire_s, 'warn_s', warn_s, 'requested_at', requested_at, 'send_by', send_by,
            'settle_by', settle_by, 'held_until', held_until, 'facts', facts, 'traceparent', trace
        )),
        event_key_id
    FROM recorded;
    IF NOT FOUND THEN  -- the id or the idempotency key is in use
        RETURN NULL;
    END IF;
    -- The insertion may have waited too: for a table, for the same key, or with a server that stood still.
    IF coalesce(fixed_clock, clock_timestamp()) > latest THEN
        RAISE EXCEPTION 'the intent was not recorded: its client no longer waits for it'
            USING ERRCODE = '57014';
    END IF;
    RETURN instant;
END
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION {NAME} ({PARAMETERS}) RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $${BODY}$$"
        )
        op.execute(f"COMMENT ON FUNCTION {NAME} IS '{COMMENT}'")
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP FUNCTION {NAME}")
