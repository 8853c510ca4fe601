"""`bridge doctor` names what is broken, with its remedy."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import jwt
import psycopg
import pytest

from bridge import doctor
from bridge.baml.functions import BamlFunction, BamlFunctions
from bridge.baml.models import ModelClients
from bridge.doctor import Finding
from bridge.functions import Functions
from bridge.realtime import connection
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.support import shipped
from tests.support.cold_start import cold_start
from tests.support.commands import run_bridge, wait_for_exit
from tests.support.database import Row
from tests.support.raw_provider import Refusal, raw_provider
from tests.support.users import Person

LLM = ("LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL")


@pytest.fixture
def env(environment: dict[str, str], model: ModelServer) -> dict[str, str]:
    return environment | {"LLM_BASE_URL": model.url, "LLM_API_KEY": "key", "LLM_MODEL": "scripted"}


async def problems(env: Mapping[str, str]) -> dict[str, Finding]:
    async with asyncio.timeout(60):
        return {finding.name: finding async for finding in doctor.examine(env) if finding.problem}


async def test_healthy_project_has_no_problems(env: dict[str, str]) -> None:
    async with asyncio.timeout(60):
        findings = [finding async for finding in doctor.examine(env)]
    assert [finding.problem for finding in findings] == [None] * len(findings), findings
    assert [finding.name for finding in findings] == [
        "settings", "functions", "project", "schema", "publication", "topics", "attachments", "models", "realtime",
        "model",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "name", "problem", "remedy"),
    [
        ({"SUPABASE_URL": ""}, "settings", "SUPABASE_URL is not set", ".env.example"),
        ({"SUPABASE_URL": "http://127.0.0.1:9"}, "project", "does not answer", "Check SUPABASE_URL"),
        ({"SUPABASE_SECRET_KEY": "sb_publishable_x"}, "settings", "publishable key", ".env.example"),
        ({"SUPABASE_SECRET_KEY": "sb_secret_wrong"}, "project", "refused SUPABASE_SECRET_KEY", "secret key"),
        ({"BRIDGE_FUNCTIONS": "Chat,Nonesuch"}, "functions", "Nonesuch", "BRIDGE_FUNCTIONS"),
        ({"BRIDGE_HANDLERS": "no.such.module"}, "functions", "no.such.module", "Correct the name"),
    ],
)
async def test_wrong_setting_has_its_remedy(
    env: dict[str, str], change: dict[str, str], name: str, problem: str, remedy: str
) -> None:
    found = await problems(env | change)
    assert problem in (found[name].problem or "")
    assert remedy in found[name].remedy


async def test_unreachable_model_is_reported(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "http://127.0.0.1:9/v1")
    found = await problems(env)
    assert set(found) == {"model"}
    assert "LLM_BASE_URL" in found["model"].remedy


async def test_missing_schema_is_reported(env: dict[str, str], stack: Stack, db: psycopg.AsyncConnection[Row]) -> None:
    await db.execute("alter function public.bridge_status rename to bridge_status_off")
    await stack.lite.reload()
    try:
        found = await problems(env)
    finally:
        await db.execute("alter function public.bridge_status_off rename to bridge_status")
        await stack.lite.reload()
    assert "supabase db push" in found["project"].remedy


async def test_unpublished_table_is_reported(env: dict[str, str], db: psycopg.AsyncConnection[Row]) -> None:
    await db.execute("alter publication supabase_realtime drop table public.messages")
    try:
        found = await problems(env)
    finally:
        await db.execute("alter publication supabase_realtime add table public.messages")
    assert set(found) == {"publication"}
    assert "alter publication supabase_realtime add table public.messages" in found["publication"].remedy


async def test_missing_policy_is_printed_as_sql(env: dict[str, str], db: psycopg.AsyncConnection[Row]) -> None:
    await db.execute('drop policy "bridge: users listen on their own topics" on realtime.messages')
    found = await problems(env)
    assert set(found) == {"topics"}
    # running what it prints fixes it
    await db.execute(found["topics"].remedy.split(":\n", 1)[1].encode())
    assert await problems(env) == {}


async def test_missing_policy_of_storage_is_printed_as_sql(
    env: dict[str, str], db: psycopg.AsyncConnection[Row]
) -> None:
    rows = await db.execute("select policyname as name from pg_policies where schemaname = 'storage'")
    for row in await rows.fetchall():
        await db.execute(f'drop policy "{row["name"]}" on storage.objects'.encode())
    found = await problems(env)
    assert set(found) == {"attachments"}
    await db.execute(found["attachments"].remedy.split(":\n", 1)[1].encode())
    assert await problems(env) == {}


@pytest.mark.parametrize(
    "part",
    [
        'trigger "bridge: sessions hold a limited number of attachments"',
        'policy "bridge: users add attachments to their own sessions"',
    ],
)
async def test_missing_part_of_the_access_to_attachments_is_printed_as_sql(
    env: dict[str, str], db: psycopg.AsyncConnection[Row], part: str
) -> None:
    """What is left of it is no obstacle to what is printed."""
    await db.execute(f"drop {part} on storage.objects".encode())
    found = await problems(env)
    assert set(found) == {"attachments"}
    await db.execute(found["attachments"].remedy.split(":\n", 1)[1].encode())
    assert await problems(env) == {}


async def test_public_bucket_is_reported(env: dict[str, str], db: psycopg.AsyncConnection[Row]) -> None:
    await db.execute("update storage.buckets set public = true where id = 'attachments'")
    try:
        found = await problems(env)
    finally:
        await db.execute("update storage.buckets set public = false where id = 'attachments'")
    assert set(found) == {"attachments"}
    assert "is public" in (found["attachments"].problem or "")


async def test_model_whose_variable_is_not_set_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LARGE_KEY", raising=False)
    source = "client<llm> Large { provider anthropic options { api_key env.LARGE_KEY } }"
    clients = ModelClients({"clients.baml": source})
    functions = Functions({}, BamlFunctions({"Chat": cast(BamlFunction, None)}, {}, clients=clients))
    assert "LARGE_KEY, which is not set" in (doctor._models(["Large"], functions, {}).problem or "")
    assert doctor._models(["Large"], functions, {"LARGE_KEY": "k"}).problem is None
    handlers = Functions({}, BamlFunctions({}, {}, clients=clients))
    assert doctor._models(["anything"], handlers, {}).problem is None


async def test_unavailable_realtime_is_reported(env: dict[str, str], stack: Stack) -> None:
    await stack.realtime.stop()
    try:
        found = await problems(env)
    finally:
        await stack.realtime.start()
    assert set(found) == {"realtime"}
    assert "did not receive its own test message" in (found["realtime"].problem or "")


async def test_unheard_database_is_reported(env: dict[str, str], stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joins succeed, and clients hear each other."""
    monkeypatch.setattr(connection, "HEAR_SECONDS", 2.0)
    async with cold_start(stack.realtime, stack.admin_url):
        found = await problems(env)
    assert set(found) == {"realtime"}
    assert "does not hear the database: the database was not heard within 2 s" in (found["realtime"].problem or "")
    assert "pg_stat_activity" in found["realtime"].remedy
    assert await problems(env) == {}


