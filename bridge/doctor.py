"""`bridge doctor`: checks every precondition of a worker, and names a remedy for each one that fails."""

import asyncio
import base64
import contextlib
import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bridge.errors import BridgeError, RealtimeError, SettingsError, SetupError, StoreError, TurnFailure
from bridge.functions import Functions
from bridge.model import Completion, Session, Turn
from bridge.realtime.connection import Connection
from bridge.settings import Settings, load
from bridge.store import Store

MODEL_SECONDS = 30.0
# How often a row is inserted, a second apart: a Realtime that has just started needs some seconds.
ROW_TRIES = 10
PUSH = "Run `supabase db push --remote --include-all`."
BUCKET_REMEDY = "Under Storage in the dashboard, it must be a private bucket with a limit of 10 MB a file."
UNHEARD_REMEDY = (
    "Realtime has no replication slot. Postgres creates one when all open write transactions have ended: look for old"
    " ones in pg_stat_activity. On your own server, see docs/operations.md."
)
UNREPORTED_REMEDY = (
    "Questions are announced all the same, without their second lane. Check that the publication supabase_realtime"
    " contains bridge.probes. On your own server, Postgres may refuse the plugin wal2json: see docs/operations.md."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One precondition. `problem` is None if it holds; else it says what is wrong, and `remedy` how to fix it.

    `note` is worth knowing though nothing is wrong.
    """

    name: str
    problem: str | None = None
    remedy: str = ""
    note: str = ""


async def examine(env: Mapping[str, str], token: str | None = None) -> AsyncGenerator[Finding, None]:
    """Yield a finding for each precondition. One that an earlier problem makes impossible to check is left out.

    `token` is a user's access token to check as well.
    """
    try:
        settings = load(env, beside_dev=True)
    except SettingsError as error:
        yield Finding("settings", error.problem, f"{error.remedy} All settings are in .env.example.")
        return
    yield Finding("settings")

    functions: Functions | None = None
    try:
        functions = Functions.load(settings.functions, handlers=settings.handlers)
        yield _client_matches_source()
    except SetupError as error:
        yield Finding("functions", error.problem, error.remedy)

    store = await Store.open(settings, "doctor")
    try:
        async with aclosing(_project(settings, store, token, functions, env)) as findings:
            async for finding in findings:
                yield finding
    finally:
        await store.close()

    if functions is not None:
        try:
            yield await _model(functions, env)
        finally:
            await functions.close()


def _client_matches_source() -> Finding:
    """Check that the generated client was made from the current baml_src, if that folder exists."""
    folder = Path.cwd() / "baml_src"
    if not folder.is_dir():
        return Finding("functions")
    with contextlib.suppress(ImportError, AttributeError):
        generated: Mapping[str, str] = import_module("baml_client.inlinedbaml").get_baml_files()
        files = {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*.baml")}
        changed = sorted(name for name in files.keys() | generated.keys() if files.get(name) != generated.get(name))
        if changed:
            problem = f"The generated BAML client is older than baml_src ({', '.join(changed)})."
            return Finding("functions", problem, "Run `make setup` or `baml-cli generate`.")
    return Finding("functions")


async def _project(
    settings: Settings, store: Store, token: str | None, functions: Functions | None, env: Mapping[str, str]
) -> AsyncGenerator[Finding, None]:
    try:
        await store.check()
    except SetupError as error:
        yield Finding("project", error.problem, error.remedy)
        return
    except StoreError as error:
        remedy = "Check SUPABASE_URL, the network, and that the project is not paused."
        yield Finding("project", f"{settings.supabase_url} does not answer ({error}).", remedy)
        return
    yield Finding("project")

    try:
        answer = await store.doctor()
    except StoreError as error:
        yield Finding("schema", f"The schema is older than this worker ({error}).", PUSH)
        return
    yield Finding("schema", note=_timeout_note(answer))
    yield _publication(answer)
    yield _policies(answer)
    if "storage" in answer:  # absent in an older schema
        yield _attachments(answer)
    if functions is not None and "models" in answer:
        yield _models(answer["models"], functions, env)
    yield await _realtime(settings, store)
    if token is not None:
        yield await _token(store, token)


def _timeout_note(answer: Mapping[str, Any]) -> str:
    """How long a user's request may hold one of the few connections that all share; "" from an older schema."""
    if "authenticated_statement_timeout" not in answer:
        return ""
    value = answer["authenticated_statement_timeout"] or "none of its own"
    return f"users' requests share a few connections; statement_timeout of authenticated: {value}"


def _publication(answer: Mapping[str, Any]) -> Finding:
    if not answer["unpublished"]:
        return Finding("publication")
    tables = ", ".join(f"public.{name}" for name in answer["unpublished"])
    remedy = f"Run in the SQL editor: alter publication supabase_realtime add table {tables};"
    return Finding("publication", f"The publication supabase_realtime does not contain {tables}.", remedy)


def _policies(answer: Mapping[str, Any]) -> Finding:
    if not answer["can_announce"]:
        problem = "The schema's functions lack the permission to call realtime.send, so no event is sent."
        return Finding("topics", problem, "Run in the SQL editor: grant execute on function realtime.send to postgres;")
    if answer["topics_policy"]:
        problem = "Users cannot join their sessions' topics: the policy on realtime.messages is missing."
        return Finding("topics", problem, f"Run in the SQL editor:\n{answer['topics_policy']}")
    return Finding("topics")


def _attachments(answer: Mapping[str, Any]) -> Finding:
    if not answer["storage"]:
        return Finding("attachments", note="the project has no Storage: messages can have no attachments")
    if answer["attachments_bucket"]:
        return Finding("attachments", answer["attachments_bucket"], BUCKET_REMEDY)
    if answer["attachments_access"]:
        problem = "Users cannot attach files, or have no limit: policies or a trigger on storage.objects are missing."
        return Finding("attachments", problem, f"Run in the SQL editor:\n{answer['attachments_access']}")
    return Finding("attachments")


def _models(names: Sequence[str], functions: Functions, env: Mapping[str, str]) -> Finding:
    """Check that each model that users may choose is a client whose variables are set."""
    clients = functions.calls.clients
    if not functions.calls.names:  # to handlers, a model is what they make of it
        return Finding("models")
    if unknown := [name for name in names if name not in clients.names]:
        problem = f"public.models names {', '.join(unknown)}, but baml_src has no client of that name"
        known = ", ".join(sorted(clients.names)) or "none"
        return Finding("models", f"{problem} (there are: {known}).", "Add the client, or delete the row.")
    for name in names:
        if missing := ", ".join(clients.missing(name, env)):
            problem = f"Questions for the model {name} fail: its client in baml_src reads {missing}, which is not set."
            return Finding("models", problem, "Set it, or delete the row of public.models.")
    return Finding("models")


async def _realtime(settings: Settings, store: Store) -> Finding:
    """Check each part of the way: what clients send, what the database sends, and the rows of postgres_changes."""
    problem = "A private channel did not receive its own test message"
    remedy = "Check in the dashboard that Realtime is enabled, then check Supabase's status page."
    try:
        async with Connection(settings.realtime_url, settings.supabase_key) as connection:
            await connection.join(connection.channel("bridge:inbox", probed=True, replicated=True))
            await connection.probe()
            problem, remedy = "Realtime does not hear the database", UNHEARD_REMEDY
            if not await connection.hear(store.probe, lambda _: None):
                problem = "The schema is older than this worker (it has no bridge_probe)."
                return Finding("realtime", problem, PUSH)
            problem, remedy = "Realtime reports no changes of rows", UNREPORTED_REMEDY
            await _hear_row(connection, store)
    except Exception as error:
        reason = str(error) if isinstance(error, BridgeError) else f"{type(error).__name__} {error}".rstrip()
        return Finding("realtime", f"{problem}: {reason}.", remedy)
    return Finding("realtime")


async def _hear_row(connection: Connection, store: Store) -> None:
    """Await the report of an own row, or raise RealtimeError. Realtime says "subscribed" even if it reports nothing."""
    nonce, heard = uuid.uuid4().hex, asyncio.get_running_loop().create_future()

    def on_insert(record: dict[str, Any]) -> None:
        if record.get("nonce") == nonce and not heard.done():
            heard.set_result(None)

    await connection.join_changes("bridge:doctor", on_insert, "bridge", "probes")
    for _ in range(ROW_TRIES):  # what is inserted before Realtime has its replication slot is never reported
        await store.probe(nonce, row_event=True)
        await connection.wait(1, heard)
        if heard.done():
            return
    raise RealtimeError(f"it says that it is subscribed, but {ROW_TRIES} inserts into bridge.probes were not reported")


async def _token(store: Store, token: str) -> Finding:
    """Check that a user with this access token can own rows: they reference `auth.users`, whose ids are UUIDs."""
    remedy = "Sign users in through Supabase Auth, and pass a token of one; docs/frontend.md explains other providers."
    subject = _subject(token)
    if subject is None:
        return Finding("token", "The token is not a JWT with a subject (`sub`).", remedy)
    try:
        uuid.UUID(subject)
    except ValueError:
        return Finding(
            "token", f"The token's subject {subject[:40]!r} is not a UUID, so its user cannot own rows.", remedy
        )
    try:
        user = await store.user(token)
    except StoreError as error:
        return Finding("token", f"The project does not accept the token ({error}).", remedy)
    return Finding("token", note=f"of user {user}")


def _subject(token: str) -> str | None:
    """The `sub` of a JWT, whose signature the project checks; None if it has none."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) and subject else None


async def _model(functions: Functions, env: Mapping[str, str]) -> Finding:
    """Call the first function that needs only a message, and stop at its first token.

    The prompt is ours, so the provider's own words are shown.
    """
    note = ""
    if any(env.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")):
        note = "the call of the model does not use SSL_CERT_FILE and SSL_CERT_DIR: BAML has authorities of its own"
    for name in functions.names:
        session = Session("doctor", "doctor", None, name, {})
        turn = Turn(name, "Say OK.", (), (), session, "doctor", {"reply": "OK."})
        try:
            async with asyncio.timeout(MODEL_SECONDS), aclosing(functions.run(turn)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Completion) or piece.has_begun:
                        return Finding("model", note=note)
        except TurnFailure as error:
            if error.code == "bad_arguments":
                continue  # it needs arguments of its own
            reason = ": ".join(part for part in (error.code, error.detail, error.said) if part)
            remedy = "Check LLM_BASE_URL, LLM_API_KEY and LLM_MODEL, and the client in baml_src/clients.baml."
            if "certificate is not trusted" in error.detail:
                remedy = "Use a certificate of a public authority, or reach the model by http: see docs/functions.md."
            return Finding("model", f"The call of {name} failed: {error.message} ({reason})", remedy)
        except TimeoutError:
            remedy = "Check LLM_BASE_URL and the provider's status page."
            return Finding("model", f"The call of {name} had no answer within {MODEL_SECONDS:g} s.", remedy)
    return Finding("model")
