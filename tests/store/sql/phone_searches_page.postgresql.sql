SELECT stretch.tx, stretch.position, stretch.binding_id, stretch.sequence, stretch.kind, stretch.at,
    stretch.actor, stretch.request_id, stretch.detail, stretch.key_id, (
    SELECT bindings.reference
    FROM bindings
    WHERE bindings.id = stretch.binding_id
) AS reference
FROM (
    SELECT events.tx AS tx, events.position AS position, events.binding_id AS binding_id,
        events.sequence AS sequence, events.kind AS kind, events.at AS at, events.actor AS actor,
        events.request_id AS request_id, events.detail AS detail, events.key_id AS key_id
    FROM events
    WHERE kind IN ('phone_searched', 'budget_used_up')
      AND (events.at, events.position) < (:param_1::TIMESTAMP WITH TIME ZONE, :param_2::BIGINT)
    ORDER BY events.at DESC, events.position DESC
    LIMIT :param_3::INTEGER
) AS stretch
ORDER BY stretch.at DESC, stretch.position DESC
LIMIT :param_4::INTEGER;
