SELECT events.tx, events.position, events.binding_id, events.sequence, events.kind, events.at,
    events.actor, events.request_id, events.detail, events.key_id, CASE WHEN (events.kind =
    'refused') THEN (
    SELECT refusals.reference
    FROM refusals
    WHERE refusals.id = CAST(CAST((events.detail ->> :detail_1::TEXT) AS VARCHAR) AS UUID)
) ELSE (
    SELECT bindings.reference
    FROM bindings
    WHERE bindings.id = events.binding_id
) END AS reference
FROM events
WHERE events.tx < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) + coalesce((
    SELECT account.tx_offset
    FROM account
), 0)
  AND (events.tx, events.position) > (:param_1::INTEGER, :param_2::INTEGER)
  AND events.position >= :position_1::BIGINT
ORDER BY events.tx, events.position
LIMIT :param_3::INTEGER;