async def test_unreported_rows_are_reported(env: dict[str, str], stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Realtime says that it is subscribed even if Postgres refuses its plugin."""
    monkeypatch.setattr(doctor, "ROW_TRIES", 2)
    stream = stack.realtime._services.changes._stream
    await stream.stop()
    try:
        found = await problems(env)
    finally:
        await stream.start()
    assert set(found) == {"realtime"}
    problem = "reports no changes of rows: it says that it is subscribed, but 2 inserts"
    assert problem in (found["realtime"].problem or "")
    assert "wal2json" in found["realtime"].remedy


async def test_unpublished_probes_are_reported(env: dict[str, str], db: psycopg.AsyncConnection[Row]) -> None:
    await db.execute("alter publication supabase_realtime drop table bridge.probes")
    try:
        found = await problems(env)
    finally:
        await db.execute("alter publication supabase_realtime add table bridge.probes")
    assert set(found) == {"realtime"}
    assert "table: probes" in (found["realtime"].problem or "")
    assert "supabase_realtime contains bridge.probes" in found["realtime"].remedy


async def test_schema_without_probe_is_reported(
    env: dict[str, str], stack: Stack, db: psycopg.AsyncConnection[Row]
) -> None:
    await db.execute("alter function public.bridge_probe rename to bridge_probe_off")
    await stack.lite.reload()
    try:
        found = await problems(env)
    finally:
        await db.execute("alter function public.bridge_probe_off rename to bridge_probe")
        await stack.lite.reload()
    assert set(found) == {"realtime"}
    assert "supabase db push" in found["realtime"].remedy


async def test_row_that_proves_changes_is_kept_nowhere(env: dict[str, str], db: psycopg.AsyncConnection[Row]) -> None:
    assert await problems(env) == {}
    assert await (await db.execute("select from bridge.probes")).fetchall() == []


async def test_outdated_client_is_reported(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "baml_src").mkdir()
    (tmp_path / "baml_src" / "new.baml").write_text("// not generated yet\n")
    monkeypatch.chdir(tmp_path)
    found = await problems(env)
    assert "new.baml" in (found["functions"].problem or "")
    assert "baml-cli generate" in found["functions"].remedy


async def test_command_prints_findings_and_exits_2_on_a_problem(env: dict[str, str]) -> None:
    code, out, err = await wait_for_exit(await run_bridge("doctor", **env))
    assert code == 0, err
    assert out.count("ok ") == 10
    code, out, _ = await wait_for_exit(await run_bridge("doctor", **(env | {"SUPABASE_SECRET_KEY": "sb_secret_wrong"})))
    assert code == 2
    assert "problem  project: The project refused SUPABASE_SECRET_KEY." in out
    assert "Copy a secret key" in out


async def token_finding(env: Mapping[str, str], token: str) -> Finding:
    async with asyncio.timeout(60):
        findings = [one async for one in doctor.examine(env, token) if one.name == "token"]
    (finding,) = findings
    return finding


def signed(stack: Stack, **claims: object) -> str:
    """A token with the project's own signature, as a provider that the project trusts gives it."""
    everything = {"aud": "authenticated", "role": "authenticated", "exp": int(time.time()) + 600, **claims}
    return jwt.encode(everything, stack._keys.jwt_secret, "HS256")


async def test_token_of_a_user_is_accepted(env: dict[str, str], user: Person) -> None:
    finding = await token_finding(env, user.token)
    assert finding.problem is None
    assert user.id in finding.note


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("user_2NNEqL2nrIRdJ194ndJqAHwEfxC", "is not a UUID"),  # Clerk
        ("auth0|507f1f77bcf86cd799439011", "is not a UUID"),
        ("\x1b[31m", "is not a UUID"),
        (str(uuid.UUID(int=1)), "does not accept"),
        (None, "not a JWT with a subject"),
        ("", "not a JWT with a subject"),
    ],
)
async def test_token_whose_user_cannot_own_rows_is_refused(
    env: dict[str, str], stack: Stack, subject: object, text: str
) -> None:
    token = signed(stack, **({} if subject is None else {"sub": subject}))
    finding = await token_finding(env, token)
    assert text in (finding.problem or "")
    assert len((finding.problem or "").splitlines()) == 1
    assert "docs/frontend.md" in finding.remedy


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c", "a.e30.b", "....", "a.bnVsbA.c", "ü.ü.ü", "\udcff"])
async def test_what_is_no_token_is_refused(env: dict[str, str], token: str) -> None:
    assert "not a JWT with a subject" in ((await token_finding(env, token)).problem or "")


