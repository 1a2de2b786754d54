-- The rows of all tables of a schema, each a text of JSON. `{name}` stands for the quoted name of a table.
-- What differs by nature is masked: when a row was written, stamps and inodes of files, marks, and ids that are drawn.
WITH scopes AS (SELECT scope, jsonb_build_object('scope', directory) AS named FROM {metalab_store_directories})
SELECT jsonb_build_object('table', name, 'row', row)::text
FROM (
    SELECT 'tables' AS name, jsonb_agg(relname ORDER BY relname COLLATE "C") AS row FROM pg_class
        WHERE relkind = 'r' AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = '{metalab_store_runs}'::regclass)
    UNION ALL
    SELECT 'metalab_store_meta', to_jsonb(t) - CASE WHEN key IN ('database', 'field_catalog') THEN 'value' ELSE '' END
        FROM {metalab_store_meta} AS t
    UNION ALL
    SELECT 'metalab_store_directories', to_jsonb(t) - ARRAY['scope', 'mark', 'machine', 'inode', 'updated_at']
        FROM {metalab_store_directories} AS t
    UNION ALL
    SELECT 'metalab_store_unreadable', to_jsonb(t) - 'stamp' || named FROM {metalab_store_unreadable} AS t LEFT JOIN scopes USING (scope)
    UNION ALL
    SELECT 'metalab_store_steady', to_jsonb(t) - 'mark' || named FROM {metalab_store_steady} AS t LEFT JOIN scopes USING (scope)
    UNION ALL
    SELECT 'metalab_store_runs', to_jsonb(t) - 'stamp' || named FROM {metalab_store_runs} AS t LEFT JOIN scopes USING (scope)
    UNION ALL
    SELECT 'runs', to_jsonb(t) - ARRAY['created_at', 'updated_at']
            || jsonb_build_object('started_at', started_at AT TIME ZONE 'UTC', 'finished_at', finished_at AT TIME ZONE 'UTC')
        FROM {runs} AS t
    UNION ALL
    SELECT 'derived', to_jsonb(t) - ARRAY['created_at', 'updated_at'] FROM {derived} AS t
    UNION ALL
    SELECT 'experiment_manifests', to_jsonb(t) - ARRAY['id', 'submitted_at', 'created_at'] FROM {experiment_manifests} AS t
    UNION ALL
    SELECT 'field_catalog', to_jsonb(t) - 'updated_at' FROM {field_catalog} AS t
    UNION ALL
    SELECT 'meta', to_jsonb(t) - 'updated_at' FROM {meta} AS t
) AS found
ORDER BY jsonb_build_object('table', name, 'row', row)::text COLLATE "C"
