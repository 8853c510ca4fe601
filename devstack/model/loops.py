"""Which step an agent's loop takes: of several classes, or of several actions, the first that was not taken yet.

    ReadFile | Search | Finish              a choice of classes, each with a field that names it: `tool "read_file"`
    { thought string, act Search | Finish } the same in a field
    { action "search" | "finish" }          a field that names the action

What was taken is found in the conversation, where an agent writes down its steps; nothing is remembered. What ends the
loop comes last, so every loop ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .output_format import read_output_format
from .prompt import Prompt
from .script import without_directives
from .shapes import Choice, Literal, Record, Shape, Wanted

_ACTION = re.compile(r"tool|action|command|next|step|operation", re.I)  # what a field is called that names the action
_END = re.compile(r"(finish|final|done|answer|respond|response|reply|stop|end|submit|complete|give)(?![a-z])", re.I)


@dataclass(frozen=True, slots=True)
class _Option:
    tag: str
    shape: Shape


def next_step(prompt: Prompt, wanted: Wanted) -> tuple[Wanted, str]:
    """Return what is wanted now, without the steps that are not taken, and the question that it is about."""
    top = wanted.top
    options = _options(wanted, top)
    if options:
        tags = [option.tag for option in options]
        return replace(wanted, shape=_chosen(prompt, options).shape), _question(prompt, tags)
    tags = []
    if isinstance(top, Record):
        fields = dict(top.fields)
        for name, shape in top.fields.items():
            options = _options(wanted, shape) or (_actions(wanted, shape) if _ACTION.search(name) else [])
            if options:
                fields[name] = _chosen(prompt, options).shape
                tags += [option.tag for option in options]
        if tags:
            wanted = replace(wanted, shape=replace(top, fields=fields))
    return wanted, _question(prompt, tags)


def _options(wanted: Wanted, shape: Shape) -> list[_Option]:
    """The classes of a choice, if each has a name; otherwise none."""
    choice = wanted.resolve(shape)
    if not isinstance(choice, Choice):
        return []
    found = []
    for option in choice.options:
        record = wanted.resolve(option)
        literals = [field for field in record.fields.values() if _is_word(field)] if isinstance(record, Record) else []
        if not literals:
            return []
        found.append(_Option(_word(literals[0]), option))
    return found if len(found) > 1 else []


def _actions(wanted: Wanted, shape: Shape) -> list[_Option]:
    """The words of a choice; none if it is another choice."""
    choice = wanted.resolve(shape)
    if not isinstance(choice, Choice) or not all(_is_word(option) for option in choice.options):
        return []
    return [_Option(_word(option), option) for option in choice.options] if len(choice.options) > 1 else []


def _is_word(shape: Shape) -> bool:
    return isinstance(shape, Literal) and isinstance(shape.value, str) and shape.value != ""


def _word(shape: Shape) -> str:
    assert isinstance(shape, Literal)
    return str(shape.value)


def _chosen(prompt: Prompt, options: Sequence[_Option]) -> _Option:
    ordered = sorted(options, key=lambda option: _END.match(option.tag) is not None)
    # a prompt that is all instructions is the question as well
    has_schema = prompt.last == prompt.system or read_output_format(prompt.system) is None
    return next((option for option in ordered if not _was_taken(prompt, option.tag, has_schema)), ordered[-1])


def _was_taken(prompt: Prompt, tag: str, has_schema: bool) -> bool:
    """Whether an answer has this word, or a prompt's text has it after a quote, before a bracket or at a line's start.

    A text that `has_schema` has it once already.
    """
    word = rf"(?<!\w){re.escape(tag)}(?!\w)"
    noted = re.compile(rf"""(?m)(?:^[ \t*-]*{word}|["'`]{word}|{word}\()""")
    times = 0
    for role, text in prompt.conversation:
        if role != "user" and re.search(word, text):
            return True
        times += len(noted.findall(without_directives(text))) if role == "user" else 0
    return times > has_schema


def _question(prompt: Prompt, tags: Sequence[str]) -> str:
    """The last user message that does not follow a step: what does, is that step's result."""
    at = prompt.last_at
    while at >= 2 and prompt.conversation[at - 1][0] == "assistant" and prompt.conversation[at - 2][0] == "user":
        said = prompt.conversation[at - 1][1]
        if not any(re.search(rf"(?<!\w){re.escape(tag)}(?!\w)", said) for tag in tags):
            break
        at -= 2
    return without_directives(prompt.conversation[at][1])
