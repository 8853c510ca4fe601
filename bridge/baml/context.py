"""What to leave out of a conversation that is too long for the model."""

import json
from collections.abc import Collection
from dataclasses import replace

from bridge.baml.arguments import names_of
from bridge.baml.media import ALL, MEDIA
from bridge.model import CodeFile, Message, Turn


def shorten(turn: Turn, parameters: Collection[str]) -> Turn | None:
    """Return the turn with about half as much context, or None if nothing of it can be left out.

    The attachments of earlier questions go first, then the oldest messages. Files go when no message is left, the
    largest first: the newest question is most likely about them. Only what the function takes (`parameters`) makes a
    difference.
    """
    if "messages" in parameters and not {*MEDIA, ALL}.isdisjoint(parameters):
        without = tuple(map(_without_attachments, turn.messages))
        if without != turn.messages:
            return replace(turn, messages=without)
    if "messages" in parameters and turn.messages:
        return replace(turn, messages=_newest_half(turn.messages))
    if "files" in parameters and turn.files:
        return replace(turn, files=_smallest_half(turn.files))
    return None


def _without_attachments(message: Message) -> Message:
    return replace(message, content=message.content or names_of(message.attachments), attachments=())


def _newest_half(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The newest messages within half of the text, from a question on: models expect the user to begin."""
    sizes = [_size(message) for message in messages]
    room = sum(sizes) // 2
    start = len(messages)
    while start > 1 and sizes[start - 1] <= room:
        start -= 1
        room -= sizes[start]
    while start < len(messages) and messages[start].role != "user":
        start += 1
    return messages[start:]


def _size(message: Message) -> int:
    data = "" if message.data is None else json.dumps(message.data, ensure_ascii=False)
    return len(message.content) + len(data)


def _smallest_half(files: tuple[CodeFile, ...]) -> tuple[CodeFile, ...]:
    """The smallest files within half of the text, in their order; always fewer than before."""
    room = sum(len(file.content) for file in files) // 2
    kept = set()
    for file in sorted(files, key=lambda file: len(file.content)):
        if len(file.content) >= room:
            break
        kept.add(file.path)
        room -= len(file.content)
    return tuple(file for file in files if file.path in kept)
