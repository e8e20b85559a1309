SELECT count(*) AS count_1
FROM (
    SELECT bindings.id AS id
    FROM bindings
    WHERE bindings.reference >= :reference_1
      AND bindings.reference < :reference_2
    ORDER BY bindings.reference
    LIMIT :param_1 OFFSET :param_2
) AS anon_1;

SELECT part.id, part.mode, part.phone_a, part.phone_b, part.pool_number, part.app_id, part.scope,
    part.reference, part.idempotency_key, part.replaces, part.replaced_by, part.waits_for,
    part.expire_s, part.max_expire_s, part.warn_s, part.bind_id, part.middle_number_a,
    part.middle_number_b, part.state, part.provider_status, part.reason, part.actor,
    part.request_id, part.requested_at, part.send_by, part.settle_by, part.sent_at,
    part.answered_at, part.expires_at, part.provider_expires_at, part.held_until,
    part.unbind_requested_at, part.ended_at, part.version, part.phone_a_sealed, part.phone_b_sealed,
    part.phone_key
FROM (
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
    WHERE bindings.requested_at >= :requested_at_1
      AND (bindings.requested_at, bindings.id) < (:param_1, :param_2)
    ORDER BY bindings.requested_at DESC, bindings.id DESC
    LIMIT :param_3 OFFSET :param_4
) AS part
WHERE part.state = :state_1
  AND part.reference >= :reference_1
  AND part.reference < :reference_2
  AND part.requested_at >= :requested_at_2
  AND (part.requested_at, part.id) < (:param_5, :param_6)
ORDER BY part.requested_at DESC, part.id DESC
LIMIT :param_7 OFFSET :param_8;

SELECT bindings.requested_at, bindings.id
FROM bindings
WHERE bindings.requested_at >= :requested_at_1
  AND (bindings.requested_at, bindings.id) < (:param_1, :param_2)
ORDER BY bindings.requested_at DESC, bindings.id DESC
LIMIT :param_3 OFFSET :param_4;
