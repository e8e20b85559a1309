SELECT deliveries.id
FROM deliveries
JOIN webhooks ON webhooks.id = deliveries.webhook_id
WHERE deliveries.webhook_id = :webhook_id_1
  AND deliveries.state = 'pending'
  AND deliveries.next_at <= :clock
  AND webhooks.disabled_at IS NULL
ORDER BY deliveries.next_at, deliveries.event_position
LIMIT :param_1 OFFSET :param_2;

UPDATE deliveries
SET attempts=(deliveries.attempts + :attempts_1), next_at=:next_at
WHERE deliveries.id IN (:id_1_1);

SELECT deliveries.id, deliveries.webhook_id, deliveries.state, deliveries.attempts,
    deliveries.created_at, deliveries.next_at, deliveries.finished_at, deliveries.status,
    deliveries.error, events.tx, events.position, events.binding_id, events.sequence, events.kind,
    events.at, events.actor, events.request_id, events.detail, events.key_id, CASE WHEN (events.kind
    = 'refused') THEN (
    SELECT refusals.reference
    FROM refusals
    WHERE refusals.id = CAST(CAST(JSON_EXTRACT(events.detail, :detail_1) AS VARCHAR) AS VARCHAR(36))
) ELSE (
    SELECT bindings.reference
    FROM bindings
    WHERE bindings.id = events.binding_id
) END AS reference
FROM deliveries
JOIN events ON events.position = deliveries.event_position
WHERE deliveries.id IN (:id_1_1)
ORDER BY deliveries.event_position;
