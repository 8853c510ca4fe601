"""Reads a provider's events as they came over the wire, in every format that BAML speaks.

    {"choices": [{"delta": {"content": "Hi"}}]}                              OpenAI's chat completions, and its dialects
    {"type": "response.output_text.delta", "delta": "Hi"}                    OpenAI's responses
    {"type": "content_block_delta", "delta": {"text": "Hi"}}                 Anthropic's messages
    {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}               Gemini
    {"debug": "ContentBlockDelta(… Text(\\"Hi\\") …)"}                        Bedrock, as BAML keeps it

An event is read by its shape, not by the provider's name: proxies mix formats. Unknown events and fields are ignored,
as all providers ask their clients to do. But an event that is no JSON, or whose text is in no known form, may have held
text: then the answer is not whole.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import from_json

from bridge.baml.answer import Answer, Part
from bridge.baml.endings import is_refused, judge_error

DONE = "[DONE]"

# Fields that say nothing as long as they stay the same from one chunk of text to the next.
_CONSTANT = frozenset({"id", "object", "created", "model", "system_fingerprint", "service_tier", "provider", "choices"})
_CONSTANT_OF_CHOICE = frozenset({"index", "delta", "finish_reason", "native_finish_reason", "logprobs"})
_MISSES = 8  # after so many chunks, none like the one before it, the next is not expected to be either

# Types of parts that are no text: reasoning, calls of tools and their results.
_NOT_SAID = re.compile("think|thought|reason|^summary_text$|tool|function", re.I)
# Of these, those whose text is no reasoning: it is encrypted, or of a tool.
_NO_THOUGHT = re.compile("redact|encrypt|signature|tool|function", re.I)
# Fields of a delta that are no text: reasoning, and calls of tools.
_THOUGHTS = frozenset({
    "reasoning_content", "reasoning", "reasoning_details", "reasoning_text", "thinking", "thinking_blocks", "thought",
})  # fmt: skip
_CALLS = frozenset({"tool_calls", "tool_call", "function_call", "executed_tools"})
# Where the text of reasoning stands in an object; never in `signature`, `data` or `encrypted_content`.
_THOUGHT_FIELDS = ("text", "thinking", "summary", "content", "reasoning", "value")
_DEEPEST_THOUGHT = 4
# Whatever has one of these is no bare error object.
_CARRIERS = frozenset(
    {"choices", "candidates", "promptFeedback", "usageMetadata", "delta", "content", "output", "response", "item"}
)


def read_event(answer: Answer, event: str) -> None:
    """Add what one event says to the answer: the text after `data:`, or the body of a response that is no stream."""
    answer.events += 1
    if event == DONE:  # the last of most streams: it would cost two parsers and an exception of each
        answer.close()
        return
    if answer.frame is not None and (text := _text_between(answer.frame, event)) is not None:
        answer.say(text)
        answer.frame_misses = 0
        return
    try:
        value = _parse(event)
        # Gemini without SSE sends a list
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, dict):
                _read(answer, item)
            elif isinstance(item, str) and item:
                answer.lose(f"an event is text and not an object (event {answer.events})")
        if answer.frame_misses < _MISSES and (text := _only_text(value)):
            answer.frame = _frame_of(event, text)
            answer.frame_misses += 1
    except (TypeError, AttributeError) as error:
        answer.lose(f"an event is in an unknown form: {type(error).__name__} (event {answer.events})")
    except (ValueError, RecursionError):
        stripped = event.strip("\ufeff \t\r\n")
        if stripped == DONE:
            answer.close()
        elif stripped:
            answer.lose(f"an event is not JSON (event {answer.events})")


def _text_between(frame: tuple[str, str], event: str) -> str | None:
    """The text of an event that equals the one before in all but its text; None if it does not."""
    head, tail = frame
    if len(event) < len(head) + len(tail) or not event.startswith(head) or not event.endswith(tail):
        return None
    try:
        text = from_json(event[len(head) : len(event) - len(tail)])
    except (ValueError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _frame_of(event: str, text: str) -> tuple[str, str] | None:
    """What stands before and after the text of a chunk; None if that is not certain."""
    head, found, tail = event.rpartition(json.dumps(text, ensure_ascii=False))
    other = f"{text}?"
    try:
        is_certain = found and _only_text(from_json(head + json.dumps(other) + tail)) == other
    except ValueError:
        return None
    return (head, tail) if is_certain else None


def _only_text(event: Any) -> str | None:
    """The text of a chunk of a chat completion that says nothing else."""
    match event:
        case {"choices": [{"delta": {"content": str(text), **others}} as choice]}:
            is_plain = event.keys() <= _CONSTANT and choice.keys() <= _CONSTANT_OF_CHOICE and others.keys() <= {"role"}
            has_ended = choice.get("finish_reason") or choice.get("native_finish_reason")
            return text if is_plain and not has_ended else None
    return None


def _parse(event: str) -> Any:
    try:
        return from_json(event)
    except ValueError:  # it is stricter than most models: lone surrogates, depth
        return json.loads(event.lstrip("\ufeff"))


def _read(answer: Answer, event: Mapping[str, Any]) -> None:
    if answer.usage.model is None:
        _read_model(answer, event)
    if event.get("choices") is not None:  # first, and with few steps: it is by far the most common
        if (error := event.get("error")) and _says_error(error):
            if answer.is_whole:
                return  # and the finish reason beside it is that of the error
            answer.fail(judge_error(error))
        _read_choices(answer, event)
        return
    if (error := _error_in(event)) is not None:
        answer.fail(judge_error(error))
    kind = event.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        _read_response_event(answer, kind, event)
    elif any(event.get(name) is not None for name in ("candidates", "promptFeedback", "usageMetadata")):
        _read_candidates(answer, event)
    elif event.get("object") == "response" or "output" in event:
        _read_response(answer, event)
    elif isinstance(event.get("debug"), str):
        _read_debug(answer, event["debug"])
    else:
        _read_message_event(answer, kind, event)


def _error_in(event: Mapping[str, Any]) -> Any:
    """The error that an event carries; None if it carries none."""
    kind = event.get("type")
    if isinstance(kind, str) and kind.startswith("response.") and kind != "response.failed":
        return None  # a tool that failed is part of the answer
    if error := event.get("error"):
        return error
    if kind == "error" or event.get("object") == "error":  # OpenAI's responses; vLLM, Mistral
        return {name: value for name, value in event.items() if name not in ("type", "object")}
    if not _CARRIERS.isdisjoint(event):
        return None
    match event:
        case {"base_resp": {"status_code": int(code)}} if code:  # MiniMax
            return event["base_resp"]
        case {"errors": [*errors]} if errors:  # Cloudflare
            return errors
        case {"code": code, "message": _} | {"code": code, "msg": _} if code not in (None, 0, 200, "0", "200"):
            return dict(event)
        case {"detail": detail} if detail:
            return detail
    return None


# -- OpenAI's chat completions, and its dialects ---------------------------------------------------------


def _read_choices(answer: Answer, event: Mapping[str, Any]) -> None:
    choices = event["choices"]
    choice = choices[0] if isinstance(choices, list) and choices else choices
    if "usage" in event:
        _spend(answer, event["usage"])
    if isinstance(groq := event.get("x_groq"), dict):
        _spend(answer, groq.get("usage"))
        if groq.get("error"):
            answer.fail(judge_error(groq["error"]))
    if isinstance(base := event.get("base_resp"), dict) and base.get("status_code"):  # MiniMax
        answer.fail(judge_error(base))
    if not isinstance(choice, dict):
        if choice and not isinstance(choice, list):
            answer.lose(f"a choice is a {type(choice).__name__} (event {answer.events})")
        return
    if "usage" in choice:  # Moonshot
        _spend(answer, choice["usage"])
    if (error := choice.get("error")) and _says_error(error):  # OpenRouter
        if answer.is_whole:
            return
        answer.fail(judge_error(error))
    # All at once, or as in the older completions. Perplexity and Together send such a field beside the delta.
    if not _read_delta(answer, choice.get("delta")) and ("message" in choice or "text" in choice):
        _read_whole(answer, choice.get("message")) or _read_delta(answer, choice.get("text"))
    if (reason := choice.get("finish_reason")) is not None:
        _end(answer, reason)
        native = choice.get("native_finish_reason")  # OpenRouter says `stop` for a refusal
        if isinstance(native, str) and is_refused(native.lower()):
            answer.end(native)


def _says_error(error: Any) -> bool:
    """Whether this is an error, and not one with empty fields, as some proxies send with each chunk."""
    if isinstance(error, dict):
        return any(_says_error(value) for value in error.values())
    return bool(error)


def _read_whole(answer: Answer, message: Any) -> bool:
    """Read a message in place of a delta: all of the answer, all so far, or the next piece."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str) and (so_far := answer.raw):
        if content.startswith(so_far):
            answer.say(content[len(so_far) :])
        elif not so_far.startswith(content):
            answer.say(content)
        return True
    return _read_delta(answer, message)


