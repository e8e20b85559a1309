SELECT set_config(:set_config_2::VARCHAR, :wait, true) AS set_config_1,
    pg_advisory_xact_lock(:key_0::BIGINT) AS pg_advisory_xact_lock_1,
    pg_advisory_xact_lock(:key_1::BIGINT) AS pg_advisory_xact_lock_2, (
    SELECT account.scan_owed_since
    FROM account
) AS anon_1, (
    SELECT account.phone_index_key
    FROM account
) AS anon_2, (
    SELECT account.phone_data_key
    FROM account
) AS anon_3, (
    SELECT account.phones_sealed_at
    FROM account
) AS anon_4, (
    SELECT bindings.version
    FROM bindings
    WHERE bindings.id = :known_id::UUID
) AS anon_5, clock_timestamp() AS clock_timestamp_1;
