"""`bridge dead`: list, retry and drop; and a user's own retry."""

from __future__ import annotations

import json
import os

import psycopg
import pytest

from tests.support.commands import run_bridge, start_bridge, wait_for_exit
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import working


async def test_dead_letter_lists_every_attempt_and_can_be_requeued(environment: dict[str, str], user: Person) -> None:
    async with working(environment, max_failures=2):
        session_id = await user.open_session(title="named")
        message_id = await user.ask(session_id, "[[error=500 times=2]] [[text=unused]]")
        row = await user.reply(message_id)
        assert (row["status"], row["attempt"]) == ("failed", 2)
        assert row["error"]["code"] == "model_unavailable"

        code, out, err = await wait_for_exit(await run_bridge("dead", "list", "--json", **environment))
        assert code == 0, err
        (letter,) = json.loads(out)
        assert (letter["question_id"], letter["user_id"]) == (message_id, user.id)
        assert [(run["attempt"], run["outcome"]) for run in letter["runs"]] == [(1, "failed"), (2, "failed")]
        assert all("500" in run["error"]["detail"] for run in letter["runs"])
        assert "[[error" not in out  # the question's text belongs to its user
        _, out, _ = await wait_for_exit(await run_bridge("dead", "list", **environment))
        assert message_id in out
        assert "attempt 2: failed model_unavailable" in out

        code, out, err = await wait_for_exit(await run_bridge("dead", "retry", message_id, **environment))
        assert (code, out.strip()) == (0, "requeued 1 message"), err
        row = await user.reply(message_id, lambda row: row["attempt"] == 3 and row["status"] == "done")
        assert row["error"] is None
        _, out, _ = await wait_for_exit(await run_bridge("dead", "list", **environment))
        assert out.strip() == "no dead letters"


async def test_user_can_retry_a_dropped_question(environment: dict[str, str], user: Person) -> None:
    async with working(environment):
        session_id = await user.open_session(title="named")
        message_id = await user.ask(session_id, "[[error=400 times=1]]")
        assert (await user.reply(message_id))["status"] == "failed"
        _, out, _ = await wait_for_exit(await run_bridge("dead", "drop", "--all", **environment))
        assert out.strip() == "dropped 1 message"
        assert (await user.reply(message_id))["status"] == "failed"
        retry = user.client.rpc("retry_message", {"message_id": message_id})
        assert (await retry.execute()).data == "queued"
        await user.reply(message_id, lambda row: row["status"] == "done")


async def test_retry_all_stops_at_the_number_of_dead_letters(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """A question that fails again at once is not retried for ever."""
    async with working(environment):
        message_id = await user.ask(await user.open_session(title="named"), "[[error=400]] give this up")
        assert (await user.reply(message_id))["status"] == "failed"
    await db.execute("""
        create function bridge.fail_at_once() returns trigger language plpgsql security definer as $$
        begin
            perform bridge.end_job(new, 'failed', '{"code": "broken", "message": "Broken."}');
            return null;
        end $$""")
    await db.execute(
        "create trigger fail_at_once after insert on bridge.jobs for each row execute function bridge.fail_at_once()"
    )
    try:
        code, out, err = await wait_for_exit(await run_bridge("dead", "retry", "--all", **environment))
    finally:
        await db.execute("drop function bridge.fail_at_once cascade")
    assert (code, out.strip()) == (0, "requeued 1 message"), err


async def test_retry_and_drop_require_ids_or_all(environment: dict[str, str]) -> None:
    for arguments in (("dead", "retry"), ("dead", "drop", "--all", "x")):
        code, _, err = await wait_for_exit(await run_bridge(*arguments, **environment))
        assert code == 2
        assert "give question ids, or --all" in err


@pytest.mark.parametrize("arguments", [("dead", "list"), ("status", "--json")], ids=" ".join)
async def test_closed_pipe_is_not_an_error(environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    """As in `bridge dead list | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = await start_bridge(arguments, environment, writer)
    finally:
        os.close(writer)
    code, _, err = await wait_for_exit(process)
    assert (code, err) == (1, "")
