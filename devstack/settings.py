"""What `make dev` is set to use: another Supabase project, another model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dotenv import dotenv_values

from devstack import DevstackError, clients

HOSTED_NAMES = (
    "SUPABASE_URL",
    "SUPABASE_PUBLISHABLE_KEY",
    "SUPABASE_ANON_KEY",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
)
# what commands beside a run need to know of it, besides the model's variables
_SHARED = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "BRIDGE_FUNCTIONS", "BRIDGE_HANDLERS")


class SettingError(DevstackError):
    """A variable is missing. The message names it and says how to fix it."""


def settings(file: Path) -> dict[str, str]:
    """Return the variables of a file, overridden by the environment; empty ones count as unset.

    Raises `SettingError` if the file is not text.
    """
    try:
        filed = {name: value for name, value in dotenv_values(file).items() if value}
    except (OSError, ValueError) as error:
        raise SettingError(f"{file.name} cannot be read ({error}): save it as plain text in UTF-8") from error
    return filed | {name: value for name, value in os.environ.items() if value}


def hosted(env: Mapping[str, str]) -> dict[str, str] | None:
    """Return the URL and keys of the configured Supabase project, or None if there is none.

    Raises `SettingError` if a key is missing.
    """
    if "SUPABASE_URL" not in env:
        return None
    found = {"SUPABASE_URL": env["SUPABASE_URL"]}
    for name, legacy in (
        ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"),
        ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
    ):
        key = env.get(name) or env.get(legacy)
        if key is None:
            raise SettingError(
                f"SUPABASE_URL is set but {name} is not: set it to the key of that project, "
                "or unset SUPABASE_URL to use the embedded Supabase"
            )
        found[name] = key
    return found


def model(env: Mapping[str, str], names: Sequence[str] = clients.NAMES) -> dict[str, str] | None:
    """Return the variables of the configured model, or None if none of `names` are set.

    Raises `SettingError` if only some are set.
    """
    if not any(name in env for name in names):
        return None
    for name in names:
        if name not in env:
            raise SettingError(f"{name} is not set: set all of {', '.join(names)}, or none to use the demo model")
    return {name: env[name] for name in names}


def shared(env: Mapping[str, str], baml: Mapping[str, bytes]) -> dict[str, str]:
    """Return the variables of a worker that commands beside it need, and no other secret of this environment."""
    names = dict.fromkeys((*_SHARED, *clients.NAMES, *clients.variables(baml)))
    return {name: env[name] for name in names if name in env}
