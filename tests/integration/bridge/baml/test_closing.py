"""Calls that are left early: the provider's connection closes, and the process ends cleanly."""

import asyncio
import subprocess
import sys
import textwrap
import time

import pytest

from bridge.errors import ModelUnavailable
from bridge.functions import Functions
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import collect, fail, turn, variables
from tests.support import shipped


@pytest.mark.quiet
@pytest.mark.parametrize("leave", ["close", "cancel"])
@pytest.mark.parametrize("function", ["Chat", "Code"])
async def test_leaving_closes_the_connection_to_the_provider(
    functions: Functions, model: ModelServer, function: str, leave: str
) -> None:
    begun = asyncio.Event()
    pieces = functions.run(turn("[[tokens=100000 delay=0.01]]", function))

    async def read() -> None:
        async for _ in pieces:
            begun.set()

    if leave == "cancel":
        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), 5)
        left = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await asyncio.wait_for(anext(pieces), 5)
        left = time.monotonic()
        await pieces.aclose()
    took = time.monotonic() - left
    exchange = model.requests[-1]
    await asyncio.wait_for(exchange.ended.wait(), 2)
    assert exchange.outcome == "dropped"
    assert exchange.ended_at is not None
    assert exchange.ended_at - left < 0.2
    assert took < 0.2
    await model.until(lambda server: server.open == 0)


async def test_leaving_before_the_first_token_closes_the_connection(functions: Functions, model: ModelServer) -> None:
    task = asyncio.create_task(collect(functions, turn("[[first=60]]")))
    await model.until(lambda server: server.open == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    exchange = model.requests[-1]
    await asyncio.wait_for(exchange.ended.wait(), 2)
    assert exchange.outcome == "dropped"


async def test_close_ends_calls_and_refuses_new_ones(functions: Functions, model: ModelServer) -> None:
    task = asyncio.create_task(collect(functions, turn("[[tokens=9 stall=3]]")))
    await model.until(lambda server: server.open == 1)
    await functions.close()
    with pytest.raises(ModelUnavailable):
        await asyncio.wait_for(task, 2)
    await model.until(lambda server: server.open == 0)
    failure = await fail(functions, "hello")
    assert (failure.code, failure.retryable) == ("shutting_down", True)


async def test_process_ends_cleanly_with_calls_in_flight(model: ModelServer) -> None:
    script = f"""
        import asyncio, sys
        from bridge.functions import Functions
        from bridge.model import Session, Turn

        async def use(functions, name):
            session = Session("s", "u", None, name, {{}})
            async for _ in functions.run(Turn(name, "[[tokens=9 delay=0.01 stall=5]]", (), (), session, "u")):
                print("partial", flush=True)

        async def main():
            functions = Functions.load(["Chat", "Code"], env={variables(model.url)!r})
            tasks = [asyncio.create_task(use(functions, name)) for name in ("Chat", "Code") for _ in range(10)]
            await asyncio.to_thread(sys.stdin.readline)
            await functions.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            print("closed", flush=True)

        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), cwd=shipped.project(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    await model.until(lambda server: server.open == 20, within=20)
    out, err = await asyncio.wait_for(process.communicate(b"\n"), 20)
    assert process.returncode == 0, err.decode()
    assert out.decode().endswith("closed\n")
    assert err == b"", "prompts or complaints on stderr"
