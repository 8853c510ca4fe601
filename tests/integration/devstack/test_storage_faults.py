"""Storage when clients vanish, race each other, or the stack is killed: no half object, and no bytes left over."""

from __future__ import annotations

import asyncio
import resource
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg
import pytest

from devstack.__main__ import postgres_version
from devstack.stack import Stack
from tests.integration.devstack.conftest import User
from tests.integration.devstack.storage import Bucket, make_bucket, refusal, stored
from tests.support.waiting import until


@pytest.fixture
async def bucket(http: httpx.AsyncClient, service: dict[str, str]) -> Bucket:
    return await make_bucket(http, service)


@pytest.mark.parametrize("as_form", [False, True])
async def test_vanished_client_leaves_nothing(embedded: Stack, bucket: Bucket, alice: User, as_form: bool) -> None:
    key, before = f"{alice.id}/x", stored(embedded)
    _, writer = await asyncio.open_connection("127.0.0.1", embedded.gateway.port)
    headers = {**alice.headers, "Host": "x", "Content-Length": "1000000"}
    body = b"x" * 100_000
    if as_form:
        headers["Content-Type"] = "multipart/form-data; boundary=b"
        body = b'--b\r\nContent-Disposition: form-data; name=""; filename="x"\r\n\r\n' + body
    lines = [f"POST {bucket.url(key)} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()
    await until(lambda: stored(embedded) > before, within=10)
    writer.transport.abort()
    await until(lambda: stored(embedded) == before, within=10)
    assert await bucket.names(alice.headers) == []


async def test_client_that_stops_reading_does_not_hold_the_file(embedded: Stack, bucket: Bucket, alice: User) -> None:
    key = f"{alice.id}/large"
    await bucket.put(key, b"x" * 20_000_000, alice.headers)
    reader, writer = await asyncio.open_connection("127.0.0.1", embedded.gateway.port, limit=1024)
    lines = [f"GET {bucket.url(key)} HTTP/1.1", "Host: x", *(f"{n}: {v}" for n, v in alice.headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    version = next(iter(path for path in embedded.storage.folder.iterdir() if path.stat().st_size == 20_000_000))
    fds = Path("/proc/self/fd")
    assert str(version) in links(fds)
    writer.transport.abort()
    await until(lambda: str(version) not in links(fds), within=10)


def links(folder: Path) -> set[str]:
    found = set()
    for path in folder.iterdir():
        try:
            found.add(str(path.readlink()))
        except FileNotFoundError:  # of the listing itself
            continue
    return found


async def test_body_is_never_whole_in_memory(embedded: Stack, bucket: Bucket, alice: User) -> None:
    size, piece = 40_000_000, b"x" * 100_000

    async def body() -> AsyncIterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    key = f"{alice.id}/large"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent = await bucket.http.post(bucket.url(key), headers=alice.headers, content=body())
    assert sent.status_code == 200, sent.text
    received = 0
    async with bucket.http.stream("GET", bucket.url(key), headers=alice.headers) as answer:
        async for chunk in answer.aiter_raw():
            received += len(chunk)
    assert received == size
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in KiB: client and server are this process
    assert grown < 20_000


async def test_of_fifty_uploads_at_once_one_wins(embedded: Stack, bucket: Bucket, alice: User) -> None:
    key, before = f"{alice.id}/x", stored(embedded)

    async def body(number: int) -> AsyncIterator[bytes]:
        yield b"upload "
        await until(lambda: len(stored(embedded) - before) == 50, within=20)  # all were allowed to begin
        yield f"{number}".encode()

    async def upload(number: int) -> httpx.Response:
        return await bucket.http.post(bucket.url(key), headers=alice.headers, content=body(number))

    answers = await asyncio.gather(*(upload(number) for number in range(50)))
    outcomes = Counter(200 if answer.status_code == 200 else refusal(answer)[3] for answer in answers)
    assert outcomes == {200: 1, "KeyAlreadyExists": 49}
    winner = next(n for n, answer in enumerate(answers) if answer.status_code == 200)
    assert (await bucket.get(key, alice.headers)).content == f"upload {winner}".encode()
    assert len(stored(embedded) - before) == 1


async def test_upserts_at_once_leave_one_whole_object_that_is_always_there(
    embedded: Stack, bucket: Bucket, alice: User
) -> None:
    key, before = f"{alice.id}/x", stored(embedded)
    bodies = [f"{n}".encode() * 10_000 for n in range(10, 40)]
    await bucket.put(key, bodies[0], alice.headers)

    async def read() -> None:
        answer = await bucket.get(key, alice.headers)
        assert answer.status_code == 200, answer.text
        assert answer.content in bodies

    async def write(body: bytes) -> None:
        assert (await bucket.put(key, body, alice.headers, x_upsert="true")).status_code == 200

    await asyncio.gather(*(action for body in bodies for action in (write(body), read())))
    await read()
    assert len(stored(embedded) - before) == 1


async def test_upload_to_a_bucket_that_is_deleted_meanwhile(
    embedded: Stack, http: httpx.AsyncClient, bucket: Bucket, service: dict[str, str], alice: User
) -> None:
    before = stored(embedded)

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        gone = await http.delete(f"/storage/v1/bucket/{bucket.name}", headers=service)
        assert gone.status_code == 200, gone.text
        yield b"y"

    sent = await http.post(bucket.url(f"{alice.id}/x"), headers=alice.headers, content=body())
    assert refusal(sent)[1:4] == ("404", "InvalidRequest", "InvalidRequest")
    assert stored(embedded) == before


async def test_storage_says_so_while_postgres_is_down(embedded: Stack, bucket: Bucket, alice: User) -> None:
    key, before = f"{alice.id}/x", stored(embedded)
    await bucket.put(key, b"x", alice.headers)
    await embedded.lite.stop()
    await embedded.realtime.stop()
    await embedded.postgres.stop()
    try:
        for answer in (await bucket.get(key, alice.headers), await bucket.put(key, b"y", alice.headers)):
            assert refusal(answer)[:4] == (544, "544", "DatabaseTimeout", "DatabaseTimeout")
    finally:
        await embedded.postgres.start()
        await embedded.realtime.start()
        await embedded.lite.start()
    assert (await bucket.get(key, alice.headers)).content == b"x"
    assert len(stored(embedded) - before) == 1


async def test_objects_survive_a_restart_and_leftovers_do_not(tmp_path: Path, project: Path) -> None:
    version = postgres_version()
    other = 16 if version == 18 else 18

    def stack(version: int = version) -> Stack:
        return Stack(tmp_path, 0, postgres_version=version, fsync=False, project=project)

    async with stack() as first:
        service = {"apikey": first.environment["SUPABASE_SECRET_KEY"]}
        async with httpx.AsyncClient(base_url=first.gateway.url) as http:
            bucket = await make_bucket(http, service)
            await bucket.put("a", b"kept", service)
            signed = await http.post(bucket.url("a", "sign/"), headers=service, json={"expiresIn": 600})
        kept = stored(first)
        # as a crash between the bytes and the row leaves them
        (first.storage.folder / str(uuid.uuid4())).write_bytes(b"left over")
    async with stack(other) as apart:  # another database, which knows none of these objects
        assert stored(apart) == set()
    async with stack() as second:
        assert stored(second) == kept
        async with httpx.AsyncClient(base_url=second.gateway.url) as http:
            assert (await http.get(f"/storage/v1{signed.json()['signedURL']}")).content == b"kept"
            assert (await http.get(bucket.url("a"), headers=service)).content == b"kept"


async def test_row_that_sql_wrote_names_no_file(embedded: Stack, bucket: Bucket, service: dict[str, str]) -> None:
    versions = ("../keys.json", "", None, "/etc/passwd", str(uuid.uuid4()))
    async with await psycopg.AsyncConnection.connect(embedded.environment["SUPABASE_DB_URL"]) as connection:
        for number, version in enumerate(versions):
            await connection.execute(
                "insert into storage.objects (bucket_id, name, version) values (%s, %s, %s)",
                (bucket.name, f"{number}", version),
            )
    keys = [f"{number}" for number in range(len(versions))]
    for key in keys:
        assert refusal(await bucket.get(key, service))[3:] == ("NoSuchKey", "The resource was not found")
    body = {"bucketId": bucket.name, "sourceKey": "0", "destinationKey": "copy"}
    copied = await bucket.http.post("/storage/v1/object/copy", headers=service, json=body)
    assert refusal(copied)[3:] == ("NoSuchKey", "The resource was not found")
    gone = await bucket.http.request(
        "DELETE", f"/storage/v1/object/{bucket.name}", headers=service, json={"prefixes": keys}
    )
    assert len(gone.json()) == len(keys)
    assert (embedded.data_dir / "keys.json").is_file()
