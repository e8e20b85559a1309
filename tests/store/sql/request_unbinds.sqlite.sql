UPDATE bindings
SET unbind_requested_at=min(max(:clock, bindings.requested_at), bindings.held_until),
    version=(bindings.version + :version_1), change_tx=0
WHERE bindings.id = :of_id
  AND bindings.ended_at IS NULL
  AND bindings.unbind_requested_at IS NULL
RETURNING id, mode, phone_a, phone_b, pool_number, app_id, scope, reference,
    coalesce(idempotency_key, duplicate_key) AS idempotency_key, replaces, replaced_by, waits_for,
    expire_s, max_expire_s, warn_s, bind_id, middle_number_a, middle_number_b, state,
    provider_status, reason, actor, request_id, requested_at, send_by, settle_by, sent_at,
    answered_at, expires_at, provider_expires_at, held_until, unbind_requested_at, ended_at,
    version, phone_a_sealed, phone_b_sealed, phone_key, change_tx;
