WITH changed AS (
    UPDATE bindings
    SET unbind_requested_at=least(greatest(clock_timestamp(), bindings.requested_at),
        bindings.held_until), version=(bindings.version + :version_1::INTEGER),
        change_tx=greatest(bindings.change_tx, CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) +
        coalesce((
        SELECT account.tx_offset
        FROM account
    ), 0))
    WHERE bindings.id = :of_id::UUID
      AND bindings.ended_at IS NULL
      AND bindings.unbind_requested_at IS NULL
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
        :event_kind::VARCHAR AS anon_4, clock_timestamp() AS clock_timestamp_1,
        :event_actor::VARCHAR AS anon_5, :event_request_id::VARCHAR AS anon_6, CASE WHEN (EXISTS (
        SELECT *
        FROM replicas
        WHERE replicas.seen_at >= (
            SELECT clock_timestamp() AS clock_timestamp_1
        ) - :param_1
          AND (replicas.schema_revision IS NULL OR replicas.schema_revision < '0017')
    )) THEN :event_detail::JSONB ELSE :event_detached_detail::JSONB END ||
        jsonb_build_object('unbind_requested_at', changed.unbind_requested_at) AS anon_7,
        :event_key_id::UUID AS anon_8
    FROM changed
    RETURNING events.position, events.binding_id, events.detail
), texts_inserted AS (
    INSERT INTO texts (event_position, name, binding_id, text, salt)
    SELECT logged.position AS position, :text_name::VARCHAR AS anon_1,
        logged.binding_id AS binding_id, :text_text::VARCHAR AS anon_2, :text_salt AS anon_3
    FROM logged
    WHERE jsonb_typeof((logged.detail -> :text_name::VARCHAR)) = :param_2::VARCHAR
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
