"""A provider that gives no answer at all is unreachable, and operators read why. baml-py 0.226.3 has its own words."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.errors import ModelUnreachable, verdict
from bridge.functions import Functions
from tests.integration.bridge.baml.calls import fail, variables
from tests.support.certificates import certificate

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def close_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def close_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()


async def speak_ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    await writer.drain()
    writer.close()


async def break_off_in_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-")
    await writer.drain()
    writer.close()


@asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def unreachable(url: str, function: str = "Chat") -> str:
    """The reason that operators read when the model at `url` is called."""
    functions = Functions.load(["Chat", "Code"], env=variables(url))
    try:
        async with asyncio.timeout(20):
            failure = await fail(functions, "[[hello]]", function)
    finally:
        await functions.close()
    assert (type(failure), failure.code) == (ModelUnreachable, "model_unreachable")
    assert verdict(failure, 0, 5).retry
    assert url not in failure.detail
    return failure.detail


@pytest.mark.parametrize("function", ["Chat", "Code"])
@pytest.mark.parametrize(
    ("talk", "scheme", "reason"),
    [
        (close_at_once, "http", "closed|reset"),
        (close_after_request, "http", "closed|reset"),
        (reset, "http", "reset"),
        (reset, "https", "reset"),
        (break_off_in_headers, "http", "closed"),
        (speak_ssh, "http", "does not speak HTTP"),
        (speak_ssh, "https", "does not speak TLS"),
    ],
)
async def test_peer_without_an_answer_is_unreachable(talk: Talk, scheme: str, reason: str, function: str) -> None:
    async with serving(talk) as port:
        detail = await unreachable(f"{scheme}://127.0.0.1:{port}/v1", function)
    assert any(part in detail for part in reason.split("|")), detail


async def test_tls_peer_called_by_http_is_unreachable(tmp_path: Path) -> None:
    _, tls = certificate(tmp_path)
    async with serving(close_at_once, tls) as port:
        assert "connection was" in await unreachable(f"http://127.0.0.1:{port}/v1")


async def test_private_authority_is_not_trusted_even_if_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented limit of BAML: if this fails after an upgrade, the docs are wrong."""
    authority, tls = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with serving(close_after_request, tls) as port:
        # the certificate is good: a client that trusts the authority gets as far as the server's silence
        trusting = ssl.create_default_context(cafile=authority)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.close()
        assert "not trusted" in await unreachable(f"https://127.0.0.1:{port}/v1")


@pytest.mark.parametrize(
    ("days", "address", "reason"), [(-1, "127.0.0.1", "time|trusted"), (1, "10.0.0.1", "host|trusted")]
)
async def test_wrong_certificate_is_unreachable(tmp_path: Path, days: int, address: str, reason: str) -> None:
    _, tls = certificate(tmp_path, days=days, address=address)
    async with serving(close_at_once, tls) as port:
        detail = await unreachable(f"https://127.0.0.1:{port}/v1")
    assert any(part in detail for part in reason.split("|")), detail


async def test_closed_port_and_unknown_host_have_their_reasons() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "refused" in await unreachable(f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
    assert "not found" in await unreachable("http://nowhere.invalid/v1")
