"""The project's Storage: the objects of its private bucket `attachments`, through supabase-py.

Every call is safe to repeat, and ends in time.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError
from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from bridge.rest import CALL_SECONDS, refusal, repeated, unexpected

log = logging.getLogger(__name__)

BUCKET = "attachments"
TRANSFER_SECONDS = 60.0  # of all bytes of an object: it has up to 10 MiB
FEW_BYTES = 1024  # they come in the time of any other call
PAGE = 100  # objects that are listed at once

Answer = TypeVar("Answer")


class Storage:
    """The objects of the bucket. Each call raises StoreError."""

    def __init__(self, client: AsyncClient, http: httpx.AsyncClient) -> None:
        self._bucket = client.storage.from_(BUCKET)
        self._http = http

    async def sign(self, paths: Sequence[str], seconds: int) -> Mapping[str, str]:
        """URLs, valid for so many seconds, under which anyone can read these objects. Those that are gone have none."""

        async def urls() -> Mapping[str, str]:
            rows = await self._bucket.create_signed_urls(list(paths), seconds)
            return {row["path"]: row["signedURL"] for row in rows if row["path"] and row["signedURL"]}

        return await _call("storage.sign", urls)

    async def fetch(self, url: str, most: int) -> bytes | None:
        """The first bytes of an object under a signed URL: all, if there are at most so many. None if it is gone."""
        # by a range, and by stopping early, as a proxy may ignore that
        headers = {"range": f"bytes=0-{most - 1}", "accept-encoding": "identity"}

        async def fetch() -> bytes | None:
            found = bytearray()
            async with self._http.stream("GET", url, headers=headers) as response:
                if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is empty
                    return b""
                if not response.is_success:
                    await response.aread()
                    return _read_error(response)
                async for chunk in response.aiter_bytes():
                    found += chunk
                    if len(found) >= most:
                        break
            del found[most:]
            return bytes(found)

        return await repeated("storage.fetch", fetch, TRANSFER_SECONDS if most > FEW_BYTES else CALL_SECONDS)

    async def upload(self, path: str, data: bytes, kind: str) -> None:
        """Store an object, in place of one that has the path already."""
        options: Any = {"content-type": kind, "upsert": "true"}
        await _call("storage.upload", lambda: self._bucket.upload(path, data, options), TRANSFER_SECONDS)

    async def list(self, folder: str) -> Sequence[str]:
        """The paths of some objects in a folder."""

        async def names() -> Sequence[str]:
            rows = await self._bucket.list(folder, {"limit": PAGE})
            return [f"{folder}/{row['name']}" for row in rows if row.get("id")]

        return await _call("storage.list", names)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove objects, as far as they are there."""
        await _call("storage.remove", lambda: self._bucket.remove(list(paths)))


async def _call(name: str, request: Callable[[], Awaitable[Answer]], seconds: float = CALL_SECONDS) -> Answer:
    async def attempt() -> Answer:
        try:
            return await request()
        except StorageApiError as error:
            status = _status(error.status)
            raise refusal(name, None, f"{error.message} ({error.code})", status) from error
        except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise unexpected(name) from error

    return await repeated(name, attempt, seconds)


def _read_error(response: httpx.Response) -> bytes | None:
    """None if the object is gone. Most errors come as HTTP 400, with the status in the body; a gateway's have none."""
    try:
        body = response.json()
        status, message = _status(body["statusCode"]), str(body.get("message"))
    except (ValueError, KeyError, TypeError):
        raise refusal("storage.fetch", None, response.reason_phrase, response.status_code) from None
    if status == httpx.codes.NOT_FOUND:
        return None
    raise refusal("storage.fetch", None, message, status)


def _status(status: int | str) -> int:
    return int(status) if str(status).isdigit() else 400
