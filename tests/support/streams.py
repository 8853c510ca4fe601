"""A generator of providers' streams, each with what has to become of it.

A stream is built whole, written in one of its format's dialects, and then damaged. The oracle never looks at the
events: it follows from how the stream was built.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from hypothesis import strategies as st

from bridge.errors import AnswerTooLong, ContextTooLong, ModelRefused, TurnFailure
from tests.support import wire
from tests.support.wire import Event, Format, Kind, Stream

Outcome = Literal["done", "retry", "refused", "too_long", "context"]


@dataclass(frozen=True)
class Case:
    """A stream as it goes over the wire. `is_cut` means that the connection breaks after it instead of closing."""

    format: Format
    events: tuple[str, ...]
    is_cut: bool
    outcome: Outcome  # of a function that returns a string
    text: str  # of a reply that is done
    how: tuple[str, ...]  # how it was built, for the report of a failure
    thoughts: tuple[str, ...] = ()  # apart from the text, in their order
    tagged: str = ""  # the reasoning in the text

    @property
    def outcome_of_structure(self) -> Outcome:
        """The outcome of a function that returns anything else: it needs a good end."""
        return "too_long" if self.outcome == "done" and "long" in self.how else self.outcome


def outcome_of(failure: TurnFailure | None) -> Outcome:
    """What becomes of an answer that was judged so."""
    match failure:
        case None:
            return "done"
        case ContextTooLong():
            return "context"
        case AnswerTooLong():
            return "too_long"
        case ModelRefused():
            return "refused"
    assert failure.retryable, failure
    return "retry"


# no NUL and no lone surrogates, which Postgres cannot hold; no tag at the head
_PIECES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0<[◁"), min_size=1, max_size=8),
    min_size=1,
    max_size=5,
).filter(lambda pieces: "".join(pieces).strip() != "" and pieces[0].strip() != "")
_THINK_TAGS = (("<think>", "</think>"), ("<THINK>", "</THINK>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))
_THOUGHTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
_SCALARS: st.SearchStrategy[Any] = st.sampled_from([None, 0, 1.5, "x", True, [], {}, [1, {"a": None}]])

# Events that say nothing: keep-alives, and events that are new or of another vendor.
_ALIVE: tuple[Event, ...] = (
    "",
    " ",
    "{}",
    "null",
    "[]",
    {"type": "ping"},
    {"type": "keepalive"},
    {"object": "chat.completion.chunk"},
    {"choices": []},
    {"choices": None},
    {"type": "an_event_of_next_year", "payload": {"a": 1}},
    {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]},
    {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"start_offset": 1}}]},
    {"choices": [{"index": 0, "delta": None, "finish_reason": ""}]},
    {"choices": [{"index": 0, "delta": {"role": ""}, "finish_reason": "null"}]},
)
_GARBAGE: tuple[str, ...] = (
    '{"choices": [{"index": 0, "delta": {"content": "lo',
    "{",
    "upstream error",
    "<html>",
    "data: {}",
    '"text"',
    "\x01",
    '{"a": 1}}',
    "[DONE",
    '{"choices":[{"delta":{"content":"a"}}]} trailing',
)
_ERRORS: tuple[tuple[str, str, int, Outcome], ...] = (
    ("the server had an error", "server_error", 500, "retry"),
    ("Overloaded", "overloaded_error", 529, "retry"),
    ("Rate limit reached", "rate_limit_error", 429, "retry"),
    ("the upstream timed out", "timeout", 504, "retry"),
    ("The response was filtered", "content_filter", 400, "refused"),
    ("The key is not valid", "authentication_error", 401, "refused"),
    ("This model's maximum context length is 10 tokens", "context_length_exceeded", 400, "context"),
    ("prompt is too long: 11 tokens > 10 maximum", "invalid_request_error", 400, "context"),
)


@st.composite
def cases(draw: st.DrawFn, damage: str | None = None) -> Case:
    """Draw a stream with its oracle; with `damage`, one that is damaged in that way."""
    format_ = draw(st.sampled_from(wire.FORMATS))
    case, kinds, events, thinking = _build(draw, format_)
    fault = damage or draw(st.sampled_from(["none", "none", *_FAULTS]))
    if fault != "none":
        case = _FAULTS[fault](draw, case, kinds, events)
        case = replace(case, how=(*case.how, fault))
    case = thinking.complete(case, events)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(events)))
        events.insert(at, draw(st.sampled_from(_ALIVE)))
    encoded = tuple(_encode(draw, event) for event in events)
    return replace(case, events=encoded)


class _Thinking:
    """What there is to be shown of a stream's reasoning, by the events that have it."""

    def __init__(self, whole: str) -> None:
        self._whole = whole  # what the last events of OpenAI's responses repeat
        self._thoughts: dict[int, tuple[Event, str]] = {}  # the event is kept, so that no other has its id

    def add(self, event: Event, thought: str) -> None:
        if thought:
            self._thoughts[id(event)] = (event, thought)

    def complete(self, case: Case, events: list[Event]) -> Case:
        found = [self._thoughts[id(event)] for event in events if id(event) in self._thoughts]
        if case.format == "responses":  # its events are numbered
            found = list({id(event): (event, thought) for event, thought in found}.values())
        thoughts = tuple(thought for _, thought in found)
        if not thoughts and any(_repeats_thoughts(event) for event in events):
            thoughts = (self._whole,)
        return replace(case, thoughts=thoughts)


