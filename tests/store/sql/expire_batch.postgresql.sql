WITH due AS MATERIALIZED (
    SELECT bindings.id AS id, bindings.expires_at AS deadline
    FROM bindings
    WHERE bindings.state = 'active'
      AND bindings.expires_at <= (
        SELECT clock_timestamp() AS clock_timestamp_1
    )
      AND bindings.expires_at >= :due_since::TIMESTAMP WITH TIME ZONE
    ORDER BY bindings.expires_at
    LIMIT :due_limit::INTEGER
    FOR UPDATE SKIP LOCKED
), changed AS (
    UPDATE bindings
    SET state=:param_1::VARCHAR, ended_at=bindings.expires_at, version=(bindings.version +
        :version_1::INTEGER), change_tx=greatest(bindings.change_tx,
        CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + coalesce((
        SELECT account.tx_offset
        FROM account
    ), 0))
    WHERE bindings.id = ANY (array((
        SELECT due.id
        FROM due
    )))
      AND CASE WHEN (bindings.state = 'active' AND bindings.expires_at <= (
        SELECT clock_timestamp() AS clock_timestamp_1
    )) THEN true ELSE false END
    RETURNING bindings.change_tx, bindings.id, bindings.version
), logged AS (
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
    SELECT changed.change_tx AS change_tx, changed.id AS id, changed.version AS version,
        :event_kind::VARCHAR AS anon_1, clock_timestamp() AS clock_timestamp_1,
        :event_actor::VARCHAR AS anon_2, :event_request_id::VARCHAR AS anon_3,
        :event_detail::JSONB AS anon_4, :event_key_id::UUID AS anon_5
    FROM changed
)
SELECT count(*) AS count_1, (
    SELECT max(due.deadline) AS max_1
    FROM due
) AS anon_6
FROM changed;
