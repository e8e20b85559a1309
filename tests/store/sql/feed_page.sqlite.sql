SELECT events.tx, events.position, events.binding_id, events.sequence, events.kind, events.at,
    events.actor, events.request_id, events.detail, events.key_id, CASE WHEN (events.kind =
    'refused') THEN (
    SELECT refusals.reference
    FROM refusals
    WHERE refusals.id = CAST(CAST(JSON_EXTRACT(events.detail, :detail_1) AS VARCHAR) AS VARCHAR(36))
) ELSE (
    SELECT bindings.reference
    FROM bindings
    WHERE bindings.id = events.binding_id
) END AS reference
FROM events
WHERE events.tx = :tx_1
  AND events.position > :position_1
ORDER BY events.tx, events.position
LIMIT :param_1 OFFSET :param_2;
