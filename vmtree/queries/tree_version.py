"""A number that changes with the tree and with the tokens of its nodes, kept by triggers.

What depends on them alone may be remembered while the number stays. On SQLite it counts: the one
writer at a time changes one row more. On PostgreSQL writers would wait for each other, so each
adds a random mark instead, and the number is the sum of all marks that are committed. Older marks
are removed on the way, by whoever comes first.
"""

from __future__ import annotations

from django.db import connection
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from reef_site.common.queries import LoopConnection, fetch_prepared

_TABLES = ("vmtree_node", "vmtree_trait", "vmtree_nodetoken")
_EVENTS = ("INSERT", "UPDATE", "DELETE")
_TABLE = """CREATE TABLE vmtree_version
    (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER NOT NULL)"""
_TRIGGER = """CREATE TRIGGER vmtree_version_{table}_{event} AFTER {event} ON {table}
    BEGIN UPDATE vmtree_version SET number = number + 1; END"""

# A mark differs from all others: no two states of the tree have the same sum. The statement's own
# mark is added last, so that it stays.
_MARKS = "CREATE TABLE vmtree_version (mark bigint NOT NULL)"
_ADD_MARK = """CREATE FUNCTION vmtree_version_add() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF random() < 0.02 THEN
            DELETE FROM vmtree_version WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM vmtree_version LIMIT 100 FOR UPDATE SKIP LOCKED));
        END IF;
        INSERT INTO vmtree_version VALUES
            (('x' || substr(replace(gen_random_uuid()::text, '-', ''), 17))::bit(64)::bigint);
        RETURN NULL;
    END $$"""
_MARKING = """CREATE TRIGGER vmtree_version_{table} AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON {table} FOR EACH STATEMENT EXECUTE FUNCTION vmtree_version_add()"""

_READ = "SELECT number FROM vmtree_version"
_SUM = "SELECT coalesce(sum(mark), 0)::text FROM vmtree_version"
_COUNT = (
    "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'vmtree_version_%'"
)
_COUNT_MARKING = """SELECT count(*) FROM pg_trigger
    WHERE tgname LIKE 'vmtree_version_%%' AND tgenabled = 'O' AND tgrelid = ANY (
        SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) name)"""


def create(editor: BaseDatabaseSchemaEditor) -> None:
    """Create the table and its triggers, if this is SQLite."""
    if editor.connection.vendor != "sqlite":
        return
    editor.execute(_TABLE)
    editor.execute("INSERT INTO vmtree_version VALUES (1, 1)")
    for table in _TABLES:
        for event in _EVENTS:
            editor.execute(_TRIGGER.format(table=table, event=event))


def create_marks(editor: BaseDatabaseSchemaEditor) -> None:
    """Create the table and its triggers, if this is PostgreSQL."""
    if editor.connection.vendor != "postgresql":
        return
    # Without parameters, percent signs mean themselves.
    for sql in (_MARKS, _ADD_MARK, *(_MARKING.format(table=table) for table in _TABLES)):
        editor.execute(sql, None)


def is_kept(link: LoopConnection | None = None) -> bool:
    """Return whether all triggers are there; a migration that replaces a table drops them."""
    if connection.vendor == "postgresql":
        ((count,),) = fetch_prepared(_COUNT_MARKING, {"tables": list(_TABLES)})
        return int(count) == len(_TABLES)
    return _number(_COUNT, link) == len(_TABLES) * len(_EVENTS)


def current(link: LoopConnection | None = None) -> int:
    """Return the number; fast, without Django's cursor. Only where `is_kept` says so."""
    if connection.vendor == "postgresql":
        ((total,),) = fetch_prepared(_SUM, {})
        return int(total)
    return _number(_READ, link)


def _number(sql: str, link: LoopConnection | None) -> int:
    if link:
        ((number,),) = link.fetch(sql, {})
    else:
        connection.ensure_connection()
        with connection.wrap_database_errors:
            ((number,),) = connection.connection.execute(sql).fetchall()
    return int(number)
