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

# The ids of a tenant's entities whose name, or a name of another key of theirs, has all of the patterns (`pats`: alternatives for
# each word), in the order (kind, id), after (after_kind, after_id).
#
# Row-level security hides a row's name from ILIKE until the row is known to be the tenant's, so under the run-time role no index
# on names could be used. The function runs as its owner and compares the tenant itself, with the same setting as the policies.
#
# What many names have is soon met in the order asked for; what few names have the trigram index finds. A connection with few records is
# asked what those are about, and only that is looked through; one with many is soon met, too. What the index finds, and the newest of
# its backlog (`searching.py`), is fetched id by id (LATERAL, OFFSET 0), whatever the planner knows of a table that is being filled.
FIND_ENTITIES = """
CREATE OR REPLACE FUNCTION atom_find_entities(
    of_tenant uuid, first_words text[], later_words text[], of_kind text, of_connection uuid, after_kind text, after_id uuid, most int
) RETURNS SETOF uuid LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    found uuid[] := '{}';
    is_like text := '';
    is_more text := '';
BEGIN
    IF of_tenant IS DISTINCT FROM NULLIF(current_setting('atom.tenant', true), '')::uuid THEN
        RETURN;
    END IF;
    FOR i IN 1 .. COALESCE(array_length(first_words, 1), 0) LOOP
        IF first_words[i] = later_words[i] THEN
            is_like := is_like || format(' AND e.name ILIKE %L', first_words[i]);
        ELSE
            is_like := is_like || format(' AND (e.name ILIKE %L OR e.name ILIKE %L)', first_words[i], later_words[i]);
        END IF;
    END LOOP;
    IF of_kind <> '' THEN
        is_more := is_more || format(' AND e.kind = %L', of_kind);
    END IF;
    IF after_id IS NOT NULL THEN
        is_more := is_more || format(' AND (e.kind, e.id) > (%L, %L::uuid)', after_kind, after_id);
    END IF;
    IF of_connection IS NOT NULL THEN
        IF (SELECT count(*) FROM (SELECT FROM historical_sync_syncrecord WHERE connection_id = of_connection LIMIT 10001) AS x) <= 10000 THEN
            IF is_like <> '' THEN
                is_like := format(
                    ' AND e.id IN (SELECT a.id FROM about a JOIN historical_sync_entity e ON e.id = a.id WHERE true %1$s'
                    ' UNION ALL SELECT a.id FROM about a JOIN historical_sync_entity e ON e.merged_into = a.id WHERE true %1$s)', is_like);
            END IF;
            RETURN QUERY EXECUTE format(
                'WITH about AS MATERIALIZED (SELECT DISTINCT COALESCE(e.merged_into, e.id) AS id FROM historical_sync_syncrecord r'
                ' JOIN historical_sync_entity e ON e.id = r.entity_id WHERE r.connection_id = %L AND r.tenant_id = %L)'
                ' SELECT e.id FROM about JOIN historical_sync_entity e ON e.id = about.id WHERE e.tenant_id = %L %s %s'
                ' ORDER BY e.kind, e.id LIMIT %s', of_connection, of_tenant, of_tenant, is_more, is_like, most);
            RETURN;
        END IF;
        is_more := is_more || format(
            ' AND (EXISTS (SELECT FROM historical_sync_syncrecord r WHERE r.entity_id = e.id AND r.connection_id = %1$L)'
            ' OR EXISTS (SELECT FROM historical_sync_entity m JOIN historical_sync_syncrecord r ON r.entity_id = m.id'
            ' WHERE m.merged_into = e.id AND r.connection_id = %1$L))', of_connection);
    END IF;
    IF is_like = '' THEN
        RETURN QUERY EXECUTE format(
            'SELECT e.id FROM historical_sync_entity e WHERE e.tenant_id = %L AND e.merged_into IS NULL %s'
            ' ORDER BY e.kind, e.id LIMIT %s', of_tenant, is_more, most);
        RETURN;
    END IF;
    EXECUTE format(
        'SELECT array_agg(id) FROM (SELECT e.id FROM (SELECT e.* FROM historical_sync_entity e'
        ' WHERE e.tenant_id = %L AND e.merged_into IS NULL %s ORDER BY e.kind, e.id LIMIT 5000) e'
        ' WHERE true %s ORDER BY e.kind, e.id LIMIT %s) x', of_tenant, is_more, is_like, most) INTO found;
    IF COALESCE(array_length(found, 1), 0) >= most THEN
        RETURN QUERY SELECT unnest(found);
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format(
        'WITH hit AS MATERIALIZED ('
        ' (SELECT e.entity_id AS id FROM historical_sync_entityname e WHERE e.tenant_id = %1$L %2$s LIMIT 2000)'
        ' UNION (SELECT e.id FROM (SELECT unnest(entity_ids) AS id FROM ('
        '   SELECT entity_ids FROM historical_sync_namebacklog WHERE tenant_id = %1$L ORDER BY id DESC LIMIT 200) newest LIMIT 5000) noted'
        '   CROSS JOIN LATERAL (SELECT * FROM historical_sync_entity e WHERE e.id = noted.id OFFSET 0) e WHERE true %2$s LIMIT 2000)'
        ' UNION SELECT unnest(%5$L::uuid[])'
        '), thing AS MATERIALIZED (SELECT DISTINCT COALESCE(e.merged_into, e.id) AS id FROM hit'
        ' CROSS JOIN LATERAL (SELECT * FROM historical_sync_entity e WHERE e.id = hit.id OFFSET 0) e WHERE true %2$s)'
        ' SELECT e.id FROM thing CROSS JOIN LATERAL (SELECT * FROM historical_sync_entity e WHERE e.id = thing.id OFFSET 0) e'
        ' WHERE e.tenant_id = %1$L %3$s'
        ' ORDER BY e.kind, e.id LIMIT %4$s', of_tenant, is_like, is_more, most, found);
END $$
"""
DROP_FIND_ENTITIES = "DROP FUNCTION atom_find_entities(uuid, text[], text[], text, uuid, text, uuid, int)"

