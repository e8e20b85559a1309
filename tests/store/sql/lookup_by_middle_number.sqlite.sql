WITH candidates AS MATERIALIZED (
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
    WHERE bindings.middle_number_a = :middle_number
      AND bindings.held_until > :clock
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
    WHERE bindings.middle_number_b = :middle_number
      AND bindings.middle_number_b != bindings.middle_number_a
      AND bindings.middle_number_a != :middle_number
      AND bindings.held_until > :clock
)
SELECT candidates.id, candidates.mode, candidates.phone_a, candidates.phone_b,
    candidates.pool_number, candidates.app_id, candidates.scope, candidates.reference,
    candidates.idempotency_key, candidates.replaces, candidates.replaced_by, candidates.waits_for,
    candidates.expire_s, candidates.max_expire_s, candidates.warn_s, candidates.bind_id,
    candidates.middle_number_a, candidates.middle_number_b, candidates.state,
    candidates.provider_status, candidates.reason, candidates.actor, candidates.request_id,
    candidates.requested_at, candidates.send_by, candidates.settle_by, candidates.sent_at,
    candidates.answered_at, candidates.expires_at, candidates.provider_expires_at,
    candidates.held_until, candidates.unbind_requested_at, candidates.ended_at, candidates.version,
    candidates.phone_a_sealed, candidates.phone_b_sealed, candidates.phone_key
FROM candidates
WHERE candidates.state = 'active'
  AND candidates.expires_at > :clock
  AND candidates.unbind_requested_at IS NULL
ORDER BY candidates.requested_at DESC, candidates.id DESC;
