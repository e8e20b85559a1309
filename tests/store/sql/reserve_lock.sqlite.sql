SELECT (
    SELECT account.scan_owed_since
    FROM account
) AS anon_1, (
    SELECT bindings.version
    FROM bindings
    WHERE bindings.id = :known_id
) AS anon_2;