def _read_delta(answer: Answer, delta: Any) -> bool:
    """Read a delta, or a message; False if there is nothing in it."""
    if not isinstance(delta, dict):
        _say(answer, delta)
        return bool(delta)
    has_said, thought = False, ""
    for name, value in delta.items():
        if not value:
            continue
        if name == "content" or (name == "text" and not delta.get("content")):
            _say(answer, value)
            has_said = True
        elif name in _THOUGHTS:
            answer.think()
            thought = thought or _thought_in(value)  # vLLM, OpenRouter and LiteLLM send the same in several fields
            has_said = True
        elif name in _CALLS:
            answer.think()
            has_said = True
        elif name == "refusal":
            answer.refuse(value if isinstance(value, str) else json.dumps(value))
            has_said = True
    if thought:
        answer.think(thought)
    return has_said


def _say(answer: Answer, content: Any, part: Part | None = None) -> None:
    """Add content in any of its forms: text, a list of typed parts (Mistral), one such part."""
    if isinstance(content, str):
        answer.say(content, part)
    elif isinstance(content, list):
        for item in content:
            _say(answer, item, part)
    elif isinstance(content, dict):
        _say_part(answer, content, part)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        answer.say(json.dumps(content), part)
    elif content is not None:
        answer.lose(f"content is a {type(content).__name__} (event {answer.events})")


