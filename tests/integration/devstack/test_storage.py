"""Storage answers like the hosted service: uploads, downloads, signed URLs, listings, buckets, refusals."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import httpx
import jwt
import psycopg
import pytest
import pytest_asyncio

from devstack.stack import Stack
from devstack.storage.limits import MAX_BYTES
from tests.integration.devstack.conftest import User
from tests.integration.devstack.storage import Bucket, make_bucket, refusal, stored

EXISTS = (400, "409", "Duplicate", "KeyAlreadyExists", "The resource already exists")
NOT_FOUND = (400, "404", "not_found", "NoSuchKey", "Object not found")
NO_BUCKET = (400, "404", "Bucket not found", "NoSuchBucket", "Bucket not found")
TOO_LARGE = (400, "413", "Payload too large", "EntityTooLarge", "The object exceeded the maximum allowed size")
POLICY = (400, "403", "Unauthorized", "AccessDenied", "new row violates row-level security policy")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bucket(http: httpx.AsyncClient, service: dict[str, str]) -> Bucket:
    return await make_bucket(http, service)


@pytest.fixture
def key(alice: User, request: pytest.FixtureRequest) -> str:
    """An object's name in alice's folder that no other test has."""
    return f"{alice.id}/{abs(hash(request.node.nodeid))}/x.txt"


# -- uploads


async def test_upload_as_body_keeps_type_caching_and_metadata(bucket: Bucket, alice: User, key: str) -> None:
    custom = base64.b64encode(json.dumps({"n": 1, "ü": None}).encode()).decode()
    more = {"Content_Type": "image/png", "Cache_Control": "max-age=7", "x_metadata": custom}
    sent = await bucket.put(key, b"\x89PNG\x00", alice.headers, **more)
    assert (sent.status_code, sent.json()["Key"]) == (200, f"{bucket.name}/{key}")
    got = await bucket.get(key, alice.headers)
    assert (got.status_code, got.content) == (200, b"\x89PNG\x00")
    assert (got.headers["content-type"], got.headers["cache-control"]) == ("image/png", "max-age=7")
    info = (await bucket.http.get(bucket.url(key, "info/"), headers=alice.headers)).json()
    assert info["id"] == sent.json()["Id"]
    assert (info["size"], info["content_type"], info["metadata"]) == (5, "image/png", {"n": 1, "ü": None})
    assert (info["name"], info["bucket_id"], info["etag"]) == (key, bucket.name, got.headers["etag"])


@pytest.mark.parametrize("field", ["", "file", "anything"])
async def test_upload_as_form_takes_any_field_name(bucket: Bucket, alice: User, key: str, field: str) -> None:
    boundary = "b" * 20
    parts = [
        ('name="cacheControl"', "", "60"),
        ('name="metadata"', "", '{"a": 1}'),
        (f'name="{field}"; filename="x.pdf"', "Content-Type: application/pdf\r\n", "%PDF \r\n--b"),
    ]
    body = "".join(f"--{boundary}\r\nContent-Disposition: form-data; {d}\r\n{h}\r\n{v}\r\n" for d, h, v in parts)
    headers = {**alice.headers, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    sent = await bucket.http.post(bucket.url(key), headers=headers, content=f"{body}--{boundary}--\r\n".encode())
    assert sent.status_code == 200, sent.text
    got = await bucket.get(key, alice.headers)
    assert (got.content, got.headers["content-type"]) == (b"%PDF \r\n--b", "application/pdf")
    assert got.headers["cache-control"] == "max-age=60"
    info = (await bucket.http.get(bucket.url(key, "info/"), headers=alice.headers)).json()
    assert info["metadata"] == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nno file\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\ncut of',
        b'--b\r\nContent-Disposition: form-data; name="cacheControl"\r\n\r\n1\r\nX-Evil: 1\r\n'
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nx\r\n--b--\r\n',
    ],
)
async def test_form_without_a_whole_file_is_refused(
    embedded: Stack, bucket: Bucket, alice: User, key: str, body: bytes
) -> None:
    before = stored(embedded)
    headers = {**alice.headers, "Content-Type": "multipart/form-data; boundary=b"}
    sent = await bucket.http.post(bucket.url(key), headers=headers, content=body)
    assert refusal(sent)[:2] == (400, "400")
    assert refusal(await bucket.get(key, alice.headers)) == NOT_FOUND
    assert stored(embedded) == before


async def test_second_upload_is_refused_and_upsert_replaces(
    embedded: Stack, bucket: Bucket, alice: User, key: str
) -> None:
    first = await bucket.put(key, b"first", alice.headers)
    before = stored(embedded)
    assert refusal(await bucket.put(key, b"second", alice.headers)) == EXISTS
    assert stored(embedded) == before
    replaced = await bucket.put(key, b"third", alice.headers, x_upsert="true")
    assert replaced.json()["Id"] == first.json()["Id"]
    assert (await bucket.get(key, alice.headers)).content == b"third"
    assert len(stored(embedded)) == len(before), "the replaced bytes are removed"
    put = await bucket.http.put(bucket.url(key), content=b"fourth", headers=alice.headers)
    assert put.status_code == 200
    assert (await bucket.get(key, alice.headers)).content == b"fourth"


async def test_other_users_and_visitors_are_refused(
    bucket: Bucket, alice: User, bob: User, anon: dict[str, str], key: str
) -> None:
    await bucket.put(key, b"mine", alice.headers)
    for headers in (bob.headers, anon):
        assert refusal(await bucket.put(key + "2", b"x", headers)) == POLICY
        assert refusal(await bucket.put(key, b"x", headers, x_upsert="true")) == POLICY
        assert refusal(await bucket.get(key, headers)) == NOT_FOUND
        assert refusal(await bucket.http.get(bucket.url(key, "info/"), headers=headers)) == NOT_FOUND
        assert (await bucket.http.head(bucket.url(key), headers=headers)).status_code == 400
        sign = await bucket.http.post(bucket.url(key, "sign/"), headers=headers, json={"expiresIn": 60})
        assert refusal(sign) == NOT_FOUND
        upload = await bucket.http.post(bucket.url(key + "2", "upload/sign/"), headers=headers)
        assert refusal(upload) == POLICY
        gone = await bucket.http.request(
            "DELETE", f"/storage/v1/object/{bucket.name}", headers=headers, json={"prefixes": [key]}
        )
        assert (gone.status_code, gone.json()) == (200, [])
        assert refusal(await bucket.http.delete(bucket.url(key), headers=headers)) == (
            *(400, "403", "Unauthorized", "AccessDenied", "Access denied"),
        )
        for action in ("copy", "move"):
            body = {"bucketId": bucket.name, "sourceKey": key, "destinationKey": f"{bob.id}/stolen.txt"}
            answer = await bucket.http.post(f"/storage/v1/object/{action}", headers=headers, json=body)
            assert refusal(answer) == NOT_FOUND
        assert await bucket.names(headers) == []
    assert (await bucket.get(key, alice.headers)).content == b"mine"


async def test_moving_and_copying_out_of_the_own_folder_is_refused(
    bucket: Bucket, alice: User, bob: User, key: str
) -> None:
    await bucket.put(key, b"mine", alice.headers)
    for action in ("copy", "move"):
        body = {"bucketId": bucket.name, "sourceKey": key, "destinationKey": f"{bob.id}/planted.txt"}
        answer = await bucket.http.post(f"/storage/v1/object/{action}", headers=alice.headers, json=body)
        assert refusal(answer) == POLICY
    assert await bucket.names(bob.headers) == []


@pytest.mark.parametrize("way", ["length", "stream", "form"])
async def test_more_than_the_bucket_allows_is_refused(
    embedded: Stack, http: httpx.AsyncClient, service: dict[str, str], alice: User, way: str
) -> None:
    bucket = await make_bucket(http, service, file_size_limit=1000)
    key, before = f"{alice.id}/x", stored(embedded)

    async def send(size: int) -> httpx.Response:
        async def stream() -> Any:
            for at in range(0, size, 100):
                yield b"x" * min(100, size - at)

        if way == "form":
            file = {"file": ("x", b"x" * size, "text/plain")}
            return await http.post(bucket.url(key), headers=alice.headers, files=file)
        return await http.post(
            bucket.url(key), headers=alice.headers, content=b"x" * size if way == "length" else stream()
        )

    assert refusal(await send(1001)) == TOO_LARGE
    assert stored(embedded) == before
    assert (await send(1000)).status_code == 200


async def test_no_object_is_larger_than_the_devstack_allows(
    embedded: Stack, bucket: Bucket, alice: User, key: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", embedded.gateway.port)
    head = f"POST {bucket.url(key)} HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BYTES + 1}\r\n"
    writer.write((head + "".join(f"{name}: {value}\r\n" for name, value in alice.headers.items()) + "\r\n").encode())
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"}")
    assert b"EntityTooLarge" in answer, "refused before any of it is sent"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("sent", "is_allowed"),
    [
        ("image/png", True),
        ("text/plain", True),
        ("text/html", True),
        ("image/jpeg", False),
        ("text/plain;charset=UTF-8", True),
        ("image/png;x=1", False),
        ("image", False),
        ("application/octet-stream", False),
    ],
)
async def test_type_must_be_one_that_the_bucket_allows(
    http: httpx.AsyncClient, service: dict[str, str], alice: User, sent: str, is_allowed: bool
) -> None:
    bucket = await make_bucket(http, service, allowed_mime_types=["image/png", "text/*"])
    answer = await bucket.put(f"{alice.id}/x", b"x", alice.headers, Content_Type=sent)
    if is_allowed:
        assert answer.status_code == 200, answer.text
    else:
        assert refusal(answer) == (
            *(400, "415", "invalid_mime_type", "InvalidMimeType", f"mime type {sent} is not supported"),
        )


async def test_empty_folder_has_any_type_and_no_bytes(
    http: httpx.AsyncClient, service: dict[str, str], alice: User
) -> None:
    bucket = await make_bucket(http, service, allowed_mime_types=["image/png"])
    key = f"{alice.id}/folder/.emptyFolderPlaceholder"
    assert refusal(await bucket.put(key, b"x", alice.headers)) == TOO_LARGE
    assert (await bucket.put(key, b"", alice.headers)).status_code == 200


# -- downloads


@pytest.mark.parametrize(
    ("wanted", "content", "span"),
    [
        ("bytes=0-4", b"01234", "0-4"),
        ("bytes=5-", b"56789", "5-9"),
        ("bytes=-3", b"789", "7-9"),
        ("bytes=8-99", b"89", "8-9"),
        ("bytes=-99", b"0123456789", "0-9"),
    ],
)
async def test_range_is_sent(bucket: Bucket, alice: User, key: str, wanted: str, content: bytes, span: str) -> None:
    await bucket.put(key, b"0123456789", alice.headers)
    got = await bucket.get(key, {**alice.headers, "Range": wanted})
    assert (got.status_code, got.content) == (206, content)
    assert got.headers["content-range"] == f"bytes {span}/10"


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=5-4", "bytes=-0", "bytes=-", "bytes=0-1,3-4", "lines=1-2"])
async def test_range_outside_the_object_is_refused(bucket: Bucket, alice: User, key: str, wanted: str) -> None:
    await bucket.put(key, b"0123456789", alice.headers)
    got = await bucket.get(key, {**alice.headers, "Range": wanted})
    assert refusal(got) == (416, "416", "invalid_range", "InvalidRange", "invalid range provided")


async def test_unchanged_object_is_not_sent_again(bucket: Bucket, alice: User, key: str) -> None:
    await bucket.put(key, b"x", alice.headers)
    got = await bucket.get(key, alice.headers)
    for known in ({"If-None-Match": got.headers["etag"]}, {"If-Modified-Since": got.headers["last-modified"]}):
        again = await bucket.get(key, {**alice.headers, **known})
        assert (again.status_code, again.content) == (304, b"")
    other = await bucket.get(key, {**alice.headers, "If-None-Match": '"other"', "If-Modified-Since": "nonsense"})
    assert other.status_code == 200


async def test_page_is_never_served_as_one(bucket: Bucket, alice: User, key: str) -> None:
    await bucket.put(key, b"<script>alert(1)</script>", alice.headers, Content_Type="text/html; charset=utf-8")
    assert (await bucket.get(key, alice.headers)).headers["content-type"] == "text/plain"


async def test_head_describes_the_object(bucket: Bucket, alice: User, key: str) -> None:
    await bucket.put(key, b"12345", alice.headers, Content_Type="image/png")
    head = await bucket.http.head(bucket.url(key), headers=alice.headers)
    assert (head.status_code, head.content) == (200, b"")
    assert (head.headers["content-length"], head.headers["content-type"]) == ("5", "image/png")


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("", "attachment;"),
        ("ü \r\n.txt", "attachment; filename=%C3%BC%20%0D%0A.txt; filename*=UTF-8''%C3%BC%20%0D%0A.txt"),
    ],
)
async def test_download_names_the_file(bucket: Bucket, alice: User, key: str, name: str, disposition: str) -> None:
    await bucket.put(key, b"x", alice.headers)
    got = await bucket.http.get(bucket.url(key), headers=alice.headers, params={"download": name})
    assert got.headers["content-disposition"] == disposition


async def test_bytes_that_were_deleted_by_hand_are_not_found(
    embedded: Stack, bucket: Bucket, alice: User, key: str
) -> None:
    await bucket.put(key, b"x", alice.headers)
    info = (await bucket.http.get(bucket.url(key, "info/"), headers=alice.headers)).json()
    (embedded.storage.folder / info["version"]).unlink()
    expected = (400, "404", "Not found", "NoSuchKey", "The resource was not found")
    assert refusal(await bucket.get(key, alice.headers)) == expected


async def test_public_bucket_is_read_by_everybody(
    http: httpx.AsyncClient, service: dict[str, str], anon: dict[str, str], bucket: Bucket
) -> None:
    public = await make_bucket(http, service, public=True)
    await public.put("a.txt", b"seen", service)
    for kind, headers in (("public/", {}), ("", {}), ("", anon), ("", {"Authorization": "Bearer nonsense"})):
        assert (await http.get(public.url("a.txt", kind), headers=headers)).content == b"seen"
    assert (await http.head(public.url("a.txt", "public/"))).status_code == 200
    assert (await http.get(public.url("a.txt", "info/public/"))).json()["size"] == 4
    assert refusal(await public.put("b.txt", b"x", anon)) == POLICY
    await bucket.put("a.txt", b"hidden", service)
    for kind in ("public/", "", "info/", "info/public/"):
        assert refusal(await http.get(bucket.url("a.txt", kind))) == NO_BUCKET


# -- signed URLs


async def signed(bucket: Bucket, user: User, key: str, seconds: int = 60) -> str:
    answer = await bucket.http.post(bucket.url(key, "sign/"), headers=user.headers, json={"expiresIn": seconds})
    assert answer.status_code == 200, answer.text
    return f"/storage/v1{answer.json()['signedURL']}"


async def test_signed_url_needs_no_key(bucket: Bucket, alice: User, key: str) -> None:
    await bucket.put(key, b"0123456789", alice.headers)
    url = await signed(bucket, alice, key)
    got = await bucket.http.get(url)
    assert (got.content, got.headers["content-type"]) == (b"0123456789", "text/plain")
    assert "expires" in got.headers
    assert "cache-control" not in got.headers
    assert (await bucket.http.get(url, headers={"Range": "bytes=0-1"})).content == b"01"


async def test_signed_url_is_for_one_object_one_action_and_a_time(
    embedded: Stack, bucket: Bucket, alice: User, key: str
) -> None:
    await bucket.put(key, b"x", alice.headers)
    await bucket.put(key + "2", b"y", alice.headers)
    token = (await signed(bucket, alice, key)).partition("?token=")[2]
    upload = await bucket.http.post(bucket.url(key + "3", "upload/sign/"), headers=alice.headers)
    upload_token = upload.json()["token"]
    secret = embedded.environment["SUPABASE_JWT_SECRET"]
    claims = jwt.decode(token, secret, algorithms=["HS256"])
    expired = jwt.encode({**claims, "exp": int(time.time()) - 5}, secret, "HS256")
    forged = jwt.encode(claims, "another secret of more than 32 characters", "HS256")
    user_token = alice.headers["Authorization"].removeprefix("Bearer ")

    async def get(key: str, token: str) -> tuple[str, str]:
        answer = await bucket.http.get(bucket.url(key, "sign/"), params={"token": token})
        return answer.json()["code"], answer.json()["message"]

    assert await get(key + "2", token) == ("InvalidSignature", "Invalid signature")
    assert await get(key + "3", upload_token) == ("InvalidSignature", "Token is not scoped for download")
    assert await get(key, user_token) == ("InvalidSignature", "Token is not scoped for download")
    assert await get(key, expired) == ("InvalidJWT", '"exp" claim timestamp check failed')
    assert await get(key, forged) == ("InvalidJWT", "signature verification failed")
    for nonsense in ("", "a.b.c", token[:-1] + "é"):
        assert (await get(key, nonsense))[0] == "InvalidJWT"
    put = await bucket.http.put(bucket.url(key, "upload/sign/"), params={"token": token}, content=b"z")
    assert refusal(put)[3] == "InvalidSignature"
    as_user = await bucket.get(key, {"Authorization": f"Bearer {token}"})
    assert refusal(as_user) == NOT_FOUND, "a signed token is no user"


async def test_many_are_signed_at_once(bucket: Bucket, alice: User, bob: User, key: str) -> None:
    await bucket.put(key, b"x", alice.headers)
    url = f"/storage/v1/object/sign/{bucket.name}"
    body = {"expiresIn": 60, "paths": [key, "none", key]}
    for user, seen in ((alice, [True, False, True]), (bob, [False, False, False])):
        answers = (await bucket.http.post(url, headers=user.headers, json=body)).json()
        assert [answer["error"] is None for answer in answers] == seen
        assert [answer["path"] for answer in answers] == body["paths"]
        for answer in answers:
            if answer["error"] is None:
                assert (await bucket.http.get(f"/storage/v1{answer['signedURL']}")).content == b"x"
            else:
                assert answer["signedURL"] is None


async def test_signed_upload_url_is_used_once_without_upsert(bucket: Bucket, alice: User, key: str) -> None:
    async def sign(**headers: str) -> str:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await bucket.http.post(bucket.url(key, "upload/sign/"), headers={**alice.headers, **more})
        assert answer.json()["url"].endswith(answer.json()["token"])
        return f"/storage/v1{answer.json()['url']}"

    url, upsert = await sign(), await sign(x_upsert="true")
    sent = await bucket.http.put(url, content=b"one")
    assert sent.json() == {"Key": f"{bucket.name}/{key}"}
    assert refusal(await bucket.http.put(url, content=b"two", headers={"x-upsert": "true"})) == EXISTS
    assert refusal(await bucket.http.post(bucket.url(key, "upload/sign/"), headers=alice.headers)) == EXISTS
    assert (await bucket.http.put(upsert, content=b"three")).status_code == 200
    assert (await bucket.get(key, alice.headers)).content == b"three", "the owner sees what was sent with the URL"


@pytest.mark.parametrize("seconds", [0, -1, None, "soon", 1.5, 2**60])
async def test_lifetime_must_be_a_number_of_seconds(bucket: Bucket, alice: User, key: str, seconds: object) -> None:
    await bucket.put(key, b"x", alice.headers)
    for url, more in ((bucket.url(key, "sign/"), {}), (f"/storage/v1/object/sign/{bucket.name}", {"paths": [key]})):
        body = {"expiresIn": seconds, **more} if seconds is not None else more
        answer = await bucket.http.post(url, headers=alice.headers, json=body)
        assert refusal(answer)[3] == "InvalidRequest"


# -- listings


async def listed(bucket: Bucket, user: User, prefix: str, **more: object) -> list[str]:
    body = {"prefix": prefix, **more}
    answer = await bucket.http.post(f"/storage/v1/object/list/{bucket.name}", headers=user.headers, json=body)
    assert answer.status_code == 200, answer.text
    return [row["name"] if row["id"] else f"{row['name']}/" for row in answer.json()]


async def test_listing_shows_a_folder(bucket: Bucket, alice: User, key: str) -> None:
    root = key.rpartition("/")[0]
    for name in ("b.txt", "a/1", "a/2", "A.txt", "c/d/3", "a-b"):
        await bucket.put(f"{root}/{name}", b"x", alice.headers)
    assert await listed(bucket, alice, root) == ["a-b", "A.txt", "a/", "b.txt", "c/"]
    assert await listed(bucket, alice, f"{root}/") == ["a-b", "A.txt", "a/", "b.txt", "c/"]
    assert await listed(bucket, alice, root, limit=2, offset=1) == ["A.txt", "a/"]
    backwards = await listed(bucket, alice, root, sortBy={"column": "name", "order": "desc"})
    assert backwards == ["c/", "b.txt", "a/", "A.txt", "a-b"]
    by_time = {"column": "created_at", "order": "desc"}
    assert await listed(bucket, alice, root, sortBy=by_time) == ["c/", "a/", "a-b", "A.txt", "b.txt"]
    assert await listed(bucket, alice, root, search="a") == ["a-b", "A.txt", "a/"]
    assert await listed(bucket, alice, root, search="_") == []
    assert await listed(bucket, alice, f"{root}/c") == ["d/"]
    assert await listed(bucket, alice, f"{root}/c/d") == ["3"]
    assert await listed(bucket, alice, f"{root}/none") == []


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("column", ["name", "created_at", "updated_at"])
@pytest.mark.parametrize("with_folders", [True, False])
async def test_pages_have_everything_once_and_in_order(
    http: httpx.AsyncClient, service: dict[str, str], alice: User, column: str, order: str, with_folders: bool
) -> None:
    bucket = await make_bucket(http, service)
    keys = ["b", "a/1", "a/2", "B", "c/1", "a-b", "d", "c.txt"]
    for name in keys:
        await bucket.put(f"{alice.id}/{name}", b"x", alice.headers)
    expected = sorted({key.partition("/")[0] + "/" if with_folders and "/" in key else key for key in keys})
    if column != "name":  # by the first of a folder
        expected = list(
            dict.fromkeys(key.partition("/")[0] + "/" if with_folders and "/" in key else key for key in keys)
        )
    body: dict[str, object] = {
        **{"prefix": f"{alice.id}/", "limit": 2, "with_delimiter": with_folders},
        "sortBy": {"column": column, "order": order},
    }
    found: list[str] = []
    while True:
        answer = await http.post(f"/storage/v1/object/list-v2/{bucket.name}", headers=alice.headers, json=body)
        page = answer.json()
        shown = page["folders"] + page["objects"]
        assert all(row["name"].endswith("/") for row in page["folders"])
        found += sorted((row["name"].removeprefix(f"{alice.id}/") for row in shown), key=ordered(expected, order))
        if not page["hasNext"]:
            break
        assert len(shown) == 2
        body["cursor"] = page["nextCursor"]
    assert found == (expected if order == "asc" else expected[::-1])


def ordered(expected: list[str], order: str) -> Any:
    return lambda name: expected.index(name) if order == "asc" else -expected.index(name)


async def test_broken_cursor_is_refused(bucket: Bucket, alice: User) -> None:
    for cursor in ("x", "é", "bnVsbA==", "W10="):
        answer = await bucket.http.post(
            f"/storage/v1/object/list-v2/{bucket.name}", headers=alice.headers, json={"cursor": cursor}
        )
        assert refusal(answer)[3] == "InvalidRequest", cursor


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"prefix": 1}',
        b'{"prefix": "\\u0000"}',
        b'{"prefix": "\\ud800"}',
        b'{"prefix": "", "limit": 0}',
        b'{"prefix": "", "offset": -1}',
        b'{"prefix": "", "sortBy": {"column": "name; drop table"}}',
        b'{"prefix": "", "sortBy": {"column": "name", "order": "up"}}',
        b'{"prefix": "", "sortBy": 3}',
        b"\xff",
    ],
)
async def test_listing_with_other_fields_is_refused(bucket: Bucket, alice: User, body: bytes) -> None:
    answer = await bucket.http.post(f"/storage/v1/object/list/{bucket.name}", headers=alice.headers, content=body)
    assert refusal(answer)[0:4:3] == (400, "InvalidRequest")


# -- removals, copies and moves


async def test_removed_objects_are_gone_with_their_bytes(
    embedded: Stack, bucket: Bucket, alice: User, key: str
) -> None:
    before = stored(embedded)
    for number in range(3):
        await bucket.put(f"{key}{number}", b"x", alice.headers)
    answer = await bucket.http.request(
        *("DELETE", f"/storage/v1/object/{bucket.name}"),
        headers=alice.headers,
        json={"prefixes": [f"{key}0", f"{key}1", "none"]},
    )
    assert sorted(row["name"] for row in answer.json()) == [f"{key}0", f"{key}1"]
    one = await bucket.http.delete(bucket.url(f"{key}2"), headers=alice.headers)
    assert one.json() == {"message": "Successfully deleted"}
    assert refusal(await bucket.http.delete(bucket.url(f"{key}2"), headers=alice.headers)) == NOT_FOUND
    assert stored(embedded) == before


async def test_copy_and_move_keep_bytes_type_and_metadata(
    bucket: Bucket, http: httpx.AsyncClient, service: dict[str, str], alice: User, key: str
) -> None:
    custom = base64.b64encode(b'{"n": 1}').decode()
    await bucket.put(key, b"12345", alice.headers, Content_Type="image/png", x_metadata=custom)
    other = await make_bucket(http, service)
    body = {"bucketId": bucket.name, "sourceKey": key, "destinationKey": key + "2"}
    moved = {**body, "sourceKey": key + "2", "destinationKey": key + "3", "destinationBucket": other.name}

    copied = await http.post("/storage/v1/object/copy", headers=alice.headers, json=body)
    assert (copied.status_code, copied.json()["Key"]) == (200, f"{bucket.name}/{key}2")
    assert (await http.post("/storage/v1/object/copy", headers=alice.headers, json=body)).status_code == 400
    answer = await http.post("/storage/v1/object/move", headers=alice.headers, json=moved)
    assert answer.json()["message"] == "Successfully moved"
    assert refusal(await http.post("/storage/v1/object/move", headers=alice.headers, json=moved)) == NOT_FOUND
    for where, name in ((bucket, key), (other, key + "3")):
        got = await where.get(name, alice.headers)
        assert (got.content, got.headers["content-type"]) == (b"12345", "image/png")
        info = (await http.get(where.url(name, "info/"), headers=alice.headers)).json()
        assert info["metadata"] == {"n": 1}
    back = {**moved, "bucketId": other.name, "sourceKey": key + "3", "destinationKey": key}
    onto = await http.post(
        "/storage/v1/object/move", headers=alice.headers, json={**back, "destinationBucket": bucket.name}
    )
    assert refusal(onto)[1:4] == ("409", "Duplicate", "ResourceAlreadyExists")


# -- buckets


async def test_bucket_has_a_life(http: httpx.AsyncClient, service: dict[str, str]) -> None:
    bucket = await make_bucket(http, service, file_size_limit="1KB", allowed_mime_types=["text/plain"])
    path = f"/storage/v1/bucket/{bucket.name}"
    body = (await http.get(path, headers=service)).json()
    assert (body["file_size_limit"], body["allowed_mime_types"], body["public"]) == (1000, ["text/plain"], False)
    again = await http.post("/storage/v1/bucket", headers=service, json={"name": bucket.name})
    assert refusal(again) == (400, "409", "Duplicate", "BucketAlreadyExists", "The resource already exists")
    change = {"public": True, "file_size_limit": None, "allowed_mime_types": None}
    assert (await http.put(path, headers=service, json=change)).json() == {"message": "Successfully updated"}
    body = (await http.get(path, headers=service)).json()
    assert (body["file_size_limit"], body["allowed_mime_types"], body["public"]) == (None, None, True)
    await bucket.put("a", b"x", service)
    assert refusal(await http.delete(path, headers=service))[1:4] == ("409", "ResourceNotEmpty", "ResourceNotEmpty")
    assert (await http.post(f"{path}/empty", headers=service)).status_code == 200
    assert (await http.delete(path, headers=service)).json() == {"message": "Successfully deleted"}
    for method, more in (("GET", {}), ("PUT", {"json": change}), ("DELETE", {})):
        assert refusal(await http.request(method, path, headers=service, **more)) == NO_BUCKET  # type: ignore[arg-type]
    assert refusal(await bucket.put("a", b"x", service)) == NO_BUCKET


async def test_only_the_secret_key_sees_and_changes_buckets(
    http: httpx.AsyncClient, service: dict[str, str], bucket: Bucket, alice: User, anon: dict[str, str]
) -> None:
    path = f"/storage/v1/bucket/{bucket.name}"
    for headers in (alice.headers, anon):
        assert refusal(await http.post("/storage/v1/bucket", headers=headers, json={"name": "mine"})) == POLICY
        assert (await http.get("/storage/v1/bucket", headers=headers)).json() == []
        assert refusal(await http.get(path, headers=headers)) == NO_BUCKET
        assert refusal(await http.put(path, headers=headers, json={"public": True})) == NO_BUCKET
        assert refusal(await http.post(f"{path}/empty", headers=headers)) == NO_BUCKET
    empty = await make_bucket(http, service)
    refused = await http.delete(f"/storage/v1/bucket/{empty.name}", headers=alice.headers)
    assert refusal(refused) == NO_BUCKET
    names = [row["name"] for row in (await http.get("/storage/v1/bucket", headers=service)).json()]
    assert {bucket.name, empty.name} <= set(names)
    found = await http.get("/storage/v1/bucket", headers=service, params={"search": empty.name.upper(), "limit": 1})
    assert [row["name"] for row in found.json()] == [empty.name]


@pytest.mark.parametrize("name", ["", " x", "x ", "a/b", "ü", "x\n", "x" * 101, "a\0b", 7])
async def test_bucket_name_is_refused(http: httpx.AsyncClient, service: dict[str, str], name: object) -> None:
    answer = await http.post("/storage/v1/bucket", headers=service, json={"name": name})
    assert refusal(answer)[3] in ("InvalidBucketName", "InvalidRequest")


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"file_size_limit": "much"}, "InvalidRequest"),
        ({"file_size_limit": -1}, "InvalidRequest"),
        ({"file_size_limit": MAX_BYTES + 1}, "EntityTooLarge"),
        ({"file_size_limit": "1GB"}, "EntityTooLarge"),
        ({"allowed_mime_types": "text/plain"}, "InvalidRequest"),
        ({"allowed_mime_types": ["text"]}, "InvalidMimeType"),
        ({"public": "yes"}, "InvalidRequest"),
        ({}, "InvalidRequest"),
    ],
)
async def test_bucket_values_are_refused(
    http: httpx.AsyncClient, service: dict[str, str], bucket: Bucket, values: dict[str, object], code: str
) -> None:
    answer = await http.put(f"/storage/v1/bucket/{bucket.name}", headers=service, json=values)
    assert refusal(answer)[3] == code


# -- callers


async def test_token_must_be_valid(embedded: Stack, bucket: Bucket, alice: User, anon: dict[str, str]) -> None:
    secret = embedded.environment["SUPABASE_JWT_SECRET"]

    def token(role: object, *, key: str = secret, **claims: object) -> str:
        return jwt.encode({"role": role, "exp": int(time.time()) + 60, **claims}, key, "HS256")

    async def listing(authorization: str) -> tuple[str, str]:
        answer = await bucket.http.post(
            f"/storage/v1/object/list/{bucket.name}",
            headers={**anon, "Authorization": authorization},
            json={"prefix": ""},
        )
        return refusal(answer)[3:]

    assert await listing(f"Bearer {token('authenticated', exp=1)}") == (
        *("AccessDenied", '"exp" claim timestamp check failed'),
    )
    assert await listing(f"Bearer {token('authenticated', key='x' * 40)}") == (
        *("AccessDenied", "signature verification failed"),
    )
    assert await listing("Bearer nonsense") == ("AccessDenied", "Invalid Compact JWS")
    for role in ("postgres", "supabase_admin", "supabase_storage_admin", "none", "nobody", "", "a\0b", 7, None):
        assert (await listing(f"Bearer {token(role)}"))[0] in ("AccessDenied", "InvalidParameter"), role
    no_key = await bucket.http.post(f"/storage/v1/object/list/{bucket.name}", json={"prefix": ""})
    assert refusal(no_key) == (
        *(400, "400", "Error", "InvalidRequest", "headers must have required property 'authorization'"),
    )


async def test_policy_sees_the_user_and_the_operation(
    embedded: Stack, http: httpx.AsyncClient, service: dict[str, str], alice: User
) -> None:
    bucket = await make_bucket(http, service)
    async with await psycopg.AsyncConnection.connect(
        embedded.environment["SUPABASE_DB_URL"], autocommit=True
    ) as connection:
        await connection.execute(
            "create policy by_operation on storage.objects for insert to authenticated with check"
            " (name = 'here' and storage.allow_only_operation('object.upload') and (select auth.jwt()) ->> 'sub' ="
            " (select auth.uid())::text and metadata ->> 'mimetype' = 'text/plain')"
        )
        try:
            assert (await bucket.put("here", b"x", alice.headers)).status_code == 200
            assert refusal(await bucket.put("there", b"x", alice.headers)) == POLICY
            assert refusal(await bucket.http.post(bucket.url("here", "upload/sign/"), headers=alice.headers)) == POLICY
        finally:
            await connection.execute("drop policy by_operation on storage.objects")


# -- what is not there


async def test_resumable_uploads_and_other_paths_are_not_there(http: httpx.AsyncClient, alice: User) -> None:
    for path in ("/storage/v1/upload/resumable", "/storage/v1/upload/resumable/abc"):
        answer = await http.post(path, headers=alice.headers)
        assert refusal(answer)[:2] == (501, "501")
    answer = await http.get("/storage/v1/render/image/authenticated/b/x", headers=alice.headers)
    assert refusal(answer)[:2] == (404, "404")
