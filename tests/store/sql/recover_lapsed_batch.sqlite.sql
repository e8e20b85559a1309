UPDATE bindings
SET state=:state, ended_at=bindings.held_until, version=(bindings.version + :version_1), change_tx=0
WHERE bindings.id IN (
    SELECT bindings.id
    FROM bindings
    WHERE bindings.state = 'in_doubt'
      AND bindings.held_until <= :clock
      AND bindings.waits_for IS NULL
    ORDER BY bindings.held_until
    LIMIT :overdue_limit OFFSET :param_1
)
  AND bindings.state = 'in_doubt'
RETURNING id, version, change_tx;
