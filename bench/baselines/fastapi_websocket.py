"""An API server in place of the bridge: FastAPI, one WebSocket per client, BAML, messages stored in the same Supabase.

`python -m bench.baselines.fastapi_websocket`. A client connects with its access token, sends `{"id", "chat_id",
"text", "earlier"}` and receives `{"text"}` for every piece and `{"done": true}`. The question is stored before the
model is asked. The client sends what was said before, so that the server need not read it. `--driver bridge` uses the
bridge's driver in place of BAML's documented `async for`.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from supabase import AsyncClient

from bench.baselines.conversation import partials, partials_of_bridge, supabase_client
from bench.processes import greet
from bridge.functions import Functions


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One Supabase client, and one driver, for the lifetime of the server."""
    app.state.supabase = await supabase_client()
    yield
    if app.state.functions is not None:
        await app.state.functions.close()


app = FastAPI(lifespan=lifespan)


@app.websocket("/chat")
async def chat(socket: WebSocket, token: str) -> None:
    """Answer the questions of one client in order."""
    try:
        claims = jwt.decode(token, os.environ["SUPABASE_JWT_SECRET"], algorithms=["HS256"], audience="authenticated")
    except jwt.InvalidTokenError:
        await socket.close(4401)
        return
    await socket.accept()
    try:
        while True:
            await _answer(socket, claims["sub"], await socket.receive_json())
    except WebSocketDisconnect:
        return


async def _answer(socket: WebSocket, user_id: str, question: dict[str, Any]) -> None:
    supabase: AsyncClient = socket.app.state.supabase
    functions: Functions | None = socket.app.state.functions
    text, earlier = question["text"], question["earlier"]
    row = {"chat_id": question["chat_id"], "user_id": user_id}
    await (
        supabase.table("chat_messages")
        .insert({**row, "id": question["id"], "role": "api-user", "content": text, "status": "done"})
        .execute()
    )
    sent = ""
    async for so_far in partials_of_bridge(functions, text, earlier) if functions else partials(text, earlier):
        if len(so_far) > len(sent):
            await socket.send_json({"id": question["id"], "text": so_far[len(sent) :]})
            sent = so_far
    await (
        supabase.table("chat_messages")
        .insert({**row, "role": "assistant", "content": sent, "status": "done", "reply_to": question["id"]})
        .execute()
    )
    await socket.send_json({"id": question["id"], "done": True})


class Server(uvicorn.Server):
    """Prints its address once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then greet."""
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        greet(url=f"ws://127.0.0.1:{port}/chat")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.baselines.fastapi_websocket")
    parser.add_argument("--driver", choices=("official", "bridge"), default="official")
    app.state.functions = Functions.load(["Chat"]) if parser.parse_args().driver == "bridge" else None
    # `run` chooses uvloop, `serve` would not
    Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")).run()