def _say_part(answer: Answer, item: Mapping[str, Any], part: Part | None) -> None:
    kind = item.get("type")
    kind = kind if isinstance(kind, str) else None
    text = next((item[name] for name in ("text", "content", "value") if item.get(name) is not None), None)
    if kind == "refusal":
        answer.refuse(str(item.get("refusal") or item.get("text") or ""))
    elif kind is not None and _NOT_SAID.search(kind):
        answer.think(_thought_in(item))
    elif text is not None:
        _say(answer, text, part)
    elif kind is not None:  # a reference, an image
        answer.think()
    elif item:
        answer.lose(f"content has no text in a known form (event {answer.events})")


def _thought_in(value: Any, depth: int = 0) -> str:
    """The text of reasoning in any of its forms, without what is encrypted, and without signatures."""
    if isinstance(value, str):
        return value
    if depth > _DEEPEST_THOUGHT:
        return ""
    if isinstance(value, list):
        return "".join(_thought_in(item, depth + 1) for item in value)
    if not isinstance(value, dict) or _NO_THOUGHT.search(str(value.get("type") or "")):
        return ""
    return next((text for name in _THOUGHT_FIELDS if (text := _thought_in(value.get(name), depth + 1))), "")


# -- OpenAI's responses ----------------------------------------------------------------------------------


def _read_response_event(answer: Answer, kind: str, event: Mapping[str, Any]) -> None:
    part = (_index(event.get("output_index")), _index(event.get("content_index")))
    is_repeated = answer.is_repeated(event.get("sequence_number"))
    match kind.removeprefix("response.").split("."):
        case ["output_text" | "refusal", "delta"] if is_repeated:
            pass
        case ["output_text" | "text" | "content_part", "delta"]:  # also its name before 2025, and in OpenRouter's beta
            _say(answer, event.get("delta"), part)
        case ["output_text", "done"]:
            if isinstance(text := event.get("text"), str):
                answer.settle(text, part)
        case ["refusal", "delta"]:
            answer.refuse(str(event.get("delta") or ""))
        case ["refusal", "done"]:
            answer.settle_refusal(str(event.get("refusal") or ""))
        case ["output_item", "done"]:
            if isinstance(item := event.get("item"), dict):
                for found, text in _texts_of(item, part[0]):
                    answer.settle(text, found)
                _settle_thoughts(answer, item, part[0])
        case ["created" | "queued" | "in_progress" | "completed" | "incomplete" | "failed" | "cancelled" as state]:
            response = event.get("response")
            _read_response(answer, response if isinstance(response, dict) else {}, state)
        case ["done"]:  # OpenRouter's beta
            if isinstance(response := event.get("response"), dict):
                _read_response(answer, response)
        case ["reasoning_summary_text" | "reasoning_text" | "reasoning_summary" | "reasoning" as of, "delta"]:
            if not is_repeated:
                answer.think(_thought_in(event.get("delta")), _thought_part(event, of))
        case ["reasoning_summary_text" | "reasoning_text" | "reasoning_summary" | "reasoning" as of, "done"]:
            answer.settle_thought(_thought_in(event), _thought_part(event, of))
        case ["output_item" | "content_part" | "output_text", *_]:
            pass
        case _:  # calls of tools
            answer.think()


