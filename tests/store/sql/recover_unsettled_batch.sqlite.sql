UPDATE bindings
SET state=:state, reason=:reason, version=(bindings.version + :version_1), change_tx=0
WHERE bindings.id IN (
    SELECT bindings.id
    FROM bindings
    WHERE bindings.state = 'pending'
      AND bindings.settle_by <= :clock
      AND bindings.waits_for IS NULL
    ORDER BY bindings.settle_by
    LIMIT :overdue_limit OFFSET :param_1
)
  AND bindings.state = 'pending'
RETURNING id, version, change_tx;
