WITH found AS MATERIALIZED (
    SELECT bindings.id AS id, bindings.mode AS mode, bindings.phone_a AS phone_a,
        bindings.phone_b AS phone_b, bindings.pool_number AS pool_number, bindings.app_id AS app_id,
        bindings.scope AS scope, bindings.reference AS reference,
        bindings.idempotency_key AS idempotency_key, bindings.expire_s AS expire_s,
        bindings.warn_s AS warn_s, bindings.bind_id AS bind_id,
        bindings.middle_number_a AS middle_number_a, bindings.middle_number_b AS middle_number_b,
        bindings.state AS state, bindings.provider_status AS provider_status,
        bindings.reason AS reason, bindings.actor AS actor, bindings.request_id AS request_id,
        bindings.requested_at AS requested_at, bindings.send_by AS send_by,
        bindings.settle_by AS settle_by, bindings.sent_at AS sent_at,
        bindings.answered_at AS answered_at, bindings.expires_at AS expires_at,
        bindings.held_until AS held_until, bindings.unbind_requested_at AS unbind_requested_at,
        bindings.ended_at AS ended_at, bindings.version AS version
    FROM bindings
    WHERE bindings.phone_a = :phone::VARCHAR
      AND bindings.middle_number_a = :middle_number::VARCHAR
      AND bindings.held_until >= :since::TIMESTAMP WITH TIME ZONE
      AND bindings.held_until <= :span::TIMESTAMP WITH TIME ZONE
    UNION ALL
    SELECT bindings.id AS id, bindings.mode AS mode, bindings.phone_a AS phone_a,
        bindings.phone_b AS phone_b, bindings.pool_number AS pool_number, bindings.app_id AS app_id,
        bindings.scope AS scope, bindings.reference AS reference,
        bindings.idempotency_key AS idempotency_key, bindings.expire_s AS expire_s,
        bindings.warn_s AS warn_s, bindings.bind_id AS bind_id,
        bindings.middle_number_a AS middle_number_a, bindings.middle_number_b AS middle_number_b,
        bindings.state AS state, bindings.provider_status AS provider_status,
        bindings.reason AS reason, bindings.actor AS actor, bindings.request_id AS request_id,
        bindings.requested_at AS requested_at, bindings.send_by AS send_by,
        bindings.settle_by AS settle_by, bindings.sent_at AS sent_at,
        bindings.answered_at AS answered_at, bindings.expires_at AS expires_at,
        bindings.held_until AS held_until, bindings.unbind_requested_at AS unbind_requested_at,
        bindings.ended_at AS ended_at, bindings.version AS version
    FROM bindings
    WHERE bindings.phone_b = :phone::VARCHAR
      AND bindings.middle_number_b = :middle_number::VARCHAR
      AND NOT (bindings.phone_a = :phone::VARCHAR AND bindings.middle_number_a =
        :middle_number::VARCHAR)
      AND bindings.held_until >= :since::TIMESTAMP WITH TIME ZONE
      AND bindings.held_until <= :span::TIMESTAMP WITH TIME ZONE
)
SELECT found.id, found.mode, found.phone_a, found.phone_b, found.pool_number, found.app_id,
    found.scope, found.reference, found.idempotency_key, found.expire_s, found.warn_s,
    found.bind_id, found.middle_number_a, found.middle_number_b, found.state, found.provider_status,
    found.reason, found.actor, found.request_id, found.requested_at, found.send_by, found.settle_by,
    found.sent_at, found.answered_at, found.expires_at, found.held_until, found.unbind_requested_at,
    found.ended_at, found.version
FROM found
WHERE coalesce(found.sent_at, found.requested_at) <= :until::TIMESTAMP WITH TIME ZONE;