def _read_response(answer: Answer, response: Mapping[str, Any], state: str | None = None) -> None:
    """Read a response object; `state` is the name of the event that it came in."""
    _read_model(answer, response)
    _spend(answer, response.get("usage"))
    own = response.get("status")
    status = own if own in ("incomplete", "failed", "cancelled") else state or own
    if response.get("error") or status == "failed":
        answer.fail(judge_error(response.get("error") or "failed"))
    if status not in ("completed", "incomplete", "failed", "cancelled"):
        return
    output = response.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    texts = dict(found for number, item in enumerate(items) for found in _texts_of(item, number))
    for number, item in enumerate(items):
        _settle_thoughts(answer, item, number)
    if any(texts.values()):
        answer.settle_all(texts)
    refusals = [part for item in items for part in _content_of(item) if part.get("type") == "refusal"]
    if refusals:
        answer.settle_refusal(" ".join(str(part.get("refusal") or "") for part in refusals))
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    _end(answer, reason or status)


def _content_of(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = item.get("content")
    if item.get("type") != "message" or not isinstance(content, list):
        return []
    return [part for part in content if isinstance(part, dict)]


def _thought_part(event: Mapping[str, Any], of: str) -> tuple[int, str, int]:
    name = "summary" if "summary" in of else "content"
    return _index(event.get("output_index")), name, _index(event.get(f"{name}_index"))


def _settle_thoughts(answer: Answer, item: Mapping[str, Any], number: int) -> None:
    if item.get("type") != "reasoning":
        return
    for name in ("summary", "content"):
        parts = item.get(name)
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            answer.settle_thought(_thought_in(part), (number, name, index))


def _texts_of(item: Mapping[str, Any], number: int) -> Iterable[tuple[Part, str]]:
    for index, part in enumerate(_content_of(item)):
        if part.get("type") in ("text", "output_text") and isinstance(text := part.get("text"), str):
            yield (number, index), text


# -- Anthropic's messages --------------------------------------------------------------------------------


def _read_message_event(answer: Answer, kind: Any, event: Mapping[str, Any]) -> None:
    part = (_index(event["index"]), 0) if "index" in event else None
    match event:
        case {"content_block": dict(block)}:
            _read_block(answer, block, part)
        case {"message": dict(message)} if kind in ("message_start", "message", None):
            if not message.get("content"):
                answer.restart(message.get("id"))
            _read_message(answer, message)
        case {"delta": dict(delta)}:
            of = delta.get("type")
            if of in ("text_delta", "text", None) and "text" in delta:
                _say(answer, delta["text"], part)
            elif of in ("text_delta", "text"):
                answer.lose(f"a text delta has no text (event {answer.events})")
            elif of in ("thinking_delta", "thinking"):
                answer.think(_thought_in(delta), part)
            elif of not in ("signature_delta", "citations_delta", None):
                answer.think()
            _end(answer, delta.get("stop_reason"))
        case {"delta": str(text)} if text and kind in ("content_block_delta", None):
            answer.say(text, part)
        case {"content": [*_]}:  # not a stream
            _read_message(answer, event)
    if kind == "message_stop":
        answer.close()
    _spend(answer, event.get("usage"))


def _read_message(answer: Answer, message: Mapping[str, Any]) -> None:
    _read_model(answer, message)
    _spend(answer, message.get("usage"))
    content = message.get("content")
    for number, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            _read_block(answer, block, (number, 0))
    _end(answer, message.get("stop_reason"))


def _read_block(answer: Answer, block: Mapping[str, Any], part: Part | None) -> None:
    if block.get("type") in ("text", None):
        _say(answer, block.get("text"), part)
    else:  # thinking, calls of tools
        answer.think(_thought_in(block) if block.get("type") == "thinking" else "", part)


# -- Gemini ----------------------------------------------------------------------------------------------


def _read_candidates(answer: Answer, event: Mapping[str, Any]) -> None:
    _spend_gemini(answer, event.get("usageMetadata"))
    feedback = event.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    if isinstance(reason, str) and not reason.endswith("UNSPECIFIED"):
        answer.end("content_filter")  # every reason to block a prompt is a refusal, also one that is new
    candidates = event.get("candidates")
    candidate = candidates[0] if isinstance(candidates, list) and candidates else candidates
    if not isinstance(candidate, dict):
        if candidate and not isinstance(candidate, list):
            answer.lose(f"a candidate is a {type(candidate).__name__} (event {answer.events})")
        return
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else content
    for part in parts if isinstance(parts, list) else (parts,):
        if isinstance(part, dict):
            if part.get("thought"):
                answer.think(_thought_in(part.get("text")))
            elif not ("text" in part or not part):
                answer.think()  # a call of a function, an image
            else:
                _say(answer, part.get("text"))
        else:
            _say(answer, part)
    _end(answer, candidate.get("finishReason"))


def _spend_gemini(answer: Answer, usage: Any) -> None:
    if isinstance(usage, dict):
        said, thought = _count(usage.get("candidatesTokenCount")), _count(usage.get("thoughtsTokenCount"))
        output = None if said is None and thought is None else (said or 0) + (thought or 0)
        answer.spend(
            input_tokens=_count(usage.get("promptTokenCount")),
            output_tokens=output,
            cached_tokens=_count(usage.get("cachedContentTokenCount")),
        )


# -- Bedrock ---------------------------------------------------------------------------------------------

_DEBUG = re.compile(r"(\w+)\(")
_DEBUG_TEXT = re.compile(r'delta: Some\(Text\("((?:[^"\\]|\\.)*)"\)\), content_block_index: (\d+)', re.S)
_DEBUG_REASON = re.compile(r'stop_reason: (?:Unknown\(UnknownVariantValue\("(\w+)"\)\)|(\w+))')
_DEBUG_COUNT = re.compile(
    r"\b(input_tokens|output_tokens|cache_read_input_tokens|cache_write_input_tokens): (?:Some\()?(\d+)"
)
_RUST_ESCAPE = re.compile(r"\\(?:u\{([0-9a-f]+)\}|(.))", re.S)
_RUST = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


def _read_debug(answer: Answer, event: str) -> None:
    """Read an event of Bedrock, which baml-py 0.226.3 keeps as Rust prints values; `test_providers.py` guards it."""
    kind = found[1] if (found := _DEBUG.match(event)) else ""
    if kind == "ContentBlockDelta":
        if text := _DEBUG_TEXT.search(event):
            answer.say(_RUST_ESCAPE.sub(_rust_character, text[1]), (int(text[2]), 0))
        elif "Some(Text(" in event:
            answer.lose(f"text is in no known form (event {answer.events})")
        else:  # reasoning, which Rust prints as redacted; calls of tools
            answer.think()
    elif kind == "MessageStop" and (reason := _DEBUG_REASON.search(event)):
        answer.end(reason[1] or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", reason[2]))
    elif kind == "Metadata":
        _spend(answer, {name: int(count) for name, count in _DEBUG_COUNT.findall(event)})


def _rust_character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else _RUST.get(found[2], found[2])


# -- in all formats --------------------------------------------------------------------------------------


def _end(answer: Answer, reason: Any) -> None:
    if isinstance(reason, str):
        answer.end(reason)
    elif reason:
        answer.end(f"a finish reason that is a {type(reason).__name__}")


def _index(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _read_model(answer: Answer, event: Mapping[str, Any]) -> None:
    for name in ("model", "modelVersion"):
        if isinstance(model := event.get(name), str) and model:
            answer.spend(model=model[:200])


def _spend(answer: Answer, usage: Any) -> None:
    """Read token counts as OpenAI and Anthropic name them, or Bedrock in BAML.

    Anthropic counts the tokens of its cache apart. xAI leaves those of reasoning out of `completion_tokens`.
    """
    if not isinstance(usage, dict):
        return
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    read = _first(usage, "cache_read_input_tokens")
    written = _first(usage, "cache_creation_input_tokens", "cache_write_input_tokens")
    asked = _first(usage, "prompt_tokens", "input_tokens")
    written_out = _first(usage, "completion_tokens", "output_tokens")
    total = _first(usage, "total_tokens")
    if asked is not None and written_out is not None and total is not None:
        written_out = max(written_out, total - asked)
    answer.spend(
        input_tokens=None if asked is None else asked + (read or 0) + (written or 0),
        output_tokens=written_out,
        cached_tokens=_first(usage, "prompt_cache_hit_tokens") if cached is read is None else cached or read,
    )


def _first(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := _count(usage.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    """A token count, in whatever form: some dialects send floats or text."""
    try:
        number = int(float(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 2**31 else None
