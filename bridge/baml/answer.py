"""What a provider has said so far, whatever format it said it in, and whether that is its whole answer.

`bridge.baml.events` reads the formats and fills an `Answer`. BAML is not asked: it drops an event that it cannot read
unless it is the last one, and reports success for a stream that is cut off (baml-py 0.226.3).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bridge.baml.endings import is_good, is_too_long, judge_reason, refusal
from bridge.errors import AnswerTooLong, ModelEmpty, ModelUnavailable, TurnFailure
from bridge.model import Usage

Part = tuple[int, int]
FIRST: Part = (0, 0)

# How models that a server does not parse mark their reasoning at the head of a text: DeepSeek and Qwen, Gemma,
# Seed, Magistral, Kimi, Cohere, gpt-oss.
_CLOSINGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[think]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<|start_thinking|>": "<|END_THINKING|>",
    "<|channel|>analysis": "<|channel|>final<|message|>",
    "</think>": "</think>",  # no reasoning, or it was empty: the opening tag stood in the prompt
}
_REASONING = {opening: re.compile(re.escape(closing), re.I) for opening, closing in _CLOSINGS.items()}
_MESSAGE, _MESSAGE_END = "<|message|>", "<|end|>"  # gpt-oss: around what follows `<|channel|>analysis`
_LONGEST_MARK = max(map(len, _REASONING))
# DeepSeek's and Qwen's templates put the opening tag into the prompt: only the closing one arrives, on its own line.
_CLOSING = re.compile(r"\n</think>[ \t]*\r?(?=\n|\Z)", re.I)  # not `^`, which would look at every character
_LONGEST_CLOSING = len("\n</think>")  # what follows it shows at once whether it is one
_FENCE = re.compile(r"^(?:```|~~~)", re.M)
_TAG = re.compile(r"<(?:think|thought)", re.I)
_FIRST_OF_MARK = frozenset(mark[0] for mark in _REASONING)
_BLANK = re.compile(r"\s*")
_REFUSAL_CHARACTERS = 500
_MOST_REASONING = 100  # pieces of reasoning at the head of a text that are removed


class Answer:
    """An answer as it grows. Text comes in parts: blocks of Anthropic, items of OpenAI's responses, otherwise one."""

    def __init__(self, *, keeps_thoughts: bool = False) -> None:
        self.usage = Usage()
        self.events = 0
        self.said = 0  # how many times text was added
        self.lost: str | None = None  # why something that was said may be missing
        self.frame: tuple[str, str] | None = None  # what stood around the last text: the next one is read faster
        self.frame_misses = 0  # how many frames were noted since one was of use
        self.reason: str | None = None  # how it ended, in lower case
        self._parts: dict[Part, list[str]] = {}
        self._final: set[Part] = set()
        self._last: Part = FIRST
        self._has_thought = False
        self._thought = 0  # characters of reasoning that came apart from the text
        self._thoughts: list[str] | None = [] if keeps_thoughts else None  # that nobody has taken
        self._thought_parts: set[object] = set()  # of which something has come
        self._final_thoughts: set[object] = set()  # parts that came as a whole
        self._half_thought = ""  # of a character
        self._tagged: list[str] | None = [] if keeps_thoughts else None  # reasoning in tags, at the head of `_text`
        self._tagged_taken = ""
        self._refusal: list[str] = []
        self._failure: TurnFailure | None = None
        self._is_confirmed = True  # nothing was said after the ending, or the stream was closed after it
        self._message_id: object = None
        self._late: str | None = None  # what was lost after an end: it counts if more is said
        self._is_settled = False
        self._numbers: set[int] = set()
        self._text = self._shown = ""
        self._added: list[str] | None = []  # what continues `_text`; None: something else was changed
        self._end: Part = FIRST  # the last part of `_text`
        self._half = ""  # of a character, at the end of `_text`
        self._plain = 0  # so many characters of `_text` begin with no reasoning, and end none

    # -- what an event says ------------------------------------------------------------------------------

    def say(self, text: str, part: Part | None = None) -> None:
        """Text was added, to the part named or to the last one."""
        self._last = part = self._last if part is None else part
        if not text or part in self._final or self._is_settled:
            return
        self._parts.setdefault(part, []).append(text)
        self.said += 1
        if self._added is not None and part >= self._end:
            self._added.append(text)
            self._end = part
        else:
            self._added = None
        if self.reason is not None:
            self._is_confirmed = False
            self.lost = self.lost or self._late

    def restart(self, message_id: object) -> None:
        """Another message begins, as after a retry of a proxy: what was said of an unfinished one does not count."""
        is_other = message_id is None or message_id != self._message_id
        self._message_id = message_id
        if self.reason is None and is_other:
            self._parts.clear()
            self._added = None

    def settle(self, text: str, part: Part) -> None:
        """The provider repeats a part as a whole. That counts, and not the pieces before it."""
        if not text or self._is_settled:
            return
        self._parts[part] = [text]
        self._final.add(part)
        self._added = None

    def settle_all(self, parts: Mapping[Part, str]) -> None:
        """The provider repeats everything: nothing is missing, and what comes later was said before."""
        self._is_settled = True
        self._parts = {part: [text] for part, text in parts.items()}
        self._added = None
        self.lost = None

    def think(self, text: str = "", part: object = None) -> None:
        """Something was written that is not part of the text: reasoning, or without `text` a call of a tool."""
        self._has_thought = True
        if not text or part in self._final_thoughts:
            return
        if part is not None and part not in self._thought_parts:
            text = f"\n\n{text}" if self._thought_parts else text
            self._thought_parts.add(part)
        self._thought += len(text)
        if self._thoughts is not None:
            self._thoughts.append(text)

    def settle_thought(self, text: str, part: object) -> None:
        """The provider repeats a part of its reasoning as a whole, which counts if nothing of it has come."""
        if text and part not in self._thought_parts:
            self.think(text, part)
            self._final_thoughts.add(part)

    def refuse(self, text: str) -> None:
        """Text of a refusal was added."""
        if text:
            self._refusal.append(text)

    def settle_refusal(self, text: str) -> None:
        """The provider repeats its refusal as a whole."""
        if text:
            self._refusal = [text]

    def end(self, reason: str) -> None:
        """The provider says how the answer ended. After a good end only more text or a worse end counts."""
        reason = reason.partition(":")[0].strip().lower()  # Gemini's dialect adds its own reason after a colon
        # DashScope sends the word while the answer goes on, and Vertex AI's proxies the default of the field
        if not reason or reason == "null" or reason.endswith("reason_unspecified"):
            return
        if self.reason is None or is_good(self.reason):
            self.reason = reason
        self._is_confirmed = True
        self._added = None

    def close(self) -> None:
        """The provider marks the end of the stream."""
        self._is_confirmed = True

    def cut(self) -> None:
        """There is more than is read: what was said counts as an answer that reached the output limit."""
        self.reason = "length"

    def fail(self, failure: TurnFailure) -> None:
        """An event carries an error. What was whole before it stays whole."""
        if not self.is_whole and self._failure is None:
            self._failure = failure

    def lose(self, detail: str) -> None:
        """An event cannot be read. After the end it makes no difference."""
        has_ended = self.reason is not None and self._is_confirmed
        if has_ended:
            self._late = self._late or detail
        elif self.lost is None:
            self.lost = detail

    def skip(self, detail: str) -> None:
        """An event is not read."""
        self.events += 1
        self.lose(detail)

    def spend(self, **counts: int | str | None) -> None:
        """Token counts, or the model's name, were reported. The newest counts, but a zero is no news."""
        known: dict[str, Any] = {
            name: value for name, value in counts.items() if value or (value == 0 and getattr(self.usage, name) is None)
        }
        if known:
            self.usage = replace(self.usage, **known)

    def is_repeated(self, number: object) -> bool:
        """Whether an event with this sequence number was read before; always False if the provider does not count."""
        if not isinstance(number, int):
            return False
        if number in self._numbers:
            return len(self._numbers) > 1  # some proxies give all events the same number
        self._numbers.add(number)
        return False

    # -- what follows from it ----------------------------------------------------------------------------

    @property
    def raw(self) -> str:
        """The text so far, as the model wrote it. It costs what was added since the last time, and a copy."""
        if self._added is None:  # otherwise the parts that `_text` holds are not looked at
            self._text, self._half, self._plain = "", "", 0
            self._added = ["".join(self._parts[part]) for part in sorted(self._parts)]
            self._end = max(self._parts, default=FIRST)
            self._shown = ""
        if self._added:
            added, self._half = _paired(self._half + "".join(self._added))
            self._text += added
            self._added = []
            self._shown = self._without_reasoning()
        return self._text

    def _without_reasoning(self) -> str:
        text, half = self._text, self.reason is None
        if self._plain and _CLOSING.search(text, max(0, self._plain - _LONGEST_CLOSING)) is None:
            self._plain = len(text)
            return text
        if self._tagged is not None:
            self._tagged.clear()
        shown = without_reasoning(text, is_half=half, removed=self._tagged)
        self._plain = len(text) if not self._plain and shown is text and _begins_plain(text) else 0
        return shown

    @property
    def text(self) -> str:
        """The text so far, without the reasoning at its head."""
        return self._shown if self.raw else ""

    @property
    def thought(self) -> int:
        """How many characters of reasoning there are, in the text or apart from it."""
        return self._thought + len(self.raw) - len(self._shown)

    def take_thoughts(self) -> str:
        """The reasoning since the last time; none unless thoughts are kept. It is never taken back."""
        if self._thoughts is None or self._tagged is None:
            return ""
        text = self.raw and "\n\n".join(filter(None, map(str.strip, self._tagged)))
        if len(text) > len(self._tagged_taken) and text.startswith(self._tagged_taken):
            self._thoughts.append(text[len(self._tagged_taken) :])
            self._tagged_taken = text
        if not self._thoughts:
            return ""
        taken, self._half_thought = _paired(self._half_thought + "".join(self._thoughts))
        self._thoughts.clear()
        return taken

    @property
    def has_begun(self) -> bool:
        """Whether there was a word or a thought."""
        return self._has_thought or bool(self._refusal) or bool(self._parts)

    @property
    def is_whole(self) -> bool:
        """Whether this is all that the provider had to say, and it ended well."""
        return (
            self.reason is not None
            and is_good(self.reason)
            and self._is_confirmed
            and self._failure is None
            and self.lost is None
        )

    def judge(self, broken: TurnFailure | None, *, is_text: bool) -> TurnFailure | None:
        """Return None if the answer can be used, otherwise its failure.

        `broken` is what broke the call itself, if anything did. `is_text` means plain text, which may end at the output
        limit: a text that breaks off is better than none, but half a file must not replace a whole one.
        """
        if broken is None and self.reason is not None:
            self._is_confirmed = True  # the stream was closed properly
        if self._refusal:
            return refusal("".join(self._refusal)[:_REFUSAL_CHARACTERS], "a refusal")
        if self.is_whole:
            if self.text.strip():
                return None
            return ModelEmpty("model_empty", "The model gave no answer.", detail=f"it ended with {self.reason}")
        if self._failure is not None:
            return self._failure
        if self.lost is not None:
            return ModelUnavailable("model_cut", "The model's answer was damaged.", detail=self.lost)
        if self.reason is None or is_good(self.reason):
            detail = f"no finish reason after {self.events} events"
            return broken or ModelUnavailable("model_cut", "The model's answer was cut off.", detail=detail)
        if is_too_long(self.reason):
            if is_text and self.text.strip():
                return None
            return AnswerTooLong(
                "model_length", "The answer exceeds the model's output limit.", detail=f"it ended with {self.reason}"
            )
        return judge_reason(self.reason)

    @property
    def is_truncated(self) -> bool:
        """Whether the model reached its output limit."""
        return self.reason is not None and is_too_long(self.reason)


