WITH changed AS (
    UPDATE bindings
    SET expires_at=least((
        SELECT clock_timestamp() AS clock_timestamp_1
    ) + :lifetime, coalesce(bindings.provider_expires_at, bindings.expires_at)),
        provider_expires_at=coalesce(bindings.provider_expires_at, bindings.expires_at),
        warn_at=CASE WHEN (bindings.warn_s IS NULL) THEN NULL ELSE ((
        SELECT clock_timestamp() AS clock_timestamp_1
    ) + :lifetime) - make_interval(0, 0, 0, 0, 0, 0, CAST(bindings.warn_s AS FLOAT)) END,
        version=(bindings.version + :version_1::INTEGER), change_tx=greatest(bindings.change_tx,
        CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + coalesce((
        SELECT account.tx_offset
        FROM account
    ), 0))
    WHERE bindings.id = :of_id::UUID
      AND bindings.state = 'active'
      AND bindings.unbind_requested_at IS NULL
      AND bindings.expires_at > (
        SELECT clock_timestamp() AS clock_timestamp_1
    )
      AND (:of_actor::VARCHAR IS NULL OR bindings.actor = :of_actor::VARCHAR)
      AND (
        SELECT clock_timestamp() AS clock_timestamp_1
    ) BETWEEN :clock_from::TIMESTAMP WITH TIME ZONE
      AND :clock_to::TIMESTAMP WITH TIME ZONE
      AND (
        SELECT clock_timestamp() AS clock_timestamp_1
    ) + :lifetime > bindings.expires_at
      AND (
        SELECT clock_timestamp() AS clock_timestamp_1
    ) + :lifetime <= coalesce(bindings.provider_expires_at, bindings.expires_at)
    RETURNING bindings.id, bindings.mode, bindings.phone_a, bindings.phone_b, bindings.pool_number,
        bindings.app_id, bindings.scope, bindings.reference, coalesce(bindings.idempotency_key,
        bindings.duplicate_key) AS idempotency_key, bindings.replaces, bindings.replaced_by,
        bindings.waits_for, bindings.expire_s, bindings.max_expire_s, bindings.warn_s,
        bindings.bind_id, bindings.middle_number_a, bindings.middle_number_b, bindings.state,
        bindings.provider_status, bindings.reason, bindings.actor, bindings.request_id,
        bindings.requested_at, bindings.send_by, bindings.settle_by, bindings.sent_at,
        bindings.answered_at, bindings.expires_at, bindings.provider_expires_at,
        bindings.held_until, bindings.unbind_requested_at, bindings.ended_at, bindings.version,
        bindings.phone_a_sealed, bindings.phone_b_sealed, bindings.phone_key, bindings.change_tx
), logged AS (
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
    SELECT changed.change_tx AS change_tx, changed.id AS id, changed.version AS version,
        :event_kind::VARCHAR AS anon_1, clock_timestamp() AS clock_timestamp_1,
        :event_actor::VARCHAR AS anon_2, :event_request_id::VARCHAR AS anon_3, :event_detail::JSONB
        || jsonb_build_object('expires_at', changed.expires_at, 'provider_expires_at',
        changed.provider_expires_at) AS anon_4, :event_key_id::UUID AS anon_5
    FROM changed
)
SELECT changed.id, changed.mode, changed.phone_a, changed.phone_b, changed.pool_number,
    changed.app_id, changed.scope, changed.reference, changed.idempotency_key, changed.replaces,
    changed.replaced_by, changed.waits_for, changed.expire_s, changed.max_expire_s, changed.warn_s,
    changed.bind_id, changed.middle_number_a, changed.middle_number_b, changed.state,
    changed.provider_status, changed.reason, changed.actor, changed.request_id,
    changed.requested_at, changed.send_by, changed.settle_by, changed.sent_at, changed.answered_at,
    changed.expires_at, changed.provider_expires_at, changed.held_until,
    changed.unbind_requested_at, changed.ended_at, changed.version, changed.phone_a_sealed,
    changed.phone_b_sealed, changed.phone_key, changed.change_tx
FROM changed;
