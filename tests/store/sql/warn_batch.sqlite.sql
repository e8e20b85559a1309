INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
SELECT 0, bindings.id, bindings.version + :version_1 AS anon_1, :event_kind AS anon_2,
    :clock AS anon_3, :event_actor AS anon_4, :event_request_id AS anon_5, json_patch(:event_detail,
    json_object('expires_at', bindings.expires_at)) AS json_patch_1, :event_key_id AS anon_6
FROM bindings
WHERE bindings.id IN (
    SELECT bindings.id
    FROM bindings
    WHERE bindings.state = 'active'
      AND bindings.warn_at IS NOT NULL
      AND bindings.warn_at <= :clock
      AND bindings.unbind_requested_at IS NULL
      AND bindings.expires_at > :clock
    ORDER BY bindings.warn_at, bindings.id
    LIMIT :due_limit OFFSET :param_1
);

UPDATE bindings
SET warn_at=:warn_at, version=(bindings.version + :version_1), change_tx=0
WHERE bindings.id IN (
    SELECT bindings.id
    FROM bindings
    WHERE bindings.state = 'active'
      AND bindings.warn_at IS NOT NULL
      AND bindings.warn_at <= :clock
      AND bindings.unbind_requested_at IS NULL
      AND bindings.expires_at > :clock
    ORDER BY bindings.warn_at, bindings.id
    LIMIT :due_limit OFFSET :param_1
);
