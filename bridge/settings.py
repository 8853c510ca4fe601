"""The environment (and `.env`) as one frozen value. Every setting is read here and nowhere else.

What the clients in `baml_src/` read (`LLM_BASE_URL`, `LLM_API_KEY`, `LLM_MODEL`, or a provider's own) is not a setting
of the bridge: `functions.py` sees that it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values

from bridge.errors import SettingsError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """What the worker runs with. Times are in seconds unless the name says otherwise."""

    supabase_url: str
    supabase_key: str = field(repr=False)
    functions: tuple[str, ...] = ("Chat", "Code", "Title")
    handlers: str | None = None
    concurrency: int = 32
    lease_seconds: int = 30
    max_failures: int = 5
    first_token_seconds: float = 60
    idle_seconds: float = 30
    total_seconds: float = 600
    history: int = 100
    delta_ms: int = 50
    events_per_second: float = 80
    checkpoint_seconds: float = 1
    sweep_seconds: float = 10
    drain_seconds: float = 90
    health_host: str = "0.0.0.0"
    health_port: int = 8080
    log_format: str = "json"
    log_level: str = "INFO"

    @property
    def realtime_url(self) -> str:
        """Where Realtime listens, as `realtime` wants it: it adds `/websocket` itself."""
        return f"{self.supabase_url}/realtime/v1"


def environment(directory: Path | None = None) -> dict[str, str]:
    """The process environment over the `.env` file of `directory` (the current one by default).

    The file's values are put into `os.environ` as well, where the BAML clients look for `LLM_*`.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        for name, value in dotenv_values((directory or Path.cwd()) / ".env").items():
            if value is not None:
                os.environ.setdefault(name, value)
    except (OSError, ValueError) as error:
        raise SettingsError(f"The file .env cannot be read ({error}). Save it as plain text in UTF-8.") from error
    return dict(os.environ)


def load(env: Mapping[str, str]) -> Settings:
    """Read the settings from `env`.

    Raises:
        SettingsError: one line that names the first missing or wrong setting, and the remedy.
    """
    url = _url(_required(env, "SUPABASE_URL", "Set it to your project's URL, like https://abcd.supabase.co."))
    key = (env.get("SUPABASE_SECRET_KEY") or env.get("SUPABASE_SERVICE_ROLE_KEY") or "").strip()
    if not key:
        raise SettingsError(
            "SUPABASE_SECRET_KEY is not set. Copy a secret key (sb_secret_…) from the project's API keys."
        )
    if not key.isascii() or len(key.split()) > 1:
        raise SettingsError("SUPABASE_SECRET_KEY holds what no key has in it. Copy the whole secret key (sb_secret_…).")
    if key.startswith("sb_publishable_"):
        raise SettingsError("SUPABASE_SECRET_KEY holds a publishable key. The worker needs a secret key (sb_secret_…).")
    names = tuple(name.strip() for name in env.get("BRIDGE_FUNCTIONS", "").split(",") if name.strip())
    return Settings(
        supabase_url=url,
        supabase_key=key,
        functions=names or Settings.functions,
        handlers=env.get("BRIDGE_HANDLERS", "").strip() or None,
        concurrency=_number(env, "BRIDGE_CONCURRENCY", int, Settings.concurrency, 1, 1000),
        lease_seconds=_number(env, "BRIDGE_LEASE_SECONDS", int, Settings.lease_seconds, 2, 3600),
        max_failures=_number(env, "BRIDGE_MAX_FAILURES", int, Settings.max_failures, 1, 100),
        first_token_seconds=_number(env, "BRIDGE_FIRST_TOKEN_SECONDS", float, Settings.first_token_seconds, 0.1, 3600),
        idle_seconds=_number(env, "BRIDGE_IDLE_SECONDS", float, Settings.idle_seconds, 0.1, 3600),
        total_seconds=_number(env, "BRIDGE_TOTAL_SECONDS", float, Settings.total_seconds, 1, 86400),
        history=_number(env, "BRIDGE_HISTORY", int, Settings.history, 0, 1000),
        delta_ms=_number(env, "BRIDGE_DELTA_MS", int, Settings.delta_ms, 0, 10_000),
        events_per_second=_number(env, "BRIDGE_EVENTS_PER_SECOND", float, Settings.events_per_second, 2, 1_000_000),
        checkpoint_seconds=_number(env, "BRIDGE_CHECKPOINT_SECONDS", float, Settings.checkpoint_seconds, 0.1, 60),
        sweep_seconds=_number(env, "BRIDGE_SWEEP_SECONDS", float, Settings.sweep_seconds, 0.5, 300),
        drain_seconds=_number(env, "BRIDGE_DRAIN_SECONDS", float, Settings.drain_seconds, 0, 3600),
        health_host=env.get("BRIDGE_HEALTH_HOST", "").strip() or Settings.health_host,
        health_port=_number(env, "BRIDGE_HEALTH_PORT", int, Settings.health_port, 0, 65535),
        log_format=_choice(env, "BRIDGE_LOG_FORMAT", Settings.log_format, ("json", "console")),
        log_level=_choice(
            env, "BRIDGE_LOG_LEVEL", Settings.log_level, ("DEBUG", "INFO", "WARNING", "ERROR"), str.upper
        ),
    )


def _required(env: Mapping[str, str], name: str, remedy: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise SettingsError(f"{name} is not set. {remedy}")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  reading it is what checks it
    except ValueError as error:
        raise SettingsError(
            f"SUPABASE_URL is {value!r} ({error}). It must look like https://abcd.supabase.co."
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise SettingsError(f"SUPABASE_URL is {value!r}. It must look like https://abcd.supabase.co.")
    if parts.path.strip("/"):
        raise SettingsError(f"SUPABASE_URL is {value!r}. Leave the path {parts.path!r} out.")
    return f"{parts.scheme}://{parts.netloc}"


def _number(
    env: Mapping[str, str], name: str, kind: Callable[[Any], Value], default: Value, low: float, high: float
) -> Value:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = kind(text)
        fits = low <= value <= high  # type: ignore[operator]  # int or float, which mypy cannot tell here
    except ValueError:
        fits = False
    if not fits:
        raise SettingsError(f"{name} is {text!r}. It must be a number from {low:,.10g} to {high:,.10g}.")
    return value


def _choice(
    env: Mapping[str, str],
    name: str,
    default: str,
    choices: tuple[str, ...],
    normal: Callable[[str], str] = str.lower,
) -> str:
    value = normal(env.get(name, "").strip()) or default
    if value not in choices:
        raise SettingsError(f"{name} is {value!r}. It must be one of {', '.join(choices)}.")
    return value
