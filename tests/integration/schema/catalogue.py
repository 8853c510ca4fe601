"""Everything that Postgres knows about the schema of a database, as text, so that two databases can be compared."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import psycopg

from tests.support.database import Row

Catalogue = Mapping[str, str]

# Each part yields (what, definition). What an object is granted is sorted: the order of grants means nothing. Nor does
# the order of a table's columns: no function relies on it, and a migration can only add columns at the end.
_PARTS = {
    "schema": """
        select n.nspname, format('owner %s, grants %s', n.nspowner::regrole,
                   pg_temp.grants(coalesce(n.nspacl, acldefault('n', n.nspowner))))
          from pg_namespace n where n.nspname in ('public', 'bridge')
    """,
    "default grants": """
        select format('%s of %s in %s', d.defaclobjtype, d.defaclrole::regrole, d.defaclnamespace::regnamespace),
               pg_temp.grants(d.defaclacl)
          from pg_default_acl d
    """,
    "relation": """
        select c.oid::regclass::text, format('kind %s, owner %s, persistence %s, row level security %s, forced %s,'
                   || ' replica identity %s, options %s, grants %s', c.relkind, c.relowner::regrole, c.relpersistence,
                   c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.reloptions, pg_temp.grants(coalesce(
                   c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))))
               || case when c.relkind = 'v' then E'\\n' || pg_get_viewdef(c.oid) else '' end
          from pg_class c where c.relnamespace in ('public'::regnamespace, 'bridge'::regnamespace)
           and c.relkind not in ('i', 'I', 'c')
    """,
    "column": """
        select format('%s.%s', a.attrelid::regclass, a.attname), format(
                   '%s, not null %s, default %s, identity "%s", generated "%s", collation %s, storage %s,'
                   || ' compression "%s", options %s, grants %s',
                   format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity,
                   a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression, a.attoptions,
                   pg_temp.grants(a.attacl))
          from pg_attribute a
          join pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p', 'v', 'm')
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where c.relnamespace in ('public'::regnamespace, 'bridge'::regnamespace)
           and a.attnum > 0 and not a.attisdropped
    """,
    "sequence": """
        select s.seqrelid::regclass::text, format('%s from %s by %s, %s to %s, cache %s, cycle %s', s.seqtypid::regtype,
                   s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
          from pg_sequence s join pg_class c on c.oid = s.seqrelid
         where c.relnamespace in ('public'::regnamespace, 'bridge'::regnamespace)
    """,
    "constraint": """
        select format('%s on %s', c.conname, c.conrelid::regclass), pg_get_constraintdef(c.oid)
          from pg_constraint c
         where c.connamespace in ('public'::regnamespace, 'bridge'::regnamespace) and c.conrelid <> 0
    """,
    "index": """
        select i.indexrelid::regclass::text,
               format('%s, valid %s, clustered %s', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisclustered)
          from pg_index i join pg_class c on c.oid = i.indexrelid
         where c.relnamespace in ('public'::regnamespace, 'bridge'::regnamespace)
    """,
    "function": """
        select p.oid::regprocedure::text, format(E'owner %s, grants %s\\n%s', p.proowner::regrole,
                   pg_temp.grants(coalesce(p.proacl, acldefault('f', p.proowner))), pg_get_functiondef(p.oid))
          from pg_proc p
         where p.pronamespace in ('public'::regnamespace, 'bridge'::regnamespace) and p.prokind in ('f', 'p', 'w')
    """,
    "type": """
        select t.oid::regtype::text, format('kind %s, base %s, labels %s', t.typtype, t.typbasetype::regtype,
                   array(select e.enumlabel from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder))
          from pg_type t left join pg_class c on c.oid = t.typrelid
         where t.typnamespace in ('public'::regnamespace, 'bridge'::regnamespace)
           and (t.typtype in ('e', 'd', 'r') or c.relkind = 'c')
    """,
    "trigger": """
        select format('%s on %s', t.tgname, t.tgrelid::regclass),
               format('enabled %s, %s', t.tgenabled, pg_get_triggerdef(t.oid))
          from pg_trigger t join pg_class c on c.oid = t.tgrelid
         where c.relnamespace in ('public'::regnamespace, 'bridge'::regnamespace) and not t.tgisinternal
    """,
    "policy": """
        select format('"%s" on %s.%s', p.policyname, p.schemaname, p.tablename),
               format('%s, for %s to %s using %s with check %s', p.permissive, p.cmd, p.roles, p.qual, p.with_check)
          from pg_policies p where p.schemaname in ('public', 'bridge') or p.policyname like 'bridge: %'
    """,
    "comment": """
        select o.type || ' ' || o.identity, d.description
          from pg_description d, pg_identify_object(d.classoid, d.objoid, d.objsubid) o
         where o.schema in ('public', 'bridge')
            or d.classoid = 'pg_namespace'::regclass and o.name in ('public', 'bridge')
            or d.classoid in ('pg_constraint'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass)
               and o.identity ~ ' on (public|bridge)[.]'
    """,
    "published": """
        select format('%s.%s in %s', t.schemaname, t.tablename, t.pubname),
               format('columns %s, where %s', t.attnames, t.rowfilter)
          from pg_publication_tables t where t.schemaname in ('public', 'bridge')
    """,
    "limit": """
        select format('%s for %s', l.name, coalesce(l.user_id::text, 'everybody')), l.value::text from bridge.limits l
    """,
}

_GRANTS = """
    create or replace function pg_temp.grants(acl aclitem[]) returns text language sql
    return array_to_string(array(select a::text from unnest(acl) a order by 1), ' ')
"""


async def catalogue(db: psycopg.AsyncConnection[Row]) -> Catalogue:
    """Return the definition of everything in `public` and `bridge`, by its kind and name."""
    await db.execute(_GRANTS)
    await db.execute("set search_path = ''")  # so that every name is printed with its schema
    found: dict[str, str] = {}
    async with db.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        for kind, query in _PARTS.items():
            await cursor.execute(query.encode())
            found |= {f"{kind} {name}": definition or "" for name, definition in await cursor.fetchall()}
    return found


def difference(schemas: Catalogue, migrations: Catalogue) -> list[str]:
    """Return one text for each object that is missing in one of two databases, or defined differently."""
    found = []
    for name in sorted(schemas.keys() | migrations.keys()):
        if name not in migrations:
            found.append(f"{name}: only in supabase/schemas")
        elif name not in schemas:
            found.append(f"{name}: only in supabase/migrations")
        elif schemas[name] != migrations[name]:
            before, after = migrations[name].splitlines(), schemas[name].splitlines()
            lines = difflib.unified_diff(before, after, "supabase/migrations", "supabase/schemas", lineterm="", n=2)
            found.append("\n".join([f"{name}:", *lines]))
    return found
