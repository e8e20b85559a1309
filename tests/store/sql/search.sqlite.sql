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
WHERE bindings.state = :state_1
  AND bindings.state = 'active'
  AND bindings.expires_at > :clock
  AND bindings.unbind_requested_at IS NULL
  AND bindings.requested_at > strftime(:strftime_1, :clock, :strftime_2)
  AND bindings.reference = :reference_1
  AND bindings.requested_at >= :requested_at_1
  AND (bindings.requested_at, bindings.id) < (:param_1, :param_2)
ORDER BY bindings.requested_at DESC, bindings.id DESC
LIMIT :param_3 OFFSET :param_4;
