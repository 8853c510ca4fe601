"""Neither logs, health endpoints nor dead letters contain a conversation's text or a key."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import psycopg

from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_process

SECRET = "xyzzy"
LLM_KEY = "sk-plugh-plugh-plugh"
QUESTIONS = (
    (f'[[text="the word is {SECRET}"]]', "Chat"),
    (f"[[error=400]] {SECRET}", "Chat"),
    (f"[[error=500]] {SECRET}", "Chat"),
    (f"[[fail=1]] {SECRET}", "Chat"),
    (f"[[cut=1]] {SECRET}", "Chat"),
    (f'[[json="no {{structure {SECRET}"]]', "Code"),
    (f"[[json={json.dumps({'reply': SECRET, 'files': [{'path': SECRET, 'content': SECRET}]})}]]", "Code"),
    (f"[[text={SECRET}]]", "Title"),  # its argument `reply` is missing
    (SECRET, "Nothing"),
)


async def test_logs_and_health_contain_no_conversation_and_no_key(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], tmp_path: Path
) -> None:
    env = environment | {"LLM_API_KEY": LLM_KEY, "BAML_LOG": "debug"}
    sessions = []
    async with worker_process(env, tmp_path / "log", log_level="DEBUG", max_failures=1, sweep_seconds=1) as worker:
        for content, function in QUESTIONS:
            session_id = await user.open_session(function, metadata={"note": SECRET}, title=SECRET)
            file = {"session_id": session_id, "path": f"{SECRET}.txt", "content": SECRET}
            await user.client.table("code_files").insert(file).execute()
            message_id = await user.ask(session_id, content, data={"note": SECRET})
            sessions.append(session_id)
            if function == "Nothing":  # half a minute later it fails, as no worker knows it
                await db.execute("update bridge.jobs set run_at = run_at - interval '31 seconds'")
            await user.reply(message_id)
        async with aiohttp.ClientSession() as http:
            for path in ("/healthz", "/readyz", "/metrics", "/", "/debug"):
                async with http.get(f"{worker.health_url}{path}") as answer:
                    text = await answer.text()
                assert answer.status == (200 if path in ("/healthz", "/readyz", "/metrics") else 404)
                for word in (SECRET, LLM_KEY, environment["SUPABASE_SECRET_KEY"], user.id, *sessions):
                    assert word not in text, path
    log = (tmp_path / "log").read_text()
    assert sum('"attempt ended"' in line for line in log.splitlines()) == len(QUESTIONS)
    assert sum('"attempt failed' in line for line in log.splitlines()) == len(QUESTIONS) - 2
    for word in (SECRET, LLM_KEY, environment["SUPABASE_SECRET_KEY"], user.token):
        assert [line for line in log.splitlines() if word in line] == []
    # neither do the errors that operators read
    letters = await (
        await db.execute("select error from bridge.dead_letters union all select error from bridge.runs")
    ).fetchall()
    assert len(letters) > len(QUESTIONS)
    assert [letter for letter in letters if SECRET in json.dumps(letter)] == []
