"""Files that the page and a frontend in JavaScript send reach a provider byte for byte, in each format."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import psycopg
import pytest
from playwright.async_api import FilePayload, expect

from tests.e2e.tab import Tab, run_node
from tests.integration.bridge.baml.calls import variables
from tests.integration.bridge.baml.conftest import generate
from tests.support import wire
from tests.support.database import Row
from tests.support.objects import FILES, contents, texts
from tests.support.raw_provider import RawProvider, Sent, raw_provider
from tests.support.users import ENDED
from tests.support.waiting import until
from tests.support.wire import Format, answered
from tests.support.workers import working

FUNCTIONS = {"chat": "SeeChat", "responses": "SeeResponses", "anthropic": "SeeAnthropic", "gemini": "SeeGemini"}
KINDS = {"a.png": "image/png", "a.pdf": "application/pdf", "a.wav": "audio/wav", "a.txt": "text/plain"}
every_format = pytest.mark.parametrize("format_", wire.FORMATS)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A generated client with functions for each format."""
    folder = tmp_path_factory.mktemp("attached")
    return generate(folder, "attached_baml_client", "provider_functions.baml", with_clients=False)


@pytest.fixture
async def provider() -> AsyncIterator[RawProvider]:
    async with raw_provider() as serving:
        yield serving


@asynccontextmanager
async def answering(
    environment: dict[str, str], client: ModuleType, provider: RawProvider, format_: Format
) -> AsyncIterator[None]:
    """A worker whose function speaks this format with the provider."""
    provider.answers = [Sent([wire.encode(event) for event in answered(format_).events])]
    names = variables(provider.url) | {"FIRST_BASE_URL": provider.url, "BEDROCK_URL": provider.url}
    async with working(environment, client=client, variables=names, functions=FUNCTIONS[format_]):
        yield


async def until_done(db: psycopg.AsyncConnection[Row]) -> None:
    """Wait until the only reply has ended well."""

    async def has_ended() -> bool:
        rows = await db.execute("select status from public.messages where role = 'assistant'")
        return [row["status"] in ENDED for row in await rows.fetchall()] == [True]

    await until(has_ended, 30)
    rows = await db.execute("select status, error from public.messages where role = 'assistant'")
    assert await rows.fetchall() == [{"status": "done", "error": None}]


def check(provider: RawProvider) -> None:
    (request,) = map(json.loads, provider.requests)
    assert list(contents(request)) == [FILES[kind] for kind in KINDS.values() if kind != "text/plain"]
    assert FILES["text/plain"].decode() in texts(request)


@every_format
@pytest.mark.usefixtures("sign_up")  # the script signs up by itself; this deletes its users
async def test_files_of_supabase_js_reach_the_provider(
    environment: dict[str, str],
    db: psycopg.AsyncConnection[Row],
    client: ModuleType,
    provider: RawProvider,
    format_: Format,
    tmp_path: Path,
) -> None:
    named: list[str] = []
    for name, kind in KINDS.items():
        (tmp_path / name).write_bytes(FILES[kind])
        named += [str(tmp_path / name), kind]
    async with answering(environment, client, provider, format_):
        url, key = environment["SUPABASE_URL"], environment["SUPABASE_PUBLISHABLE_KEY"]
        script = Path(__file__).with_name("attach.mjs")
        code, _, errors = await run_node(script, url, key, FUNCTIONS[format_], *named, within=40)
        assert code == 0, errors
        await until_done(db)
    check(provider)


@every_format
async def test_files_of_the_page_reach_the_provider(
    environment: dict[str, str],
    db: psycopg.AsyncConnection[Row],
    client: ModuleType,
    provider: RawProvider,
    format_: Format,
    tab: Tab,
) -> None:
    async with answering(environment, client, provider, format_):

        async def is_described() -> bool:
            rows = await db.execute("select accepts from public.functions where name = %s", (FUNCTIONS[format_],))
            return bool(await rows.fetchall())

        await until(is_described, 20)
        await tab.sign_up()
        await tab.page.get_by_role("radio", name=FUNCTIONS[format_]).check(force=True)
        files = [FilePayload(name=name, mimeType=kind, buffer=FILES[kind]) for name, kind in KINDS.items()]
        await tab.page.locator("input[type=file]").set_input_files(files)
        chosen = tab.page.locator("form.composer").get_by_role("list", name="Attachments").get_by_role("listitem")
        await expect(chosen).to_have_count(len(files))  # they are uploaded once the session is created
        await tab.say("what is this?")
        await until_done(db)
    check(provider)
