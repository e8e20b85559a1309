WITH logged AS (
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
    SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + coalesce((
        SELECT account.tx_offset
        FROM account
    ), 0) AS anon_15, :event_binding_id::UUID AS anon_16, :event_sequence::INTEGER AS anon_17,
        :event_kind::VARCHAR AS anon_18, clock_timestamp() AS clock_timestamp_1,
        :event_actor::VARCHAR AS anon_19, :event_request_id::VARCHAR AS anon_20,
        :event_detail::JSONB AS anon_21, :event_key_id::UUID AS anon_22
    WHERE (
        SELECT account.phone_index_key
        FROM account
    ) IS NULL
    RETURNING events.position, events.at
), recorded AS (
    INSERT INTO refusals (mode, pool_number, app_id, reference, phone_a, phone_b, id, code,
        provider_status, actor, request_id, holder_id, held_by, held_until, at, event_position)
    SELECT :new_mode::VARCHAR AS anon_1, :new_pool_number::VARCHAR AS anon_2,
        :new_app_id::VARCHAR AS anon_3, :new_reference::VARCHAR AS anon_4,
        :new_phone_a::VARCHAR AS anon_5, :new_phone_b::VARCHAR AS anon_6, :new_id::UUID AS anon_7,
        :new_code::VARCHAR AS anon_8, :new_provider_status::VARCHAR AS anon_9,
        :new_actor::VARCHAR AS anon_10, :new_request_id::VARCHAR AS anon_11,
        :new_holder_id::UUID AS anon_12, :new_held_by::VARCHAR AS anon_13,
        :new_held_until::TIMESTAMP WITH TIME ZONE AS anon_14, logged.at AS at,
        logged.position AS position
    FROM logged
    RETURNING refusals.id
)
SELECT recorded.id
FROM recorded;
