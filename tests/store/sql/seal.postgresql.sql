SELECT seals.number, seals.to_tx, seals.to_position, seals.body, seals.signature, seals.created_at
FROM seals
ORDER BY seals.number DESC
LIMIT :param_1::INTEGER;

SELECT events.position AS position, events.tx AS tx, CAST(events.binding_id AS TEXT) AS binding_id,
    events.sequence AS sequence, events.kind AS kind, events.at AS at, events.actor AS actor,
    events.request_id AS request_id, CAST(events.detail AS TEXT) AS detail,
    CAST(events.key_id AS TEXT) AS key_id
FROM events
WHERE (events.tx, events.position) > (:param_1::INTEGER, :param_2::INTEGER)
  AND events.position >= :position_1::BIGINT
  AND events.tx < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) + coalesce((
    SELECT account.tx_offset
    FROM account
), 0)
ORDER BY events.tx, events.position
LIMIT :param_3::INTEGER;

INSERT INTO seals (number, to_tx, to_position, body, signature, created_at)
VALUES (:number::INTEGER, :to_tx::BIGINT, :to_position::BIGINT, :body::VARCHAR, :signature::VARCHAR,
    :created_at::TIMESTAMP WITH TIME ZONE)
ON CONFLICT (number) DO NOTHING
RETURNING seals.number;
