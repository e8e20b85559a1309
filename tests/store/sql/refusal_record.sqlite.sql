SELECT account.phone_index_key, account.phone_data_key
FROM account;

INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail, key_id)
SELECT 0, :event_binding_id AS anon_1, :event_sequence AS anon_2, :event_kind AS anon_3,
    :clock AS anon_4, :event_actor AS anon_5, :event_request_id AS anon_6, :event_detail AS anon_7,
    :event_key_id AS anon_8
RETURNING position, at;

INSERT INTO refusals (id, at, event_position, code, provider_status, mode, phone_a, phone_b,
    phone_a_sealed, phone_b_sealed, phone_key, pool_number, app_id, reference, actor, request_id,
    holder_id, held_by, held_until)
VALUES (:id, :at, :event_position, :code, :provider_status, :mode, :phone_a, :phone_b,
    :phone_a_sealed, :phone_b_sealed, :phone_key, :pool_number, :app_id, :reference, :actor,
    :request_id, :holder_id, :held_by, :held_until);
