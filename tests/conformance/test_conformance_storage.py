"""Storage with the official Python client and with plain HTTP: buckets, objects, refusals, odd names."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from urllib.parse import quote

import httpx
import pytest
from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from tests.conformance.conftest import Supabase, User, delete_bucket
from tests.conformance.storing import HTML, IMAGE, PNG, TEXT, objects, refusal

ODD = (
    *("a.txt", "a b.txt", "a+b.txt", "a&b=c.txt", "a;b.txt", "a,b.txt", "a(1)!.txt", "a'b.txt", "a@b:c.txt", "$a.txt"),
    *("a//b.txt", "a..b.txt", "..a", "a%00b.txt", ("x" * 99 + "/") * 8 + "a.txt"),
    *("a*b.txt", "a.b.c", ".hidden", "-", "_", "deep/er/and/deeper.txt", "a" * 200),
    *(
        "ä.txt",
        "文.txt",
        "😀.txt",
        "a#b.txt",
        "a%20b.txt",
        "%2e%2e/a.txt",
        "a\\b.txt",
        "a[1].txt",
        "a{1}.txt",
        "a|b.txt",
    ),
    *("a^b.txt", "a`b.txt", 'a"b.txt', "a<b>.txt", "a~b.txt", "a\tb.txt", "a\nb.txt", "a\x7fb.txt", "a\u202eb.txt"),
)


async def test_object_is_stored_and_read_byte_for_byte(alice: User, bucket: str) -> None:
    files, path = objects(alice.client, bucket), f"{alice.id}/a.png"
    stored = await files.upload(path, PNG, IMAGE)
    assert (stored.path, stored.full_path) == (path, f"{bucket}/{path}")
    assert await files.download(path) == PNG
    info = await files.info(path)
    assert (info["name"], info["size"], info["content_type"]) == (path, len(PNG), "image/png")
    assert await files.exists(path) is True
    (listed,) = await files.list(alice.id)
    assert (listed["name"], listed["metadata"]["size"]) == ("a.png", len(PNG))
    assert [row["name"] for row in await files.remove([path, f"{alice.id}/none.png"])] == [path]
    assert await files.remove([path]) == []
    assert await files.exists(path) is False
    assert await files.list(alice.id) == []


async def test_range_of_an_object_is_read(
    supabase: Supabase, alice: User, bucket: str, http: httpx.AsyncClient
) -> None:
    path = f"{alice.id}/a.png"
    await objects(alice.client, bucket).upload(path, PNG, IMAGE)
    headers = {"apikey": supabase.publishable_key, "Authorization": f"Bearer {alice.token}", "Range": "bytes=8-15"}
    response = await http.get(f"/storage/v1/object/authenticated/{bucket}/{path}", headers=headers)
    assert (response.status_code, response.content) == (206, PNG[8:16])
    assert response.headers["content-range"] == f"bytes 8-15/{len(PNG)}"


async def test_list_is_sorted_and_paged(alice: User, bucket: str) -> None:
    files = objects(alice.client, bucket)
    for name in ("c", "a", "b", "sub/d"):
        await files.upload(f"{alice.id}/{name}.txt", name.encode(), TEXT)
    order = {"column": "name", "order": "desc"}
    names = [row["name"] for row in await files.list(alice.id, {"sortBy": order})]
    assert [name for name in names if name != "sub"] == ["c.txt", "b.txt", "a.txt"]
    assert "sub" in names
    page = await files.list(alice.id, {"limit": 1, "offset": 1, "sortBy": {"column": "name", "order": "asc"}})
    assert [row["name"] for row in page] == ["b.txt"]
    assert [row["name"] for row in await files.list(alice.id, {"search": "c"})] == ["c.txt"]


async def test_second_upload_is_refused(alice: User, bucket: str, server: AsyncClient) -> None:
    files, path = objects(alice.client, bucket), f"{alice.id}/a.txt"
    await files.upload(path, b"one", TEXT)
    with pytest.raises(StorageApiError) as refused:
        await files.upload(path, b"two", TEXT)
    assert (*refusal(refused.value), refused.value.code) == ("409", "The resource already exists", "Duplicate")
    assert await files.download(path) == b"one"
    for client, text in ((alice.client, b"three"), (server, b"four")):
        await objects(client, bucket).upload(path, text, {**TEXT, "upsert": "true"})
        assert await files.download(path) == text


async def test_of_many_uploads_at_once_a_whole_one_is_kept(alice: User, bucket: str) -> None:
    files, path = objects(alice.client, bucket), f"{alice.id}/a.txt"
    texts = [f"{number}".encode() * 1000 for number in range(10, 30)]
    found = await asyncio.gather(*(files.upload(path, text, TEXT) for text in texts), return_exceptions=True)
    won = [text for text, one in zip(texts, found, strict=True) if not isinstance(one, BaseException)]
    assert won  # the hosted service may take several that begin together; the devstack takes one
    assert all(isinstance(one, StorageApiError) for one in found if isinstance(one, BaseException))
    assert await files.download(path) in won


async def test_bucket_limits_size_and_types(alice: User, bucket: str) -> None:
    files = objects(alice.client, bucket)
    for path, body, options, refused in (
        (
            "large.txt",
            bytes(100_001),
            TEXT,
            ("413", "The object exceeded the maximum allowed size", "Payload too large"),
        ),
        (
            "page.html",
            b"<p>",
            HTML,
            ("415", "mime type text/html is not supported", "invalid_mime_type"),
        ),
    ):
        with pytest.raises(StorageApiError) as error:
            await files.upload(f"{alice.id}/{path}", body, options)
        assert (*refusal(error.value), error.value.code) == refused
    assert await files.list(alice.id) == []


async def test_others_are_refused(alice: User, bob: User, visitor: AsyncClient, bucket: str) -> None:
    path = f"{alice.id}/a.txt"
    await objects(alice.client, bucket).upload(path, b"mine", TEXT)
    for client in (bob.client, visitor):
        files = objects(client, bucket)
        for attempt in (
            files.download(path),
            files.info(path),
            files.create_signed_url(path, 60),
            files.create_signed_upload_url(f"{alice.id}/b.txt"),
            files.upload(f"{alice.id}/b.txt", b"x", TEXT),
            files.upload(path, b"x", {**TEXT, "upsert": "true"}),
            files.update(path, b"x", TEXT),
            files.move(path, f"{bob.id}/a.txt"),
            files.copy(path, f"{bob.id}/a.txt"),
        ):
            with pytest.raises(StorageApiError):
                await attempt
        assert await files.list(alice.id) == []
        assert await files.remove([path]) == []
    assert await objects(alice.client, bucket).download(path) == b"mine"


async def test_signed_urls_are_for_one_object(alice: User, bucket: str, http: httpx.AsyncClient) -> None:
    files, path = objects(alice.client, bucket), f"{alice.id}/a.png"
    await files.upload(path, PNG, IMAGE)
    url = (await files.create_signed_url(path, 60))["signedURL"]
    assert (await http.get(url)).content == PNG
    assert (await http.get(url.replace("a.png", "b.png"))).status_code == 400
    gone, there = await files.create_signed_urls([f"{alice.id}/none.png", path], 60)
    assert gone["error"]
    assert not gone["signedURL"]
    assert (await http.get(there["signedURL"])).content == PNG


async def test_signed_upload_url_needs_no_key(alice: User, visitor: AsyncClient, bucket: str) -> None:
    path = f"{alice.id}/a.png"
    signed = await objects(alice.client, bucket).create_signed_upload_url(path)
    await objects(visitor, bucket).upload_to_signed_url(path, signed["token"], PNG, IMAGE)
    assert await objects(alice.client, bucket).download(path) == PNG


async def test_objects_are_moved_and_copied(alice: User, bucket: str) -> None:
    files = objects(alice.client, bucket)
    await files.upload(f"{alice.id}/a.png", PNG, IMAGE)
    await files.copy(f"{alice.id}/a.png", f"{alice.id}/b.png")
    await files.move(f"{alice.id}/a.png", f"{alice.id}/c.png")
    assert [row["name"] for row in await files.list(alice.id)] == ["b.png", "c.png"]
    assert await files.download(f"{alice.id}/c.png") == PNG


async def test_bucket_has_a_life(server: AsyncClient, alice: User) -> None:
    name = f"conformance-{uuid.uuid4()}"
    with pytest.raises(StorageApiError):
        await alice.client.storage.create_bucket(name)
    await server.storage.create_bucket(name)
    try:
        with pytest.raises(StorageApiError) as twice:
            await server.storage.create_bucket(name)
        assert refusal(twice.value) == ("409", "The resource already exists")
        await server.storage.update_bucket(name, {"public": True})
        assert (await server.storage.get_bucket(name)).public is True
        assert name in [found.name for found in await server.storage.list_buckets()]
        await objects(server, name).upload("a.txt", b"public", TEXT)
        async with httpx.AsyncClient() as anybody:
            url = await objects(server, name).get_public_url("a.txt")
            assert (await anybody.get(url)).content == b"public"
        with pytest.raises(StorageApiError):
            await server.storage.delete_bucket(name)  # it is not empty
        assert "mpty" in (await server.storage.empty_bucket(name))["message"]  # the hosted service does it later
    finally:
        await delete_bucket(server, name)
    with pytest.raises(StorageApiError) as gone:
        await server.storage.get_bucket(name)
    assert refusal(gone.value) == ("404", "Bucket not found")


async def test_odd_name_round_trips_or_is_refused(
    supabase: Supabase, alice: User, bucket: str, http: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    """By plain HTTP, as the clients do not escape all names."""
    headers = {"apikey": supabase.publishable_key, "Authorization": f"Bearer {alice.token}"}
    for name in ODD:
        with subtests.test(repr(name)):
            url = f"/storage/v1/object/{bucket}/{alice.id}/{quote(name)}"
            sent = await http.post(url, content=name.encode(), headers={**headers, "Content-Type": "text/plain"})
            if sent.status_code == 200:
                assert (await http.get(url, headers=headers)).content == name.encode()
            else:
                assert (sent.status_code, sent.json()["error"]) == (400, "InvalidKey"), sent.text


@pytest.mark.parametrize("way", ["..", "%2e%2e", "sub/../.."])
async def test_path_does_not_climb(
    supabase: Supabase, alice: User, bob: User, server: AsyncClient, bucket: str, http: httpx.AsyncClient, way: str
) -> None:
    """Whoever resolves the dots, nothing comes to be in another user's folder. The client refuses to upload there."""
    files, source, target = objects(alice.client, bucket), f"{alice.id}/a.txt", f"{alice.id}/{way}/{bob.id}/a.txt"
    await files.upload(source, b"mine", TEXT)
    with pytest.raises(ValueError, match="dot segments"):
        await files.upload(target, b"x", TEXT)
    headers = {"apikey": supabase.publishable_key, "Authorization": f"Bearer {alice.token}"}
    sent = await http.post(f"/storage/v1/object/{bucket}/{target}", content=b"x", headers={**headers, **TEXT})
    assert sent.status_code == 400
    for attempt in (files.copy, files.move):
        with contextlib.suppress(StorageApiError):  # the hosted service may take such a name as it is
            await attempt(source, target)
    assert await objects(server, bucket).list(bob.id) == []


@pytest.mark.parametrize(("length", "may_fit"), [(900, True), (1024, True), (1025, False), (3000, False)])
async def test_long_name_round_trips_or_is_refused(alice: User, bucket: str, length: int, may_fit: bool) -> None:
    """The hosted service stores objects under longer names, so its limit is lower than the 1024 bytes of S3."""
    files = objects(alice.client, bucket)
    path = (f"{alice.id}/" + ("a" * 99 + "/") * 30)[: length - 1] + "b"
    try:
        await files.upload(path, b"long", TEXT)
    except StorageApiError as error:
        refused: StorageApiError | None = error
    else:
        refused = None
        assert await files.download(path) == b"long"
    assert may_fit or refused is not None
    assert length != 900 or refused is None, refused
