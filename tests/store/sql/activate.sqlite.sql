UPDATE bindings
SET bind_id=:new_bind_id, middle_number_a=:new_middle_number_a,
    middle_number_b=:new_middle_number_b, state=:new_state, provider_status=:new_provider_status,
    reason=:new_reason, sent_at=:new_sent_at, answered_at=:new_answered_at,
    expires_at=:new_expires_at, provider_expires_at=:new_provider_expires_at,
    held_until=:new_held_until, warn_at=:new_warn_at, version=(bindings.version + :version_1),
    change_tx=0
WHERE bindings.id = :of_id
  AND (bindings.state = 'pending' OR bindings.state = 'in_doubt')
  AND NOT (EXISTS (
    SELECT *
    FROM bindings AS other
    WHERE other.app_id = bindings.app_id
      AND other.bind_id = :new_bind_id
      AND (other.state = 'active' OR other.state = 'expired' AND other.provider_expires_at >
        other.ended_at AND other.provider_expires_at > :clock)
      AND other.id != bindings.id
))
  AND NOT (EXISTS (
    SELECT *
    FROM holds
    WHERE holds.app_id = bindings.app_id
      AND holds.bind_id = :new_bind_id
      AND holds.held_until > :clock
))
RETURNING id, mode, phone_a, phone_b, pool_number, app_id, scope, reference,
    coalesce(idempotency_key, duplicate_key) AS idempotency_key, replaces, replaced_by, waits_for,
    expire_s, max_expire_s, warn_s, bind_id, middle_number_a, middle_number_b, state,
    provider_status, reason, actor, request_id, requested_at, send_by, settle_by, sent_at,
    answered_at, expires_at, provider_expires_at, held_until, unbind_requested_at, ended_at,
    version, phone_a_sealed, phone_b_sealed, phone_key, change_tx;
