from __future__ import annotations

from pathlib import Path

import pytest

from bridge import settings
from bridge.errors import SettingsError
from bridge.settings import Settings

GOOD = {
    "SUPABASE_URL": "https://abcd.supabase.co/",
    "SUPABASE_SECRET_KEY": "sb_secret_x",
}


def test_defaults() -> None:
    chosen = settings.load(GOOD)
    assert chosen == Settings("https://abcd.supabase.co", "sb_secret_x")
    assert chosen.realtime_url == "https://abcd.supabase.co/realtime/v1"
    assert "sb_secret_x" not in repr(chosen)


def test_the_legacy_key_is_taken() -> None:
    env = GOOD | {"SUPABASE_SECRET_KEY": "", "SUPABASE_SERVICE_ROLE_KEY": "eyJ.x.y"}
    assert settings.load(env).supabase_key == "eyJ.x.y"


@pytest.mark.parametrize(
    ("name", "value", "says"),
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
        ("BRIDGE_CONCURRENCY", "many", "must be a number from 1 to 1,000"),
        ("BRIDGE_CONCURRENCY", "0", "must be a number from 1 to 1,000"),
        ("BRIDGE_LEASE_SECONDS", "1", "must be a number from 2"),
        ("BRIDGE_IDLE_SECONDS", "nan", "must be a number"),
        ("BRIDGE_LOG_FORMAT", "xml", "must be one of json, console"),
        ("BRIDGE_LOG_LEVEL", "loud", "must be one of DEBUG"),
    ],
)
def test_a_bad_one_is_named_in_one_line(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings.load(GOOD | {name: value})
    text = str(error.value)
    assert text.startswith(name)
    assert says in text
    assert "\n" not in text


def test_a_dotenv_that_is_no_text_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BRIDGE_HISTORY=7\n", encoding="utf-16")  # as PowerShell writes it
    with pytest.raises(SettingsError, match=r"The file \.env cannot be read .* UTF-8"):
        settings.environment(tmp_path)


def test_dotenv_yields_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("BRIDGE_HISTORY=7\nBRIDGE_DELTA_MS=9\n")
    monkeypatch.setenv("BRIDGE_DELTA_MS", "5")
    monkeypatch.setenv("BRIDGE_HISTORY", "")
    monkeypatch.delenv("BRIDGE_HISTORY")
    env = settings.environment(tmp_path)
    assert (env["BRIDGE_HISTORY"], env["BRIDGE_DELTA_MS"]) == ("7", "5")
    monkeypatch.delenv("BRIDGE_HISTORY")
