INSERT INTO budgets (actor, key_id, budget, began_at, used)
VALUES (:actor, :key_id, :budget, :clock, :used)
ON CONFLICT (actor, key_id, budget) DO UPDATE
SET used = budgets.used
RETURNING began_at, used, used_up_at, :clock AS now;

UPDATE budgets
SET began_at=:began_at, used=:used, used_up_at=:used_up_at
WHERE budgets.actor = :actor_1
  AND budgets.key_id = :key_id_1
  AND budgets.budget = :budget_1;
