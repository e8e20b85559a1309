INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + coalesce((
    SELECT account.tx_offset
    FROM account
), 0) AS anon_1, :event_binding_id::UUID AS anon_2, :event_sequence::INTEGER AS anon_3,
    :event_kind::VARCHAR AS anon_4, clock_timestamp() AS clock_timestamp_1,
    :event_actor::VARCHAR AS anon_5, :event_request_id::VARCHAR AS anon_6,
    :event_detail::JSONB AS anon_7, :event_key_id::UUID AS anon_8;
