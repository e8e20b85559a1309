INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail)
SELECT 0, :said_binding_id AS anon_1, :said_sequence AS anon_2, :said_kind AS anon_3,
    :clock AS anon_4, :said_actor AS anon_5, :said_request_id AS anon_6, :said_detail AS anon_7;
