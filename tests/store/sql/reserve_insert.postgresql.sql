WITH changed AS (
    INSERT INTO bindings (id, mode, phone_a, phone_b, pool_number, app_id, scope, reference,
        idempotency_key, fingerprint, replaces, replaced_by, waits_for, expire_s, max_expire_s,
        bind_id, middle_number_a, middle_number_b, state, provider_status, reason, actor,
        request_id, requested_at, send_by, settle_by, sent_at, answered_at, expires_at,
        provider_expires_at, held_until, warn_s, unbind_requested_at, ended_at, version, change_tx,
        facts_salt)
    VALUES (:new_id::UUID, :new_mode::VARCHAR, :new_phone_a::VARCHAR, :new_phone_b::VARCHAR,
        :new_pool_number::VARCHAR, :new_app_id::VARCHAR, :new_scope::VARCHAR,
        :new_reference::VARCHAR, :new_idempotency_key::VARCHAR, :new_fingerprint::VARCHAR,
        :new_replaces::UUID, :new_replaced_by::UUID, :new_waits_for::UUID, :new_expire_s::INTEGER,
        :new_max_expire_s::INTEGER, :new_bind_id::VARCHAR, :new_middle_number_a::VARCHAR,
        :new_middle_number_b::VARCHAR, :new_state::VARCHAR, :new_provider_status::VARCHAR,
        :new_reason::VARCHAR, :new_actor::VARCHAR, :new_request_id::VARCHAR,
        :new_requested_at::TIMESTAMP WITH TIME ZONE, :new_send_by::TIMESTAMP WITH TIME ZONE,
        :new_settle_by::TIMESTAMP WITH TIME ZONE, :new_sent_at::TIMESTAMP WITH TIME ZONE,
        :new_answered_at::TIMESTAMP WITH TIME ZONE, :new_expires_at::TIMESTAMP WITH TIME ZONE,
        :new_provider_expires_at::TIMESTAMP WITH TIME ZONE,
        :new_held_until::TIMESTAMP WITH TIME ZONE, :new_warn_s::INTEGER,
        :new_unbind_requested_at::TIMESTAMP WITH TIME ZONE, :new_ended_at::TIMESTAMP WITH TIME ZONE,
        :new_version::INTEGER, (CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + coalesce((
        SELECT account.tx_offset
        FROM account
    ), 0)), :new_facts_salt::VARCHAR)
    ON CONFLICT DO NOTHING
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
