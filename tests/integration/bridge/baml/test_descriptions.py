"""What users see of a BAML function: its doc comment, and a schema of what a question's data may hold."""

import json
import logging

import pytest

from bridge.baml.doc_comments import DocComment, read_doc_comments
from bridge.errors import BadRequest
from bridge.functions import Functions
from bridge.model import Session, Turn
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import collect

ARGUMENTS = {"pace": "Fast", "sure": True, "level": "low", "names": ["Ann"]}


def asking(function: str, **data: object) -> Turn:
    return Turn(function, "hello", (), (), Session("s", "u", None, function, {}), "u", data)


async def test_doc_comment_describes_the_function(other_functions: Functions, caplog: pytest.LogCaptureFixture) -> None:
    journey = other_functions.descriptions["Journey"]
    assert (journey.title, journey.description) == ("Journey plan", "Plans a journey")
    assert journey.suggestions == ("Three days in Rome?", 'A week in "Oslo"?')
    assert (journey.reads_files, journey.is_internal) == (True, False)
    silent = other_functions.descriptions["Silent"]
    assert (silent.title, silent.description, silent.suggestions) == (None, None, ())
    assert (silent.parameters, silent.reads_files) == (None, False)
    mutter = other_functions.descriptions["Mutter"]
    assert (mutter.description, mutter.is_internal, mutter.parameters) == ("Says only text.", True, None)


async def test_doc_comment_does_not_reach_the_model(other_functions: Functions, model: ModelServer) -> None:
    await collect(other_functions, asking("Journey", **ARGUMENTS))
    await collect(other_functions, asking("Mutter"))
    sent = json.dumps([request.body for request in model.requests])
    assert len(model.requests) == 2
    assert "hello" in sent
    for said in ("Plans a journey", "must not see", "Journey plan", "Oslo", "Says only", "internal"):
        assert said not in sent


async def test_parameters_have_a_schema_without_the_prompt(other_functions: Functions) -> None:
    parameters = other_functions.descriptions["Journey"].parameters
    assert parameters is not None
    assert "hint for the model" not in json.dumps(parameters)
    properties = parameters["properties"]
    assert list(properties) == [
        "pace",
        "days",
        "wishes",
        "sure",
        "level",
        "picture",
        "names",
    ]  # what the turn does not fill
    assert properties["pace"] == {"enum": ["Slow", "Fast"], "type": "string"}
    assert properties["days"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert properties["sure"] == {"type": "boolean"}
    assert properties["level"]["anyOf"][1] == {"const": "high", "type": "string"}
    assert properties["names"] == {"type": "array", "items": {"type": "string"}}
    assert properties["wishes"]["anyOf"][0] == {"$ref": "#/$defs/Wishes"}
    assert list(parameters["$defs"]["Wishes"]["properties"]) == ["budget", "paces"]
    assert parameters["required"] == ["pace", "sure", "level", "names"]


async def test_optional_argument_may_be_missing_wherever_it_stands(other_functions: Functions) -> None:
    await collect(other_functions, asking("Journey", **ARGUMENTS))
    with pytest.raises(BadRequest, match="`pace` is missing"):
        await collect(other_functions, asking("Journey"))


def test_only_comments_directly_above_a_function_count(caplog: pytest.LogCaptureFixture) -> None:
    source = """
/// of a class
class A { a string }
/// of a client
client<llm> C { provider openai options { model "/// @title no" } }
/// First.
/// Second.
/// @suggest one
/// @suggest
/// @titel Wrong
function F(message: string) -> string { client C prompt #"
/// @title Not this
function G("# }
function G(message: string) -> string { client C prompt #"x"# }
//// @title four
template_string T() #"/// @internal"#
function H(message: string) -> string { client C prompt #"x"# }
"""
    with caplog.at_level(logging.WARNING):
        found = read_doc_comments({"a.baml": source})
    assert found == {"F": DocComment("First.", None, ("one", "")), "G": DocComment(), "H": DocComment()}
    assert [record.getMessage() for record in caplog.records] == [
        "F: @titel is no tag of a doc comment: there are @title, @suggest and @internal"
    ]
