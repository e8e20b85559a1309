SELECT stretch.tx, stretch.position, stretch.binding_id, stretch.sequence, stretch.kind, stretch.at,
    stretch.actor, stretch.request_id, stretch.detail, stretch.key_id, (
    SELECT bindings.reference
    FROM bindings
    WHERE bindings.id = stretch.binding_id
) AS reference
FROM (
    SELECT events.tx AS tx, events.position AS position, events.binding_id AS binding_id,
        events.sequence AS sequence, events.kind AS kind, events.at AS at, events.actor AS actor,
        events.request_id AS request_id, events.detail AS detail, events.key_id AS key_id
    FROM events
    WHERE (events.kind = 'revealed' OR events.kind = 'administered')
      AND events.at >= :at_1::TIMESTAMP WITH TIME ZONE
      AND (events.at, events.position) < (:param_1::TIMESTAMP WITH TIME ZONE, :param_2::BIGINT)
    ORDER BY events.at DESC, events.position DESC
    LIMIT :param_3::INTEGER
) AS stretch
WHERE stretch.actor = :actor_1::VARCHAR
  AND stretch.key_id = :key_id_1::UUID
  AND (CAST((stretch.detail ->> :detail_1::TEXT) AS VARCHAR) LIKE :param_4::VARCHAR OR (EXISTS (
    SELECT *
    FROM texts
    WHERE texts.event_position = stretch.position
      AND texts.name = :name_1::VARCHAR
      AND texts.text LIKE :text_1::VARCHAR
)))
  AND stretch.kind = 'administered'
  AND CAST((stretch.detail ->> :detail_2::TEXT) AS VARCHAR) LIKE :param_5::VARCHAR
ORDER BY stretch.at DESC, stretch.position DESC
LIMIT :param_6::INTEGER;

SELECT events.at, events.position
FROM events
WHERE (events.kind = 'revealed' OR events.kind = 'administered')
  AND events.at >= :at_1::TIMESTAMP WITH TIME ZONE
  AND (events.at, events.position) < (:param_1::TIMESTAMP WITH TIME ZONE, :param_2::BIGINT)
ORDER BY events.at DESC, events.position DESC
LIMIT :param_3::INTEGER OFFSET :param_4::INTEGER;

WITH of_binding AS MATERIALIZED (
    SELECT events.tx AS tx, events.position AS position, events.binding_id AS binding_id,
        events.sequence AS sequence, events.kind AS kind, events.at AS at, events.actor AS actor,
        events.request_id AS request_id, events.detail AS detail, events.key_id AS key_id
    FROM events
    WHERE events.binding_id = :binding_id_1::UUID
)
SELECT reveals.tx, reveals.position, reveals.binding_id, reveals.sequence, reveals.kind, reveals.at,
    reveals.actor, reveals.request_id, reveals.detail, reveals.key_id, (
    SELECT bindings.reference
    FROM bindings
    WHERE bindings.id = reveals.binding_id
) AS reference
FROM (
    SELECT of_binding.tx AS tx, of_binding.position AS position,
        of_binding.binding_id AS binding_id, of_binding.sequence AS sequence,
        of_binding.kind AS kind, of_binding.at AS at, of_binding.actor AS actor,
        of_binding.request_id AS request_id, of_binding.detail AS detail,
        of_binding.key_id AS key_id
    FROM of_binding
    WHERE of_binding.kind = 'revealed'
      AND (of_binding.at, of_binding.position) < (:param_1::TIMESTAMP WITH TIME ZONE,
        :param_2::BIGINT)
) AS reveals
ORDER BY reveals.at DESC, reveals.position DESC
LIMIT :param_3::INTEGER;

SELECT stretch.id, stretch.began_at, stretch.finished_at, stretch.actor, stretch.request_id,
    stretch.view, stretch.filter, stretch.format, stretch.reason, stretch.row_count, stretch.sha256,
    stretch.key_id
FROM (
    SELECT exports.id AS id, exports.began_at AS began_at, exports.finished_at AS finished_at,
        exports.actor AS actor, exports.request_id AS request_id, exports.view AS view,
        exports.filter AS filter, exports.format AS format, exports.reason AS reason,
        exports.row_count AS row_count, exports.sha256 AS sha256, exports.key_id AS key_id
    FROM exports
    WHERE exports.began_at < :began_at_1::TIMESTAMP WITH TIME ZONE
      AND (exports.began_at, exports.id) < (:param_1::TIMESTAMP WITH TIME ZONE, :param_2::UUID)
    ORDER BY exports.began_at DESC, exports.id DESC
    LIMIT :param_3::INTEGER
) AS stretch
WHERE CAST((stretch.filter ->> :filter_1::TEXT) AS VARCHAR) = :param_4::VARCHAR
  AND stretch.reason IS NOT NULL
ORDER BY stretch.began_at DESC, stretch.id DESC
LIMIT :param_5::INTEGER;

SELECT exports.began_at, exports.id
FROM exports
WHERE exports.began_at < :began_at_1::TIMESTAMP WITH TIME ZONE
  AND (exports.began_at, exports.id) < (:param_1::TIMESTAMP WITH TIME ZONE, :param_2::UUID)
ORDER BY exports.began_at DESC, exports.id DESC
LIMIT :param_3::INTEGER OFFSET :param_4::INTEGER;
