WITH due AS MATERIALIZED (
    SELECT bindings.id AS id, bindings.warn_at AS deadline
    FROM bindings
    WHERE bindings.state = 'active'
      AND bindings.warn_at IS NOT NULL
      AND bindings.warn_at <= (
        SELECT clock_timestamp() AS clock_timestamp_1
    )
      AND bindings.unbind_requested_at IS NULL
      AND bindings.expires_at > (
        SELECT clock_timestamp() AS clock_timestamp_1
    )
      AND bindings.warn_at >= :due_since::TIMESTAMP WITH TIME ZONE
    ORDER BY bindings.warn_at
    LIMIT :due_limit::INTEGER
    FOR UPDATE SKIP LOCKED
), changed AS (
    UPDATE bindings
    SET warn_at=:param_1::TIMESTAMP WITH TIME ZONE, version=(bindings.version +
        :version_1::INTEGER), change_tx=greatest(bindings.change_tx,
        CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + coalesce((
        SELECT account.tx_offset
        FROM account
    ), 0))
    WHERE bindings.id = ANY (array((
        SELECT due.id
        FROM due
    )))
      AND CASE WHEN (bindings.state = 'active' AND bindings.warn_at IS NOT NULL AND bindings.warn_at
        <= (
        SELECT clock_timestamp() AS clock_timestamp_1
    ) AND bindings.unbind_requested_at IS NULL AND bindings.expires_at > (
        SELECT clock_timestamp() AS clock_timestamp_1
    )) THEN true ELSE false END
    RETURNING bindings.change_tx, bindings.id, bindings.version, bindings.expires_at
), logged AS (
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
    SELECT changed.change_tx AS change_tx, changed.id AS id, changed.version AS version,
        :event_kind::VARCHAR AS anon_1, clock_timestamp() AS clock_timestamp_1,
        :event_actor::VARCHAR AS anon_2, :event_request_id::VARCHAR AS anon_3, :event_detail::JSONB
        || jsonb_build_object('expires_at', changed.expires_at) AS anon_4,
        :event_key_id::UUID AS anon_5
    FROM changed
)
SELECT count(*) AS count_1, (
    SELECT max(due.deadline) AS max_1
    FROM due
) AS anon_6
FROM changed;
