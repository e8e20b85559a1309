SELECT seals.number, seals.to_tx, seals.to_position, seals.body, seals.signature, seals.created_at
FROM seals
ORDER BY seals.number DESC
LIMIT :param_1 OFFSET :param_2;

SELECT events.position AS position, events.tx AS tx, CAST(events.binding_id AS TEXT) AS binding_id,
    events.sequence AS sequence, events.kind AS kind, events.at AS at, events.actor AS actor,
    events.request_id AS request_id, CAST(events.detail AS TEXT) AS detail,
    CAST(events.key_id AS TEXT) AS key_id
FROM events
WHERE events.tx = :tx_1
  AND events.position > :position_1
ORDER BY events.tx, events.position
LIMIT :param_1 OFFSET :param_2;

INSERT INTO seals (number, to_tx, to_position, body, signature, created_at)
VALUES (:number, :to_tx, :to_position, :body, :signature, :created_at)
ON CONFLICT (number) DO NOTHING
RETURNING number;
