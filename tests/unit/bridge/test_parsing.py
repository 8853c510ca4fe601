"""Structured answers: what is light is parsed at once, what is heavy apart, and what is hopeless not at all."""

from __future__ import annotations

import asyncio
import json
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import baml_client
from bridge.baml import parsing
from bridge.baml.apart import parse_apart
from bridge.baml.escapes import decode_and_weigh, weigh_json
from bridge.baml.parsing import DEEPEST, LIGHT_BRACKETS, LONGEST, LOOK_STEPS, MOST_BRACKETS, Parser, _Look
from bridge.baml.running import Running
from bridge.errors import BadOutput

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a"\\[]{},:`ß'), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab,[", max_size=3), inner, max_size=4),
    max_leaves=30,
).filter(lambda value: isinstance(value, list | dict))


def parser(name: str = "Code") -> Parser:
    return Parser(baml_client, name, Running())


def code(files: int) -> dict[str, Any]:
    """An answer of the function `Code` with so many files."""
    written = [{"path": f"{n}.txt", "content": 'a, [b], "c"', "language": None} for n in range(files)]
    return {"reply": "Here, as you asked:", "files": written}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was parsed apart."""
    texts: list[str] = []

    async def note(module: object, name: str, text: str) -> str:
        texts.append(text)
        return "apart"

    monkeypatch.setattr(parsing, "parse_apart", note)
    return texts


@given(_VALUES)
def test_weight_of_json_is_exact(value: Any) -> None:
    text = json.dumps(value)
    weight = weigh_json(value, 1000, 1000)
    _, decoded = decode_and_weigh(text)
    brackets = sum(1 for character in _outside_strings(text) if character in "[{")
    assert weight.brackets == decoded.brackets == brackets
    assert weight.depth == decoded.depth
    assert weight.commas >= decoded.commas >= sum(1 for character in _outside_strings(text) if character == ",")


def _outside_strings(text: str) -> str:
    outside, is_inside, is_escaped = "", False, False
    for character in text:
        if is_escaped:
            is_escaped = False
        elif is_inside and character == "\\":
            is_escaped = True
        elif character == '"':
            is_inside = not is_inside
        elif not is_inside:
            outside += character
    return outside


@given(_VALUES, st.data())
def test_look_does_not_depend_on_the_pieces(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    pieces = _Look()
    for cut in sorted(cuts):
        assert pieces.feed(text[:cut]) is None
    whole = _Look()
    assert (pieces.feed(text), whole.feed(text)) == (None, None)
    assert (pieces._depth, pieces._brackets, pieces._at) == (whole._depth, whole._brackets, whole._at)
    assert (whole._depth, whole._brackets) == (0, sum(character in "[{" for character in _outside_strings(text)))


def test_look_begins_again_when_the_text_is_another() -> None:
    look = _Look()
    look.feed('{"a": [')
    assert look.feed('{"b": 1}') is None
    assert (look._depth, look._brackets) == (0, 1)


@pytest.mark.parametrize(
    "text",
    ['{"reply":' * (DEEPEST + 1), "[" * 1000, '{"a": "' + "b" * LONGEST, "[" + "{}," * 5 * MOST_BRACKETS],
    ids=["deep", "brackets", "long", "wide"],
)
async def test_hopeless_answer_is_refused_before_its_end(text: str, parsed: list[str]) -> None:
    looking = parser()

    def look_on() -> None:
        for _ in range(4):  # a slice of a large answer each time
            looking.partial(text)

    with pytest.raises(BadOutput) as caught:
        look_on()
    assert (caught.value.code, caught.value.retryable) == ("model_output", True)
    reading = parser()
    async with reading._running.parsing.turn(0):  # it is refused without a turn
        with pytest.raises(BadOutput):
            await asyncio.wait_for(reading.whole(text), 5)
    assert parsed == []


@pytest.mark.parametrize("text", ["[]," * 300_000, '"a",' * 240_000])
def test_look_reads_a_large_answer_in_slices(text: str) -> None:
    look = _Look()
    look.feed(text)
    assert look.is_behind
    assert look._at <= 4 * LOOK_STEPS


@pytest.mark.parametrize("hidden", ["5\" pipe: '", "'", '"a" "b'])
async def test_quotes_do_not_hide_a_deep_answer(hidden: str, parsed: list[str]) -> None:
    with pytest.raises(BadOutput):
        await parser().whole(f"{hidden} " + "['" * 500)
    assert parsed == []


async def test_light_answer_is_parsed_here(parsed: list[str]) -> None:
    text = json.dumps(code(40))
    assert parser().partial(text[:-4])["reply"] == "Here, as you asked:"
    assert await parser().whole(text) == code(40)
    assert (await parser().whole(text[:-1] + ",}"))["files"] == code(40)["files"]
    assert parsed == []


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(code(LIGHT_BRACKETS + 10)),
        json.dumps(code(LIGHT_BRACKETS + 10))[:-1] + ",}",
        '{"reply": "a", "files": [' + "1," * 2000 + "]}",
        "{\"reply\": 'a', 'files': ['" + "1," * 2000 + "]}",
        '{"reply": "' + "```json\n[1]\n```\n" * 200 + '"',
        '{"reply": "' + "a" * 300_000 + '"',
        '{"reply": "a", "files": [' + '"a" ' * 20_000 + "]}",
        '{"reply": "a", "files": [' + "]" * 20_000 + "}",
    ],
    ids=["files", "files, nearly JSON", "values", "values in quotes", "fences", "a long string", "strings", "ends"],
)
async def test_heavy_answer_is_parsed_apart(text: str, parsed: list[str]) -> None:
    here: list[str] = []
    functions = SimpleNamespace(Code=here.append)
    module = SimpleNamespace(b=SimpleNamespace(parse=functions, parse_stream=functions))
    reading = Parser(cast(ModuleType, module), "Code", Running())
    assert reading.partial(text) is None
    assert await reading.whole(text) == "apart"
    assert (parsed, here) == ([text], [])


async def test_answer_parsed_apart_means_the_same() -> None:
    answer = code(LIGHT_BRACKETS + 10)
    answer["files"][0]["content"] = 'Straße "\\ 😀\n'
    assert await parser().whole(json.dumps(answer)) == answer
    assert await parser().whole(json.dumps(answer)[:-1] + ",}") == answer


async def test_answer_that_does_not_fit_is_refused_apart() -> None:
    with pytest.raises(BadOutput) as caught:
        await parse_apart(baml_client, "Code", "[1, 2]")
    assert "Missing required field: reply" in caught.value.said


@pytest.mark.parametrize("text", ['{"reply":' * 100_000, "[" * 1000], ids=["stack", "memory"])
async def test_parser_that_dies_is_bad_output(text: str) -> None:
    with pytest.raises(BadOutput) as caught:
        await parse_apart(baml_client, "Code", text)
    assert "ended with -" in caught.value.detail


@pytest.mark.parametrize("end", ["}", ",}"], ids=["strict", "lenient"])
async def test_longest_text_is_parsed_within_the_limits(end: str) -> None:
    reply = "😀" * (LONGEST - 100)
    value = await parse_apart(baml_client, "Code", f'{{"reply": "{reply}", "files": []{end}')
    assert value["reply"] == reply


async def test_parser_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.baml.apart.SECONDS", 0.2)
    with pytest.raises(BadOutput) as caught:
        await parse_apart(baml_client, "Code", json.dumps(code(100)))
    assert "within 0.2 s" in caught.value.detail


async def test_parser_apart_gets_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}

    async def note(*_: object, env: dict[str, str], **__: object) -> None:
        given.update(env)
        raise OSError("not started")

    monkeypatch.setenv("LLM_API_KEY", "sk-secret")
    monkeypatch.setattr(asyncio, "create_subprocess_exec", note)
    with pytest.raises(OSError, match="not started"):
        await parse_apart(baml_client, "Code", "{}")
    assert given.keys() == {"PATH", "PYTHONPATH", "MALLOC_ARENA_MAX"}


def test_no_partial_follows_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 0.1, 0.1, 0.4))
    monkeypatch.setattr("bridge.baml.parsing.time.thread_time", lambda: next(times))
    reading = parser()
    assert reading.partial('{"reply": "a')["reply"] == "a"
    assert reading.partial('{"reply": "ab')["reply"] == "ab"  # took 0.3 s
    assert reading.partial('{"reply": "abc') is None
