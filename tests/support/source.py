"""Facts read from the code: the settings it declares, which of them are required, its paths and commands."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import AliasChoices

from bridge import cli, health, settings
from bridge.errors import SettingsError
from bridge.settings import Settings
from tests.support import ROOT

PROJECT_ENV = {"SUPABASE_URL": "https://abcd.supabase.co", "SUPABASE_SECRET_KEY": "sb_secret_x"}
DEFAULTS = settings.load(PROJECT_ENV)
# each setting as it is declared, by its variable: `default`, `minimum`, `maximum`, `enum`
DECLARED: dict[str, dict[str, Any]] = Settings.model_json_schema()["properties"]


def _variables() -> frozenset[str]:
    names: set[str] = set()
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        names |= {str(name) for name in (alias.choices if isinstance(alias, AliasChoices) else [alias])}
    return frozenset(names)


# every variable that `bridge/settings.py` reads
READ = _variables()
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
    """The variables without which `bridge run` does not start, found by following its error messages."""
    env: dict[str, str] = {}
    for _ in READ:
        try:
            settings.load(env)
        except SettingsError as error:
            name = error.problem.split()[0]
            env[name] = PROJECT_ENV[name]
    settings.load(env)  # now it must
    return frozenset(env) | MODEL


def loaded(env: Mapping[str, str]) -> Settings:
    """The settings that result from a host's variables and dummy credentials. Raises SettingsError."""
    assert set(env) <= READ | MODEL, f"nothing reads {sorted(set(env) - READ - MODEL)}"
    return settings.load({**PROJECT_ENV, **env})


def is_command(words: str) -> bool:
    """Whether `bridge` has this command."""
    with pytest.raises(SystemExit) as ended:
        cli.parse([*shlex.split(words), "--help"])
    return ended.value.code == 0
