"""Generated streams of providers, from the question's insert to the reply's row: a worker, the database, HTTP.

`STREAMS_TO_ROWS` sets how many are tried: `STREAMS_TO_ROWS=500 pytest …/test_generated_replies.py`.
"""

from __future__ import annotations

import os
import uuid
from types import ModuleType
from typing import cast

from hypothesis import HealthCheck, Phase, given, settings
from postgrest import CountMethod

from tests.integration.bridge.baml.calls import variables
from tests.support import wire
from tests.support.database import Row
from tests.support.raw_provider import RawProvider, Sent
from tests.support.streams import Case, Outcome, cases
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import working

STREAMS = int(os.environ.get("STREAMS_TO_ROWS", "120"))
FUNCTIONS = {"chat": "TextChat", "responses": "TextResponses", "anthropic": "TextAnthropic", "gemini": "TextGemini"}
CODES: dict[Outcome, set[str]] = {
    "refused": {"model_filtered", "model_refused", "model_setup"},
    "too_long": {"model_length"},
    "context": {"model_context"},
}


def draw_cases(count: int) -> list[Case]:
    """Draw streams: the same ones each time, unless their number is chosen."""
    drawn: list[Case] = []

    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate], derandomize="STREAMS_TO_ROWS" not in os.environ,
    )  # fmt: skip
    @given(cases())
    def draw(case: Case) -> None:
        drawn.append(case)

    draw()
    return drawn


async def test_row_is_the_whole_answer_or_not_done(
    environment: dict[str, str], provider: RawProvider, provider_client: ModuleType, user: Person
) -> None:
    """A stream that is to be asked for again is asked for once more, and gets a good answer; no other is."""
    drawn = draw_cases(STREAMS)
    names = [f"question {number}." for number in range(len(drawn))]
    for name, case in zip(names, drawn, strict=True):
        good = Sent([wire.encode(event) for event in wire.answered(case.format).events])
        provider.answers_to[name] = [Sent(case.events, case.is_cut), good]
    sessions = [{"id": str(uuid.uuid4()), "function": FUNCTIONS[case.format], "title": "named"} for case in drawn]
    questions = [
        {"id": str(uuid.uuid4()), "session_id": session["id"], "content": name}
        for session, name in zip(sessions, names, strict=True)
    ]
    env = variables(provider.url) | {"FIRST_BASE_URL": provider.url, "BEDROCK_URL": provider.url}
    functions = ",".join(FUNCTIONS.values())
    async with working(environment, functions=functions, client=provider_client, variables=env):
        await user.client.table("sessions").insert(sessions).execute()
        await user.client.table("messages").insert(questions).execute()

        async def ended() -> bool:
            query = user.client.table("messages").select("id", count=CountMethod.exact, head=True)
            return (await query.in_("status", ["done", "failed"]).eq("role", "assistant").execute()).count == len(drawn)

        await until(ended, 30 + len(drawn), 0.2)
    rows: dict[str, Row] = {}
    for start in range(0, len(questions), 100):
        asked = [question["id"] for question in questions[start : start + 100]]
        found = await user.client.table("messages").select("*").in_("reply_to", asked).execute()
        rows |= {row["reply_to"]: row for row in cast(list[Row], found.data)}
    for name, case, question in zip(names, drawn, questions, strict=True):
        row, requests = rows[question["id"]], sum(name in request for request in provider.requests)
        seen = (row["status"], row["content"], row["error"], requests)
        match case.outcome:
            case "done":
                assert seen == ("done", case.text, None, 1), (case, row)
                assert row["data"] == ({"truncated": True} if "long" in case.how else None), (case, row)
            case "retry":
                assert seen == ("done", "Hello", None, 2), (case, row)
            case outcome:
                assert (row["status"], requests) == ("failed", 1), (case, row)
                assert row["error"]["code"] in CODES[outcome], (case, row)