async def test_token_of_another_project_is_refused(env: dict[str, str], user: Person) -> None:
    token = jwt.encode({"sub": user.id, "role": "authenticated", "exp": int(time.time()) + 600}, "x" * 32, "HS256")
    assert "does not accept" in ((await token_finding(env, token)).problem or "")


async def test_command_reads_the_token_from_stdin(env: dict[str, str], user: Person) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge.cli", "doctor", "--token", "-"),
        cwd=shipped.project(),
        env={"PATH": os.environ["PATH"], **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate(f"{user.token}\n".encode())
    assert process.returncode == 0, out
    assert f"token: of user {user.id}".encode() in out
    assert user.token.encode() not in out


async def test_words_of_the_provider_are_shown_without_the_key(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt is the doctor's own."""
    async with raw_provider() as provider:
        body = {"error": {"message": "no model \x1b[31m\nfor key sk-plugh-plugh", "code": "model_not_found"}}
        provider.answers = [Refusal(404, json.dumps(body))]
        changed = env | {"LLM_BASE_URL": provider.url, "LLM_API_KEY": "sk-plugh-plugh"}
        code, out, _ = await wait_for_exit(await run_bridge("doctor", **changed))
    assert code == 2
    (line,) = [line for line in out.splitlines() if line.startswith("problem")]
    assert "HTTP 404: model_not_found" in line
    assert "no model" in line
    assert "plugh" not in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ({}, ""),
        ({"authenticated_statement_timeout": None}, "none of its own"),
        ({"authenticated_statement_timeout": "8s"}, "8s"),
    ],
)
def test_statement_timeout_of_users_is_shown_if_the_schema_tells_it(answer: dict[str, str | None], note: str) -> None:
    assert doctor._timeout_note(answer).endswith(note)
    assert bool(doctor._timeout_note(answer)) == bool(answer)
