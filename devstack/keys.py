"""The secrets of a data folder: generated on first start and stored in a file only its owner can read."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from devstack import DevstackError


@dataclass(frozen=True, slots=True)
class Keys:
    """API keys in the hosted format, the JWT secret, and a password for each login role."""

    publishable_key: str
    secret_key: str
    jwt_secret: str
    supabase_admin: str
    supabase_auth_admin: str
    authenticator: str
    postgres: str

    @property
    def passwords(self) -> dict[str, str]:
        """Passwords by login role."""
        return {
            role: getattr(self, role) for role in ("supabase_admin", "supabase_auth_admin", "authenticator", "postgres")
        }


def load(file: Path) -> Keys:
    """Read the keys, or generate them if the file does not exist. Raises `DevstackError` if it is damaged."""
    try:
        values = json.loads(file.read_text())
        return Keys(**{field.name: str(values[field.name]) for field in fields(Keys)})
    except FileNotFoundError:
        return _make(file)
    except (ValueError, KeyError, TypeError) as error:
        raise DevstackError(f"{file} is damaged: delete the folder {file.parent} to start over") from error


def _make(file: Path) -> Keys:
    keys = Keys(
        publishable_key=f"sb_publishable_{secrets.token_urlsafe(24)}",
        secret_key=f"sb_secret_{secrets.token_urlsafe(24)}",
        jwt_secret=secrets.token_urlsafe(48),
        supabase_admin=secrets.token_hex(16),
        supabase_auth_admin=secrets.token_hex(16),
        authenticator=secrets.token_hex(16),
        postgres=secrets.token_hex(16),
    )
    # Written to a draft and renamed, so that a killed start leaves no partial file.
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(asdict(keys), out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
    return keys
