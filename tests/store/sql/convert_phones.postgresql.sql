SELECT bindings.id, bindings.mode, bindings.phone_a, bindings.phone_b, bindings.phone_a_sealed,
    bindings.phone_b_sealed, bindings.phone_key, bindings.pool_number, bindings.app_id,
    bindings.scope, bindings.reference, bindings.idempotency_key, bindings.duplicate_key,
    bindings.freed_key, bindings.fingerprint, bindings.replaces, bindings.replaced_by,
    bindings.waits_for, bindings.expire_s, bindings.max_expire_s, bindings.bind_id,
    bindings.middle_number_a, bindings.middle_number_b, bindings.state, bindings.provider_status,
    bindings.reason, bindings.actor, bindings.request_id, bindings.requested_at, bindings.send_by,
    bindings.settle_by, bindings.sent_at, bindings.answered_at, bindings.expires_at,
    bindings.provider_expires_at, bindings.held_until, bindings.warn_s, bindings.warn_at,
    bindings.unbind_requested_at, bindings.ended_at, bindings.version, bindings.change_tx,
    bindings.facts_salt, bindings.phone_a AS raw_phone_a, bindings.phone_b AS raw_phone_b
FROM bindings
WHERE (bindings.phone_key != :phone_key_1::SMALLINT OR substr(bindings.phone_a, :substr_1::INTEGER,
    :substr_2::INTEGER) IN (:substr_3_1::VARCHAR, :substr_3_2::VARCHAR, :substr_3_3::VARCHAR,
    :substr_3_4::VARCHAR, :substr_3_5::VARCHAR, :substr_3_6::VARCHAR, :substr_3_7::VARCHAR,
    :substr_3_8::VARCHAR, :substr_3_9::VARCHAR, :substr_3_10::VARCHAR) OR (bindings.phone_a LIKE
    :param_1::VARCHAR || '%') AND (bindings.phone_a NOT LIKE :param_2::VARCHAR || '%' ESCAPE '/') OR
    substr(bindings.phone_b, :substr_4::INTEGER, :substr_5::INTEGER) IN (:substr_6_1::VARCHAR,
    :substr_6_2::VARCHAR, :substr_6_3::VARCHAR, :substr_6_4::VARCHAR, :substr_6_5::VARCHAR,
    :substr_6_6::VARCHAR, :substr_6_7::VARCHAR, :substr_6_8::VARCHAR, :substr_6_9::VARCHAR,
    :substr_6_10::VARCHAR) OR (bindings.phone_b LIKE :param_3::VARCHAR || '%') AND (bindings.phone_b
    NOT LIKE :param_4::VARCHAR || '%' ESCAPE '/') OR bindings.phone_key IS NOT NULL AND
    (bindings.fingerprint NOT LIKE :fingerprint_1::VARCHAR || '%' ESCAPE '/'))
  AND bindings.id > :id_1::UUID
ORDER BY bindings.id
LIMIT :param_5::INTEGER;

SELECT holds.id, holds.scope, holds.phone, holds.phone_sealed, holds.phone_key, holds.why,
    holds.app_id, holds.bind_id, holds.origin_id, holds.held_until, holds.strikes, holds.created_at,
    holds.facts_salt, holds.phone AS raw_phone
FROM holds
WHERE (holds.phone_key != :phone_key_1::SMALLINT OR substr(holds.phone, :substr_1::INTEGER,
    :substr_2::INTEGER) IN (:substr_3_1::VARCHAR, :substr_3_2::VARCHAR, :substr_3_3::VARCHAR,
    :substr_3_4::VARCHAR, :substr_3_5::VARCHAR, :substr_3_6::VARCHAR, :substr_3_7::VARCHAR,
    :substr_3_8::VARCHAR, :substr_3_9::VARCHAR, :substr_3_10::VARCHAR) OR (holds.phone LIKE
    :param_1::VARCHAR || '%') AND (holds.phone NOT LIKE :param_2::VARCHAR || '%' ESCAPE '/'))
  AND holds.id > :id_1::UUID
ORDER BY holds.id
LIMIT :param_3::INTEGER;
