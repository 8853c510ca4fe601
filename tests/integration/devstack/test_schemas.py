"""The demo model answers any class: what it writes for the schema that BAML renders is what BAML parses."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import baml_py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstack.model import ModelServer
from devstack.model.output_format import read_output_format
from devstack.model.prompt import Prompt
from devstack.model.replies import answer
from devstack.model.shapes import Named
from tests.support import ROOT
from tests.support.schemas import SchemaMaker

SEEDS = int(os.environ.get("SCHEMAS", "60"))
EXAMPLES = int(os.environ.get("EXAMPLES", "300"))


ENV = {"LLM_BASE_URL": "http://127.0.0.1:9/v1", "LLM_API_KEY": "key", "LLM_MODEL": "model"}


def compile_baml(folder: Path, name: str, source: str) -> ModuleType:
    (folder / "baml_src").mkdir()
    for copied in ("clients.baml", "generators.baml"):
        (folder / "baml_src" / copied).write_text((ROOT / "baml_src" / copied).read_text())
    (folder / "baml_src" / "generated.baml").write_text(source)
    cli = Path(sys.executable).with_name("baml-cli")
    done = subprocess.run([cli, "generate"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[:3000] + done.stdout[:3000]
    spec = importlib.util.spec_from_file_location(name, folder / "baml_client" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return importlib.import_module(f"{name}.sync_client")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    source = "\n".join(SchemaMaker(seed).function(f"F{seed}") for seed in range(SEEDS))
    return compile_baml(tmp_path_factory.mktemp("schemas"), "generated_baml_client", source)


def body_of(client: ModuleType, function: str) -> Any:
    return getattr(client.b.request, function)(baml_options={"env": ENV}).body.json()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_answer_to_generated_schema_is_parsed(generated: ModuleType, seed: int) -> None:
    body = body_of(generated, f"F{seed}")
    reply = answer(Prompt.read(body))
    try:
        getattr(generated.b.parse, f"F{seed}")(reply)
    except Exception as error:
        pytest.fail(f"{body['messages']}\n\n{json.dumps(reply)}\n\n{error}")


CASES = """
enum Mood {
  Happy @description("smiles")
  Sad
}
class Node {
  value int
  next Node?
  children Node[]
}
class Person {
  name string
  age int
  email string?
  mood Mood
  tags string[]
  friends Node[]
  scores map<string, float>
  kind "a" | "b"
  either int | string
}
type Tree = string | Tree[]
function Picture(message: string, picture: image) -> Person {
  client Model
  prompt #"{{ _.role("user") }}{{ picture }} {{ message }} {{ ctx.output_format }}"#
}
function Together(message: string) -> Person {
  client Model
  prompt #"{{ _.role("user") }}{{ message }}{{ ctx.output_format }}"#
}
function Trees(message: string) -> Tree[] {
  client Model
  prompt #"{{ ctx.output_format }} {{ _.role("user") }} {{ message }}"#
}
function Choose(message: string) -> Mood {
  client Model
  prompt #"{{ message }} {{ ctx.output_format }}"#
}
function Printing(message: string, people: Person[], tree: Tree, id: string, numbers: int[]) -> string {
  client Model
  prompt #"
    {{ _.role("user") }}
    {{ message }}{{ people[0] }}{{ id }} {{ people }}
    {{ tree }}
    {{ numbers }}
    Scores: {{ people[0].scores }}
    {% for person in people %}{{ person.friends }}{{ person.scores }}{{ id }}{% endfor %}
  "#
}
function Quoting(message: string) -> string {
  client Model
  prompt #"
    {{ _.role("system") }} You are an assistant in a chat that keeps its history.
    {{ _.role("user") }} {{ message }}
  "#
}
"""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return compile_baml(tmp_path_factory.mktemp("cases"), "cases_baml_client", CASES)


def ask(client: ModuleType, function: str, *arguments: Any) -> Any:
    """The demo model's reply as BAML parses it, or fails to."""
    body = getattr(client.b.request, function)(*arguments, baml_options={"env": ENV}).body.json()
    return getattr(client.b.parse, function)(answer(Prompt.read(body)))


def test_class_is_filled_from_names_and_question(cases: ModuleType) -> None:
    for person in (
        ask(cases, "Together", "Ada Lovelace"),
        ask(cases, "Picture", "Ada Lovelace", baml_py.Image.from_base64("image/png", "aGVsbG8=")),
    ):
        assert (person.name, person.age, person.email) == ("Ada Lovelace", 1, "ada@example.com")
        assert person.mood.value == "Happy"
        assert 1 <= len(person.tags) <= 2
        assert all("tag" in tag for tag in person.tags)
        assert person.friends[0].value == 1
        assert person.scores
        assert (person.kind, person.either) == ("a", 1)


def test_recursive_alias_and_enum_are_answered(cases: ModuleType) -> None:
    assert ask(cases, "Trees", "hello")
    assert ask(cases, "Choose", "hello").value == "Happy"