# What records say, statement by statement. It reads as who asks: the policies of the records are the view's.
RELATIONSHIP_VIEW = """
CREATE VIEW historical_sync_relationship WITH (security_invoker = true) AS
SELECT r.tenant_id, r.id AS record_id, said.position, ltrim(said.kind, '^') AS kind,
       CASE WHEN starts_with(said.kind, '^') THEN said.other_id ELSE r.entity_id END AS source_id,
       CASE WHEN starts_with(said.kind, '^') THEN r.entity_id ELSE said.other_id END AS target_id
FROM historical_sync_syncrecord r
CROSS JOIN LATERAL unnest(string_to_array(NULLIF(r.link_kinds, ''), ' '), r.link_ids) WITH ORDINALITY AS said(kind, other_id, position)
"""
DROP_RELATIONSHIP_VIEW = "DROP VIEW historical_sync_relationship"

# Ids of a tenant's records, as `atom_find_entities`, for no operator of arrays is leakproof either:
# those that say something of one of the entities that others are about (`most` null: all of them),
RECORDS_LINKING = """
CREATE FUNCTION atom_records_linking(of_tenant uuid, entities uuid[], most int) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    IF of_tenant = NULLIF(current_setting('atom.tenant', true), '')::uuid THEN
        RETURN QUERY SELECT r.id FROM historical_sync_syncrecord r
            WHERE r.link_ids && entities AND r.tenant_id = of_tenant LIMIT most;
    END IF;
END $$
"""
DROP_RECORDS_LINKING = "DROP FUNCTION atom_records_linking(uuid, uuid[], int)"
# and those of one connection that are about one of the entities or say something of it, in their order from `first_id` on.
RECORDS_ABOUT = """
CREATE FUNCTION atom_records_about(of_tenant uuid, entities uuid[], of_connection uuid, first_id uuid, most int) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    IF of_tenant = NULLIF(current_setting('atom.tenant', true), '')::uuid THEN
        RETURN QUERY SELECT r.id FROM historical_sync_syncrecord r
            WHERE r.connection_id = of_connection AND r.tenant_id = of_tenant AND r.id >= first_id
              AND (r.entity_id = ANY(entities) OR r.link_ids && entities)
            ORDER BY r.id LIMIT most;
    END IF;
END $$
"""
DROP_RECORDS_ABOUT = "DROP FUNCTION atom_records_about(uuid, uuid[], uuid, uuid, int)"

# Notes for the index of names (`searching.py`) what a statement did to entities' names.
NOTE_NAMES = """
CREATE FUNCTION atom_note_names() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO historical_sync_namebacklog (tenant_id, entity_ids)
        SELECT tenant_id, array_agg(id) FROM fresh GROUP BY tenant_id;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO historical_sync_namebacklog (tenant_id, entity_ids)
        SELECT f.tenant_id, array_agg(f.id) FROM fresh f JOIN former USING (id) WHERE f.name <> former.name GROUP BY f.tenant_id;
    ELSE
        DELETE FROM historical_sync_entityname WHERE entity_id IN (SELECT id FROM former);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_new_names AFTER INSERT ON historical_sync_entity
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION atom_note_names();
CREATE TRIGGER note_changed_names AFTER UPDATE ON historical_sync_entity
    REFERENCING OLD TABLE AS former NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION atom_note_names();
CREATE TRIGGER forget_names AFTER DELETE ON historical_sync_entity
    REFERENCING OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION atom_note_names();
"""
DROP_NOTE_NAMES = """
DROP TRIGGER note_new_names ON historical_sync_entity;
DROP TRIGGER note_changed_names ON historical_sync_entity;
DROP TRIGGER forget_names ON historical_sync_entity;
DROP FUNCTION atom_note_names();
"""
