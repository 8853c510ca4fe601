"""Whatever an object's name is, it comes back byte for byte or is refused, and every file stays in its folder."""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import quote

import aiohttp
import hypothesis.strategies as st
from hypothesis import HealthCheck, example, given, settings
from yarl import URL

from devstack.stack import Stack
from tests.integration.devstack.storage import stored

VALID = re.compile(r"[A-Za-z0-9_/!.*'() &$=@;:+,?-]+")

segments = st.one_of(
    st.text("abYZ09_!.*'() &$=@;:+,?-", max_size=12),
    st.sampled_from(
        ["..", ".", "", "%", "%2e%2e", "%00", "\0", "\n", "~", "#", "\\", "é", "con", "x" * 300, "a" * 1025]
    ),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
keys = st.lists(segments, min_size=1, max_size=5).map("/".join).filter(bool)
# A client may escape everything, or only what it must.
spellings = st.sampled_from(["/", "", "/!*'()&$=@;:+,", "/~"])


def is_valid(key: str) -> bool:
    return bool(VALID.fullmatch(key)) and len(key) <= 1024 and {".", ".."}.isdisjoint(key.split("/"))


def outside(stack: Stack) -> set[str]:
    """What is beside the folder with the bytes."""
    places = (stack.data_dir, stack.data_dir.parent, stack.storage.folder.parent.parent.parent)
    return {str(path) for place in places for path in place.iterdir()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(key=keys, safe=spellings, content=st.binary(max_size=20))
@example(key="../../../../tmp/x", safe="/", content=b"x")
@example(key="..", safe="", content=b"x")
@example(key="/etc/passwd", safe="", content=b"x")
@example(key="a//b/", safe="/", content=b"x")
@example(key="a b?c", safe="/", content=b"x")
@example(key="x\n", safe="/", content=b"x")
async def test_key_round_trips_or_is_refused(
    embedded: Stack, service: dict[str, str], key: str, safe: str, content: bytes
) -> None:
    bucket, before, beside = f"keys-{uuid.uuid4()}", stored(embedded), outside(embedded)
    base = f"{embedded.gateway.url}/storage/v1"
    path = f"{bucket}/{quote(key, safe=safe)}"

    async with aiohttp.ClientSession(headers=service) as session:

        async def ask(method: str, path: str, **more: Any) -> tuple[int, bytes]:
            async with session.request(method, URL(f"{base}{path}", encoded=True), **more) as answer:
                return answer.status, await answer.read()

        async def ask_json(method: str, path: str, **more: Any) -> Any:
            async with session.request(method, URL(f"{base}{path}", encoded=True), **more) as answer:
                return await answer.json()

        assert (await ask("POST", "/bucket", json={"name": bucket}))[0] == 200
        sent = await ask_json("POST", f"/object/{path}", data=content)
        if not is_valid(key):
            assert (sent["code"], sent["message"]) == ("InvalidKey", f"Invalid key: {key}")
            assert (await ask_json("GET", f"/object/{path}"))["code"] == "InvalidKey"
            assert stored(embedded) == before
        else:
            assert sent["Key"] == f"{bucket}/{key}"
            assert await ask("GET", f"/object/{path}") == (200, content)
            assert (await ask_json("GET", f"/object/info/{path}"))["name"] == key
            url = (await ask_json("POST", f"/object/sign/{path}", json={"expiresIn": 9}))["signedURL"]
            assert await ask("GET", str(URL(url).with_query(None)) + "?" + url.rpartition("?")[2]) == (200, content)
            seen = await ask_json("POST", f"/object/list-v2/{bucket}", json={})
            assert [row["name"] for row in seen["objects"]] == [key]
            assert len(stored(embedded)) == len(before) + 1
            gone = await ask_json("DELETE", f"/object/{bucket}", json={"prefixes": [key]})
            assert [row["name"] for row in gone] == [key]
        for name in stored(embedded):
            assert str(uuid.UUID(name)) == name
        assert stored(embedded) == before
        assert outside(embedded) == beside
        assert (await ask("DELETE", f"/bucket/{bucket}"))[0] == 200
