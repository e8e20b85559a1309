SELECT bindings.id, bindings.actor, bindings.reference, bindings.mode, bindings.state,
    bindings.held_until, bindings.phone_a AS phone_a, bindings.phone_b AS phone_b, 'binding' AS why
FROM bindings
WHERE bindings.phone_a IN (:phone_1::VARCHAR, :phone_1_1::VARCHAR, :phone_2::VARCHAR,
    :phone_2_1::VARCHAR)
  AND bindings.held_until > :now::TIMESTAMP WITH TIME ZONE
  AND bindings.scope = :scope::VARCHAR
  AND bindings.state != 'failed'
UNION
SELECT bindings.id, bindings.actor, bindings.reference, bindings.mode, bindings.state,
    bindings.held_until, bindings.phone_a AS phone_a, bindings.phone_b AS phone_b, 'binding' AS why
FROM bindings
WHERE bindings.phone_b IN (:phone_1::VARCHAR, :phone_1_1::VARCHAR, :phone_2::VARCHAR,
    :phone_2_1::VARCHAR)
  AND bindings.held_until > :now::TIMESTAMP WITH TIME ZONE
  AND bindings.scope = :scope::VARCHAR
  AND bindings.state != 'failed'
UNION
SELECT NULL AS anon_1, NULL AS anon__1, NULL AS anon__2, NULL AS anon__3, NULL AS anon__4,
    holds.held_until, NULL AS anon__5, NULL AS anon__6, holds.why
FROM holds
WHERE holds.phone IN (:phone_1::VARCHAR, :phone_1_1::VARCHAR, :phone_2::VARCHAR,
    :phone_2_1::VARCHAR)
  AND holds.held_until > :now::TIMESTAMP WITH TIME ZONE
  AND holds.scope = :scope::VARCHAR;

SELECT bindings.id, bindings.actor, bindings.reference, bindings.mode, bindings.state,
    bindings.held_until, bindings.phone_a AS phone_a, bindings.phone_b AS phone_b, 'binding' AS why
FROM bindings
WHERE bindings.phone_a IN (:phone_1::VARCHAR, :phone_2::VARCHAR)
  AND bindings.held_until > :now::TIMESTAMP WITH TIME ZONE
  AND bindings.scope = :scope::VARCHAR
  AND bindings.state != 'failed'
UNION
SELECT bindings.id, bindings.actor, bindings.reference, bindings.mode, bindings.state,
    bindings.held_until, bindings.phone_a AS phone_a, bindings.phone_b AS phone_b, 'binding' AS why
FROM bindings
WHERE bindings.phone_b IN (:phone_1::VARCHAR, :phone_2::VARCHAR)
  AND bindings.held_until > :now::TIMESTAMP WITH TIME ZONE
  AND bindings.scope = :scope::VARCHAR
  AND bindings.state != 'failed'
UNION
SELECT NULL AS anon_1, NULL AS anon__1, NULL AS anon__2, NULL AS anon__3, NULL AS anon__4,
    holds.held_until, NULL AS anon__5, NULL AS anon__6, holds.why
FROM holds
WHERE holds.phone IN (:phone_1::VARCHAR, :phone_2::VARCHAR)
  AND holds.held_until > :now::TIMESTAMP WITH TIME ZONE
  AND holds.scope = :scope::VARCHAR;
