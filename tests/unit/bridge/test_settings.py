from __future__ import annotations

import traceback
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


def test_traceback_of_wrong_key_does_not_show_it() -> None:
    key = "plugh"
    with pytest.raises(SettingsError) as error:
        settings.load({"SUPABASE_SECRET_KEY": f"sb_publishable_{key}", "BRIDGE_HISTORY": "many"})
    assert f"publishable_{key}" not in "".join(traceback.format_exception(error.value))
