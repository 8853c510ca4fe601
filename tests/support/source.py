"""What the code says of itself: the settings it reads, what it cannot do without, its paths and commands."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping

import pytest

from bridge import cli, health, settings
from bridge.errors import SettingsError
from bridge.settings import Settings
from tests.support import ROOT

# every variable that `bridge/settings.py` reads
READ = frozenset(re.findall(r'"((?:BRIDGE|SUPABASE)_[A-Z_]+)"', inspect.getsource(settings)))
# what the client `Model` reads
MODEL = frozenset(re.findall(r"^[^/\n]*env\.(\w+)", (ROOT / "baml_src" / "clients.baml").read_text(), re.MULTILINE))
# what `web/` is built with
PAGE = frozenset(
    name
    for folder in (ROOT / "web", ROOT / "web" / "src")
    for file in sorted(folder.glob("*.ts"))
    for name in re.findall(r'\["(VITE_\w+)"\]', file.read_text())
)
PATHS = frozenset(re.findall(r'web\.get\("(/\w+)"', inspect.getsource(health)))


def required() -> frozenset[str]:
    """The variables without which `bridge run` does not start, as its own messages name them one by one."""
    env: dict[str, str] = {}
    for _ in READ:
        try:
            settings.load(env)
        except SettingsError as error:
            name = str(error).split()[0]
            env[name] = "https://abcd.supabase.co" if name.endswith("_URL") else "sb_secret_x"
    settings.load(env)  # now it must
    return frozenset(env) | MODEL


def loaded(env: Mapping[str, str]) -> Settings:
    """The settings that a host's variables make, with what is secret filled in. Raises SettingsError."""
    assert set(env) <= READ | MODEL, f"nothing reads {sorted(set(env) - READ - MODEL)}"
    return settings.load({"SUPABASE_URL": "https://abcd.supabase.co", "SUPABASE_SECRET_KEY": "sb_secret_x", **env})


def is_command(words: str) -> bool:
    """Whether `bridge` knows this command."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*shlex.split(words), "--help"])
    return ended.value.code == 0
