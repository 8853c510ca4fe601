"""Buckets and requests for the tests of Storage."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import httpx

from devstack.stack import Stack


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, and a client of the devstack that has no key of its own."""

    name: str
    http: httpx.AsyncClient

    def url(self, key: str, kind: str = "") -> str:
        """The path of an object."""
        return f"/storage/v1/object/{kind}{self.name}/{key}"

    async def put(self, key: str, body: bytes, headers: dict[str, str], **more: str) -> httpx.Response:
        """Upload as the body; `more` are headers, with `_` for `-`."""
        own = {"Content-Type": "text/plain"} | {name.replace("_", "-"): value for name, value in more.items()}
        return await self.http.post(self.url(key), content=body, headers={**headers, **own})

    async def get(self, key: str, headers: dict[str, str]) -> httpx.Response:
        """Download."""
        return await self.http.get(self.url(key), headers=headers)

    async def names(self, headers: dict[str, str]) -> list[str]:
        """The names of all objects that the caller sees."""
        response = await self.http.post(f"/storage/v1/object/list-v2/{self.name}", headers=headers, json={})
        return [row["name"] for row in response.json()["objects"]]


async def make_bucket(http: httpx.AsyncClient, service: dict[str, str], **values: object) -> Bucket:
    """Create a bucket in which users own a folder."""
    name = f"own-{uuid.uuid4()}"
    response = await http.post("/storage/v1/bucket", headers=service, json={"name": name, **values})
    assert response.status_code == 200, response.text
    return Bucket(name, http)


def refusal(response: httpx.Response) -> tuple[int, str, str, str, str]:
    """The status of a refusal, and its body."""
    body = response.json()
    assert set(body) == {"statusCode", "error", "message", "code"}, body
    return response.status_code, body["statusCode"], body["error"], body["code"], body["message"]


def stored(stack: Stack) -> set[str]:
    """The names of the files with the bytes of objects."""
    return {path.name for path in stack.storage.folder.iterdir()}
