UPDATE bindings
SET phone_a=:token, phone_a_sealed=NULL, reference=NULL, idempotency_key=NULL, duplicate_key=NULL,
    freed_key=NULL, fingerprint=NULL, request_id=NULL, version=(bindings.version + :version_1),
    change_tx=0, facts_salt=NULL
WHERE bindings.id = :of_id
  AND bindings.ended_at IS NOT NULL
RETURNING id, version, change_tx;
