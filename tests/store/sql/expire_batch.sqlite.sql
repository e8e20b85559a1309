INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
SELECT 0, bindings.id, bindings.version + :version_1 AS anon_1, :event_kind AS anon_2,
    :clock AS anon_3, :event_actor AS anon_4, :event_request_id AS anon_5, :event_detail AS anon_6,
    :event_key_id AS anon_7
FROM bindings
WHERE bindings.id IN (
    SELECT bindings.id
    FROM bindings
    WHERE bindings.state = 'active'
      AND bindings.expires_at <= :clock
    ORDER BY bindings.expires_at, bindings.id
    LIMIT :due_limit OFFSET :param_1
);

UPDATE bindings
SET state=:state, ended_at=bindings.expires_at, version=(bindings.version + :version_1), change_tx=0
WHERE bindings.id IN (
    SELECT bindings.id
    FROM bindings
    WHERE bindings.state = 'active'
      AND bindings.expires_at <= :clock
    ORDER BY bindings.expires_at, bindings.id
    LIMIT :due_limit OFFSET :param_1
);
