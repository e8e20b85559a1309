WITH changed AS (
    UPDATE bindings
    SET phone_a=:token::VARCHAR, phone_a_sealed=NULL, reference=NULL, idempotency_key=NULL,
        duplicate_key=NULL, freed_key=NULL, fingerprint=NULL, request_id=NULL,
        version=(bindings.version + :version_1::INTEGER), change_tx=greatest(bindings.change_tx,
        CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + coalesce((
        SELECT account.tx_offset
        FROM account
    ), 0)), facts_salt=NULL
    WHERE bindings.id = :of_id::UUID
      AND bindings.ended_at IS NOT NULL
    RETURNING bindings.id, bindings.version, bindings.change_tx
), logged AS (
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
    SELECT changed.change_tx AS change_tx, changed.id AS id, changed.version AS version,
        :event_kind::VARCHAR AS anon_1, clock_timestamp() AS clock_timestamp_1,
        :event_actor::VARCHAR AS anon_2, :event_request_id::VARCHAR AS anon_3,
        :event_detail::JSONB AS anon_4, :event_key_id::UUID AS anon_5
    FROM changed
)
SELECT changed.id, changed.version, changed.change_tx
FROM changed;
