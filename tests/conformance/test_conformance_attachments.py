"""The bucket `attachments` and its policies, if the project has this schema: users reach those of their sessions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from tests.conformance.conftest import User
from tests.conformance.notes import Rows
from tests.conformance.storing import HTML, IMAGE, PNG, TEXT, objects, refusal

BUCKET = "attachments"


@pytest.fixture
async def session_id(server: AsyncClient, alice: User) -> AsyncIterator[str]:
    """A session of Alice's. Its objects are removed afterwards."""
    if BUCKET not in [bucket.id for bucket in await server.storage.list_buckets()]:
        pytest.skip("the project has no bucket of attachments")
    row: Any = {"title": "conformance"}
    (session,) = cast(Rows, (await alice.client.table("sessions").insert(row).execute()).data)
    yield session["id"]
    files = objects(server, BUCKET)
    if found := await files.list(session["id"]):
        await files.remove([f"{session['id']}/{row['name']}" for row in found])


def path_in(session_id: str, extension: str = "png") -> str:
    return f"{session_id}/{uuid.uuid4()}.{extension}"


async def test_user_stores_and_reads_attachments_of_own_session(
    alice: User, session_id: str, http: httpx.AsyncClient
) -> None:
    files, path = objects(alice.client, BUCKET), path_in(session_id)
    await files.upload(path, PNG, IMAGE)
    assert await files.download(path) == PNG
    assert [f"{session_id}/{row['name']}" for row in await files.list(session_id)] == [path]
    assert (await http.get((await files.create_signed_url(path, 60))["signedURL"])).content == PNG


async def test_user_cannot_change_or_remove_attachments(alice: User, session_id: str) -> None:
    files, path = objects(alice.client, BUCKET), path_in(session_id)
    await files.upload(path, PNG, IMAGE)
    for attempt in (
        files.upload(path, b"other", {**IMAGE, "upsert": "true"}),
        files.update(path, b"other", IMAGE),
        files.move(path, path_in(session_id)),
    ):
        with pytest.raises(StorageApiError):
            await attempt
    assert await files.remove([path]) == []
    assert await files.download(path) == PNG


async def test_attachments_of_another_user_are_refused(
    alice: User, bob: User, visitor: AsyncClient, session_id: str
) -> None:
    path = path_in(session_id)
    await objects(alice.client, BUCKET).upload(path, PNG, IMAGE)
    for client in (bob.client, visitor):
        files = objects(client, BUCKET)
        for attempt in (
            files.download(path),
            files.create_signed_url(path, 60),
            files.upload(path_in(session_id), b"x", IMAGE),
            files.create_signed_upload_url(path_in(session_id)),
        ):
            with pytest.raises(StorageApiError):
                await attempt
        assert await files.list(session_id) == []
        (signed,) = await files.create_signed_urls([path], 60)
        assert signed["error"]
        assert not signed["signedURL"]
        assert await files.remove([path]) == []
    assert await objects(alice.client, BUCKET).download(path) == PNG


@pytest.mark.parametrize(
    "shape",
    [
        *("{file}.png", "{session}.png", "{session}/a.png", "{session}/sub/{file}.png", "{session}/{file}"),
        *("{other}/{file}.png", "{session}/{file}.PNG", "{session}/{file}.png.exe", "{session}/{upper}.png"),
    ],
)
async def test_path_that_does_not_fit_is_refused(alice: User, server: AsyncClient, session_id: str, shape: str) -> None:
    """What fits is `<session>/<uuid>.<extension>`, in lower case."""
    file = uuid.uuid4()
    path = shape.format(session=session_id, file=file, upper=str(file).upper(), other=uuid.uuid4())
    with pytest.raises(StorageApiError) as refused:
        await objects(alice.client, BUCKET).upload(path, PNG, IMAGE)
    assert refusal(refused.value) == ("403", "new row violates row-level security policy")
    assert await objects(server, BUCKET).exists(path) is False


async def test_bucket_refuses_other_types(alice: User, session_id: str) -> None:
    with pytest.raises(StorageApiError) as refused:
        await objects(alice.client, BUCKET).upload(path_in(session_id, "html"), b"<p>", HTML)
    assert refusal(refused.value) == ("415", "mime type text/html is not supported")
    await objects(alice.client, BUCKET).upload(path_in(session_id, "txt"), b"text", TEXT)
