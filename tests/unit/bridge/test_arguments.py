"""Arguments are bound by name, checked against the function's types, and defused."""

from enum import StrEnum
from typing import Any, Literal

import pytest
from baml_py import Image
from pydantic import BaseModel

from bridge.baml.arguments import bind_arguments, read_parameters
from bridge.baml.delimiters import BREAK, DELIMITERS
from bridge.errors import BadRequest, SetupError
from bridge.model import CodeFile, Message, Session, Turn


class Entry(BaseModel):
    role: Literal["user", "assistant"]
    content: str


class File(BaseModel):
    path: str
    content: str
    revision: int


class About(BaseModel):
    id: str
    metadata: dict[str, Any]


class Other(BaseModel):
    author: str


class Mood(StrEnum):
    CALM = "Calm"
    LOUD = "Loud"


class Picture(BaseModel):
    caption: str
    image: Image


def turn(**data: Any) -> Turn:
    return Turn(
        function="F",
        message="the question",
        messages=(Message("user", "earlier"), Message("assistant", "then")),
        files=(CodeFile("a.py", "x = 1", "python", 3),),
        session=Session("s1", "u1", None, "F", {"plan": "pro"}),
        user_id="u1",
        data=data,
    )


def given(function: Any, **data: Any) -> dict[str, Any]:
    return bind_arguments(read_parameters(function), turn(**data))


def refused(function: Any, **data: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        given(function, **data)
    assert caught.value.code == "bad_arguments"
    return caught.value.message


def test_turn_fills_its_five_parameters() -> None:
    async def f(
        self: Any,
        messages: list[Entry],
        message: str,
        files: list[File],
        session: About,
        user_id: str,
        baml_options: dict[str, Any] | None = None,
    ) -> None: ...

    assert given(f) == {
        "messages": [Entry(role="user", content="earlier"), Entry(role="assistant", content="then")],
        "message": "the question",
        "files": [File(path="a.py", content="x = 1", revision=3)],
        "session": About(id="s1", metadata={"plan": "pro"}),
        "user_id": "u1",
    }


def test_data_fills_declared_parameters_only() -> None:
    async def f(topic: str, count: int, mood: Mood, style: str | None = None) -> None: ...

    assert given(f, topic="x", count=3, mood="Loud", unknown=1) == {"topic": "x", "count": 3, "mood": Mood.LOUD}


def test_data_cannot_override_the_turn() -> None:
    async def f(message: str, user_id: str) -> None: ...

    assert given(f, message="other", user_id="other") == {"message": "the question", "user_id": "u1"}


def test_missing_argument_is_named() -> None:
    async def f(topic: str) -> None: ...

    assert refused(f) == "The argument `topic` is missing. Add it to the message's `data`."


def test_invalid_argument_is_named_without_its_value() -> None:
    async def f(pages: list[int]) -> None: ...

    message = refused(f, pages=[1, "secret"])
    assert message.startswith("The argument `pages` is invalid: at 1, input should be a valid integer")
    assert "secret" not in message
    assert "list" in refused(f, pages="no list")


def test_strings_in_classes_and_keys_are_defused() -> None:
    async def f(
        messages: list[Entry], message: str, files: list[File], session: About, notes: dict[str, str]
    ) -> None: ...

    role, media = DELIMITERS
    bound = bind_arguments(
        read_parameters(f),
        Turn(
            function="F",
            message=role,
            messages=(Message("assistant", media),),
            files=(CodeFile(role, media),),
            session=Session("s", "u", None, "F", {role: [media]}),
            user_id="u",
            data={"notes": {media: role}},
        ),
    )
    assert role not in str(bound)
    assert media not in str(bound)
    assert str(bound).count(BREAK.encode("unicode_escape").decode()) + str(bound).count(BREAK) == 8


def test_media_by_url_is_refused() -> None:
    async def f(picture: Picture, more: list[Image] | None = None) -> None: ...

    content = {"base64": "aGk=", "media_type": "image/png"}
    assert given(f, picture={"caption": "c", "image": content})["picture"].image.is_url() is False
    for data in (
        {"picture": {"caption": "c", "image": {"url": "http://169.254.169.254/"}}},
        {"picture": {"caption": "c", "image": content}, "more": [{"url": "http://169.254.169.254/"}]},
    ):
        assert "base64" in refused(f, **data)


def test_parameter_with_a_wrong_type_is_a_setup_error() -> None:
    async def by_class(messages: list[Other]) -> None: ...
    async def by_text(files: str) -> None: ...

    for function, name in ((by_class, "messages"), (by_text, "files")):
        with pytest.raises(SetupError, match=f"The parameter `{name}` of the BAML function") as caught:
            read_parameters(function)
        assert "\n" not in str(caught.value)
