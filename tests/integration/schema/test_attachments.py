"""Attachments: what a question may name, who may store an object where, and what becomes of orphans."""

from __future__ import annotations

import asyncio
import json
import os
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from devstack.stack import Stack
from tests.support.database import Row, database, set_limits
from tests.support.users import Person
from tests.support.workers import working

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
EXTENSIONS = {
    **{"image/png": ("png",), "image/jpeg": ("jpg", "jpeg"), "image/gif": ("gif",), "image/webp": ("webp",)},
    **{"application/pdf": ("pdf",), "audio/mpeg": ("mp3", "mpeg"), "audio/wav": ("wav",), "text/plain": ("txt",)},
}
KNOWN = {extension for type, group in EXTENSIONS.items() if type != "text/plain" for extension in group}
UNPRINTABLE = re.compile("[/\\\\\u0001-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
ODD_NAMES = int(os.environ.get("ODD_NAMES", "2000"))  # how many the generators try
BATCH = 200


@pytest.fixture
async def other(sign_up: Callable[[], Awaitable[Person]]) -> Person:
    return await sign_up()


@pytest.fixture
async def server(environment: dict[str, str]) -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as http:
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield await acreate_client(environment["SUPABASE_URL"], environment["SUPABASE_SECRET_KEY"], options)


@pytest.fixture(autouse=True)
async def no_orphans(db: psycopg.AsyncConnection[Row]) -> None:
    """Each test finds only its own, and the search begins again."""
    async with db.transaction():
        await db.execute("set local storage.allow_delete_query = 'true'")
        await db.execute("delete from storage.objects where bucket_id = 'attachments'")
    await db.execute("delete from bridge.orphans")
    await db.execute("update bridge.orphan_search set position = '', next_at = '-infinity'")


async def store(
    db: psycopg.AsyncConnection[Row], session: str, type: str = "image/png", size: int = 100, *, days: float = 0
) -> str:
    """Add an object as Storage does after an upload; return its path."""
    path = f"{session}/{uuid.uuid4()}.{EXTENSIONS.get(type, ('bin',))[0]}"
    await db.execute(
        "insert into storage.objects (bucket_id, name, metadata, created_at)"
        " values ('attachments', %s, %s, now() - make_interval(secs => %s))",
        (path, json.dumps({"mimetype": type, "size": size}), days * 86400),
    )
    return path


async def orphans_of(server: AsyncClient, worker: str = "w", most: int = 100) -> list[str]:
    answer: Any = await server.rpc("bridge_orphans", {"worker": worker, "most": most}).execute()
    return list(answer.data)


async def test_question_gets_types_and_sizes_of_its_attachments(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    session = await user.open_session(title="named")
    paths = [await store(db, session), await store(db, session, "text/plain", 5)]
    named = [{"path": paths[0], "name": "Größe.PNG", "size": 1}, {"path": paths[1], "name": "notes.md"}]
    question = await user.ask(session, "", attachments=named)
    assert (await user.rows("messages", id=question))[0]["attachments"] == [
        {"path": paths[0], "name": "Größe.PNG", "type": "image/png", "size": 100},
        {"path": paths[1], "name": "notes.md", "type": "text/plain", "size": 5},
    ]


@pytest.mark.parametrize("nothing", [None, []], ids=["null", "empty list"])
async def test_question_without_attachments_has_null(user: Person, nothing: Any) -> None:
    session = await user.open_session(title="named")
    question = await user.ask(session, "hello", attachments=nothing)
    assert (await user.rows("messages", id=question))[0]["attachments"] is None
    with pytest.raises(APIError, match="The message is empty"):
        await user.ask(session, " ", attachments=nothing)


@pytest.mark.parametrize(
    ("attachments", "code", "says"),
    [
        ({"path": "a"}, "PT400", "must be a list"),
        ("a", "PT400", "must be a list"),
        (["a"], "PT400", "An attachment must be"),
        ([{"path": "PATH"}], "PT400", "An attachment must be"),
        ([{"path": "PATH", "name": 1}], "PT400", "An attachment must be"),
        ([{"path": "PATH", "name": "a.png"}] * 2, "PT400", "named twice"),
        ([{"path": "PATH", "name": "a.png"}] * 9, "PT413", "Too many attachments: 9 \\(limit 8\\)"),
        ([{"path": "PATH", "name": "a.pdf"}], "PT400", "does not fit its type, image/png"),
        ([{"path": "PATH", "name": " .. "}], "PT400", "The name of an attachment"),
        ([{"path": "../x/a.png", "name": "a.png"}], "PT400", "The path of an attachment"),
    ],
    ids=["object", "text", "list of text", "no name", "name of no text", "twice", "nine", "pdf", "dots", "path"],
)
async def test_malformed_attachments_are_refused(
    user: Person, db: psycopg.AsyncConnection[Row], attachments: Any, code: str, says: str
) -> None:
    session = await user.open_session(title="named")
    await set_limits(db, user.id, attachments_per_message=8)
    path = await store(db, session)
    filled = json.loads(json.dumps(attachments).replace("PATH", path))
    with pytest.raises(APIError, match=says) as error:
        await user.ask(session, "look", attachments=filled)
    assert error.value.code == code


async def test_upload_that_is_not_there_or_not_ones_own_is_refused(
    user: Person, other: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session, theirs = await user.open_session(title="named"), await other.open_session(title="named")
    foreign, orphan = await store(db, theirs), await store(db, session)
    await db.execute("insert into bridge.orphans (prefix) values (%s)", (orphan,))
    for path, code in ((f"{session}/{uuid.uuid4()}.png", "PT404"), (orphan, "PT404"), (foreign, "PT400")):
        with pytest.raises(APIError) as error:
            await user.ask(session, "look", attachments=[{"path": path, "name": "a.png"}])
        assert error.value.code == code


async def test_sizes_add_up_to_a_limit(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    session = await user.open_session(title="named")
    half = 5 * 1024 * 1024
    fits = [{"path": await store(db, session, size=half), "name": "a.png"} for _ in range(2)]
    await user.ask(session, "look", attachments=fits)
    more = {"path": await store(db, session, size=1), "name": "b.png"}
    with pytest.raises(APIError, match="Attachments too large: 10485761 bytes \\(limit 10485760\\)") as error:
        await user.ask(session, "look", attachments=[*fits, more])
    assert error.value.code == "PT413"


# -- generators: names, paths and types that nobody thought of ------------------------------------------

SESSION = "00000000-0000-4000-8000-000000000001"
_ANY = st.characters(exclude_characters="\0", codec="utf-8")
_IDS = st.sampled_from([SESSION, SESSION.upper(), "00000000-0000-4000-8000-000000000002", "..", "", "%2e%2e", "a"])
_STEMS = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda id: str(id).upper()),
    st.uuids().map(lambda id: id.hex),
    st.sampled_from(["..", ".", "", "a", "x/../y", "%00", "a b", "ä", "\u202e", "'; drop table x; --"]),
    st.text(_ANY, max_size=40),
)
_ENDS = st.one_of(
    st.sampled_from(
        ["png", "PNG", "jpg", "jpeg", "pdf", "txt", "wav", "mp3", "p", "exe", "tar.gz", "", "12345678", "123456789"]
    ),
    st.text(_ANY, max_size=9),
)
_PATHS = st.one_of(
    st.builds(lambda stem, end: f"{SESSION}/{stem}.{end}", st.uuids(), _ENDS),
    st.builds(
        lambda id, slash, stem, end: f"{id}{slash}{stem}.{end}",
        _IDS,
        st.sampled_from(["/", "//", "\\", "/./"]),
        _STEMS,
        _ENDS,
    ),
    st.builds(
        lambda path, more: path + more,
        st.uuids().map(lambda id: f"{SESSION}/{id}.png"),
        st.sampled_from(["", "\n", " ", "/", "?x", "#", "\u200b"]),
    ),
    st.text(_ANY, max_size=120),
)
_NAMES = st.one_of(
    st.builds(
        lambda stem, end: f"{stem}.{end}",
        st.sampled_from(["a", "ä", "a.png", "Größe", " ", "..", "x/y", "x\\y", "a\u202egnp"]),
        _ENDS,
    ),
    st.text(_ANY, max_size=300),
)
_TYPES = st.one_of(
    st.sampled_from(
        [*EXTENSIONS, "image/svg+xml", "text/html", "image/PNG", "text/plain; charset=utf-8", "", "x", "video/mp4"]
    ),
    st.text(_ANY, max_size=20),
)
_SIZES = st.sampled_from([0, 1, 100, 10_485_760, 2**40, None])
_EXTENSIONS = st.sampled_from([extension for group in EXTENSIONS.values() for extension in group])
Item = tuple[str, str, str, int | None]


@st.composite
def _fitting_but_for_one(draw: st.DrawFn) -> Item:
    """An attachment that is as it should be, or has one lie."""
    type = draw(st.sampled_from(list(EXTENSIONS)))
    path = f"{SESSION}/{draw(st.uuids())}.{EXTENSIONS[type][0]}"
    name, size = f"a.{draw(st.sampled_from(EXTENSIONS[type]))}", 100
    match draw(st.integers(0, 5)):
        case 0:
            return draw(_PATHS), name, type, size
        case 1:
            return path, draw(_NAMES), type, size
        case 2:
            return path, name, draw(_TYPES), size
        case 3:
            return path, name, type, draw(_SIZES)
        case 4:
            return path, f"a.{draw(_EXTENSIONS)}", type, size
    return path, name, type, size


_ITEMS = st.one_of(_fitting_but_for_one(), st.tuples(_PATHS, _NAMES, _TYPES, _SIZES))


def may_be_stored(path: str) -> bool:
    return re.fullmatch(f"{SESSION}/{UUID}\\.[a-z0-9]{{1,8}}", path, re.ASCII) is not None


def expected(path: str, name: str, type: str, size: int | None) -> str | None:
    """The type that a question gets for an attachment of this path, name, stored type and size; None: refused."""
    if not may_be_stored(path) or len(name.encode()) > 255 or not re.search(r"[^\s.\u0085\u001c-\u001f]", name):
        return None
    if UNPRINTABLE.search(name):
        return None
    plain = type.partition(";")[0].lower()
    if not size or not re.fullmatch(r"[a-z0-9.+-]{1,127}/[a-z0-9.+-]{1,127}", plain):
        return None
    own = EXTENSIONS.get(plain)
    if own is not None and path.rpartition(".")[2] not in own:
        return None
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if extension in KNOWN and extension not in (own or ()):
        return None
    return plain


TRY = """
create or replace function pg_temp.try(item jsonb) returns text language plpgsql as $$
begin
    insert into storage.objects (bucket_id, name, metadata) values ('attachments', item ->> 'path', item -> 'metadata')
        on conflict do nothing;
    return bridge.check_attachment(item - 'metadata', %s::uuid) ->> 'type';
exception when others then
    if sqlstate not in ('PT400', 'PT404') then raise; end if;
    return null;
end $$
"""


@given(st.lists(_ITEMS, min_size=BATCH, max_size=BATCH, unique_by=lambda item: item[0]))
@settings(
    max_examples=max(1, ODD_NAMES // BATCH),
    deadline=None,
    phases=[Phase.generate],  # to shrink a batch takes minutes
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.large_base_example,
        HealthCheck.data_too_large,
    ],
)
def test_lying_names_paths_and_types_are_refused(stack: Stack, items: list[Item]) -> None:
    async def run() -> list[Row]:
        async with database(stack.admin_url) as admin:
            await admin.execute("begin")
            await admin.execute((TRY % f"'{SESSION}'").encode())
            told = [
                {"path": path, "name": name, "metadata": {"mimetype": type, "size": size}}
                for path, name, type, size in items
            ]
            rows = await admin.execute(
                "select pg_temp.try(e.value) as type, bridge.may_upload(e.value ->> 'path') as stranger"
                "  from jsonb_array_elements(%s::jsonb) with ordinality e order by e.ordinality",
                (json.dumps(told),),
            )
            found = await rows.fetchall()
            await admin.execute("rollback")
            return found

    for item, row in zip(items, asyncio.run(run()), strict=True):
        assert row["type"] == expected(*item), item
        assert row["stranger"] is False, item  # the session is nobody's


async def test_only_the_owner_of_a_session_may_upload_there(
    stack: Stack, user: Person, other: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    path = f"{session}/{uuid.uuid4()}.png"
    statement = "insert into storage.objects (bucket_id, name) values ('attachments', %s)"
    for who, role in ((other.id, "authenticated"), (user.id, "anon")):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await as_user(stack, who, role, statement, path)
    await as_user(stack, user.id, "authenticated", statement, path)
    # nobody changes or removes one, and only its owner sees it
    for who, seen in ((other.id, 0), (user.id, 1)):
        assert await as_user(stack, who, "authenticated", "select from storage.objects where name = %s", path) == seen
        assert (
            await as_user(stack, who, "authenticated", "update storage.objects set name = 'x' where name = %s", path)
            == 0
        )


async def as_user(stack: Stack, user_id: str, role: str, statement: str, *values: object, before: str = "") -> int:
    """Run a statement as Storage does for a user, after `before`; return how many rows it found or changed."""
    async with database(stack.admin_url) as connection, connection.transaction():
        await connection.execute(before.encode())
        claims = json.dumps({"sub": user_id, "role": role})
        await connection.execute(
            "select set_config('request.jwt.claims', %s, true), set_config('role', %s, true)", (claims, role)
        )
        return (await connection.execute(statement.encode(), values)).rowcount


UPLOAD = "insert into storage.objects (bucket_id, name) values ('attachments', %s)"


async def test_session_holds_a_limited_number_of_uploads(
    stack: Stack, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    await set_limits(db, user.id, uploads_per_session=2)
    for _ in range(2):
        await as_user(stack, user.id, "authenticated", UPLOAD, f"{session}/{uuid.uuid4()}.png")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"Too many files in this session \(limit 2\)"):
        await as_user(stack, user.id, "authenticated", UPLOAD, f"{session}/{uuid.uuid4()}.png")
    # what the project itself stores is not limited
    await db.execute(UPLOAD, (f"{session}/{uuid.uuid4()}.png",))
    await db.execute("update bridge.limits set value = 3000000000 where user_id = %s", (user.id,))
    await as_user(stack, user.id, "authenticated", UPLOAD, f"{session}/{uuid.uuid4()}.png")


async def test_uploads_wait_for_those_of_their_own_session_only(
    stack: Stack, user: Person, other: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session, second = [await user.open_session(title="named") for _ in range(2)]
    await set_limits(db, user.id, uploads_per_session=1)
    at_once = "set local lock_timeout = '100ms'"
    async with database(stack.admin_url) as uploading, uploading.transaction():
        stored = "insert into storage.objects (bucket_id, name, owner_id) values ('attachments', %s, %s)"
        await uploading.execute(stored, (f"{session}/{uuid.uuid4()}.png", user.id))
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await as_user(stack, user.id, "authenticated", UPLOAD, f"{session}/{uuid.uuid4()}.png", before=at_once)
        await as_user(stack, user.id, "authenticated", UPLOAD, f"{second}/{uuid.uuid4()}.png", before=at_once)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            await as_user(stack, other.id, "authenticated", UPLOAD, f"{session}/{uuid.uuid4()}.png", before=at_once)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Too many files"):
        await as_user(stack, user.id, "authenticated", UPLOAD, f"{session}/{uuid.uuid4()}.png")


# -- orphans ---------------------------------------------------------------------------------------------


async def test_objects_of_deleted_session_are_handed_to_one_worker_at_a_time(
    user: Person, server: AsyncClient, db: psycopg.AsyncConnection[Row]
) -> None:
    session, empty = await user.open_session(title="named"), await user.open_session(title="named")
    await store(db, session)
    for id in (session, empty):
        await user.client.table("sessions").delete().eq("id", id).execute()
    assert await orphans_of(server, "a") == [f"{session}/"]
    assert await orphans_of(server, "b") == []  # `a` has 20 seconds
    await db.execute("update bridge.orphans set taken_until = now()")  # … and has died
    assert await orphans_of(server, "b") == [f"{session}/"]
    for _ in range(2):  # its answer may be lost
        await server.rpc("bridge_orphans_done", {"worker": "b", "prefixes": [f"{session}/"]}).execute()
    await db.execute("update bridge.orphans set taken_until = now()")
    assert await orphans_of(server, "a") == []


async def test_only_uploads_that_no_message_has_named_for_a_day_are_orphans(
    user: Person, server: AsyncClient, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    named, young, old = (
        await store(db, session, days=2),
        await store(db, session, days=0.9),
        await store(db, session, days=1.1),
    )
    await user.ask(session, "look", attachments=[{"path": named, "name": "a.png"}])
    nobodys = f"{uuid.uuid4()}/{uuid.uuid4()}.png"
    await db.execute("insert into storage.objects (bucket_id, name) values ('attachments', %s)", (nobodys,))
    # an unfinished reply may be about to name one
    assert await orphans_of(server) == [nobodys]
    await db.execute("delete from bridge.jobs where session_id = %s", (session,))
    assert await orphans_of(server) == []  # the next search is not due
    await db.execute("update bridge.orphan_search set position = '', next_at = now()")
    assert await orphans_of(server) == [old]
    with pytest.raises(APIError, match="There is no upload"):
        await user.ask(session, "look", attachments=[{"path": old, "name": "a.png"}])
    await user.ask(session, "look", attachments=[{"path": young, "name": "a.png"}])


async def test_search_leaves_a_locked_session_to_the_next_one(
    stack: Stack, user: Person, server: AsyncClient, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    old = await store(db, session, days=2)
    async with database(stack.admin_url) as holder, holder.transaction():
        await holder.execute("select from public.sessions where id = %s for no key update", (session,))
        assert await orphans_of(server) == []
    await db.execute("update bridge.orphan_search set position = '', next_at = now()")
    assert await orphans_of(server) == [old]


async def test_search_comes_to_every_object(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    session = await user.open_session(title="named")
    stored = sorted([await store(db, session, days=2) for _ in range(7)])
    for _ in range(100):
        await db.execute("update bridge.orphan_search set next_at = now()")
        await db.execute("select bridge.find_orphans(3)")
        rows = await (
            await db.execute("select prefix from bridge.orphans where prefix ^@ %s order by 1", (session,))
        ).fetchall()
        if len(rows) == 7:
            break
    assert sorted(row["prefix"] for row in rows) == stored


async def test_claim_says_that_there_are_orphans(server: AsyncClient, db: psycopg.AsyncConnection[Row]) -> None:
    arguments = {
        "worker": "orphans",
        "slots": 0,
        "holding": [],
        "lease_seconds": 30,
        "history": 0,
        "functions": ["None"],
    }
    answer: Any = await server.rpc("bridge_claim", arguments).execute()
    assert answer.data["orphans"] is True  # a search is due
    await orphans_of(server)
    answer = await server.rpc("bridge_claim", arguments).execute()
    assert "orphans" not in answer.data


async def test_file_of_a_reply_is_named_once_the_reply_ends(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    async with working(environment):
        question = await user.ask(session, "[[text=hello]]")
        reply = await user.reply(question)
    path = await store(db, session)
    parts = [
        {"type": "file", "mediaType": "image/png", "url": f"attachments/{path}"},
        {"type": "file", "url": "attachments/x/y"},
        {"type": "file", "url": f"attachments/{session}/"},  # as a prefix to remove, it would be the whole session
    ]
    await db.execute("update public.messages set status = 'running' where id = %s", (reply["id"],))
    await db.execute(
        "update public.messages set parts = %s, status = 'done' where id = %s", (json.dumps(parts), reply["id"])
    )
    rows = await db.execute("select path from bridge.attachments where message_id = %s", (reply["id"],))
    assert await rows.fetchall() == [{"path": path}]


async def test_file_that_a_retried_reply_does_not_give_again_is_not_named_any_more(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    async with working(environment):
        question = await user.ask(session, "[[text=hello]]")
        reply = await user.reply(question)
        parts = [{"type": "file", "mediaType": "image/png", "url": f"attachments/{await store(db, session)}"}]
        await db.execute("update public.messages set status = 'failed' where id = %s", (reply["id"],))
        await db.execute(
            "update public.messages set parts = %s, status = 'done' where id = %s", (json.dumps(parts), reply["id"])
        )
        named = "select count(*) as count from bridge.attachments where message_id = %s"
        assert await (await db.execute(named, (reply["id"],))).fetchall() == [{"count": 1}]
        await user.client.rpc("retry_message", {"message_id": question}).execute()
        await user.reply(question, lambda row: row["attempt"] == 2 and row["status"] == "done")
    assert await (await db.execute(named, (reply["id"],))).fetchall() == [{"count": 0}]


async def end_all(db: psycopg.AsyncConnection[Row]) -> None:
    await db.execute("delete from bridge.jobs")


async def test_trim_hands_old_attachments_to_a_worker(
    user: Person, server: AsyncClient, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    old, young = await store(db, session), await store(db, session)
    for path in (old, young):
        await user.ask(session, "look", attachments=[{"path": path, "name": "a.png"}])
    await db.execute("update bridge.attachments set created_at = now() - interval '31 days' where path = %s", (old,))
    await end_all(db)
    answer: Any = await server.rpc("bridge_trim", {"attachments_days": 30}).execute()
    assert answer.data["attachments"] == 1
    assert old in await orphans_of(server)


async def test_trim_may_forget_more_names_of_an_object_than_rows_it_was_asked_for(
    user: Person, server: AsyncClient, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    path = await store(db, session)
    for _ in range(3):  # as an edited question does
        await user.ask(session, "look", attachments=[{"path": path, "name": "a.png"}])
    await db.execute("update bridge.attachments set created_at = now() - interval '31 days' where path = %s", (path,))
    await end_all(db)
    answer: Any = await server.rpc("bridge_trim", {"attachments_days": 30, "max_rows": 1}).execute()
    assert (answer.data["attachments"], answer.data["more"]) == (3, True)


async def test_trim_is_not_held_up_by_old_attachments_that_were_named_again(
    user: Person, server: AsyncClient, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    again, old = await store(db, session), await store(db, session)
    for path, days in ((again, 40), (old, 31)):
        await user.ask(session, "look", attachments=[{"path": path, "name": "a.png"}])
        aged = "update bridge.attachments set created_at = now() - make_interval(days => %s) where path = %s"
        await db.execute(aged, (days, path))
    await user.ask(session, "again", attachments=[{"path": again, "name": "a.png"}])
    await end_all(db)
    answer: Any = await server.rpc("bridge_trim", {"attachments_days": 30, "max_rows": 1}).execute()
    assert answer.data["attachments"] == 1
    found = await orphans_of(server)
    assert old in found
    assert again not in found


async def test_trim_spares_what_questions_need_that_have_not_ended(
    user: Person, server: AsyncClient, db: psycopg.AsyncConnection[Row]
) -> None:
    """One waits, one has a dead letter, one has ended: and an object that one of each names is spared."""
    session = await user.open_session(title="named")
    waiting, dead, ended, shared = [await store(db, session) for _ in range(4)]
    asked = {}
    for path in (waiting, dead, ended):
        named = [{"path": path, "name": "a.png"}, {"path": shared, "name": "b.png"}]
        asked[path] = await user.ask(session, "look", attachments=named)
    await db.execute("delete from bridge.jobs where question_id <> %s", (asked[waiting],))
    await db.execute(
        "insert into bridge.dead_letters (question_id, session_id, attempt, failures, error)"
        " values (%s, %s, 1, 1, '{}')",
        (asked[dead], session),
    )
    await db.execute("update bridge.attachments set created_at = now() - interval '31 days'")
    answer: Any = await server.rpc("bridge_trim", {"attachments_days": 30, "max_rows": 1}).execute()
    assert answer.data["attachments"] == 1
    assert set(await orphans_of(server)) & {waiting, dead, ended, shared} == {ended}
    await db.execute("delete from bridge.dead_letters")
    await end_all(db)
    answer = await server.rpc("bridge_trim", {"attachments_days": 30}).execute()
    assert answer.data["attachments"] == 5


async def test_lost_attempt_is_charged_for_its_attachments(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    session = await user.open_session(title="named")
    named = [
        {"path": await store(db, session, "text/plain", 8000), "name": "a.txt"},
        {"path": await store(db, session, "image/png", 90_000), "name": "a.png"},
    ]
    question = await user.ask(session, "four", attachments=named)
    estimated = "select (bridge.estimate_tokens(j)).input_tokens from bridge.jobs j where j.question_id = %s"
    assert await (await db.execute(estimated, (question,))).fetchall() == [{"input_tokens": 1 + 2000 + 1000}]
