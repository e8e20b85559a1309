SELECT holds.id, holds.phone, holds.phone_sealed, holds.phone_key, holds.why, holds.app_id,
    holds.bind_id, holds.origin_id, holds.held_until, holds.created_at, holds.strikes,
    holds.held_until > :param_1::TIMESTAMP WITH TIME ZONE AS in_force
FROM holds
WHERE holds.held_until > :param_1::TIMESTAMP WITH TIME ZONE
  AND (holds.held_until, holds.id) > (:param_2::TIMESTAMP WITH TIME ZONE, :param_3::UUID)
ORDER BY holds.held_until, holds.id
LIMIT :param_4::INTEGER;
