"""What the worker makes of Storage's answers to a read, and of those of whatever stands in front of it."""

from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from bridge.errors import StoreRefused, StoreUnavailable
from bridge.storage import Storage


async def fetched(response: httpx.Response) -> bytes | None:
    client: Any = SimpleNamespace(storage=SimpleNamespace(from_=lambda bucket: None))
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response)) as http:
        return await Storage(client, http).fetch("https://example.com/a", 4)


@pytest.mark.parametrize("status", [400, 404])
async def test_object_is_gone_only_if_storage_says_so(status: int) -> None:
    said = {"statusCode": "404", "error": "not_found", "message": "Object not found"}
    assert await fetched(httpx.Response(status, json=said)) is None


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(404, json={"message": "no Route matched with those values"}),
        httpx.Response(404, text="<h1>Not found</h1>"),
        httpx.Response(404, json=["x"]),
        httpx.Response(302, headers={"location": "https://example.com/sign-in"}, text="<a>Found</a>"),
    ],
    ids=["gateway", "page", "list", "redirect"],
)
async def test_answer_of_a_gateway_is_no_object_and_no_sign_that_it_is_gone(response: httpx.Response) -> None:
    with pytest.raises(StoreRefused, match=f"HTTP {response.status_code}"):
        await fetched(response)


async def test_as_much_is_read_as_was_asked_for() -> None:
    assert await fetched(httpx.Response(200, content=b"123456")) == b"1234"
    assert await fetched(httpx.Response(416)) == b""


@pytest.mark.parametrize("rows", [{"message": "x"}, ["x"], [None], None], ids=["object", "texts", "nulls", "null"])
async def test_list_in_another_form_is_an_answer_to_ask_for_again(rows: Any) -> None:
    async def listed(folder: str, options: object) -> Any:
        return rows

    client: Any = SimpleNamespace(storage=SimpleNamespace(from_=lambda bucket: SimpleNamespace(list=listed)))
    async with httpx.AsyncClient() as http:
        with pytest.raises(StoreUnavailable):
            await Storage(client, http).list("a")
