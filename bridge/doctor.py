"""`bridge doctor`: checks every precondition of a worker, and names a remedy for each one that fails."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bridge.errors import BridgeError, SettingsError, SetupError, StoreError, TurnFailure
from bridge.functions import Functions
from bridge.model import Completion, Session, Turn
from bridge.realtime.connection import Connection
from bridge.settings import Settings, load
from bridge.store import Store

MODEL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One precondition. `problem` is None if it holds; else it says what is wrong, and `remedy` how to fix it."""

    name: str
    problem: str | None = None
    remedy: str = ""


async def examine(env: Mapping[str, str]) -> AsyncGenerator[Finding, None]:
    """Yield a finding for each precondition. One that an earlier problem makes impossible to check is left out."""
    try:
        settings = load(env)
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
        async with aclosing(_project(settings, store)) as findings:
            async for finding in findings:
                yield finding
    finally:
        await store.close()

    if functions is not None:
        try:
            yield await _model(functions)
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


async def _project(settings: Settings, store: Store) -> AsyncGenerator[Finding, None]:
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
        yield Finding("schema", f"The schema is older than this worker ({error}).", "Run `supabase db push --remote`.")
        return
    yield Finding("schema")
    yield _publication(answer)
    yield _policies(answer)
    yield await _realtime(settings)


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


async def _realtime(settings: Settings) -> Finding:
    try:
        async with Connection(settings.realtime_url, settings.supabase_key) as connection:
            await connection.join(connection.channel("bridge:doctor", probed=True))
            await connection.probe()
    except Exception as error:
        reason = str(error) if isinstance(error, BridgeError) else f"{type(error).__name__} {error}".rstrip()
        remedy = "Check in the dashboard that Realtime is enabled, then check Supabase's status page."
        return Finding("realtime", f"A private channel did not receive its own test message: {reason}.", remedy)
    return Finding("realtime")


async def _model(functions: Functions) -> Finding:
    """Call the first function that needs only a message, and stop at its first token."""
    for name in functions.names:
        session = Session("doctor", "doctor", None, name, {})
        turn = Turn(name, "Say OK.", (), (), session, "doctor", {"reply": "OK."})
        try:
            async with asyncio.timeout(MODEL_SECONDS), aclosing(functions.run(turn)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Completion) or piece.has_begun:
                        return Finding("model")
        except TurnFailure as error:
            if error.code == "bad_arguments":
                continue  # it needs arguments of its own
            reason = f"{error.code}: {error.detail}" if error.detail else error.code
            remedy = "Check LLM_BASE_URL, LLM_API_KEY and LLM_MODEL, and the client in baml_src/clients.baml."
            return Finding("model", f"The call of {name} failed: {error.message} ({reason})", remedy)
        except TimeoutError:
            remedy = "Check LLM_BASE_URL and the provider's status page."
            return Finding("model", f"The call of {name} had no answer within {MODEL_SECONDS:g} s.", remedy)
    return Finding("model")
