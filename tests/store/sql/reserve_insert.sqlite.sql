INSERT INTO bindings (id, mode, phone_a, phone_b, pool_number, app_id, scope, reference,
    idempotency_key, fingerprint, replaces, replaced_by, waits_for, expire_s, max_expire_s, bind_id,
    middle_number_a, middle_number_b, state, provider_status, reason, actor, request_id,
    requested_at, send_by, settle_by, sent_at, answered_at, expires_at, provider_expires_at,
    held_until, warn_s, unbind_requested_at, ended_at, version, change_tx, facts_salt)
VALUES (:new_id, :new_mode, :new_phone_a, :new_phone_b, :new_pool_number, :new_app_id, :new_scope,
    :new_reference, :new_idempotency_key, :new_fingerprint, :new_replaces, :new_replaced_by,
    :new_waits_for, :new_expire_s, :new_max_expire_s, :new_bind_id, :new_middle_number_a,
    :new_middle_number_b, :new_state, :new_provider_status, :new_reason, :new_actor,
    :new_request_id, :new_requested_at, :new_send_by, :new_settle_by, :new_sent_at,
    :new_answered_at, :new_expires_at, :new_provider_expires_at, :new_held_until, :new_warn_s,
    :new_unbind_requested_at, :new_ended_at, :new_version, 0, :new_facts_salt)
ON CONFLICT DO NOTHING
RETURNING id, version, change_tx;
