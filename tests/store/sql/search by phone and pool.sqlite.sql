SELECT (
    SELECT count(*) AS count_1
    FROM (
        SELECT anon_2."row" AS "row"
        FROM (
            SELECT 1 AS "row"
            FROM bindings
            WHERE bindings.phone_a = :phone
            ORDER BY bindings.held_until
            LIMIT 5001 OFFSET :param_1
        ) AS anon_2
        UNION ALL
        SELECT anon_3."row" AS "row"
        FROM (
            SELECT 1 AS "row"
            FROM bindings
            WHERE bindings.phone_b = :phone
            ORDER BY bindings.held_until
            LIMIT 5001 OFFSET :param_2
        ) AS anon_3
    ) AS anon_1
) AS bindings;

SELECT bindings.id, bindings.mode, bindings.phone_a, bindings.phone_b, bindings.pool_number,
    bindings.app_id, bindings.scope, bindings.reference, coalesce(bindings.idempotency_key,
    bindings.duplicate_key) AS idempotency_key, bindings.replaces, bindings.replaced_by,
    bindings.waits_for, bindings.expire_s, bindings.max_expire_s, bindings.warn_s, bindings.bind_id,
    bindings.middle_number_a, bindings.middle_number_b, bindings.state, bindings.provider_status,
    bindings.reason, bindings.actor, bindings.request_id, bindings.requested_at, bindings.send_by,
    bindings.settle_by, bindings.sent_at, bindings.answered_at, bindings.expires_at,
    bindings.provider_expires_at, bindings.held_until, bindings.unbind_requested_at,
    bindings.ended_at, bindings.version, bindings.phone_a_sealed, bindings.phone_b_sealed,
    bindings.phone_key
FROM bindings
WHERE (bindings.phone_a = :phone_a_1 OR bindings.phone_b = :phone_b_1)
  AND bindings.pool_number = :pool_number_1
ORDER BY +bindings.requested_at DESC, bindings.id DESC
LIMIT :param_1 OFFSET :param_2;