def _repeats_thoughts(event: Event) -> bool:
    match event:
        case {"type": "response.reasoning_summary_text.done"} | {"response": {"output": [{"type": "reasoning"}, *_]}}:
            return True
    return False


def _build(draw: st.DrawFn, format_: Format) -> tuple[Case, list[Kind], list[Event], _Thinking]:
    """Build a stream that nothing happened to, in a dialect."""
    body = draw(st.sampled_from(["text", "text", "text", "empty", "thought", "tool", "refusal", "tagged", "unopened"]))
    if body == "refusal" and format_ not in ("chat", "responses"):
        body = "text"
    end = draw(st.sampled_from(["good", "good", "good", "long", "refused", "bad", "none"]))
    stream = Stream(format_)
    if draw(st.booleans()):
        stream.open()
    if body == "thought" or draw(st.booleans()):
        stream.think(draw(_THOUGHTS))
        if draw(st.booleans()):
            stream.sign()
    pieces = draw(_PIECES)
    shown = tagged = ""
    if body == "tagged":
        opening, closing = draw(st.sampled_from(_THINK_TAGS))
        stream.say(opening[:3])
        stream.say(f"{opening[3:]}it may be {closing[:2]}")
        stream.say(f"so{closing}\n\n")
        pieces = [pieces[0].lstrip(), *pieces[1:]]
        tagged = f"it may be {closing[:2]}so"
    if body == "unopened":  # the opening tag stood in the prompt
        stream.say("it may be so")
        stream.say(".\n</think")
        stream.say(">\n\n")
        pieces = [pieces[0].lstrip(), *pieces[1:]]
        tagged = "it may be so."
    if body in ("text", "tagged", "unopened"):
        for piece in pieces:
            stream.say(piece)
            if draw(st.integers(0, 5)) == 0:
                stream.think(draw(_THOUGHTS))
        shown = "".join(pieces)
    elif body == "tool":
        stream.call_tool("{}")
    elif body == "refusal":
        stream.refuse("I would ")
        stream.refuse("rather not.")
    has_repeat = draw(st.booleans())
    if end != "none":
        reasons: dict[str, Any] = {"good": wire.GOOD, "long": wire.TOO_LONG, "refused": wire.REFUSED, "bad": wire.BAD}
        stream.end(draw(st.sampled_from(reasons[end][format_])), whole=has_repeat)
    if draw(st.booleans()):
        stream.close()
    how = (body, end, "repeated" if has_repeat and format_ == "responses" and end != "none" else "once")
    case = Case(format_, (), False, _outcome(body, end, shown), shown, how, tagged=tagged)
    events: list[Event] = []
    thinking = _Thinking(stream.thought)
    for kind, event in zip(stream.kinds, stream.events, strict=True):
        written, thought = _in_dialect(draw, format_, kind, event)
        events.append(written)
        thinking.add(written, thought)
    return case, list(stream.kinds), events, thinking


def _outcome(body: str, end: str, shown: str) -> Outcome:
    if body == "refusal" or end == "refused":
        return "refused"
    if end == "long":
        return "done" if shown.strip() else "too_long"
    return "done" if end == "good" and shown.strip() else "retry"


def _in_dialect(draw: st.DrawFn, format_: Format, kind: Kind, sent: Event) -> tuple[Event, str]:
    """Write an event as a dialect does: fields missing, added, of another type; text in another place.

    Also returns the reasoning that is in it.
    """
    if isinstance(sent, str):
        return sent, ""
    event: dict[str, Any] = json.loads(json.dumps(sent))
    if draw(st.integers(0, 3)) == 0:
        event[draw(st.sampled_from(["x_new", "obfuscation", "service_tier", "citations", "copilot_usage"]))] = draw(
            _SCALARS
        )
    for name in ("id", "created", "object", "model", "item_id", "logprobs", "modelVersion", "sequence_number"):
        # numbers are what tells a repeated event from one that says the same again
        if name in event and name != "sequence_number" and draw(st.integers(0, 5)) == 0:
            if draw(st.booleans()):
                del event[name]
            else:
                event[name] = draw(_SCALARS)
    for name in ("usage", "usageMetadata"):
        if name in event and draw(st.integers(0, 3)) == 0:
            event[name] = draw(
                st.sampled_from([None, {}, {"prompt_tokens": 1.5}, {"completion_tokens": "x"}, "none", [], 3])
            )
    thought = _thought_of(event) if kind == "thought" else ""
    if format_ == "chat" and event.get("choices"):
        thought += _chat_dialect(draw, event)
    return event, thought


