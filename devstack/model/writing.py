"""What the demo model writes in one call, as tokens, and the JSON of OpenAI's chat completions around them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .prompt import Prompt, Tool
from .replies import answer, arguments, with_text
from .script import Script

NAME = "demo-model"
_TOKEN = re.compile(r"\s*\S{1,8}|\s+$")


class Writing:
    """What the model writes: text, or the arguments of a tool; its tokens, and the JSON around them."""

    def __init__(self, script: Script, prompt: Prompt) -> None:
        self.script = script
        self.thoughts = _TOKEN.findall(script.think)
        self._tool: Tool | None = None
        if script.echo:
            text = with_text(prompt, prompt.last)
        elif script.json is not None:
            text = script.json if isinstance(script.json, str) else json.dumps(script.json)
        elif script.text is not None:
            text = with_text(prompt, script.text)
        elif script.tokens is not None:
            self.tokens = _filler(script.tokens, structured=prompt.kind == "code")
            return
        elif prompt.tool is not None:
            self._tool = prompt.tool
            text = arguments(prompt.tool, prompt.last)
        else:
            text = answer(prompt)
        self.tokens = _TOKEN.findall(text)

    @property
    def finish(self) -> str:
        """The finish_reason."""
        return "tool_calls" if self._tool is not None and self.script.finish == "stop" else self.script.finish

    @property
    def seconds(self) -> float:
        """How long the script has it write."""
        return (len(self.thoughts) + len(self.tokens)) * (self.script.delay or 0)

    def delta(self, count: int, token: str) -> dict[str, Any]:
        """The `delta` of a chunk: its token, in the place where it belongs."""
        role = {} if count else {"role": "assistant"}
        if self._tool is None:
            return {**role, "content": token}
        name = {} if count else {"id": "call_demo", "type": "function"}
        function = {"arguments": token} if count else {"name": self._tool.name, "arguments": token}
        return {**role, "tool_calls": [{"index": 0, **name, "function": function}]}

    def whole(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request that asks for no stream."""
        text = "".join(self.tokens)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.thoughts:
            message["reasoning_content"] = self.script.think
        if self._tool is not None:
            function = {"name": self._tool.name, "arguments": text}
            call = {"id": "call_demo", "type": "function", "function": function}
            message |= {"content": None, "tool_calls": [call]}
        answer = {**chunk({}, None), "object": "chat.completion"}
        answer["choices"] = [{"index": 0, "message": message, "finish_reason": self.finish}]
        return answer if self.script.no_usage else {**answer, "usage": dict(usage)}


def _filler(count: int, *, structured: bool) -> list[str]:
    words = [f"word{n % 100:02d} " for n in range(count)]
    if not structured or count < 4:
        return words
    reply = max(1, count // 4)
    head, middle = '{"reply": "', '", "files": [{"path": "filler.txt", "content": "'
    tail = '", "language": "text"}]}'
    return [head + words[0], *words[1:reply], middle + words[reply], *words[reply + 1 : -1], words[-1] + tail]


def chunk(delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    """Return a chunk of a streamed chat completion."""
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish}
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": NAME,
        "choices": [choice],
    }
