"""The arguments that a handler declares with a pydantic model: as a JSON schema, and checked in a question's data."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from bridge.errors import BadRequest


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes of the names of fields: frontends make their own."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def describe_model(model: type[BaseModel]) -> Mapping[str, Any]:
    """Return the JSON schema of a model's fields. Raises PydanticUserError if JSON schema cannot express it."""
    schema = model.model_json_schema(schema_generator=_Untitled)
    return {key: value for key, value in schema.items() if key not in ("title", "description")}


def check_data(model: type[BaseModel], data: Mapping[str, Any]) -> None:
    """Raise BadRequest if the data of a question does not fit the model."""
    try:
        model.model_validate(dict(data))
    except ValidationError as error:
        problem = f"The arguments in the message's `data` are invalid: {first_complaint(error)}."
        # neither the cause nor the complaint, which may name the user's own keys, belongs into the log
        raise BadRequest("bad_arguments", problem, detail="the arguments in `data` are invalid") from None


def first_complaint(error: ValidationError | PydanticUserError) -> str:
    """Return the first complaint, without the value that caused it."""
    if isinstance(error, PydanticUserError):
        return error.message.partition("\n")[0]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    complaint = first["msg"][:1].lower() + first["msg"][1:]
    return f"at {where}, {complaint}" if where else complaint