def _thought_of(event: dict[str, Any]) -> str:
    match event:
        case {"choices": [{"delta": {"reasoning_content": str(text)}}]}:
            return text
        case {"delta": {"thinking": str(text)}} | {"delta": str(text)}:
            return text
        case {"candidates": [{"content": {"parts": [{"text": str(text)}]}}]}:
            return text
    raise NotImplementedError(event)


def _think_in_dialect(draw: st.DrawFn, delta: dict[str, Any], text: str) -> None:
    """Write reasoning as one of the dialects of chat completions does, or as two of them at once."""
    half = len(text) // 2
    blocks = [{"type": "thinking", "thinking": text, "signature": wire.SECRET}]
    details = [{"type": "reasoning.text", "text": text, "signature": wire.SECRET, "format": "anthropic-claude-v1"}]
    forms: list[dict[str, Any]] = [
        {"reasoning_content": text},
        {"reasoning": text},
        {"thinking": text},
        {"thought": text},
        {"reasoning": text, "reasoning_content": text},  # vLLM
        {"reasoning": text, "reasoning_details": details},  # OpenRouter
        {"reasoning_details": [{"type": "reasoning.summary", "summary": text}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": wire.SECRET}, *details]},
        {"reasoning_details": [details[0] | {"text": text[:half]}, details[0] | {"text": text[half:]}]},
        {"reasoning_details": text},
        {"reasoning_content": text, "thinking_blocks": blocks},  # LiteLLM
        {"thinking_blocks": [{"type": "redacted_thinking", "data": wire.SECRET}, *blocks]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]},  # Mistral
        {"content": [{"type": "reasoning", "text": text}]},
    ]
    del delta["reasoning_content"]
    delta |= draw(st.sampled_from(forms))


def _chat_dialect(draw: st.DrawFn, event: dict[str, Any]) -> str:
    """Write a chunk as a dialect does. Returns the reasoning that is added to it."""
    choice = event["choices"][0]
    if draw(st.integers(0, 4)) == 0:
        choice["index"] = draw(st.sampled_from([0.0, None, "0", 1]))
    delta = choice["delta"]
    if draw(st.integers(0, 4)) == 0:
        delta["role"] = draw(st.sampled_from(["", None, "assistant", "model", 1]))
    if thought := delta.get("reasoning_content"):
        _think_in_dialect(draw, delta, thought)
        return ""
    text = delta.get("content")
    if not text:
        return ""
    form = draw(
        st.sampled_from(["plain"] * 4 + ["parts", "strings", "part", "choice_text", "message", "twice", "native"])
    )
    match form:
        case "parts":
            thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
            delta["content"] = [thinking, {"type": "text", "text": text}, {"type": "reference", "reference_ids": [1]}]
            return "hm"
        case "strings":
            delta["content"] = [text[:2], text[2:]]
        case "part":
            delta["content"] = {"type": "text", "text": text}
        case "choice_text":
            del choice["delta"]
            choice["text"] = text
        case "twice":  # Together
            choice["text"] = text
        case "native":  # Perplexity
            choice["message"] = {"role": "assistant", "content": "so far " + text}
    return ""


def _encode(draw: st.DrawFn, event: Event) -> str:
    if isinstance(event, str):
        return event
    text = json.dumps(event, ensure_ascii=draw(st.booleans()))
    return draw(st.sampled_from(["", " ", "\ufeff"])) + text if draw(st.integers(0, 9)) == 0 else text


# -- faults ----------------------------------------------------------------------------------------------


def _end_at(kinds: list[Kind]) -> int:
    """The index of the event that ends the answer, or of none."""
    return kinds.index("end") if "end" in kinds else len(kinds)


def _cut(draw: st.DrawFn, case: Case, kinds: list[Kind], events: list[Event]) -> Case:
    at = draw(st.integers(0, len(events)))
    has_ended = at > _end_at(kinds)
    del events[at:]
    is_cut = draw(st.booleans())
    if has_ended or (case.outcome == "refused" and case.how[0] == "refusal" and _has_refused(events)):
        return replace(case, is_cut=is_cut)
    return replace(case, is_cut=is_cut, outcome="retry")


def _has_refused(events: list[Event]) -> bool:
    return any("rather" in json.dumps(event) or "I would" in json.dumps(event) for event in events)


def _garbage(draw: st.DrawFn, case: Case, kinds: list[Kind], events: list[Event]) -> Case:
    at = draw(st.integers(0, len(events)))
    events.insert(at, draw(st.sampled_from(_GARBAGE)))
    return _damaged(case, kinds, at)


def _damaged(case: Case, kinds: list[Kind], at: int) -> Case:
    """What becomes of a case if an event at `at` could not be read."""
    after_end = at > _end_at(kinds)
    is_mended = "repeated" in case.how and case.text != ""
    if after_end or is_mended or (case.outcome == "refused" and case.how[0] == "refusal"):
        return case
    return replace(case, outcome="retry")


def _truncated(draw: st.DrawFn, case: Case, kinds: list[Kind], events: list[Event]) -> Case:
    """Half of an event that says something arrives."""
    if not (texts := [n for n, kind in enumerate(kinds) if kind == "text"]):
        return case
    at = draw(st.sampled_from(texts))
    events[at] = json.dumps(events[at])[:-3]
    return _damaged(case, kinds, at)


def _unknown_content(draw: st.DrawFn, case: Case, kinds: list[Kind], events: list[Event]) -> Case:
    texts = [n for n, kind in enumerate(kinds) if kind == "text"]
    if case.format != "chat" or not texts:
        return case
    at = draw(st.sampled_from(texts))
    events[at] = wire.chunk({"content": draw(st.sampled_from([True, {"a": "b"}, [{"b": "c"}], [True]]))})
    return _damaged(case, kinds, at)


def _error(draw: st.DrawFn, case: Case, kinds: list[Kind], events: list[Event]) -> Case:
    at = draw(st.integers(0, len(events)))
    message, name, code, outcome = draw(st.sampled_from(_ERRORS))
    failing = Stream(case.format)
    failing.fail(message, name, code)
    event = failing.events[0]
    assert isinstance(event, dict)
    if case.format == "chat" and draw(st.booleans()):  # OpenRouter
        event |= {
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": draw(st.sampled_from(["error", None]))}]
        }
    elif case.format == "chat" and draw(st.booleans()):  # vLLM, Mistral
        event = {"object": "error", "message": message, "type": name, "param": None, "code": code}
    events.insert(at, event)
    has_ended = at > _end_at(kinds) and case.how[1] == "good"
    if case.how[0] == "refusal" or (has_ended and case.how[0] not in ("empty", "thought", "tool")):
        return case
    if has_ended:
        return replace(case, outcome="retry")
    return replace(case, outcome=outcome)


def _double(draw: st.DrawFn, case: Case, kinds: list[Kind], events: list[Event]) -> Case:
    """An event comes twice. Of text, only OpenAI's responses can tell."""
    others = [n for n, kind in enumerate(kinds) if kind != "text" or case.format == "responses"]
    if not others:
        return case
    at = draw(st.sampled_from(others))
    if case.format == "responses" and kinds[at] in ("text", "thought") and at < 2:
        return case  # it cannot be told yet that the events are numbered
    events.insert(at, events[at])
    return case


def _drop(draw: st.DrawFn, case: Case, kinds: list[Kind], events: list[Event]) -> Case:
    """An event does not come. Of text, only a format that repeats it can tell."""
    droppable = [n for n, kind in enumerate(kinds) if kind != "text" or "repeated" in case.how]
    if not droppable:
        return case
    at = draw(st.sampled_from(droppable))
    kind = kinds[at]
    dropped = json.dumps(events.pop(at))
    if kind == "end":
        return case if case.how[0] == "refusal" else replace(case, outcome="retry")
    if case.how[0] == "refusal" and ("I would" in dropped or "rather" in dropped):
        return case  # the other half is left
    return case


def _late(draw: st.DrawFn, case: Case, kinds: list[Kind], events: list[Event]) -> Case:
    """The end comes before the last words, but the stream is closed properly."""
    end = _end_at(kinds)
    texts = [n for n, kind in enumerate(kinds) if kind == "text" and n < end]
    if end == len(kinds) or not texts:
        return case
    events.insert(texts[-1], events.pop(end))
    return case


_Fault = Callable[[st.DrawFn, Case, list[Kind], list[Event]], Case]
_FAULTS: dict[str, _Fault] = {
    "cut": _cut,
    "garbage": _garbage,
    "truncated": _truncated,
    "unknown content": _unknown_content,
    "error": _error,
    "double": _double,
    "drop": _drop,
    "late": _late,
}
