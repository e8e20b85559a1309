SELECT keys.id, keys.name, keys.role, keys.prefix, keys.rate_limit, keys.created_at,
    keys.created_by, keys.expires_at, keys.last_used_at, keys.revoked_at, keys.revoked_by,
    anon_1.hash, anon_1.began_at, anon_1.seen_at, anon_1.expires_at AS session_expires_at,
    anon_1.read_at
FROM keys
JOIN (
    SELECT sessions.hash AS hash, sessions.key_id AS key_id, sessions.began_at AS began_at,
        sessions.seen_at AS seen_at, sessions.expires_at AS expires_at,
        :param_1::TIMESTAMP WITH TIME ZONE AS read_at
    FROM sessions
    WHERE sessions.expires_at > :param_1::TIMESTAMP WITH TIME ZONE
    ORDER BY sessions.expires_at DESC
    LIMIT :param_2::INTEGER
) AS anon_1 ON anon_1.key_id = keys.id
WHERE keys.revoked_at IS NULL
  AND (keys.expires_at IS NULL OR keys.expires_at > :param_1::TIMESTAMP WITH TIME ZONE)
ORDER BY anon_1.seen_at DESC, anon_1.hash;
