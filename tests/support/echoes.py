"""Providers that repeat the prompt or the key in everything they may say about an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.support.raw_provider import Refusal, Sent

STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503, 529)


def forms(secret: str, key: str) -> list[str]:
    """What may be repeated, and how: whole, in a sentence, as a code, in other letters, in part."""
    return [
        f"the plan is {secret}", secret, f"error: {secret}", f"err_{secret}", f"ERR_{secret.upper()}",
        f"{secret.title()}Error", f"{secret}/error", key, f"Incorrect API key provided: {key[:9]}****{key[-4:]}.",
        f"invalid_request_error: {secret} context length content_filter",
    ]  # fmt: skip


def bodies(echo: str) -> Iterator[str]:
    """Bodies of refused requests."""
    error: dict[str, Any] = {"message": echo, "type": echo, "code": echo, "param": echo, "status": echo}
    values: list[Any] = [
        {"error": error},
        {"error": {"message": "no", "type": "invalid_request_error", "code": echo}},
        {"error": echo},
        {"detail": echo, "code": echo},
        {"type": "error", "error": {"type": echo, "message": echo}},
        [{"error": {"code": 400, "status": echo, "message": echo, "details": [{"reason": echo, "metadata": error}]}}],
        echo,
    ]
    yield from map(json.dumps, values)
    yield echo
    yield f"<html>{echo}</html>"


def streams(echo: str) -> dict[str, list[list[Any]]]:
    """Streams of each format, by its name; each is a list of events, or of a text that is no JSON."""
    said = {"choices": [{"index": 0, "delta": {"content": "A"}, "finish_reason": None}], "model": echo}
    error = {"message": echo, "type": echo, "code": echo, "status": echo}
    failed = {"status": "failed", "error": {"code": echo, "message": echo}}
    incomplete = {"status": "incomplete", "incomplete_details": {"reason": echo}}
    half: dict[str, Any] = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "A"}}
    part = {"candidates": [{"content": {"parts": [{"text": "A"}]}}], "modelVersion": echo}
    return {
        "Chat": [
            [said, {"error": error}],
            [{"error": echo}],
            [said, {"choices": [], "error": error}],
            [said, {"choices": [{"delta": {}, "finish_reason": echo}]}],
            [said, {"choices": [{"delta": {}, "finish_reason": "error", "error": error}]}],
            [{"choices": [{"delta": {"refusal": echo}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}],
            [said, echo],
            [said, {"choices": [{"delta": {"content": {echo: echo}}}]}],
            [{"base_resp": {"status_code": 1, "status_msg": echo}}],
            [said],
            [said, {"choices": [{"delta": {}, "finish_reason": "stop"}]}],
        ],
        "Responses": [
            [{"type": "error", **error}],
            [{"type": "response.failed", "response": failed}],
            [{"type": "response.incomplete", "response": incomplete}],
            [{"type": "response.refusal.delta", "delta": echo}],
            [{"type": echo}],
        ],
        "Anthropic": [
            [{"type": "error", "error": error}],
            [half, {"type": "message_delta", "delta": {"stop_reason": echo}}],
            [half, {"type": "error", "error": {"type": "overloaded_error", "message": echo}}],
            [half, {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": echo}}],
        ],
        "Gemini": [
            [{"error": {"code": 500, "status": echo, "message": echo, "details": [{"reason": echo}]}}],
            [part, {"candidates": [{"finishReason": echo, "finishMessage": echo}]}],
            [{"promptFeedback": {"blockReason": echo, "blockReasonMessage": echo}}],
        ],
    }


def answers(echo: str) -> Iterator[tuple[str, Sent | Refusal]]:
    """Every answer of every format, with the name of the format."""
    for name, found in streams(echo).items():
        for events in found:
            yield name, Sent([event if isinstance(event, str) else json.dumps(event) for event in events])
        for number, body in enumerate(bodies(echo)):
            for status in STATUSES if name == "Chat" else STATUSES[number % len(STATUSES) :: 5]:
                yield name, Refusal(status, body)
