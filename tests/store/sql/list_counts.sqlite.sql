SELECT count(*) AS count_1
FROM (
    SELECT bindings.id AS id
    FROM bindings
    WHERE bindings.state = 'active'
    ORDER BY bindings.expires_at
    LIMIT :param_1 OFFSET :param_2
) AS anon_1;

WITH c AS MATERIALIZED (
    SELECT bindings.id AS id, bindings.mode AS mode, bindings.phone_a AS phone_a,
        bindings.phone_b AS phone_b, bindings.pool_number AS pool_number, bindings.app_id AS app_id,
        bindings.scope AS scope, bindings.reference AS reference, coalesce(bindings.idempotency_key,
        bindings.duplicate_key) AS idempotency_key, bindings.replaces AS replaces,
        bindings.replaced_by AS replaced_by, bindings.waits_for AS waits_for,
        bindings.expire_s AS expire_s, bindings.max_expire_s AS max_expire_s,
        bindings.warn_s AS warn_s, bindings.bind_id AS bind_id,
        bindings.middle_number_a AS middle_number_a, bindings.middle_number_b AS middle_number_b,
        bindings.state AS state, bindings.provider_status AS provider_status,
        bindings.reason AS reason, bindings.actor AS actor, bindings.request_id AS request_id,
        bindings.requested_at AS requested_at, bindings.send_by AS send_by,
        bindings.settle_by AS settle_by, bindings.sent_at AS sent_at,
        bindings.answered_at AS answered_at, bindings.expires_at AS expires_at,
        bindings.provider_expires_at AS provider_expires_at, bindings.held_until AS held_until,
        bindings.unbind_requested_at AS unbind_requested_at, bindings.ended_at AS ended_at,
        bindings.version AS version, bindings.phone_a_sealed AS phone_a_sealed,
        bindings.phone_b_sealed AS phone_b_sealed, bindings.phone_key AS phone_key
    FROM bindings
    WHERE bindings.state = 'active'
)
SELECT c.state, c.mode, c.app_id, c.pool_number, c.provider_status, c.actor, count(*) AS count_1
FROM c
WHERE c.state = 'active'
  AND c.expires_at > :clock
  AND c.unbind_requested_at IS NULL
  AND c.requested_at > strftime(:strftime_1, :clock, :strftime_2)
  AND c.actor = :actor_1
GROUP BY c.state, c.mode, c.app_id, c.pool_number, c.provider_status, c.actor;
