"""SQL functions that the engine's statements use; created by the first migration."""

# Adds two {"kind": count} objects, key by key.
ADD_COUNTS = """
CREATE FUNCTION atom_add_counts(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT COALESCE(jsonb_object_agg(kind, n), '{}'::jsonb)
    FROM (SELECT kind, sum(n::bigint) AS n
          FROM (SELECT * FROM jsonb_each_text(a) AS x(kind, n) UNION ALL SELECT * FROM jsonb_each_text(b) AS y(kind, n)) AS both_
          GROUP BY kind) AS summed
$$
"""
DROP_ADD_COUNTS = "DROP FUNCTION atom_add_counts(jsonb, jsonb)"