def _paired(text: str) -> tuple[str, str]:
    """Join the halves of a character that two events brought; and half a character at the end, which is held back."""
    if text.isascii():
        return text, ""
    half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    whole = text[: len(text) - len(half)]
    return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), half


def _begins_plain(text: str) -> bool:
    """Whether a text begins with something that is no reasoning, whatever follows."""
    head = _BLANK.match(text)
    start = head.end() if head else 0
    return start < len(text) and text[start] not in _FIRST_OF_MARK


def without_reasoning(text: str, *, is_half: bool = True, removed: list[str] | None = None) -> str:
    """Remove reasoning that the model wrote at the head of its text, in tags. With `is_half`, hold back half a tag.

    What was in the tags is added to `removed`. As the text grows, that only grows.
    """
    at = 0
    for _ in range(_MOST_REASONING):
        head = _BLANK.match(text, at)
        start = head.end() if head else at
        if text[start : start + 1] not in _FIRST_OF_MARK:  # by far the most common
            return text[start:] if at else _without_unopened(text, removed)
        first = text[start : start + _LONGEST_MARK].casefold()
        for mark, closing in _REASONING.items():
            if first.startswith(mark):
                found = closing.search(text, start)
                if removed is not None:
                    removed.append(_inside(mark, text[start + len(mark) : found.start() if found else None], found))
                if found is None:
                    return ""
                at = found.end()
                break
            if is_half and len(text) - start < len(mark) and mark.startswith(first):
                return ""
        else:
            return text[start:] if at else _without_unopened(text, removed)
    return ""


def _inside(mark: str, text: str, closed: object) -> str:
    """The reasoning after an opening tag, without what may be the beginning of its closing one."""
    if mark == "<|channel|>analysis":
        text = "" if _MESSAGE.startswith(text) else text.removeprefix(_MESSAGE)
        text, end, _ = text.partition(_MESSAGE_END)
        return text if end or closed else _without_half(text, _MESSAGE_END)
    return text if closed else _without_half(text, _CLOSINGS[mark].casefold())


def _without_half(text: str, mark: str) -> str:
    end = text[1 - len(mark) :].casefold()
    half = next((n for n in range(min(len(end), len(mark) - 1), 0, -1) if end.endswith(mark[:n])), 0)
    return text[: len(text) - half]


def _without_unopened(text: str, removed: list[str] | None) -> str:
    """Remove reasoning whose opening tag stood in the prompt, unless the closing one may be part of code or JSON."""
    if (found := _CLOSING.search(text)) is None:
        return text
    before = text[: found.start()]
    is_inside = len(_FENCE.findall(before)) % 2 == 1 or before.lstrip().startswith(("{", "[", "<"))
    if is_inside or _TAG.search(before):
        return text
    if removed is not None:
        removed.append(before)
    return text[found.end() :].lstrip()
