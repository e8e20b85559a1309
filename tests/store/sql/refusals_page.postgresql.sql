SELECT matches.id, matches.at, matches.event_position, matches.code, matches.provider_status,
    matches.mode, matches.phone_a, matches.phone_b, matches.phone_a_sealed, matches.phone_b_sealed,
    matches.phone_key, matches.pool_number, matches.app_id, matches.reference, matches.actor,
    matches.request_id, matches.holder_id, matches.held_by, matches.held_until,
    bindings.actor AS holder_actor, bindings.reference AS holder_reference,
    bindings.mode AS holder_mode, bindings.state AS holder_state
FROM (
    SELECT anon_1.id AS id, anon_1.at AS at, anon_1.event_position AS event_position,
        anon_1.code AS code, anon_1.provider_status AS provider_status, anon_1.mode AS mode,
        anon_1.phone_a AS phone_a, anon_1.phone_b AS phone_b,
        anon_1.phone_a_sealed AS phone_a_sealed, anon_1.phone_b_sealed AS phone_b_sealed,
        anon_1.phone_key AS phone_key, anon_1.pool_number AS pool_number, anon_1.app_id AS app_id,
        anon_1.reference AS reference, anon_1.actor AS actor, anon_1.request_id AS request_id,
        anon_1.holder_id AS holder_id, anon_1.held_by AS held_by, anon_1.held_until AS held_until
    FROM (
        SELECT refusals.id AS id, refusals.at AS at, refusals.event_position AS event_position,
            refusals.code AS code, refusals.provider_status AS provider_status,
            refusals.mode AS mode, refusals.phone_a AS phone_a, refusals.phone_b AS phone_b,
            refusals.phone_a_sealed AS phone_a_sealed, refusals.phone_b_sealed AS phone_b_sealed,
            refusals.phone_key AS phone_key, refusals.pool_number AS pool_number,
            refusals.app_id AS app_id, refusals.reference AS reference, refusals.actor AS actor,
            refusals.request_id AS request_id, refusals.holder_id AS holder_id,
            refusals.held_by AS held_by, refusals.held_until AS held_until
        FROM refusals
        WHERE (refusals.at, refusals.id) < (:param_1::TIMESTAMP WITH TIME ZONE, :param_2::UUID)
          AND refusals.phone_a = :phone::VARCHAR
        ORDER BY refusals.at DESC, refusals.id DESC
        LIMIT :rows::INTEGER
    ) AS anon_1
    UNION ALL
    SELECT anon_2.id AS id, anon_2.at AS at, anon_2.event_position AS event_position,
        anon_2.code AS code, anon_2.provider_status AS provider_status, anon_2.mode AS mode,
        anon_2.phone_a AS phone_a, anon_2.phone_b AS phone_b,
        anon_2.phone_a_sealed AS phone_a_sealed, anon_2.phone_b_sealed AS phone_b_sealed,
        anon_2.phone_key AS phone_key, anon_2.pool_number AS pool_number, anon_2.app_id AS app_id,
        anon_2.reference AS reference, anon_2.actor AS actor, anon_2.request_id AS request_id,
        anon_2.holder_id AS holder_id, anon_2.held_by AS held_by, anon_2.held_until AS held_until
    FROM (
        SELECT refusals.id AS id, refusals.at AS at, refusals.event_position AS event_position,
            refusals.code AS code, refusals.provider_status AS provider_status,
            refusals.mode AS mode, refusals.phone_a AS phone_a, refusals.phone_b AS phone_b,
            refusals.phone_a_sealed AS phone_a_sealed, refusals.phone_b_sealed AS phone_b_sealed,
            refusals.phone_key AS phone_key, refusals.pool_number AS pool_number,
            refusals.app_id AS app_id, refusals.reference AS reference, refusals.actor AS actor,
            refusals.request_id AS request_id, refusals.holder_id AS holder_id,
            refusals.held_by AS held_by, refusals.held_until AS held_until
        FROM refusals
        WHERE (refusals.at, refusals.id) < (:param_1::TIMESTAMP WITH TIME ZONE, :param_2::UUID)
          AND refusals.phone_b = :phone::VARCHAR
        ORDER BY refusals.at DESC, refusals.id DESC
        LIMIT :rows::INTEGER
    ) AS anon_2
) AS matches
LEFT OUTER
JOIN bindings ON bindings.id = matches.holder_id
ORDER BY matches.at DESC, matches.id DESC
LIMIT :rows::INTEGER;
