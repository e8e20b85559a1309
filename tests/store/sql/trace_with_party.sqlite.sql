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
    WHERE bindings.phone_a = :phone
      AND bindings.middle_number_a = :middle_number
      AND bindings.held_until >= :since
      AND bindings.held_until <= :span
      AND bindings.requested_at <= (
        SELECT :until AS anon_1
    )
    UNION ALL
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
    WHERE bindings.phone_b = :phone
      AND bindings.middle_number_b = :middle_number
      AND bindings.held_until >= :since
      AND bindings.held_until <= :span
      AND bindings.requested_at <= (
        SELECT :until AS anon_2
    )
)
SELECT c.id, c.mode, c.phone_a, c.phone_b, c.pool_number, c.app_id, c.scope, c.reference,
    c.idempotency_key, c.replaces, c.replaced_by, c.waits_for, c.expire_s, c.max_expire_s, c.warn_s,
    c.bind_id, c.middle_number_a, c.middle_number_b, c.state, c.provider_status, c.reason, c.actor,
    c.request_id, c.requested_at, c.send_by, c.settle_by, c.sent_at, c.answered_at, c.expires_at,
    c.provider_expires_at, c.held_until, c.unbind_requested_at, c.ended_at, c.version,
    c.phone_a_sealed, c.phone_b_sealed, c.phone_key
FROM c
WHERE coalesce(c.sent_at, c.requested_at) <= :until;
