"""Providers' streams in the formats that BAML speaks, built event by event. Shapes are those of recorded streams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Format = Literal["chat", "responses", "anthropic", "gemini"]
Kind = Literal["text", "thought", "end", "repeat", "close", "other"]  # what an event is for
Event: TypeAlias = dict[str, Any] | str
SECRET = "c2lnbmF0dXJl"  # a signature, or something encrypted
FORMATS: tuple[Format, ...] = ("chat", "responses", "anthropic", "gemini")

# How each format calls the ends that mean the same.
GOOD = {
    "chat": (
        "stop",
        "tool_calls",
        "eos",
        "end_turn",
        "STOP",
        "stop_sequence",
        "COMPLETE",
        "function_call",
        "eos_token",
    ),
    "responses": ("completed",),
    "anthropic": ("end_turn", "stop_sequence", "tool_use"),
    "gemini": ("STOP", "stop"),
}
TOO_LONG = {
    "chat": ("length", "max_tokens", "model_length", "model_context_window_exceeded"),
    "responses": ("max_output_tokens",),
    "anthropic": ("max_tokens", "model_context_window_exceeded"),
    "gemini": ("MAX_TOKENS",),
}
REFUSED = {
    "chat": ("content_filter", "sensitive", "refusal", "guardrail_intervened", "ERROR_TOXIC", "content_filter: SAFETY"),
    "responses": ("content_filter",),
    "anthropic": ("refusal",),
    "gemini": (
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "LANGUAGE",
        "IMAGE_SAFETY",
        "MODEL_ARMOR",
    ),
}
BAD = {
    "chat": (
        "error",
        "insufficient_system_resource",
        "network_error",
        "abort",
        "unknown",
        "other",
        "load",
        "repetition",
        "ERROR",
        "ERROR_LIMIT",
        "a_reason_of_next_year",
    ),
    "responses": ("a_reason_of_next_year", None),
    "anthropic": ("pause_turn", "compaction", "a_reason_of_next_year"),
    "gemini": ("OTHER", "MALFORMED_FUNCTION_CALL", "TOO_MANY_TOOL_CALLS", "NEXT_YEAR"),
}


@dataclass
class Stream:
    """A stream being built; `text` is what the model said in it, and `thought` what it thought."""

    format: Format
    text: str = ""
    thought: str = ""
    events: list[Event] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    number: int = 0

    def add(self, event: Event, kind: Kind = "other") -> None:
        """Add an event; those of OpenAI's responses get their number."""
        self.kinds.append(kind)
        if self.format == "responses" and isinstance(event, dict):
            event = event | {"sequence_number": self.number}
            self.number += 1
        self.events.append(event)

    def open(self) -> None:
        """What comes before the first word."""
        match self.format:
            case "chat":
                self.add(chunk({"role": "assistant", "content": ""}))
            case "responses":
                self.add({"type": "response.created", "response": response("in_progress")})
                self.add({"type": "response.in_progress", "response": response("in_progress")})
            case "anthropic":
                message: dict[str, Any] = {
                    "id": "m",
                    "type": "message",
                    "role": "assistant",
                    "content": [],
                    "model": "claude",
                    "stop_reason": None,
                    "usage": {"input_tokens": 7, "output_tokens": 1},
                }
                self.add({"type": "message_start", "message": message})
                self.add({"type": "ping"})

    def say(self, text: str) -> None:
        """Add text."""
        self.text += text
        match self.format:
            case "chat":
                self.add(chunk({"content": text}), "text")
            case "responses":
                self.add(
                    {
                        "type": "response.output_text.delta",
                        "item_id": "i",
                        "output_index": 1,
                        "content_index": 0,
                        "delta": text,
                        "logprobs": [],
                    },
                    "text",
                )
            case "anthropic":
                self.add(
                    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text}}, "text"
                )
            case "gemini":
                self.add(candidate([{"text": text}]), "text")

    def think(self, text: str) -> None:
        """Add reasoning."""
        self.thought += text
        match self.format:
            case "chat":
                self.add(chunk({"content": None, "reasoning_content": text}), "thought")
            case "responses":
                self.add(summary("delta", delta=text), "thought")
            case "anthropic":
                delta = {"type": "thinking_delta", "thinking": text}
                self.add({"type": "content_block_delta", "index": 0, "delta": delta}, "thought")
            case "gemini":
                self.add(candidate([{"text": text, "thought": True}]), "thought")

    def sign(self) -> None:
        """Add what only the provider can read of its reasoning."""
        match self.format:
            case "chat":
                self.add(chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": SECRET}]}))
                self.add(chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": SECRET}]}))
            case "responses":
                item = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": SECRET}
                self.add({"type": "response.output_item.done", "output_index": 0, "item": item})
            case "anthropic":
                delta = {"type": "signature_delta", "signature": SECRET}
                self.add({"type": "content_block_delta", "index": 0, "delta": delta})
                block = {"type": "redacted_thinking", "data": SECRET}
                self.add({"type": "content_block_start", "index": 3, "content_block": block})
            case "gemini":
                self.add(candidate([{"text": "", "thoughtSignature": SECRET}]))

    def call_tool(self, arguments: str) -> None:
        """Add a piece of a call of a tool."""
        match self.format:
            case "chat":
                call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
                self.add(chunk({"tool_calls": [call]}))
            case "responses":
                self.add(
                    {
                        "type": "response.function_call_arguments.delta",
                        "item_id": "f",
                        "output_index": 2,
                        "delta": arguments,
                    }
                )
            case "anthropic":
                self.add(
                    {
                        "type": "content_block_delta",
                        "index": 2,
                        "delta": {"type": "input_json_delta", "partial_json": arguments},
                    }
                )
            case "gemini":
                self.add(candidate([{"functionCall": {"name": "f", "args": {"a": arguments}}}]))

    def refuse(self, text: str) -> None:
        """Add a refusal in words of its own; only OpenAI's formats have one."""
        match self.format:
            case "chat":
                self.add(chunk({"refusal": text}))
            case "responses":
                self.add(
                    {
                        "type": "response.refusal.delta",
                        "item_id": "i",
                        "output_index": 1,
                        "content_index": 0,
                        "delta": text,
                    }
                )
            case _:
                raise NotImplementedError(self.format)

    def fail(self, message: str = "the server had an error", name: str = "server_error", code: int = 500) -> None:
        """Add an error object."""
        match self.format:
            case "chat":
                self.add({"error": {"message": message, "type": name, "param": None, "code": code}})
            case "responses":
                self.add({"type": "error", "error": {"type": name, "code": name, "message": message, "param": None}})
            case "anthropic":
                self.add({"type": "error", "error": {"type": name, "message": message}})
            case "gemini":
                self.add({"error": {"code": code, "message": message, "status": name.upper()}})

    def end(self, reason: str | None, *, whole: bool = True) -> None:
        """End the answer. `whole`: OpenAI's responses repeat the text in their last event, as they do."""
        match self.format:
            case "chat":
                self.add(chunk({}, reason), "end")
                self.add(
                    chunk({})
                    | {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}
                )
            case "responses":
                if whole and self.thought:
                    self.add(summary("done", text=self.thought))
                if whole and self.text:
                    self.add(
                        {
                            "type": "response.output_text.done",
                            "item_id": "i",
                            "output_index": 1,
                            "content_index": 0,
                            "text": self.text,
                        },
                        "repeat",
                    )
                status = "completed" if reason == "completed" else "incomplete"
                details = None if status == "completed" else {"reason": reason}
                output = [message(self.text)] if whole and self.text else []
                if whole and self.thought:
                    parts = [{"type": "summary_text", "text": self.thought}]
                    output.insert(0, {"type": "reasoning", "id": "r", "summary": parts, "encrypted_content": SECRET})
                usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
                last = response(status) | {"incomplete_details": details, "output": output, "usage": usage}
                self.add({"type": f"response.{status}", "response": last}, "end")
            case "anthropic":
                self.add({"type": "content_block_stop", "index": 1})
                self.add(
                    {
                        "type": "message_delta",
                        "delta": {"stop_reason": reason, "stop_sequence": None},
                        "usage": {"input_tokens": 7, "output_tokens": 5},
                    },
                    "end",
                )
            case "gemini":
                self.add(candidate([], reason), "end")

    def close(self) -> None:
        """Mark the end of the stream, where the format has a mark."""
        if self.format == "chat":
            self.add("[DONE]", "close")
        elif self.format == "anthropic":
            self.add({"type": "message_stop"}, "close")


def answered(
    wire: Format, pieces: Sequence[str] = ("Hel", "lo"), reason: str | None = "", *, thought: str = ""
) -> Stream:
    """Build a whole stream; "" ends it well."""
    stream = Stream(wire)
    stream.open()
    if thought:
        stream.think(thought)
    for piece in pieces:
        stream.say(piece)
    stream.end(GOOD[wire][0] if reason == "" else reason)
    stream.close()
    return stream


def chunk(delta: Any, reason: str | None = None) -> dict[str, Any]:
    """A chunk of a chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt", "choices": [choice]}


def candidate(parts: Sequence[Any], reason: str | None = None) -> dict[str, Any]:
    """A chunk of Gemini."""
    found: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if reason is not None:
        found["finishReason"] = reason
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
    return {"candidates": [found], "usageMetadata": usage, "modelVersion": "gemini"}


def response(status: str) -> dict[str, Any]:
    """The object that OpenAI's responses send with an event."""
    return {"id": "r", "object": "response", "created_at": 1, "model": "gpt", "status": status, "output": []}


def message(text: str) -> dict[str, Any]:
    """An item of OpenAI's responses with text."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": content}


def summary(of: str, **fields: str) -> dict[str, Any]:
    """An event about the summary of what a model of OpenAI's responses has thought."""
    place = {"item_id": "r", "output_index": 0, "summary_index": 0}
    return {"type": f"response.reasoning_summary_text.{of}", **place, **fields}


def encode(event: Event) -> str:
    """What comes after `data:`."""
    return event if isinstance(event, str) else json.dumps(event)