def test_code_that_a_user_quotes_is_no_schema(cases: ModuleType) -> None:
    code = "What is this?\n```ts\ntype A = {\n  name: string,\n  n: int,\n}\n```\nRules\n----\n- one\n- two"
    assert "supabase-baml-bridge" in ask(cases, "Quoting", code)


WORDS = st.one_of(st.uuids().map(str), st.sampled_from(["", "a: b", "null", "1", "[", "x {"]), st.text(max_size=9))
NODES = st.recursive(
    st.builds(lambda value: {"value": value, "next": None, "children": []}, st.integers(-99, 10**12)),
    lambda nodes: st.fixed_dictionaries(
        {"value": st.integers(0, 9), "next": st.none() | nodes, "children": st.lists(nodes, max_size=2)}
    ),
    max_leaves=4,
)
PEOPLE = st.fixed_dictionaries(
    {
        "name": WORDS,
        "age": st.integers(0, 10**9),
        "email": st.none() | WORDS,
        "mood": st.sampled_from(["Happy", "Sad"]),
        "tags": st.lists(WORDS, max_size=3),
        "friends": st.lists(NODES, max_size=2),
        "scores": st.dictionaries(WORDS, st.floats(-1e9, 1e9), max_size=2),
        "kind": st.sampled_from(["a", "b"]),
        "either": st.integers(0, 9) | WORDS,
    }
)
TREES = st.recursive(WORDS, lambda trees: st.lists(trees, max_size=3), max_leaves=5)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(PEOPLE, min_size=1, max_size=2), TREES, WORDS, st.lists(st.integers(-9, 9), max_size=4))
def test_values_that_a_prompt_prints_are_no_schema(
    cases: ModuleType, people: list[dict[str, Any]], tree: Any, identifier: str, numbers: list[int]
) -> None:
    request = cases.b.request.Printing("hello", people, tree, identifier, numbers, baml_options={"env": ENV})
    body = request.body.json()
    assert Prompt.read(body).wanted is None, body["messages"][0]["content"]


@pytest.mark.parametrize("number", ["048", "-00", "1" * 5000, "0.", "1.5.2", "\u0663", "1e9"])
def test_number_that_json_does_not_have_is_no_type(number: str) -> None:
    assert read_output_format(f"{{\n  a: 1,\n}}{number} or {number}") is None
    assert read_output_format(f"Answer in JSON using this schema: {number}") is None


ANNOUNCED = ["Answer in JSON using this schema: ", "Answer with any of the categories:\n"]
NAMED = ["A {\n", "A\n----\n", "A = ", "map<", "int", "string", "true", "null", "048", " or ", ",\n"]


VALUES = [
    "[1, 2, 3]",
    "List: [3, null, 4]",
    "[true, false, true]",
    '["a", "b", "c"]',
    "[-1, -2, -3]",
    "[1.5, 2.5, 0.5]",
]


@pytest.mark.parametrize("text", [*VALUES, '{"a": 1}', '{\n  a: {"b": 1},\n}', "A = (\n\n(A"])
def test_values_are_no_schema(text: str) -> None:
    assert read_output_format(text) is None


@pytest.mark.parametrize("name", ['"foo', "(draft)", "{x"])
def test_heading_that_looks_like_a_type_is_read(name: str) -> None:
    read_output_format(f"{name}\n----\na\n\nthe {name}")


@pytest.mark.parametrize("text", ["'a' or 'b' or null", "{\n  kind: 'a' or 'b' or null,\n}", "{\n  a: 'b' or 'c',\n}"])
def test_choice_of_words_is_a_schema(text: str) -> None:
    assert read_output_format(text) is not None
    assert read_output_format(f"Answer with\n{text}") is not None


PIECES = st.sampled_from([*ANNOUNCED, *NAMED, *"{}[]()<>:,.-'\"\n 09A"])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(PIECES | st.characters(), max_size=30).map("".join))
def test_any_text_can_be_read(text: str) -> None:
    body = {"messages": [{"role": "user", "content": text}]}
    assert Prompt.read(body).last == text


SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["title", "year", "size", "kind", "parts", "email", "self"],
    "properties": {
        "title": {"type": "string", "maxLength": 5},
        "year": {"type": "integer", "minimum": 3000},
        "size": {"type": "number", "exclusiveMaximum": 0},
        "kind": {"enum": ["big", "small"]},
        "none": {"type": ["null", "string"]},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}, "minItems": 3, "maxItems": 3},
        "email": {"type": "string", "format": "email"},
        "always": {"const": [1]},
        "self": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        "more": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "both": {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}]},
    },
    "$defs": {"Part": {"type": "object", "properties": {"name": {"type": "string"}, "part": {"$ref": "#/$defs/Part"}}}},
}


def request(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "A red bicycle"}], **more}


