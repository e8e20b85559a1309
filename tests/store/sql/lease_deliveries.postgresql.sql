SELECT deliveries.id
FROM deliveries
JOIN webhooks ON webhooks.id = deliveries.webhook_id
WHERE deliveries.webhook_id = :webhook_id_1::UUID
  AND deliveries.state = 'pending'
  AND deliveries.next_at <= (
    SELECT clock_timestamp() AS clock_timestamp_1
)
  AND webhooks.disabled_at IS NULL
ORDER BY deliveries.next_at, deliveries.event_position
LIMIT :param_1::INTEGER
FOR UPDATE OF deliveries SKIP LOCKED;

UPDATE deliveries
SET attempts=(deliveries.attempts + :attempts_1::INTEGER),
    next_at=:next_at::TIMESTAMP WITH TIME ZONE
WHERE deliveries.id IN (:id_1_1::UUID);

SELECT deliveries.id, deliveries.webhook_id, deliveries.state, deliveries.attempts,
    deliveries.created_at, deliveries.next_at, deliveries.finished_at, deliveries.status,
    deliveries.error, events.tx, events.position, events.binding_id, events.sequence, events.kind,
    events.at, events.actor, events.request_id, events.detail, events.key_id, CASE WHEN (events.kind
    = 'refused') THEN (
    SELECT refusals.reference
    FROM refusals
    WHERE refusals.id = CAST(CAST((events.detail ->> :detail_1::TEXT) AS VARCHAR) AS UUID)
) ELSE (
    SELECT bindings.reference
    FROM bindings
    WHERE bindings.id = events.binding_id
) END AS reference
FROM deliveries
JOIN events ON events.position = deliveries.event_position
WHERE deliveries.id IN (:id_1_1::UUID)
ORDER BY deliveries.event_position;
