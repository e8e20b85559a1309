WITH changed AS (
    UPDATE bindings
    SET bind_id=:new_bind_id::VARCHAR, middle_number_a=:new_middle_number_a::VARCHAR,
        middle_number_b=:new_middle_number_b::VARCHAR, state='active', provider_status=NULL,
        reason=NULL, sent_at=:new_sent_at::TIMESTAMP WITH TIME ZONE,
        answered_at=:new_answered_at::TIMESTAMP WITH TIME ZONE,
        expires_at=:new_expires_at::TIMESTAMP WITH TIME ZONE,
        provider_expires_at=:new_provider_expires_at::TIMESTAMP WITH TIME ZONE,
        held_until=greatest(:new_held_until::TIMESTAMP WITH TIME ZONE, least(bindings.held_until,
        clock_timestamp() + :hold)), warn_at=:new_warn_at::TIMESTAMP WITH TIME ZONE,
        version=(bindings.version + :version_1::INTEGER), change_tx=greatest(bindings.change_tx,
        CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + coalesce((
        SELECT account.tx_offset
        FROM account
    ), 0))
    WHERE bindings.id = :of_id::UUID
      AND (bindings.state = 'pending' OR bindings.state = 'in_doubt')
      AND NOT (EXISTS (
        SELECT *
        FROM bindings AS other
        WHERE other.app_id = bindings.app_id
          AND other.bind_id = :new_bind_id::VARCHAR
          AND (other.state = 'active' OR other.state = 'expired' AND other.provider_expires_at >
            other.ended_at AND other.provider_expires_at > (
            SELECT clock_timestamp() AS clock_timestamp_1
        ))
          AND other.id != bindings.id
    ))
      AND NOT (EXISTS (
        SELECT *
        FROM holds
        WHERE holds.app_id = bindings.app_id
          AND holds.bind_id = :new_bind_id::VARCHAR
          AND holds.held_until > (
            SELECT clock_timestamp() AS clock_timestamp_1
        )
    ))
    RETURNING bindings.id, bindings.version, bindings.change_tx, bindings.answered_at,
        bindings.bind_id, bindings.expires_at, bindings.held_until, bindings.middle_number_a,
        bindings.middle_number_b, bindings.sent_at
), logged AS (
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
    SELECT changed.change_tx AS change_tx, changed.id AS id, changed.version AS version,
        :event_kind::VARCHAR AS anon_1, clock_timestamp() AS clock_timestamp_1,
        :event_actor::VARCHAR AS anon_2, :event_request_id::VARCHAR AS anon_3, :event_detail::JSONB
        || jsonb_build_object('answered_at', changed.answered_at, 'bind_id', changed.bind_id,
        'expires_at', changed.expires_at, 'held_until', changed.held_until, 'middle_number_a',
        changed.middle_number_a, 'middle_number_b', changed.middle_number_b, 'sent_at',
        changed.sent_at) AS anon_4, :event_key_id::UUID AS anon_5
    FROM changed
)
SELECT changed.version, changed.held_until
FROM changed;
