"""Calls of the project's functions on one kept session: proxies, certificates, and answers that are none."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic_core import from_json

from bridge.errors import StoreError, StoreRefused, StoreUnavailable
from bridge.store import Store
from tests.support.certificates import certificate
from tests.support.workers import worker_settings

OLD_KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.x"
STATUS = b'{"queued": 123456789012345678901234567890}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(STATUS), STATUS)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.rest.TRIES", 1)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Project:
    """What answers every call alike. `requests` are the heads of those that arrived."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[str] = []
        self.asked = asyncio.Event()  # there is another request
        self.bodies: list[bytes] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(head)
                self.asked.set()
                if head.startswith("CONNECT"):
                    await self._tunnel(head.split()[1], reader, writer)
                    return
                fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
                self.bodies.append(await reader.readexactly(int(fields["content-length"])))
                writer.write(self.answer)
                await writer.drain()
                if self.answer != ANSWER:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _tunnel(self, to: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*to.split(":"))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)


@asynccontextmanager
async def serving(answer: bytes = ANSWER, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Project, str]]:
    """A project that answers with these bytes, and its address."""
    project = Project(answer)
    server = await asyncio.start_server(project.talk, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield project, f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        server.close()


@asynccontextmanager
async def opened(url: str, key: str = "sb_secret_x") -> AsyncIterator[Store]:
    store = await Store.open(worker_settings({"SUPABASE_URL": url, "SUPABASE_SECRET_KEY": key}), "w")
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("key", ["sb_secret_x", OLD_KEY])
async def test_calls_share_one_connection_and_carry_the_key(key: str) -> None:
    async with serving() as (project, url), opened(url, key) as store:
        for _ in range(3):
            assert (await store.status())["queued"] == 123456789012345678901234567890
    assert project.connections == 1
    heads = [head.lower() for head in project.requests]
    assert [head.split("\r\n")[0] for head in heads] == ["post /rest/v1/rpc/bridge_status http/1.1"] * 3
    for line in (f"apikey: {key}", f"authorization: bearer {key}", "content-type: application/json"):
        assert all(f"\r\n{line.lower()}\r\n" in head for head in heads), line


async def test_call_on_a_connection_that_was_closed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.rest.TRIES", 3)
    async with serving() as (project, url), opened(url) as store:
        await store.status()
        project.answer = b""  # the next one is closed without an answer
        project.asked.clear()
        calling = asyncio.create_task(store.status())
        await project.asked.wait()
        await asyncio.sleep(0)
        project.answer = ANSWER
        assert (await calling)["queued"]
    assert project.connections == 2


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_calls_go_through_the_proxy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (proxy, proxy_url):
        monkeypatch.setenv(name, proxy_url.replace("//", "//us%40er:p%E2%82%ACss@"))
        async with opened("http://abcd.supabase.example") as store:
            await store.status()
    (head,) = proxy.requests
    assert head.startswith("POST http://abcd.supabase.example/rest/v1/rpc/bridge_status HTTP/1.1")
    (credentials,) = [line.partition(": ")[2] for line in head.splitlines() if "proxy-auth" in line.lower()]
    assert base64.b64decode(credentials.removeprefix("Basic ")).decode() == "us@er:p€ss"


@pytest.mark.parametrize("excepted", ["*", "127.0.0.1", "x,127.0.0.1"])
async def test_excepted_project_is_reached_without_the_proxy(excepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", excepted)
    async with serving() as (project, url), opened(url) as store:
        await store.status()
    assert len(project.requests) == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_refusal_of_a_proxy_does_not_tell_its_password(
    tls: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
    server = await asyncio.start_server(_answering(refusal), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://user:hidden@127.0.0.1:{port}")
    async with opened(f"http{'s' * tls}://abcd.supabase.example") as store:
        with pytest.raises(StoreError, match="407") as raised:
            await store.status()
    server.close()
    assert "hidden" not in str(raised.value)


def _answering(answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return talk


@pytest.mark.parametrize("way", ["direct", "tunnel"])
async def test_certificate_of_the_environment_is_trusted(
    way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority, tls = certificate(tmp_path)
    async with serving(tls=tls) as (project, url), serving() as (proxy, proxy_url):
        if way == "tunnel":
            monkeypatch.setenv("HTTPS_PROXY", proxy_url)
        async with opened(url) as store:
            with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                await store.status()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with opened(url) as store:
            await store.status()
    assert len(project.requests) == 1
    assert [head.split()[0] for head in proxy.requests] == ["CONNECT"] * (2 if way == "tunnel" else 0)
    assert "sb_secret" not in "".join(proxy.requests)  # it is for the project alone


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: -9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1002\r\n\r\n" + b"[" * 501 + b"]" * 501,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
    ],
)
async def test_answer_that_is_none_is_no_answer(answer: bytes) -> None:
    async with serving(answer) as (_, url), opened(url) as store:
        with pytest.raises(StoreUnavailable, match="bridge_status: "):
            await store.status()


async def test_long_header_of_an_answer_is_read() -> None:
    head, _, body = ANSWER.partition(b"\r\n\r\n")
    async with serving(head + b"\r\nx: " + b"x" * 20_000 + b"\r\n\r\n" + body) as (_, url), opened(url) as store:
        assert await store.status()


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, '{"code": "22023", "message": "no"}', StoreRefused, "22023"),
        (400, '{"code": "40001", "message": "no"}', StoreUnavailable, "40001"),
        (500, '{"code": "57014", "message": "no"}', StoreUnavailable, "57014"),
        (500, '{"code": "23505", "message": "no"}', StoreRefused, "23505"),
        (404, '{"code": "PGRST202", "message": "no"}', StoreRefused, "PGRST202"),
        (503, '{"code": "PGRST002", "message": "no"}', StoreUnavailable, "PGRST002"),
        (401, '{"message": "Invalid API key"}', StoreRefused, "401"),
        (429, '{"message": "slow down", "code": 429}', StoreUnavailable, "429"),
        (520, "<html>", StoreUnavailable, "520"),
        (413, "<html>", StoreRefused, "413"),
        (404, '["a", "list"]', StoreRefused, "404"),
        (301, "", StoreRefused, "301"),
        (307, '{"code": 7}', StoreRefused, "307"),
    ],
)
async def test_refusal_is_told_by_its_code_or_else_its_status(
    status: int, body: str, kind: type[StoreError], code: str
) -> None:
    calls = 0

    async def refuse(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        assert from_json(await request.read()) == {}
        return web.Response(status=status, text=body, headers={"location": "/elsewhere"})

    app = web.Application()
    app.router.add_post("/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with opened(f"http://127.0.0.1:{runner.addresses[0][1]}") as store:
            with pytest.raises(StoreError) as raised:
                await store.status()
    finally:
        await runner.cleanup()
    assert (type(raised.value), raised.value.code, calls) == (kind, code, 1)


async def test_large_call_arrives_whole() -> None:
    async with serving() as (project, url), opened(url) as store:
        arguments: dict[str, Any] = {"text": "é\n" * 1_000_000, "n": 2**100}
        await store._rpc.call("bridge_any", arguments)
    assert from_json(project.bodies[0]) == arguments
