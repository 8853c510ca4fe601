"""Every precondition of a worker, checked one after the other; each that fails is told with its remedy."""

from __future__ import annotations

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
from bridge.model import Session, Turn
from bridge.realtime.connection import Connection
from bridge.settings import Settings, load
from bridge.store import Store

MODEL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One precondition: `trouble` is None if it holds, or else what is wrong and the `remedy`."""

    name: str
    trouble: str | None = None
    remedy: str = ""


async def examine(env: Mapping[str, str]) -> AsyncGenerator[Finding, None]:
    """Yield a finding for each precondition. What cannot be checked because of an earlier trouble is left out."""
    try:
        settings = load(env)
    except SettingsError as error:
        yield Finding("settings", str(error), "See .env.example for all settings.")
        return
    yield Finding("settings")

    functions: Functions | None = None
    try:
        functions = Functions.load(settings.functions, handlers=settings.handlers)
        yield _in_step()
    except SetupError as error:
        yield Finding(
            "functions",
            str(error),
            "Mend BRIDGE_FUNCTIONS or what else it names; if baml_src has changed, run `baml-cli generate`.",
        )

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


def _in_step() -> Finding:
    """Whether the generated client was made from the BAML files that lie here (in an image there are none)."""
    folder = Path.cwd() / "baml_src"
    if not folder.is_dir():
        return Finding("functions")
    with contextlib.suppress(ImportError, AttributeError):
        generated: Mapping[str, str] = import_module("baml_client.inlinedbaml").get_baml_files()
        files = {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*.baml")}
        if changed := sorted(
            name for name in files.keys() | generated.keys() if files.get(name) != generated.get(name)
        ):
            return Finding(
                "functions",
                f"The BAML client is not in step with baml_src ({', '.join(changed)}).",
                "Run `make setup` or `baml-cli generate`.",
            )
    return Finding("functions")


async def _project(settings: Settings, store: Store) -> AsyncGenerator[Finding, None]:
    try:
        await store.check()
    except SetupError as error:
        told, _, remedy = str(error).partition(". ")
        yield Finding("project", f"{told}.", remedy)
        return
    except StoreError as error:
        yield Finding(
            "project",
            f"{settings.supabase_url} does not answer ({error}).",
            "Check SUPABASE_URL, the network, and that the project is not paused.",
        )
        return
    yield Finding("project")

    try:
        seen = await store.doctor()
    except StoreError as error:
        yield Finding("schema", f"The schema is older than this worker ({error}).", "Run `supabase db push --remote`.")
        return
    yield Finding("schema")
    yield _publication(seen)
    yield _policies(seen)
    yield await _realtime(settings)


def _publication(seen: Mapping[str, Any]) -> Finding:
    if not seen["unpublished"]:
        return Finding("publication")
    tables = ", ".join(f"public.{name}" for name in seen["unpublished"])
    return Finding(
        "publication",
        f"The publication supabase_realtime lacks {tables}.",
        f"Run in the SQL editor: alter publication supabase_realtime add table {tables};",
    )


def _policies(seen: Mapping[str, Any]) -> Finding:
    if not seen["can_announce"]:
        return Finding(
            "topics",
            "The functions of the schema may not call realtime.send, so nothing is announced.",
            "Run in the SQL editor: grant execute on function realtime.send to postgres;",
        )
    if seen["topics_policy"]:
        return Finding(
            "topics",
            "Users cannot hear their sessions: the policy on realtime.messages is missing.",
            f"Run in the SQL editor of the dashboard:\n{seen['topics_policy']}",
        )
    return Finding("topics")


async def _realtime(settings: Settings) -> Finding:
    try:
        async with Connection(settings.realtime_url, settings.supabase_key) as connection:
            await connection.join(connection.channel("bridge:doctor", probed=True))
            await connection.probe()
    except Exception as error:
        reason = str(error) if isinstance(error, BridgeError) else f"{type(error).__name__} {error}".rstrip()
        return Finding(
            "realtime",
            f"A private subscription does not hear its own message: {reason}.",
            "Check in the dashboard that Realtime is enabled, and the project's status page.",
        )
    return Finding("realtime")


async def _model(functions: Functions) -> Finding:
    """Ask the first function that needs nothing but a message, and leave at its first word."""
    for name in functions.names:
        turn = Turn(
            function=name,
            message="Say OK.",
            messages=(),
            files=(),
            session=Session("doctor", "doctor", None, name, {}),
            user_id="doctor",
            data={"reply": "OK."},
        )
        try:
            async with asyncio.timeout(MODEL_SECONDS), aclosing(functions.run(turn)) as said:
                async for _ in said:
                    return Finding("model")
        except TurnFailure as error:
            if error.code == "bad_arguments":
                continue  # it wants arguments of its own
            return Finding(
                "model",
                f"{name} was not answered: {error.message} ({error.code}{': ' + error.detail if error.detail else ''})",
                "Check LLM_BASE_URL, LLM_API_KEY and LLM_MODEL, and the client in baml_src/clients.baml.",
            )
        except TimeoutError:
            return Finding(
                "model",
                f"{name} was not answered within {MODEL_SECONDS:g} s.",
                "Check LLM_BASE_URL and the provider's status page.",
            )
    return Finding("model")
