"""A request as the demo model reads it: the conversation, the question, and the form that the answer must have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from .json_schema import read_json_schema
from .media import Media, read_media
from .output_format import read_output_format
from .shapes import Array, Record, Scalar, Shape, Wanted

# What the model is asked for: the functions of baml_src, anything with a schema, or a prompt that it cannot follow.
Kind = Literal["chat", "code", "compare", "describe", "title", "schema", "own"]

_CHAT = "assistant in a chat that keeps its history"  # the words of baml_src/chat.baml
_SYSTEM = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call, and the shape of its arguments."""

    name: str
    arguments: Wanted


@dataclass(frozen=True, slots=True)
class Prompt:
    """A parsed request.

    `conversation` has the messages that are not instructions; if a prompt is all instructions, these are the question.
    `last_at` is the place of the last user message in it. `wanted` is the form of the answer, which is plain JSON if
    `is_json`. `tool` is the tool to call instead of an answer. `media` are
    the images, PDFs and recordings of the last user message. `tokens` is an estimate of the prompt's size.
    """

    kind: Kind
    system: str
    conversation: Sequence[tuple[str, str]]
    last_at: int
    tokens: int
    wanted: Wanted | None = None
    is_json: bool = False
    tool: Tool | None = None
    media: Sequence[Media] = ()

    @property
    def last(self) -> str:
        """The last user message, unmodified."""
        return self.conversation[self.last_at][1]

    @property
    def earlier(self) -> Sequence[tuple[str, str]]:
        """The conversation without the last user message."""
        return [message for at, message in enumerate(self.conversation) if at != self.last_at]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Parse a chat completion request. An invalid one raises ValueError, TypeError, KeyError or AttributeError."""
        messages = [(str(m["role"]), _text(m)) for m in body["messages"]]
        if not messages:
            raise ValueError("no messages")
        system = "\n".join(text for role, text in messages if role in _SYSTEM)
        conversation = [(role, text) for role, text in messages if role not in _SYSTEM]
        if not any(role == "user" for role, _ in conversation):
            conversation.append(("user", system if not conversation else ""))
        last_at = max(at for at, (role, _) in enumerate(conversation) if role == "user")
        last = conversation[last_at][1]
        tokens = max(1, sum(len(text) for _, text in messages) // 4)
        asked = body.get("response_format") or {}
        is_json = asked.get("type") in ("json_schema", "json_object")
        if asked.get("type") == "json_schema":
            wanted: Wanted | None = read_json_schema(asked["json_schema"].get("schema", {}))
        else:
            wanted = _schema(system, conversation, last) or (
                Wanted(Record({"reply": Scalar("string")})) if is_json else None
            )
        kind = _kind(system, last, wanted)
        contents = [m.get("content") for m in body["messages"] if m["role"] == "user"]
        media = read_media(contents[-1] if contents else None)
        return cls(kind, system, conversation, last_at, tokens, wanted, is_json, _tool(body, messages), media)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") if message["role"] == "assistant" else message["content"]
    if content is None and message["role"] == "assistant":
        return ""  # it called a tool
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or () if part.get("type") == "text")


def _schema(system: str, conversation: Sequence[tuple[str, str]], last: str) -> Wanted | None:
    """The schema in the instructions, else in the question: there with BAML's words, as users may quote code."""
    if system:
        return read_output_format(system) or read_output_format(last, is_certain=True)
    first = next(text for role, text in conversation if role == "user")
    return read_output_format(last) or read_output_format(first)


def _tool(body: Mapping[str, Any], messages: Sequence[tuple[str, str]]) -> Tool | None:
    """The tool to call: the one that is asked for, else the first, unless its result is already there."""
    functions = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, Mapping):
        functions = [function for function in functions if function["name"] == choice["function"]["name"]]
    if not functions or choice == "none" or (choice == "auto" and messages[-1][0] != "user"):
        return None
    return Tool(str(functions[0]["name"]), read_json_schema(functions[0].get("parameters") or {}))


def _kind(system: str, last: str, wanted: Wanted | None) -> Kind:
    if last.startswith("<question>") and last.rstrip().endswith("Title:"):
        return "title"
    if wanted is None:
        return "own" if system and _CHAT not in system else "chat"
    fields = wanted.top.fields if isinstance(wanted.top, Record) else {}
    if set(fields) == {"reply", "files"} and _lists(wanted, fields["files"], "path", "content language"):
        return "code"
    if set(fields) == {"reply", "options"} and _lists(wanted, fields["options"], "name", "price pros cons verdict"):
        return "compare"
    if set(fields) == {"reply", "items"} and _lists(wanted, fields["items"], "kind", "title details text"):
        return "describe"
    return "schema"


def _lists(wanted: Wanted, shape: Shape, required: str, optional: str) -> bool:
    """Whether it is a list of objects with these fields."""
    item = wanted.resolve(shape.item) if isinstance(shape, Array) else None
    return isinstance(item, Record) and {required} <= set(item.fields) <= {required, *optional.split()}


def quote(text: str) -> str:
    """The text on one line, and not too long."""
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= 200 else line[:199] + "…"
