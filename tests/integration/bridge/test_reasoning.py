"""What models think, from their provider to the row: only if BRIDGE_REASONING says so, and never in the text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from devstack.model import ModelServer
from tests.support.users import Person
from tests.support.workers import working

THINKING = '[[think="Is it so? It is." text=Hello]]'
AGENTS: Mapping[str, Any] = {"handlers": "tests.support.agents", "functions": "Walk,Chat"}
REASONING = {"type": "reasoning", "text": "Is it so? It is."}
HELLO = {"type": "text", "text": "Hello"}


async def test_reasoning_is_a_part_of_the_reply(environment: dict[str, str], user: Person, model: ModelServer) -> None:
    async with working(environment, reasoning="shown"):
        session = await user.open_session("Chat", title="named")
        row = await user.reply(await user.ask(session, THINKING))
        assert (row["content"], row["parts"], row["data"]) == ("Hello", [REASONING, HELLO], None)
        await user.reply(await user.ask(session, "[[echo]]"))
        sent = json.dumps(model.requests[-1].body["messages"][:-1])
        assert "Hello" in sent
        assert "It is." not in sent.replace(json.dumps(THINKING)[1:-1], "")


async def test_reasoning_is_hidden_by_default(environment: dict[str, str], user: Person) -> None:
    async with working(environment):
        row = await user.reply(await user.ask(await user.open_session("Chat", title="named"), THINKING))
        assert (row["content"], row["parts"]) == ("Hello", None)


async def test_reasoning_of_what_a_handler_says_is_shown(environment: dict[str, str], user: Person) -> None:
    async with working(environment, reasoning="shown", **AGENTS):
        question = json.dumps([["call", THINKING], ["say", THINKING]])
        row = await user.reply(await user.ask(await user.open_session("Walk", title="named"), question))
        parts = [part for part in row["parts"] if part["type"] != "step-start"]
        assert row["content"] == "/Hello/ Hello/5/ "
        assert parts == [{"type": "text", "text": "/Hello/ "}, REASONING, *parts[2:]]
        assert "".join(part["text"] for part in parts[2:]) == "Hello/5/ "
