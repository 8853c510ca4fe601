"""Storage through the official client: what others may do with one's attachments, and limits while many upload."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import psycopg
import pytest
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError
from storage3.types import FileOptions
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from tests.support.database import Row, set_limits
from tests.support.objects import FILES, PNG
from tests.support.storing import BUCKET, named, objects_of, server_client, upload, upload_each
from tests.support.users import Person

LIE: FileOptions = {"content-type": "image/png"}
OVERWRITE: FileOptions = {"content-type": "image/png", "upsert": "true"}
MOST_BYTES = 10 * 1024 * 1024
Connection = psycopg.AsyncConnection[Row]


@pytest.fixture
async def anonymous(environment: dict[str, str]) -> AsyncIterator[AsyncClient]:
    """A client that nobody has signed in to."""
    async with httpx.AsyncClient(timeout=20) as http:
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield await acreate_client(environment["SUPABASE_URL"], environment["SUPABASE_PUBLISHABLE_KEY"], options)


@pytest.fixture(params=["user", "anonymous"])
async def stranger(
    request: pytest.FixtureRequest, anonymous: AsyncClient, sign_up: Callable[[], Awaitable[Person]]
) -> tuple[AsyncClient, str]:
    """Someone else's client, and a folder of their own to copy and move to: a session's, if they can have one."""
    if request.param == "anonymous":
        return anonymous, str(uuid.uuid4())
    person = await sign_up()
    return person.client, await person.open_session(title="named")


async def refused(call: Awaitable[object]) -> str:
    """What kind of refusal it is; fails if there is none."""
    with pytest.raises(StorageApiError) as error:
        await call
    return str(error.value.code)


async def test_strangers_do_nothing_with_ones_attachments(
    stranger: tuple[AsyncClient, str], environment: dict[str, str], user: Person, db: Connection
) -> None:
    session_id = await user.open_session(title="named")
    path = await upload(user.client, session_id)
    await user.ask(session_id, "look", attachments=[named(path)])
    client, folder = stranger
    theirs = client.storage.from_(BUCKET)
    own, new = f"{folder}/{uuid.uuid4()}.png", f"{session_id}/{uuid.uuid4()}.png"

    # reads
    assert await theirs.list(session_id) == []
    assert await theirs.list() == []
    assert not await theirs.exists(path)
    assert await refused(theirs.download(path)) == "not_found"
    assert await refused(theirs.info(path)) == "not_found"
    assert await refused(theirs.create_signed_url(path, 60)) == "not_found"
    assert [row["signedURL"] for row in await theirs.create_signed_urls([path], 60)] in ([None], [""])
    async with httpx.AsyncClient() as http:
        response = await http.get(await theirs.get_public_url(path))
        assert response.is_error
        assert PNG not in response.content

    # writes
    assert await refused(theirs.upload(path, b"lie", OVERWRITE)) == "Unauthorized"
    assert await refused(theirs.upload(path, b"lie", LIE)) == "Unauthorized"
    assert await refused(theirs.update(path, b"lie", LIE)) == "Unauthorized"
    assert await refused(theirs.upload(new, b"lie", LIE)) == "Unauthorized"
    assert await refused(theirs.create_signed_upload_url(new)) == "Unauthorized"
    assert await refused(theirs.copy(path, own)) == "not_found"
    assert await refused(theirs.copy(path, new)) == "not_found"
    assert await refused(theirs.move(path, own)) == "not_found"
    assert await refused(theirs.move(path, new)) == "not_found"
    assert await theirs.remove([path]) == []

    assert await objects_of(db, session_id) == [path]
    assert await objects_of(db, folder) == []
    assert await user.client.storage.from_(BUCKET).download(path) == PNG


async def test_users_do_not_change_their_own_attachments(user: Person, db: Connection) -> None:
    """What a message names stays what it was when it was sent."""
    session_id, other = await user.open_session(title="named"), await user.open_session(title="named")
    path = await upload(user.client, session_id)
    mine = user.client.storage.from_(BUCKET)
    assert await refused(mine.upload(path, b"new", OVERWRITE)) == "Unauthorized"
    assert await refused(mine.upload(path, b"new", LIE)) == "Duplicate"
    assert await refused(mine.update(path, b"new", LIE)) == "Unauthorized"
    assert await refused(mine.move(path, f"{other}/{uuid.uuid4()}.png")) == "not_found"
    assert await mine.remove([path]) == []
    assert await mine.download(path) == PNG
    assert await objects_of(db, session_id) == [path]


@pytest.mark.parametrize(
    "path", ["a.png", "SESSION/a.png", "SESSION/UUID", "SESSION/UUID.PNG", "SESSION/x/UUID.png", "SESSION/UUID.png.png"]
)
async def test_uploads_have_a_path_of_a_session(path: str, user: Person) -> None:
    session_id = await user.open_session(title="named")
    path = path.replace("SESSION", session_id).replace("UUID", str(uuid.uuid4()))
    assert await refused(user.client.storage.from_(BUCKET).upload(path, PNG, LIE)) == "Unauthorized"


async def test_signed_url_of_a_removed_object_is_not_found(user: Person, environment: dict[str, str]) -> None:
    session_id = await user.open_session(title="named")
    path, kept = await upload_each(user.client, [session_id] * 2)
    mine = user.client.storage.from_(BUCKET)
    signed = (await mine.create_signed_url(path, 60))["signedURL"]
    assert signed is not None
    async with httpx.AsyncClient() as http, server_client(environment) as server:
        assert (await http.get(signed)).content == PNG
        await server.storage.from_(BUCKET).remove([path])
        response = await http.get(signed)
        assert response.json()["statusCode"] == "404"
        rows = await mine.create_signed_urls([path, kept], 60)
        assert [bool(row["signedURL"]) for row in rows] == [False, True]


async def test_limit_of_uploads_holds_while_many_upload(user: Person, db: Connection) -> None:
    """Storage asks the policy before it has the bytes: at that moment, none of 50 uploads exceeds the limit."""
    session_id, most = await user.open_session(title="named"), 10
    await set_limits(db, user.id, uploads_per_session=most)
    results = await asyncio.gather(*(upload(user.client, session_id) for _ in range(50)), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    assert {str(getattr(error, "code", error)) for error in errors} == {"Unauthorized"}
    assert set(await objects_of(db, session_id)) == set(results) - set(errors)
    assert len(errors) == 50 - most
    assert await refused(upload(user.client, session_id)) == "Unauthorized"
    # another session has a limit of its own
    await upload(user.client, await user.open_session(title="named"))


async def test_bucket_limits_sizes_and_types(user: Person, db: Connection) -> None:
    session_id = await user.open_session(title="named")
    fits = await upload(user.client, session_id, PNG + bytes(MOST_BYTES - len(PNG)))
    too_large = upload(user.client, session_id, bytes(MOST_BYTES + 1))
    others = [upload(user.client, session_id, b"x", kind, "png") for kind in ("text/html", "image/svg+xml", "x/y")]
    codes = [await refused(call) for call in (too_large, *others)]
    assert codes == ["Payload too large", *["invalid_mime_type"] * 3]
    assert await objects_of(db, session_id) == [fits]


async def test_limits_of_a_question_hold_whatever_was_uploaded(user: Person, db: Connection) -> None:
    session_id = await user.open_session(title="named")
    await set_limits(db, user.id, attachments_per_message=8, attachment_bytes=MOST_BYTES)
    small = await upload_each(user.client, [session_id] * 9)
    large = [await upload(user.client, session_id, PNG + bytes(MOST_BYTES // 2)) for _ in range(2)]
    for paths, code in ((small, "PT413"), (large, "PT413"), ([*large[:1], *small[:7]], None)):
        items = [named(path) for path in paths]
        if code is None:
            await user.ask(session_id, "look", attachments=items)
        else:
            with pytest.raises(APIError) as error:
                await user.ask(session_id, "look", attachments=items)
            assert error.value.code == code
    text = await upload(user.client, session_id, FILES["text/plain"], "text/plain", "txt")
    ((row),) = await user.rows("messages", id=await user.ask(session_id, "", attachments=[named(text, "notes.md")]))
    size = len(FILES["text/plain"])
    assert row["attachments"] == [{"path": text, "name": "notes.md", "type": "text/plain", "size": size}]


async def test_questions_at_once_may_name_the_same_objects(user: Person, db: Connection) -> None:
    session_id = await user.open_session(title="named")
    paths = await upload_each(user.client, [session_id] * 3)
    orders = [paths, paths[::-1], paths[1:], [paths[2], paths[0]]] * 5
    asked = await asyncio.gather(
        *(user.ask(session_id, "look", attachments=[named(path) for path in order]) for order in orders)
    )
    cursor = await db.execute(
        "select m.id::text, m.attachments,"
        " (select array_agg(a.path) from bridge.attachments a where a.message_id = m.id) as noted"
        " from public.messages m where m.id = any (%s::uuid[])",
        (asked,),
    )
    rows = {row["id"]: row for row in await cursor.fetchall()}
    for id, order in zip(asked, orders, strict=True):
        assert [item["path"] for item in rows[id]["attachments"]] == order
        assert sorted(rows[id]["noted"]) == sorted(order)
