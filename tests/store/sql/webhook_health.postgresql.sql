SELECT webhooks.id, webhooks.url, webhooks.kinds, webhooks.created_at, webhooks.created_by,
    webhooks.disabled_at, webhooks.disabled_why, webhooks.old_secret_until, (
    SELECT count(*) AS count_1
    FROM (
        SELECT deliveries.created_at AS created_at
        FROM deliveries
        WHERE deliveries.webhook_id = webhooks.id
          AND deliveries.state = 'pending'
        ORDER BY deliveries.next_at
        LIMIT :param_1::INTEGER
    ) AS anon_1
) AS pending, (
    SELECT min(anon_1.created_at) AS min_1
    FROM (
        SELECT deliveries.created_at AS created_at
        FROM deliveries
        WHERE deliveries.webhook_id = webhooks.id
          AND deliveries.state = 'pending'
        ORDER BY deliveries.next_at
        LIMIT :param_1::INTEGER
    ) AS anon_1
) AS oldest_pending_at, coalesce(dead_counts.dead, :coalesce_1::INTEGER) AS dead, (
    SELECT count(*) AS count_2
    FROM (
        SELECT deliveries.state AS state, deliveries.event_position AS event_position,
            deliveries.finished_at AS finished_at, deliveries.error AS error
        FROM deliveries
        WHERE deliveries.webhook_id = webhooks.id
        ORDER BY deliveries.event_position DESC
        LIMIT :param_2::INTEGER
    ) AS anon_2
) AS recent, (
    SELECT count(*) AS count_2
    FROM (
        SELECT deliveries.state AS state, deliveries.event_position AS event_position,
            deliveries.finished_at AS finished_at, deliveries.error AS error
        FROM deliveries
        WHERE deliveries.webhook_id = webhooks.id
        ORDER BY deliveries.event_position DESC
        LIMIT :param_2::INTEGER
    ) AS anon_2
    WHERE anon_2.state = 'delivered'
) AS recent_delivered, (
    SELECT max(anon_2.finished_at) AS max_1
    FROM (
        SELECT deliveries.state AS state, deliveries.event_position AS event_position,
            deliveries.finished_at AS finished_at, deliveries.error AS error
        FROM deliveries
        WHERE deliveries.webhook_id = webhooks.id
        ORDER BY deliveries.event_position DESC
        LIMIT :param_2::INTEGER
    ) AS anon_2
    WHERE anon_2.state = 'delivered'
) AS last_delivered_at, (
    SELECT anon_2.error
    FROM (
        SELECT deliveries.state AS state, deliveries.event_position AS event_position,
            deliveries.finished_at AS finished_at, deliveries.error AS error
        FROM deliveries
        WHERE deliveries.webhook_id = webhooks.id
        ORDER BY deliveries.event_position DESC
        LIMIT :param_2::INTEGER
    ) AS anon_2
    WHERE anon_2.error IS NOT NULL
    ORDER BY anon_2.event_position DESC
    LIMIT :param_3::INTEGER
) AS last_error
FROM webhooks
LEFT OUTER
JOIN (
    SELECT anon_3.webhook_id AS webhook_id, count(*) AS dead
    FROM (
        SELECT deliveries.webhook_id AS webhook_id
        FROM deliveries
        WHERE deliveries.state = 'dead'
          AND deliveries.state != 'pending'
        LIMIT :param_4::INTEGER
    ) AS anon_3
    GROUP BY anon_3.webhook_id
) AS dead_counts ON dead_counts.webhook_id = webhooks.id
ORDER BY webhooks.id;
