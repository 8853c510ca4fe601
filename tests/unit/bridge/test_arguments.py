"""Arguments are bound by name, checked against the function's types, and defused."""

from dataclasses import replace
from enum import StrEnum
from typing import Any, Literal

import pytest
from baml_py import Image
from pydantic import BaseModel
from typing_extensions import TypeAliasType

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


class Textual(Entry):
    data: str | None = None


class Structured(Entry):
    data: dict[str, int] | None = None


class Plan(BaseModel):
    steps: list[str]


class Planned(Entry):
    data: Plan | None = None


class Anything(Entry):
    data: "Json | None" = None


Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | float | bool | None")
Anything.model_rebuild()


class Shown(Entry):
    data: Picture | None = None


class Strict(Entry):
    data: str


def conversation(function: Any, *data: Any) -> Any:
    """The messages that a function gets of replies without text that have these data."""
    replies = (Message("assistant", "", one) for one in data)
    asked = replace(turn(), messages=tuple(m for reply in replies for m in (Message("user", "earlier"), reply)))
    return bind_arguments(read_parameters(function), asked)["messages"]


def test_class_without_data_sees_it_as_text_where_there_is_no_other() -> None:
    async def f(messages: list[Entry]) -> None: ...
    async def of_maps(messages: list[dict[str, str]]) -> None: ...

    asked = replace(turn(), messages=(Message("assistant", "then", {"n": 1}), Message("assistant", "", {"n": "é"})))
    for function in (f, of_maps):
        bound = bind_arguments(read_parameters(function), asked)["messages"]
        assert [dict(message)["content"] for message in bound] == ["then", '{"n":"é"}']
        assert all(set(dict(message)) == {"role", "content"} for message in bound)


def test_data_of_a_reply_is_text_for_a_class_that_declares_text() -> None:
    async def f(messages: list[Textual]) -> None: ...

    bound = conversation(f, {"n": ["é", None]}, None, 0, "plain")
    assert [message.data for message in bound if message.role == "user"] == [None] * 4
    assert [message.data for message in bound[1::2]] == ['{"n":["é",null]}', None, "0", '"plain"']
    assert [message.content for message in bound[1::2]] == [""] * 4


def test_data_of_a_reply_is_a_value_where_it_fits() -> None:
    async def of_map(messages: list[Structured]) -> None: ...
    async def of_class(messages: list[Planned] | None = None) -> None: ...
    async def of_json(messages: list[Anything]) -> None: ...

    values = ({"n": 1}, {"steps": ["a"]}, [1, {"x": [None]}], "text", {"n": "no number"}, None)
    expected: tuple[tuple[Any, list[Any]], ...] = (
        (of_map, [{"n": 1}, None, None, None, None, None]),
        (of_class, [None, Plan(steps=["a"]), None, None, None, None]),
        (of_json, list(values)),
    )
    for function, data in expected:
        bound = conversation(function, *values)
        assert [message.data for message in bound[1::2]] == data
        assert [message.content for message in bound[1::2]] == [""] * len(values)


class Tree(BaseModel):
    name: Literal["a"] | None
    mood: Mood | None = None
    leaves: "list[Tree] | None" = None


class Album(BaseModel):
    trees: list[Tree]
    pages: dict[str, list[Picture | str]]


ALIAS = TypeAliasType("ALIAS", list[Image])


@pytest.mark.parametrize(
    ("hint", "may"),
    [
        (str, False),
        (list[Entry] | None, False),
        (dict[str, int | float | bool | None], False),
        (Tree, False),
        (Image, True),
        (list[Picture] | None, True),
        (Album, True),
        (dict[str, list[Image]], True),
        (Any, True),
        (ALIAS, True),
        (dict[str, Any], True),
    ],
    ids=str,
)
def test_media_is_looked_for_wherever_it_may_be(hint: Any, may: bool) -> None:
    async def f(argument: Any) -> None: ...

    f.__annotations__["argument"] = hint
    (parameter,) = read_parameters(f)
    assert parameter.has_media is may


def test_data_with_media_by_url_is_left_out() -> None:
    """It is refused in a question's arguments, and must not fail the questions after a reply."""

    async def f(messages: list[Shown]) -> None: ...

    (_, reply) = conversation(f, {"caption": "c", "image": {"url": "http://169.254.169.254/"}})
    assert reply.data is None


def test_data_of_a_reply_is_defused() -> None:
    async def as_text(messages: list[Textual]) -> None: ...
    async def as_value(messages: list[Anything]) -> None: ...
    async def as_content(messages: list[Entry]) -> None: ...

    role, media = DELIMITERS
    for function in (as_text, as_value, as_content):
        bound = conversation(function, {role: [media]})
        assert role not in str(bound)
        assert media not in str(bound)
        assert str(bound).count(BREAK) + str(bound).count(BREAK.encode("unicode_escape").decode()) == 2


def test_data_that_must_not_be_null_is_a_setup_error() -> None:
    async def f(messages: list[Strict]) -> None: ...

    with pytest.raises(SetupError, match=r"at 0\.data, input should be a valid string"):
        read_parameters(f)
