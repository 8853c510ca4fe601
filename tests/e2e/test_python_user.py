"""A frontend in Python with the official client: insert a row, receive the reply."""

from __future__ import annotations

import psycopg

from devstack.model import ModelServer
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import working


async def test_deltas_add_up_to_the_row(environment: dict[str, str], model: ModelServer, user: Person) -> None:
    async with working(environment, checkpoint_seconds=0.1):
        session_id = await user.open_session(title="named")
        ear = await user.listen(f"session:{session_id}")
        await user.be_heard(session_id, ear)
        message_id = await user.ask(session_id, "[[tokens=60 hold=12]]")

        async def received(parts: int) -> None:
            await ear.until(lambda ear: len(ear.of("delta", reply_to=message_id)) >= parts)

        for parts in (1, 2, 3, 4):
            await received(parts)
            model.let_go()
        row = await user.reply(message_id)
        await ear.until(lambda ear: ear.of("message", id=message_id, status="done"))
        await ear.until(lambda ear: ear.of("message", reply_to=message_id, status="done"))

        deltas = ear.of("delta", reply_to=message_id)
        assert [delta["seq"] for delta in deltas] == list(range(1, len(deltas) + 1))
        assert len(deltas) > 3
        assert {delta["attempt"] for delta in deltas} == {row["attempt"]} == {1}
        assert {delta["message_id"] for delta in deltas} == {row["id"]}
        assert "".join(delta["text"] for delta in deltas) == row["content"]
        assert row["seq"] == len(deltas)
        assert row["content"].startswith("word00 word01")

        events = [event for event in ear.of("message") if message_id in (event["id"], event["reply_to"])]
        states = [(event["role"], event["status"]) for event in events]
        assert states[0] == ("user", "running")  # dispatched by its insert
        assert ("assistant", "running") in states
        assert set(states[-2:]) == {("assistant", "done"), ("user", "done")}


async def test_replies_write_code_files(environment: dict[str, str], user: Person) -> None:
    async with working(environment):
        session_id = await user.open_session("Code", title="named")
        ear = await user.listen(f"session:{session_id}")
        await user.be_heard(session_id, ear)
        first = await user.ask(
            session_id,
            '[[json={"reply": "Here.", "files": [{"path": "a.py", "content": "x = 1", "language": "python"}]}]]',
        )
        row = await user.reply(first)
        assert row["status"] == "done", row["error"]
        assert row["content"] == "Here."
        assert row["data"]["files"][0]["path"] == "a.py"
        (file,) = await user.rows("code_files", session_id=session_id)
        assert (file["path"], file["content"], file["language"], file["revision"]) == ("a.py", "x = 1", "python", 1)
        assert file["message_id"] == row["id"]
        await ear.until(lambda ear: ear.of("file", path="a.py", revision=1))
        assert "".join(delta["text"] for delta in ear.of("delta", reply_to=first)) == "Here."

        second = await user.ask(session_id, '[[json={"reply": "", "files": [{"path": "a.py", "content": "x = 2"}]}]]')
        await user.reply(second)
        (file,) = await user.rows("code_files", session_id=session_id)
        assert (file["content"], file["revision"]) == ("x = 2", 2)
        (version,) = await user.rows("code_file_versions", session_id=session_id)
        assert (version["content"], version["revision"], version["conflict"]) == ("x = 1", 1, False)


async def test_an_edit_during_a_reply_is_kept(environment: dict[str, str], model: ModelServer, user: Person) -> None:
    async with working(environment):
        session_id = await user.open_session("Code")
        file = {"session_id": session_id, "path": "a.py", "content": "theirs"}
        await user.client.table("code_files").insert(file).execute()
        ear = await user.listen(f"session:{session_id}")
        reply = '{"reply": "", "files": [{"path": "a.py", "content": "the reply\'s"}]}'
        message_id = await user.ask(session_id, f"[[hold=1 json={reply}]]")
        await user.reply(message_id, lambda row: row["status"] == "running")
        await user.client.table("code_files").update({"content": "edited"}).eq("path", "a.py").execute()
        await model.until(lambda m: m.requests[-1].prompt.last.startswith("[[hold=1"))
        model.let_go(times=len(reply))
        await user.reply(message_id)
        (now,) = await user.rows("code_files", session_id=session_id)
        assert now["content"] == "edited"
        versions = await user.rows("code_file_versions", session_id=session_id, conflict="true")
        assert [version["content"] for version in versions] == ["the reply's"]
        await ear.until(lambda ear: ear.of("file", path="a.py", conflict=True))


async def test_the_first_reply_names_the_session(environment: dict[str, str], user: Person) -> None:
    async with working(environment):
        ear = await user.listen(f"user:{user.id}", "session", "session_deleted")
        session_id = await user.open_session()
        await user.reply(await user.ask(session_id, "Tell me about deployment"))
        await ear.until(lambda ear: any(row["title"] for row in ear.of("session", id=session_id)))
        await user.client.table("sessions").delete().eq("id", session_id).execute()
        await ear.until(lambda ear: ear.of("session_deleted", id=session_id))


async def test_questions_are_answered_in_order(environment: dict[str, str], user: Person) -> None:
    async with working(environment):
        session_id = await user.open_session(title="named")
        ids = [await user.ask(session_id, f"[[text=answer-{n}]] question-{n}") for n in range(4)]
        await user.reply(ids[-1])
        rows = sorted(await user.rows("messages", session_id=session_id), key=lambda row: row["ordinal"])
        assert [row["ordinal"] for row in rows] == [2, 3, 4, 5, 6, 7, 8, 9]
        assert [row["content"] for row in rows if row["role"] == "assistant"] == [f"answer-{n}" for n in range(4)]
        assert {row["status"] for row in rows} == {"done"}


async def test_bad_input_fails_the_reply(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, sweep_seconds=1):
        session_id = await user.open_session("Nonesuch", title="named")
        message_id = await user.ask(session_id, "hello")
        # half a minute later, when no worker that knows it has come
        await db.execute("update bridge.jobs set run_at = run_at - interval '31 seconds'")
        row = await user.reply(message_id)
        assert row["status"] == "failed"
        assert row["error"]["code"] == "unknown_function"
        (question,) = [row for row in await user.rows("messages", session_id=session_id) if row["role"] == "user"]
        assert question["status"] == "failed"
        # the failed question does not block a later one
        await user.client.table("sessions").update({"function": "Chat"}).eq("id", session_id).execute()
        assert (await user.reply(await user.ask(session_id, "[[text=fine]]")))["content"] == "fine"
