SELECT (
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
    WHERE bindings.id = :known_id
) AS anon_5;
