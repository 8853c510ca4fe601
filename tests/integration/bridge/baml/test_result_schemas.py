"""The JSON schema of what a function returns: it keeps the order of each class, and none of the prompt."""

import json
from collections.abc import Iterator
from typing import Any

from bridge.functions import Functions


def classes(schema: Any) -> Iterator[list[str]]:
    """The field names of every class in a schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield list(schema["properties"])
        for value in schema.values():
            yield from classes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from classes(value)


def results(functions: Functions) -> dict[str, Any]:
    return {name: description.result for name, description in functions.descriptions.items()}


async def test_schema_keeps_the_order_of_every_class(other_functions: Functions) -> None:
    found = list(classes(results(other_functions)["Taste"]))
    assert ["vintage", "name", "made_by", "grapes", "notes", "parents", "body"] in found
    assert ["region", "at"] in found
    assert ["percent", "of"] in found
    assert ["who", "at"] in found


async def test_schema_shows_nothing_of_the_prompt(other_functions: Functions, functions: Functions) -> None:
    assert "hint for the model" not in json.dumps(results(other_functions))
    assert "description" not in json.dumps(results(functions)["Code"])


async def test_schema_of_field_named_as_a_keyword_is_kept(other_functions: Functions) -> None:
    assert ["title", "priority", "tags"] in list(classes(results(other_functions)["MakePlan"]))


async def test_every_result_has_a_schema(other_functions: Functions) -> None:
    found = results(other_functions)
    assert set(found) == set(other_functions.names)
    assert found["Spell"] == {"type": "string"}
    assert found["Tags"] == {"type": "array", "items": {"type": "string"}}
    assert None not in found.values()
