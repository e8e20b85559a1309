SELECT events.at, events.position
FROM events
WHERE (events.kind = 'revealed' OR events.kind = 'administered')
  AND events.at >= :at_1::TIMESTAMP WITH TIME ZONE
ORDER BY events.at DESC, events.position DESC
LIMIT :param_1::INTEGER OFFSET :param_2::INTEGER;

SELECT anon_1.kind, anon_1.actor, count(*) AS count_1
FROM (
    SELECT CASE WHEN (stretch.kind = 'revealed') THEN 'reveal' WHEN (stretch.kind = 'administered'
        AND CAST((stretch.detail ->> :detail_1::TEXT) AS VARCHAR) LIKE :param_1::VARCHAR) THEN
        'session' ELSE 'act' END AS kind, stretch.actor AS actor
    FROM (
        SELECT events.tx AS tx, events.position AS position, events.binding_id AS binding_id,
            events.sequence AS sequence, events.kind AS kind, events.at AS at,
            events.actor AS actor, events.request_id AS request_id, events.detail AS detail,
            events.key_id AS key_id
        FROM events
        WHERE (events.kind = 'revealed' OR events.kind = 'administered')
          AND events.at >= :at_1::TIMESTAMP WITH TIME ZONE
        ORDER BY events.at DESC, events.position DESC
        LIMIT :param_2::INTEGER
    ) AS stretch
    WHERE stretch.key_id = :key_id_1::UUID
      AND (CAST((stretch.detail ->> :detail_2::TEXT) AS VARCHAR) LIKE :param_3::VARCHAR OR (EXISTS (
        SELECT *
        FROM texts
        WHERE texts.event_position = stretch.position
          AND texts.name = :name_1::VARCHAR
          AND texts.text LIKE :text_1::VARCHAR
    )))
) AS anon_1
GROUP BY anon_1.kind, anon_1.actor;

SELECT anon_1.kind, anon_1.actor, count(*) AS count_1
FROM (
    SELECT CASE WHEN (stretch.reason IS NULL) THEN 'export_masked' ELSE 'export_in_full'
        END AS kind, stretch.actor AS actor
    FROM (
        SELECT exports.id AS id, exports.began_at AS began_at, exports.finished_at AS finished_at,
            exports.actor AS actor, exports.request_id AS request_id, exports.view AS view,
            exports.filter AS filter, exports.format AS format, exports.reason AS reason,
            exports.row_count AS row_count, exports.sha256 AS sha256, exports.key_id AS key_id
        FROM exports
        WHERE exports.began_at >= :began_at_1::TIMESTAMP WITH TIME ZONE
        ORDER BY exports.began_at DESC, exports.id DESC
        LIMIT :param_1::INTEGER
    ) AS stretch
    WHERE stretch.key_id = :key_id_1::UUID
      AND stretch.reason LIKE :reason_1::VARCHAR
) AS anon_1
GROUP BY anon_1.kind, anon_1.actor;

SELECT exports.began_at, exports.id
FROM exports
WHERE exports.began_at >= :began_at_1::TIMESTAMP WITH TIME ZONE
ORDER BY exports.began_at DESC, exports.id DESC
LIMIT :param_1::INTEGER OFFSET :param_2::INTEGER;

SELECT anon_1.kind, anon_1.actor, count(*) AS count_1
FROM (
    SELECT 'phone_search' AS kind, stretch.actor AS actor
    FROM (
        SELECT events.tx AS tx, events.position AS position, events.binding_id AS binding_id,
            events.sequence AS sequence, events.kind AS kind, events.at AS at,
            events.actor AS actor, events.request_id AS request_id, events.detail AS detail,
            events.key_id AS key_id
        FROM events
        WHERE kind IN ('phone_searched', 'budget_used_up')
          AND events.at >= :at_1::TIMESTAMP WITH TIME ZONE
        ORDER BY events.at DESC, events.position DESC
        LIMIT :param_1::INTEGER
    ) AS stretch
    WHERE stretch.key_id = :key_id_1::UUID
      AND (CAST((stretch.detail ->> :detail_1::TEXT) AS VARCHAR) LIKE :param_2::VARCHAR OR (EXISTS (
        SELECT *
        FROM texts
        WHERE texts.event_position = stretch.position
          AND texts.name = :name_1::VARCHAR
          AND texts.text LIKE :text_1::VARCHAR
    )))
) AS anon_1
GROUP BY anon_1.kind, anon_1.actor;

SELECT events.at, events.position
FROM events
WHERE kind IN ('phone_searched', 'budget_used_up')
  AND events.at >= :at_1::TIMESTAMP WITH TIME ZONE
ORDER BY events.at DESC, events.position DESC
LIMIT :param_1::INTEGER OFFSET :param_2::INTEGER;
