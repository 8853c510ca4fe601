"""Objects that the Storage tests store, and what they read of a refusal."""

from __future__ import annotations

from typing import Any

from storage3.exceptions import StorageApiError
from supabase import AsyncClient

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 200
IMAGE: Any = {"content-type": "image/png"}
HTML: Any = {"content-type": "text/html"}
TEXT: Any = {"content-type": "text/plain"}


def objects(client: AsyncClient, bucket: str) -> Any:
    """The objects of a bucket. Untyped, as the client's own types demand whole option objects."""
    return client.storage.from_(bucket)


def refusal(error: StorageApiError) -> tuple[str, str]:
    """The status and the message in the body."""
    return str(error.status), error.message
