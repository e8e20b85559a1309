INSERT INTO budgets (actor, key_id, budget, began_at, used)
VALUES (:actor::VARCHAR, :key_id::VARCHAR, :budget::VARCHAR, clock_timestamp(), :used::INTEGER)
ON CONFLICT (actor, key_id, budget) DO UPDATE
SET used = budgets.used
RETURNING budgets.began_at, budgets.used, budgets.used_up_at, clock_timestamp() AS now;

UPDATE budgets
SET began_at=:began_at::TIMESTAMP WITH TIME ZONE, used=:used::INTEGER,
    used_up_at=:used_up_at::TIMESTAMP WITH TIME ZONE
WHERE budgets.actor = :actor_1::VARCHAR
  AND budgets.key_id = :key_id_1::VARCHAR
  AND budgets.budget = :budget_1::VARCHAR;
