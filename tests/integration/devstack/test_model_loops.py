"""Agents' loops with the demo model, without a script: it plans, uses each tool once, finishes, and writes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.model.script import without_directives
from tests.integration.devstack.test_schemas import ask, compile_baml

QUESTION = "What does lib/a.py do, and what does https://example.org/x say?"
AGENT = """
enum Depth {
  Shallow
  Deep
}
class Plan {
  goal string
  steps string[]
  depth Depth
  urgent bool
}
class Search {
  tool "search"
  query string
}
class ReadFile {
  tool "read_file"
  path string
}
class Finish {
  tool "finish"
  answer string
}
class Thought {
  thought string
  next Finish | Search
}
class Act {
  tool "look" | "finish"
  input string
}
enum Command {
  Calculate
  Look
  Done
}
class Order {
  command Command
  input string
}
function MakePlan(question: string) -> Plan {
  client Model
  prompt #"{{ _.role("system") }} Plan. {{ ctx.output_format }} {{ _.role("user") }} {{ question }}"#
}
// as a conversation
function Converse(question: string, notes: string[]) -> Finish | Search | ReadFile {
  client Model
  prompt #"
    {{ _.role("system") }} The files: lib/a.py, lib/b.py {{ ctx.output_format }}
    {{ _.role("user") }} {{ question }}
    {% for note in notes %}
    {{ _.role("assistant") }} I choose {{ note }}
    {{ _.role("user") }} Its result: x
    {% endfor %}
  "#
}
// as notes in one message
function Note(question: string, notes: string[]) -> Search | ReadFile | Finish {
  client Model
  prompt #"{{ question }} {{ ctx.output_format }}
    {% for note in notes %}
    - {{ note }}
    {% endfor %}
  "#
}
function Think(question: string, notes: string[]) -> Thought {
  client Model
  prompt #"{{ _.role("system") }} {{ ctx.output_format }} {{ _.role("user") }} {{ question }} {{ notes }}"#
}
function Choose(question: string, notes: string[]) -> Act {
  client Model
  prompt #"{{ ctx.output_format }} {{ _.role("user") }} {{ question }}
    {% for note in notes %}
    {{ note }}
    {% endfor %}
  "#
}
function Direct(question: string, notes: string[]) -> Order {
  client Model
  prompt #"{{ question }} {{ ctx.output_format }}
    {% for note in notes %}
    {{ note }}
    {% endfor %}
  "#
}
function Write(question: string, notes: string[]) -> string {
  client Model
  prompt #"{{ _.role("system") }} Write it down. {{ _.role("user") }} {{ question }} {{ notes }}"#
}
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return compile_baml(tmp_path_factory.mktemp("agent"), "agent_baml_client", AGENT)


def loop(agent: ModuleType, function: str, field: str = "") -> list[dict[str, Any]]:
    """The steps of an agent that asks for the next one, and writes down each."""
    steps: list[dict[str, Any]] = []
    notes: list[str] = []
    while len(steps) < 6:
        step = ask(agent, function, QUESTION, notes).model_dump(mode="json")
        step = step[field] if field else step
        steps.append(step)
        done = step.get("tool") or step["command"]
        if done in ("finish", "Done"):
            return steps
        notes.append(f"{done} {step.get('query') or step.get('path') or step['input']}")
    raise AssertionError(f"the loop does not end: {steps}")


def test_plan_is_about_the_question(agent: ModuleType) -> None:
    plan = ask(agent, "MakePlan", f"{QUESTION} [[then text=x]]")
    assert plan.goal == QUESTION
    assert plan.steps == [f"Look into “{QUESTION}”", "Check what was found"]
    assert (plan.depth.value, plan.urgent) == ("Shallow", True)


@pytest.mark.parametrize("function", ["Converse", "Note"])
def test_each_tool_is_used_once_and_the_end_comes_last(agent: ModuleType, function: str) -> None:
    search, read, finish = loop(agent, function)
    assert search == {"tool": "search", "query": QUESTION}
    assert read == {"tool": "read_file", "path": "lib/a.py"}
    assert QUESTION in finish["answer"]  # not the last tool's result


@pytest.mark.parametrize(
    ("function", "field", "taken"),
    [
        ("Think", "next", ["search", "finish"]),
        ("Choose", "", ["look", "finish"]),
        ("Direct", "", ["Calculate", "Look", "Done"]),
    ],
)
def test_loop_whose_step_is_a_field_or_a_word_ends(
    agent: ModuleType, function: str, field: str, taken: list[str]
) -> None:
    steps = loop(agent, function, field)
    assert [step.get("tool") or step["command"] for step in steps] == taken


def test_text_after_the_tools_is_about_the_question(agent: ModuleType) -> None:
    written = ask(agent, "Write", f"{QUESTION} [[text=x]]", ["a note"])
    assert f"You wrote: “{QUESTION}" in written
    assert "[[" not in written


def test_tool_of_an_earlier_question_in_its_users_words_is_used(agent: ModuleType) -> None:
    """A user who writes of searching has not searched."""
    step = ask(agent, "Converse", "Please search for how to finish it", [])
    assert step.tool == "search"


@given(
    st.lists(
        st.sampled_from(["[[text=a]]", "[[then json={}]]", "[[echo]]", "[[a link]]", "[[", "]]", "[[then]]", " a "])
    )
)
def test_without_directives_leaves_no_directive_and_all_other_text(parts: list[str]) -> None:
    left = without_directives(" ".join(parts))
    assert without_directives(left) == left
    for part in ("[[a link]]", "a"):
        assert left.count(part) >= parts.count(part)
    assert "[[text=a]]" not in left
    assert "[[echo]]" not in left
