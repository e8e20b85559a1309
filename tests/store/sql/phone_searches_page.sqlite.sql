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
WHERE kind IN ('phone_searched', 'budget_used_up')
  AND (events.at, events.position) < (:param_1, :param_2)
ORDER BY events.at DESC, events.position DESC
LIMIT :param_3 OFFSET :param_4;
