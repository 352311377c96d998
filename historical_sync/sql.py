"""The database's own functions, triggers and one view, as they are now.

Migrations make them from here, those of long ago as well: what is changed here takes a new migration that replaces it, but for comments.
"""

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

# The ids of a tenant's entities whose name, or a name of another key of theirs, has all of the words: for each the pattern
# of `first_words` or that of `later_words`; in the order (kind, id), after (after_kind, after_id).
#
# Row-level security hides a row's name from ILIKE until the row is known to be the tenant's, so under the run-time role no index
# on names could be used. The function runs as its owner and compares the tenant itself, with the same setting as the policies.
#
# The ways are tried in turn; their numbers are in the function:
# 1. A connection with few records is asked what those are about, and only that is looked through. One with many is a condition of the others.
# 2. Without words the listing is in the order asked for.
# 3. What many names have is soon met in that order.
# 4. What few have, the trigram index finds, with its place in the order: all of it is sorted, or a page would lack what the next one is past,
#    and only what the page holds is looked at again in the entities.
# 5. Where even the index has too much it is met kind by kind, but for kinds that have it in none of their first two thousand.
#
# What is found is fetched id by id (LATERAL, EXISTS, OFFSET 0), whatever the planner knows of a table that is being filled.
FIND_ENTITIES = """
CREATE OR REPLACE FUNCTION atom_find_entities(
    of_tenant uuid, first_words text[], later_words text[], of_kind text, of_connection uuid, after_kind text, after_id uuid, most int
) RETURNS SETOF uuid LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    looked_through CONSTANT int := 2000;  -- in the order asked for, before the index is asked
    sortable CONSTANT int := 50000;  -- of what it has
    looked_up CONSTANT int := 200;  -- of what it has, in the entities, where each stands by now
    found uuid[];
    hits uuid[];
    hit_kinds text[];
    hit_names uuid[];  -- whose names they are
    some_kind text;
    looked int;
    a_word text;
    is_named text := '';
    key_is_named text := '';  -- the same of another of its keys
    is_more text := '';
    listing text;
    which_are_named text;
BEGIN
    IF of_tenant IS DISTINCT FROM NULLIF(current_setting('atom.tenant', true), '')::uuid THEN
        RETURN;
    END IF;
    FOR i IN 1 .. COALESCE(array_length(first_words, 1), 0) LOOP
        a_word := format('e.name ILIKE %L', first_words[i]);
        IF later_words[i] <> first_words[i] THEN
            a_word := format('(%s OR e.name ILIKE %L)', a_word, later_words[i]);
        END IF;
        is_named := is_named || ' AND ' || a_word;
    END LOOP;
    key_is_named := replace(is_named, 'e.name ILIKE', 'k.name ILIKE');
    IF of_kind <> '' THEN
        is_more := is_more || format(' AND e.kind = %L', of_kind);
    END IF;
    IF after_id IS NOT NULL THEN
        is_more := is_more || format(' AND (e.kind, e.id) > (%L, %L::uuid)', after_kind, after_id);
    END IF;
    IF of_connection IS NOT NULL THEN
        -- 1. Few records: only what they are about.
        IF (SELECT count(*) FROM (SELECT FROM historical_sync_syncrecord WHERE connection_id = of_connection LIMIT 10001) AS x) <= 10000 THEN
            IF is_named <> '' THEN
                is_named := format(
                    ' AND e.id IN (SELECT a.id FROM about a JOIN historical_sync_entity e ON e.id = a.id WHERE true %1$s'
                    ' UNION ALL SELECT a.id FROM about a JOIN historical_sync_entity e ON e.merged_into = a.id WHERE true %1$s)', is_named);
            END IF;
            RETURN QUERY EXECUTE format(
                'WITH about AS MATERIALIZED (SELECT DISTINCT COALESCE(e.merged_into, e.id) AS id FROM historical_sync_syncrecord r'
                ' JOIN historical_sync_entity e ON e.id = r.entity_id WHERE r.connection_id = %L AND r.tenant_id = %L)'
                ' SELECT e.id FROM about JOIN historical_sync_entity e ON e.id = about.id WHERE e.tenant_id = %L %s %s'
                ' ORDER BY e.kind, e.id LIMIT %s', of_connection, of_tenant, of_tenant, is_more, is_named, most);
            RETURN;
        END IF;
        is_more := is_more || format(
            ' AND (EXISTS (SELECT FROM historical_sync_syncrecord r WHERE r.entity_id = e.id AND r.connection_id = %1$L)'
            ' OR EXISTS (SELECT FROM historical_sync_entity m JOIN historical_sync_syncrecord r ON r.entity_id = m.id'
            ' WHERE m.merged_into = e.id AND r.connection_id = %1$L))', of_connection);
    END IF;
    listing := format(
        'SELECT e.id, e.kind, e.name FROM historical_sync_entity e WHERE e.tenant_id = %L AND e.merged_into IS NULL %s'
        ' ORDER BY e.kind, e.id', of_tenant, is_more);
    -- 2. No words: the listing.
    IF is_named = '' THEN
        RETURN QUERY EXECUTE format('SELECT x.id FROM (%s LIMIT %s) x', listing, most);
        RETURN;
    END IF;
    -- 3. The first in the order asked for.
    which_are_named := format(
        ' WHERE (true %s) OR EXISTS (SELECT FROM historical_sync_entity k WHERE k.merged_into = e.id %s OFFSET 0)'
        ' ORDER BY e.kind, e.id LIMIT %s', is_named, key_is_named, most);
    EXECUTE format(
        'SELECT array_agg(id) FROM (SELECT e.id FROM (%s LIMIT %s) e %s) x', listing, looked_through, which_are_named
    ) INTO found;
    IF COALESCE(array_length(found, 1), 0) >= most THEN
        RETURN QUERY SELECT unnest(found);
        RETURN;
    END IF;
    -- 4. What the index has.
    EXECUTE format(
        'SELECT array_agg(kind), array_agg(thing_id), array_agg(entity_id)'
        ' FROM (SELECT e.kind, e.thing_id, e.entity_id FROM historical_sync_entityname e WHERE e.tenant_id = %L %s LIMIT %s) x',
        of_tenant, is_named, sortable + 1) INTO hit_kinds, hits, hit_names;
    IF array_length(hits, 1) > sortable THEN
        -- 5. Too much: kind by kind.
        found := '{}';
        FOR some_kind IN
            WITH RECURSIVE each AS (
                SELECT min(kind) AS kind FROM historical_sync_entity
                WHERE tenant_id = of_tenant AND merged_into IS NULL AND kind >= GREATEST(after_kind, of_kind)
                UNION ALL
                SELECT (SELECT min(e.kind) FROM historical_sync_entity e
                        WHERE e.tenant_id = of_tenant AND e.merged_into IS NULL AND e.kind > each.kind) FROM each WHERE each.kind IS NOT NULL
            ) SELECT kind FROM each WHERE kind IS NOT NULL AND of_kind IN ('', kind)
        LOOP
            listing := format(
                'SELECT e.id, e.kind, e.name FROM historical_sync_entity e'
                ' WHERE e.tenant_id = %L AND e.merged_into IS NULL AND e.kind = %L %s ORDER BY e.kind, e.id', of_tenant, some_kind, is_more);
            FOREACH looked IN ARRAY ARRAY[looked_through, NULL] LOOP
                EXECUTE format(
                    'SELECT array_agg(id) FROM (SELECT e.id FROM (%s LIMIT %s) e %s) x', listing, COALESCE(looked::text, 'ALL'), which_are_named
                ) INTO hits;
                -- The kind that the page before ended in has the word, if not soon again.
                EXIT WHEN (hits IS NULL AND some_kind <> COALESCE(after_kind, '')) OR array_length(hits, 1) >= most;
            END LOOP;
            found := found || hits;
            EXIT WHEN array_length(found, 1) >= most;
        END LOOP;
        RETURN QUERY SELECT unnest(found[:most]);
        RETURN;
    END IF;
    -- 4. again, sorted. Where few stand is looked up, and what was met is taken along: the index may be far behind a large import.
    IF COALESCE(array_length(hits, 1), 0) <= looked_up THEN
        hits := '{}';
        hit_kinds := '{}';
    ELSE
        hit_names := '{}';
    END IF;
    RETURN QUERY EXECUTE format(
        'WITH thing AS (SELECT unnest(%6$L::text[]) AS kind, unnest(%7$L::uuid[]) AS id'
        ' UNION SELECT COALESCE(one.kind, e.kind), COALESCE(one.id, e.id) FROM ('
        '   SELECT unnest(%8$L::uuid[]) AS id UNION ALL'
        '   SELECT e.id FROM (SELECT noted.id, noted.name FROM ('
        '     SELECT entity_ids, names FROM historical_sync_namebacklog WHERE tenant_id = %1$L ORDER BY id DESC LIMIT 200) newest'
        '     CROSS JOIN LATERAL unnest(entity_ids, names) AS noted(id, name) LIMIT 5000) e WHERE true %2$s) hit'
        ' CROSS JOIN LATERAL (SELECT * FROM historical_sync_entity e WHERE e.id = hit.id OFFSET 0) e'
        ' LEFT JOIN LATERAL (SELECT o.id, o.kind FROM historical_sync_entity o WHERE o.id = e.merged_into OFFSET 0) one ON true)'
        ' SELECT e.id FROM (SELECT kind, id FROM thing ORDER BY kind, id OFFSET 0) e WHERE true %3$s'
        ' AND EXISTS (SELECT FROM historical_sync_entity o WHERE o.id = e.id AND o.tenant_id = %1$L AND o.merged_into IS NULL AND o.kind = e.kind OFFSET 0)'
        ' AND (EXISTS (SELECT FROM historical_sync_entity k WHERE k.id = e.id %4$s OFFSET 0)'
        '   OR EXISTS (SELECT FROM historical_sync_entity k WHERE k.merged_into = e.id %4$s OFFSET 0))'
        ' ORDER BY e.kind, e.id LIMIT %5$s',
        of_tenant, is_named, is_more, key_is_named, most, hit_kinds, hits, COALESCE(hit_names, '{}') || found);
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
# and those that are about one of the entities or say something of it, connection by connection and in their order, from `first_id` of
# `of_connection` on. What many speak of is soon met there; of the rest the indexes know where it is, be it in one of many connections.
RECORDS_ABOUT = """
CREATE OR REPLACE FUNCTION atom_records_about(of_tenant uuid, entities uuid[], of_connection uuid, first_id uuid, most int)
RETURNS SETOF uuid LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    found uuid[];
BEGIN
    IF of_tenant IS DISTINCT FROM NULLIF(current_setting('atom.tenant', true), '')::uuid THEN
        RETURN;
    END IF;
    SELECT array_agg(met.id) INTO found FROM (
        SELECT r.id FROM (
            SELECT * FROM historical_sync_syncrecord WHERE connection_id = of_connection AND id >= first_id
            ORDER BY id LIMIT GREATEST(2000, 4 * most)) r
        WHERE r.tenant_id = of_tenant AND (r.entity_id = ANY(entities) OR r.link_ids && entities)
        ORDER BY r.id LIMIT most) met;
    IF array_length(found, 1) = most THEN
        RETURN QUERY SELECT unnest(found);
        RETURN;
    END IF;
    -- OFFSET 0: not along a connection's records until enough are met, whatever the planner makes of the limit.
    RETURN QUERY SELECT said.id FROM (
            SELECT r.connection_id, r.id FROM historical_sync_syncrecord r
            WHERE r.tenant_id = of_tenant AND (r.entity_id = ANY(entities) OR r.link_ids && entities) OFFSET 0) said
        WHERE (said.connection_id, said.id) >= (of_connection, first_id)
        ORDER BY said.connection_id, said.id LIMIT most;
END $$
"""
DROP_RECORDS_ABOUT = "DROP FUNCTION atom_records_about(uuid, uuid[], uuid, uuid, int)"

# Notes for the index of names (`searching.py`) what a statement did to entities' names and places,
NOTE_NAMES = """
CREATE OR REPLACE FUNCTION atom_note_names() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO historical_sync_namebacklog (tenant_id, entity_ids, names)
        SELECT tenant_id, array_agg(id), array_agg(name) FROM fresh GROUP BY tenant_id;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO historical_sync_namebacklog (tenant_id, entity_ids, names)
        SELECT f.tenant_id, array_agg(f.id), array_agg(f.name) FROM fresh f JOIN former USING (id)
        WHERE f.name <> former.name OR f.kind <> former.kind OR f.merged_into IS DISTINCT FROM former.merged_into GROUP BY f.tenant_id;
    ELSE
        DELETE FROM historical_sync_entityname WHERE entity_id IN (SELECT id FROM former);
    END IF;
    RETURN NULL;
END $$
"""
# when it ends.
NOTE_NAMES_OF_STATEMENTS = """
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
