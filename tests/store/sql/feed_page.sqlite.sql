SELECT events.tx, events.position, events.binding_id, events.sequence, events.kind, events.at,
    events.actor, events.request_id, events.detail, (
    SELECT bindings.reference
    FROM bindings
    WHERE bindings.id = events.binding_id
) AS reference
FROM events
WHERE events.tx = :tx_1
  AND events.position > :position_1
ORDER BY events.tx, events.position
LIMIT :param_1 OFFSET :param_2;
