from __future__ import annotations

import fcntl
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import settings
from bridge.errors import SettingsError
from bridge.settings import Settings

GOOD = {
    "SUPABASE_URL": "https://abcd.supabase.co/",
    "SUPABASE_SECRET_KEY": "sb_secret_x",
}


def test_required_variables_suffice() -> None:
    chosen = settings.load(GOOD)
    assert chosen == Settings(supabase_url="https://abcd.supabase.co", supabase_key="sb_secret_x")
    assert chosen.realtime_url == "https://abcd.supabase.co/realtime/v1"
    assert "sb_secret_x" not in repr(chosen)


def test_legacy_service_role_key_is_accepted() -> None:
    env = GOOD | {"SUPABASE_SECRET_KEY": "", "SUPABASE_SERVICE_ROLE_KEY": "eyJ.x.y"}
    assert settings.load(env).supabase_key == "eyJ.x.y"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SUPABASE_URL", "", "is not set"),
        ("SUPABASE_URL", "abcd.supabase.co", "must look like https://"),
        ("SUPABASE_URL", "https://abcd.supabase.co/rest/v1", "Leave the path"),
        ("SUPABASE_URL", "http://[abcd", "must look like https://"),
        ("SUPABASE_URL", "http://localhost:99999", "must look like https://"),
        ("SUPABASE_URL", "http://localhost:<port>", "must look like https://"),
        ("SUPABASE_SECRET_KEY", "", "is not set"),
        ("SUPABASE_SECRET_KEY", "sb_secret_…", "Copy the whole secret key"),
        ("SUPABASE_SECRET_KEY", "sb_secret_x\nsb_secret_y", "Copy the whole secret key"),
        ("SUPABASE_SECRET_KEY", "sb_publishable_x", "publishable key"),
        ("BRIDGE_CONCURRENCY", "many", "Set it to a number from 1 to 1,000."),
        ("BRIDGE_CONCURRENCY", "0", "Set it to a number from 1 to 1,000."),
        ("BRIDGE_LEASE_SECONDS", "1", "Set it to a number from 2"),
        ("BRIDGE_IDLE_SECONDS", "nan", "Set it to a number"),
        ("BRIDGE_LOG_FORMAT", "xml", "Set it to one of json, console"),
        ("BRIDGE_LOG_LEVEL", "loud", "Set it to one of DEBUG"),
    ],
)
def test_wrong_setting_is_named_in_one_line(name: str, value: str, text: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings.load(GOOD | {name: value})
    assert str(error.value) == f"{error.value.problem} {error.value.remedy}"
    assert error.value.problem.startswith(name)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_dotenv_in_wrong_encoding_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BRIDGE_HISTORY=7\n", encoding="utf-16")  # as PowerShell writes it
    with pytest.raises(SettingsError, match=r"The file \.env cannot be read .* UTF-8"):
        settings.environment(tmp_path)


def test_environment_overrides_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("BRIDGE_HISTORY=7\nBRIDGE_DELTA_MS=9\n")
    monkeypatch.setenv("BRIDGE_DELTA_MS", "5")
    monkeypatch.setenv("BRIDGE_HISTORY", "")
    monkeypatch.delenv("BRIDGE_HISTORY")
    env = settings.environment(tmp_path)
    assert (env["BRIDGE_HISTORY"], env["BRIDGE_DELTA_MS"]) == ("7", "5")
    monkeypatch.delenv("BRIDGE_HISTORY")


def test_variables_with_field_names_are_ignored() -> None:
    assert settings.load(GOOD | {"concurrency": "many", "log_level": "loud"}) == settings.load(GOOD)


def test_development_setup_is_a_remedy_only_where_it_is_looked_for() -> None:
    for beside_dev in (False, True):
        with pytest.raises(SettingsError, match="SUPABASE_URL is not set") as error:
            settings.load({}, beside_dev=beside_dev)
        assert ("make dev" in str(error.value)) is beside_dev


def test_traceback_of_wrong_key_does_not_show_it() -> None:
    key = "plugh"
    with pytest.raises(SettingsError) as error:
        settings.load({"SUPABASE_SECRET_KEY": f"sb_publishable_{key}", "BRIDGE_HISTORY": "many"})
    assert f"publishable_{key}" not in "".join(traceback.format_exception(error.value))


@pytest.fixture
def env_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose `.env.dev` is in use; nothing is set."""
    for name in [name for name in os.environ if name.startswith(("LLM_", "SUPABASE_", "BRIDGE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    file = tmp_path / ".env.dev"
    file.write_text(
        "SUPABASE_URL='http://dev'\nSUPABASE_SECRET_KEY='a\\'b${HOME}'\nBRIDGE_FUNCTIONS='*'\n"
        "LLM_BASE_URL='http://model'\nLLM_MODEL='demo'\n"
    )
    with file.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield tmp_path


def test_what_runs_beside_is_used_last(env_dev: Path) -> None:
    assert "SUPABASE_URL" not in settings.environment(env_dev)  # `bridge run` asks for its own project
    env = settings.environment(env_dev, beside_dev=True)
    assert (env["SUPABASE_URL"], env["SUPABASE_SECRET_KEY"]) == ("http://dev", "a'b${HOME}")
    assert (env["LLM_MODEL"], env["BRIDGE_FUNCTIONS"]) == ("demo", "*")


@pytest.mark.parametrize("url", ["http://other", ""])
def test_another_project_is_not_mixed_with_what_runs_beside(env_dev: Path, url: str) -> None:
    os.environ["SUPABASE_URL"] = url
    env = settings.environment(env_dev, beside_dev=True)
    assert "SUPABASE_SECRET_KEY" not in env
    assert "LLM_MODEL" not in env
    assert env["SUPABASE_URL"] == url


def test_own_settings_and_model_stay_beside_the_project_that_runs(env_dev: Path) -> None:
    (env_dev / ".env").write_text("LLM_BASE_URL=http://mine\nBRIDGE_FUNCTIONS=Chat\nSUPABASE_SECRET_KEY=of_another\n")
    env = settings.environment(env_dev, beside_dev=True)
    assert (env["LLM_BASE_URL"], env["BRIDGE_FUNCTIONS"]) == ("http://mine", "Chat")
    assert "LLM_MODEL" not in env
    assert env["SUPABASE_SECRET_KEY"] == "a'b${HOME}"  # the project and its key go together


def test_file_that_was_left_behind_is_ignored(env_dev: Path) -> None:
    left = env_dev / "left"
    left.mkdir()
    (left / ".env.dev").write_bytes((env_dev / ".env.dev").read_bytes())
    assert "SUPABASE_URL" not in settings.environment(left, beside_dev=True)
