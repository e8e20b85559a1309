UPDATE bindings
SET bind_id=:new_bind_id, middle_number_a=:new_middle_number_a,
    middle_number_b=:new_middle_number_b, state='active', provider_status=NULL, reason=NULL,
    sent_at=:new_sent_at, answered_at=:new_answered_at, expires_at=:new_expires_at,
    provider_expires_at=:new_provider_expires_at, held_until=:new_held_until, warn_at=:new_warn_at,
    version=(bindings.version + :version_1), change_tx=0
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
RETURNING id, version, change_tx, answered_at, bind_id, expires_at, held_until, middle_number_a,
    middle_number_b, sent_at;
