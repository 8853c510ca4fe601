"""A script for several calls about one question: `[[text=one]] [[then text=two]]`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from devstack.model import ModelServer

SCRIPT = 'Find it. [[text=first]] [[then text="the second"]] [[then json={"tool": "search"}]] [[then fail=503]]'
SCRIPT += " [[then tokens=2]]"
STEPS: list[Any] = ["first", "the second", '{"tool": "search"}', 503, "word00 word01 "]


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


class Caller:
    """Calls the model, and returns its text, or the status of an error."""

    def __init__(self, model: ModelServer, http: aiohttp.ClientSession) -> None:
        self._url = f"{model.url}/chat/completions"
        self._http = http

    async def __call__(self, *messages: tuple[str, str]) -> Any:
        body = {"model": "m", "messages": [{"role": role, "content": text} for role, text in messages]}
        async with self._http.post(self._url, json=body) as response:
            answer = await response.json()
            return answer["choices"][0]["message"]["content"] if response.status == 200 else response.status


@pytest.fixture
def call(model: ModelServer, http: aiohttp.ClientSession) -> Caller:
    return Caller(model, http)


@pytest.mark.parametrize("result_role", ["user", "tool"])
async def test_each_call_plays_its_step(call: Caller, result_role: str) -> None:
    messages = [("system", "You are an agent."), ("user", SCRIPT)]
    for step in STEPS:
        assert await call(*messages) == step
        assert await call(*messages) == step, "a call that is repeated plays its step again"
        messages += [("assistant", str(step)), (result_role, f"result of {step}")]
    assert "demo model" in await call(*messages), "after the last step it answers by itself"


async def test_prompt_without_answers_plays_steps_in_order(call: Caller) -> None:
    notes = SCRIPT
    for step in STEPS:
        assert await call(("user", notes)) == step
        assert await call(("user", notes)) == step
        notes += f"\nIt said {step}"


async def test_prompts_of_other_functions_play_the_next_steps(call: Caller) -> None:
    assert await call(("system", "Plan."), ("user", SCRIPT)) == "first"
    assert await call(("system", "Write."), ("user", f"{SCRIPT}\nPlan: first")) == "the second"
    assert await call(("system", "Check."), ("user", f"{SCRIPT}\nText: the second")) == '{"tool": "search"}'
    assert await call(("system", "Write."), ("user", f"{SCRIPT}\nPlan: first")) == "the second"


async def test_prompt_that_replaces_its_result_plays_the_next_step(call: Caller) -> None:
    for step, result in zip(STEPS, ("none", "a", "b", "c", "d"), strict=True):
        assert await call(("user", f"{SCRIPT}\nLast result: {result}")) == step


@pytest.mark.parametrize("has_answers", [True, False])
async def test_conversations_at_once_do_not_disturb_each_other(call: Caller, *, has_answers: bool) -> None:
    async def converse(number: int) -> None:
        messages = [("user", SCRIPT)]
        for step in STEPS:
            assert await call(*messages) == step
            result = f"result {number} of {step}"
            messages += [("assistant", str(step)), ("user", result)] if has_answers else [("user", result)]

    await asyncio.gather(*(converse(number) for number in range(10)))


async def test_times_is_counted_for_each_step(call: Caller) -> None:
    question = ("user", "[[error=503 times=1 text=a]] [[then error=503 times=1 text=a]]")
    assert [await call(question), await call(question)] == [503, "a"]
    again = (question, ("assistant", "a"), ("user", "go on"))
    assert [await call(*again), await call(*again)] == [503, "a"]


async def test_later_question_with_its_own_directive_starts_anew(call: Caller) -> None:
    messages = [("user", "[[text=a]] [[then text=b]]"), ("assistant", "a"), ("user", "[[text=c]]")]
    assert await call(*messages) == "c"
    assert "demo model" in await call(*messages, ("assistant", "c"), ("user", "hello"))


async def test_directive_of_an_earlier_question_is_not_repeated(call: Caller) -> None:
    assert "demo model" in await call(("user", "[[text=a]]"), ("assistant", "a"), ("user", "hello"))


async def test_then_alone_lets_the_model_answer_first(call: Caller) -> None:
    assert "demo model" in await call(("user", "hello [[then text=b]]"))
    assert await call(("user", "hello [[then text=b]]"), ("assistant", "x"), ("user", "y")) == "b"


async def test_then_inside_a_text_is_text(call: Caller) -> None:
    assert await call(("user", '[[text="[[then text=x]]"]] [[then text=b]]')) == "[[then text=x]]"


@pytest.mark.parametrize(
    ("directive", "word"),
    [
        ("[[then tokens=many]]", "tokens"),
        ("[[then tokens=-1]]", "tokens"),
        ("[[then tokens=99999999999]]", "tokens"),
        ("[[then nonsense=3]]", "nonsense"),
        ("[[then]]", "[[then]]"),
        ("[[then ]]", "[[then ]]"),
        ("[[then text=x", "no end"),
        ("[[then json={bad}]]", "json"),
        ('[[then text={"a": 1}]]', "text"),
        ("[[then first=nan]]", "first"),
        ("[[then delay=inf]]", "delay"),
        ("[[then error=7]]", "error"),
        ("[[then hold=0]]", "hold"),
        ("[[then text=a wrong]]", "wrong"),
        (f"[[then json={'[' * 100_000}]]", "json"),
        ("[[tokens=many]]", "tokens"),
        ("[[tokens=3", "no end"),
        ("[[error=99]]", "error"),
        ('[[finish={"a": 1}]]', "finish"),
    ],
)
async def test_mistake_in_a_directive_is_named(call: Caller, directive: str, word: str) -> None:
    for text in (directive, f"[[text=first]] {directive}") if "then" in directive else (directive,):
        answer = await call(("user", text))
        assert word in answer
        assert answer.startswith("The directive [[")
        assert len(answer) < 500
    schema = "Answer in JSON using this schema:\n{\n  n: int,\n}"
    assert await call(("system", schema), ("user", directive)) == 400


@pytest.mark.parametrize("text", ["[[a link]]", "[[first steps]]", "[[echo chamber]]", "[[thenceforth]]", "[["])
async def test_other_text_in_brackets_is_no_directive(call: Caller, text: str) -> None:
    assert "cannot be read" not in await call(("user", text))


@pytest.mark.parametrize("step", ["cut=0 text=x", "clean_cut=0 text=x", "tokens=3 cut=1"])
async def test_cut_step_ends_a_request_without_stream(call: Caller, step: str) -> None:
    assert await call(("user", f"[[text=a]] [[then {step}]]")) == "a"
    with pytest.raises(aiohttp.ClientError):
        await call(("user", f"[[text=a]] [[then {step}]]"), ("assistant", "a"), ("user", "b"))


async def test_held_and_stalled_steps_work_without_stream(call: Caller, model: ModelServer) -> None:
    asked = asyncio.create_task(call(("user", "[[tokens=3 hold=1]]")))
    await model.until(lambda server: server.open == 1)
    model.let_go(3)
    assert await asked == "word00 word01 word02 "
    stalled = asyncio.create_task(call(("user", "[[stall=0]]")))
    await model.until(lambda server: server.open == 1)
    stalled.cancel()
    await model.until(lambda server: server.open == 0)
    assert model.requests[-1].outcome == "dropped"


async def test_prompt_of_its_own_is_not_followed_and_says_so_once(call: Caller) -> None:
    system, question = ("system", "Translate what the user writes into French."), ("user", "Good morning")
    answer = await call(system, question)
    assert "“Good morning”" in answer
    assert "demo model" in answer
    assert "MODEL=local" in answer
    assert "LLM_BASE_URL" in answer
    later = await call(system, question, ("assistant", answer), ("user", "Thanks"))
    assert "“Thanks”" in later
    assert "LLM_BASE_URL" not in later
    assert len(later) < len(answer)


async def test_prompt_without_a_question_is_the_question(call: Caller) -> None:
    assert await call(("system", "Translate this: [[text=Salut]]")) == "Salut"


async def test_question_that_is_asked_anew_plays_its_script_from_the_start(call: Caller) -> None:
    """Also if its tools give other results than before, and its first run did not come to its end."""
    for results, last in (("ab", 2), ("cd", 1), ("ef", 2), ("gh", 2)):
        assert await call(("system", "Plan."), ("user", SCRIPT)) == "first"
        assert await call(("system", "Write."), ("user", f"{SCRIPT}\nFound: {results[0]}")) == "the second"
        if last == 2:
            assert await call(("system", "Check."), ("user", f"{SCRIPT}\nFound: {results[1]}")) == STEPS[2]


async def test_two_runs_at_once_of_several_functions_do_not_disturb_each_other(call: Caller) -> None:
    for _ in range(2):
        assert await call(("system", "Plan."), ("user", SCRIPT)) == "first"
    for result in ("a", "b"):
        assert await call(("system", "Write."), ("user", f"{SCRIPT}\nFound: {result}")) == "the second"
    for result in ("a", "b"):
        assert await call(("system", "Check."), ("user", f"{SCRIPT}\nText: {result}")) == STEPS[2]


async def test_answer_of_its_own_does_not_repeat_the_script(call: Caller) -> None:
    answer = await call(("system", "Translate."), ("user", "Good [[then text=x]] morning [[a link]]"))
    assert "“Good morning [[a link]]”" in answer