def test_response_format_is_answered_from_its_schema() -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    value = json.loads(answer(Prompt.read(request(response_format=asked))))
    assert value["title"] == "A red"
    assert (value["year"], value["kind"], value["email"], value["always"]) == (3000, "big", "ada@example.com", [1])
    assert value["size"] < 0
    assert [part["name"] for part in value["parts"]] == ["A red bicycle", "A red bicycle 2", "A red bicycle 3"]
    assert value["more"] == {"more": True}
    assert isinstance(json.loads(answer(Prompt.read(request(response_format={"type": "json_object"})))), dict)


@pytest.mark.parametrize(
    "schema",
    [{}, True, {"type": "string"}, {"$ref": "#"}, {"$ref": "#/nowhere"}, {"type": []}, {"enum": []}, {"items": []}],
)
def test_unusual_schema_still_gets_json(schema: Any) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    json.loads(answer(Prompt.read(request(response_format=asked))))


TOOLS = [
    {"type": "function", "function": {"name": "search", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop"}},
]


async def test_tool_is_called_and_its_result_answered() -> None:
    async with ModelServer() as model, aiohttp.ClientSession() as http:

        async def call(**more: Any) -> Any:
            async with http.post(f"{model.url}/chat/completions", json=request(tools=TOOLS, **more)) as response:
                assert response.status == 200
                return (await response.json())["choices"][0]

        choice = await call()
        assert choice["finish_reason"] == "tool_calls"
        message = choice["message"]
        assert message["content"] is None
        assert message["tool_calls"][0]["function"]["name"] == "search"
        assert json.loads(message["tool_calls"][0]["function"]["arguments"])["kind"] == "big"
        chosen = {"type": "function", "function": {"name": "stop"}}
        assert (await call(tool_choice=chosen))["message"]["tool_calls"][0]["function"]["name"] == "stop"
        assert (await call(tool_choice="none"))["finish_reason"] == "stop"
        messages = [*request()["messages"], message, {"role": "tool", "tool_call_id": "call_demo", "content": "found"}]
        assert (await call(messages=messages))["message"]["content"]


async def test_streamed_tool_call_has_its_arguments_in_pieces() -> None:
    asked = request(tools=TOOLS, stream=True)
    async with (
        ModelServer() as model,
        aiohttp.ClientSession() as http,
        http.post(f"{model.url}/chat/completions", json=asked) as response,
    ):
        text = await response.text()
    events = [json.loads(block.removeprefix("data: ")) for block in text.split("\n\n") if block.startswith("data: {")]
    calls = [event["choices"][0]["delta"]["tool_calls"][0] for event in events[:-1]]
    assert calls[0]["function"]["name"] == "search"
    assert len(calls) > 3
    assert json.loads("".join(call["function"]["arguments"] for call in calls))["kind"] == "big"
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "piece", ["(int or ", "{int: ", "[", "{\n  a: ", "map<string, ", "Aa {\n", "Aa {\n  b: Aa or ", "a: ", "'"]
)
def test_text_that_is_no_schema_is_read_in_bounded_time(piece: str) -> None:
    """It ends: without a bound, each level would double the time."""
    for text in (piece * 10_000, f"Answer in JSON using this schema: {piece * 10_000}"):
        messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
        answer(Prompt.read({"messages": messages}))


def steps(work: Callable[[], object]) -> int:
    """How many functions are called in this, Python's own included: what its time is made of."""
    count = 0

    def called(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


RULES = {
    "rules": ".part-{n} {{\n  color: red;\n  margin: 0 auto;\n}}\n",
    "classes": "Part{n} {{\n  color: string,\n  part: Part{n},\n}}\n\n",
    "enums": "Part{n}\n----\n- a\n- b\n\n",
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("before", ["", "Answer in JSON using this schema: string\n\n"])
def test_steps_grow_with_the_text_and_not_with_its_square(rule: str, before: str) -> None:
    few, many = (before + "".join(rule.format(n=n) for n in range(count)) for count in (100, 400))
    assert steps(lambda: read_output_format(many)) < 6 * steps(lambda: read_output_format(few))


def test_text_without_words_of_baml_is_not_read_where_they_must_be() -> None:
    text = "".join(RULES["rules"].format(n=n) for n in range(400))
    assert steps(lambda: read_output_format(text, is_certain=True)) < 100


def test_name_is_not_taken_for_the_end_of_another() -> None:
    wanted = read_output_format(
        "Bar {\n  a: int,\n}\n\nFooBar {\n  b: int,\n}\n\nAnswer in JSON using this schema: Bar"
    )
    assert wanted is not None
    assert wanted.shape == Named("Bar")


def test_types_that_all_name_each_other_are_sampled_in_bounded_size() -> None:
    names = [f"C{n}" for n in range(12)]
    fields = "".join(f"  {name.lower()}: {name}[],\n" for name in names)
    text = "".join(f"{name} {{\n{fields}}}\n\n" for name in names) + "Answer in JSON using this schema: C0"
    assert len(answer(Prompt.read({"messages": [{"role": "user", "content": text}]}))) < 100_000
