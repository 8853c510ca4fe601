"""`make dev`: the whole project in one terminal."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from devstack import DevstackError, dev, settings
from devstack.env_dev import EnvDev
from devstack.part import Console, Part
from devstack.reload import Reload
from devstack.source import read
from tests.integration.devstack.processes import descendants, linux, wait_until_ended
from tests.support.dev import terminal

KEYS = {"SUPABASE_URL": "https://x.example", "SUPABASE_PUBLISHABLE_KEY": "p", "SUPABASE_SECRET_KEY": "s"}
LLM = {"LLM_BASE_URL": "http://x/v1", "LLM_API_KEY": "k", "LLM_MODEL": "m"}


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@linux
@pytest.mark.quiet
async def test_make_dev_runs_stops_and_reports_failures(tmp_path: Path) -> None:
    async with terminal(tmp_path) as first:
        page = (await first.until(r"Chat +(http://127\.0\.0\.1:\d+)"))[1]
        async with httpx.AsyncClient() as client:
            assert "<html" in (await client.get(page)).text
        family = descendants(first.process.pid)
        first.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert await first.end() == 0, first.text
        assert time.monotonic() - begun < 5
        await wait_until_ended(*family)

    # Restart with the existing data, and with the web app's port taken.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        begun = time.monotonic()
        async with terminal(tmp_path, port) as second:
            await second.until("Ctrl-C")
            assert time.monotonic() - begun < 10
            assert "Migrations" not in second.text, "there are no new migrations"
            assert re.search(rf"port {port} is in use, so the web app uses (?!{port})\d+", second.text)
            family = descendants(second.process.pid)
            worker = next(pid for pid in family if "bridge.cli" in command_line(pid))
            os.kill(worker, signal.SIGKILL)
            assert await second.end() == 1
            assert re.search(r"^dev: worker exited with code -9: ", second.text, re.M), second.text
            await wait_until_ended(*family)

    async with terminal(tmp_path) as third:
        await third.until("Ctrl-C")
        family = descendants(third.process.pid)
        third.process.kill()
        await wait_until_ended(*family)


async def test_missing_key_prints_one_line(tmp_path: Path) -> None:
    async with terminal(tmp_path, SUPABASE_URL="https://x.example", SUPABASE_SECRET_KEY="s") as run:
        assert await run.end() == 2
        [line] = run.text.splitlines()
        assert "SUPABASE_PUBLISHABLE_KEY is not" in line


def test_hosted_returns_configured_project() -> None:
    assert settings.hosted({}) is None
    assert settings.hosted(LLM) is None
    assert settings.hosted({**KEYS, "OTHER": "x"}) == KEYS
    legacy = {"SUPABASE_URL": "https://x.example", "SUPABASE_ANON_KEY": "p", "SUPABASE_SERVICE_ROLE_KEY": "s"}
    assert settings.hosted(legacy) == KEYS
    for name in ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY"):
        with pytest.raises(settings.SettingError, match=f"{name} is not"):
            settings.hosted({key: value for key, value in KEYS.items() if key != name})


def test_model_returns_configured_model() -> None:
    assert settings.model({}) is None
    assert settings.model({**LLM, "OTHER": "x"}) == LLM
    for name in LLM:
        with pytest.raises(settings.SettingError, match=f"{name} is not set"):
            settings.model({key: value for key, value in LLM.items() if key != name})


def test_environment_overrides_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("LLM_MODEL=file\nLLM_API_KEY=file\nSUPABASE_URL=\n")
    monkeypatch.setenv("LLM_MODEL", "environment")
    monkeypatch.setenv("LLM_BASE_URL", "")
    monkeypatch.delenv("LLM_API_KEY", raising=False)  # set for the model of other tests
    found = settings.settings(tmp_path / ".env")
    assert (found["LLM_MODEL"], found["LLM_API_KEY"]) == ("environment", "file")
    assert "SUPABASE_URL" not in found
    assert "LLM_BASE_URL" not in found


def test_commands_beside_get_no_other_secret() -> None:
    env = {**KEYS, **LLM, "SUPABASE_ACCESS_TOKEN": "t", "SUPABASE_DB_PASSWORD": "p", "SUPABASE_JWT_SECRET": "j"}
    env |= {"LLM_OTHER": "o", "LLM_UNUSED": "u", "BRIDGE_FUNCTIONS": "*", "BRIDGE_HISTORY": "3", "OPENAI_API_KEY": "k"}
    baml = {"baml_src/a.baml": b"client<llm> A {\n provider openai\n options { api_key env.LLM_OTHER }\n}\n"}
    assert settings.shared(env, baml) == {**KEYS, **LLM, "LLM_OTHER": "o", "BRIDGE_FUNCTIONS": "*"}


def test_env_dev_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env.dev").mkdir()
    told = r"\.env\.dev cannot be written \(Is a directory\): make its folder"
    with pytest.raises(DevstackError, match=told), EnvDev(tmp_path / ".env.dev"):
        pass


async def test_model_stops_after_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    stop = Part.stop

    async def stop_part(part: Part) -> None:
        stopped.append(part.name)
        await stop(part)

    async def run(reload: Reload) -> str:
        await reload._environment(read(tmp_path, tmp_path / ".env"))
        return "over"

    async def stop_workers(reload: Reload) -> None:
        stopped.append("worker")

    async def web(run: dev.Run) -> Part:
        return Part("web", (), {}, Console())

    monkeypatch.setattr(Part, "stop", stop_part)
    monkeypatch.setattr(Reload, "run", run)
    monkeypatch.setattr(Reload, "stop", stop_workers)
    monkeypatch.setattr(dev.Run, "_start_page", web)
    options = dev.Options(tmp_path, tmp_path / ".env", tmp_path / "data", 0, 0, "demo")
    async with contextlib.AsyncExitStack() as opened:
        run_ = dev.Run(options, Console(), opened, KEYS, {})
        assert await run_.start() == "over"
    assert stopped == ["worker", "model"]
