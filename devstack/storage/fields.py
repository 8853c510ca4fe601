"""The fields of a JSON body, checked as the hosted service's schemas do: `"60"` is a number, too."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from aiohttp import web

from devstack.storage import errors


async def read_fields(request: web.Request) -> Fields:
    """Return the fields of a request's body; none if it is empty. Raises StorageError if it is not a JSON object."""
    try:
        value = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise errors.invalid_request("Body is not valid JSON but content-type is set to 'application/json'") from error
    return Fields("body", value)


class Fields:
    """A JSON object. Each method returns a field, or `default` if it is absent; raises StorageError if it is wrong."""

    def __init__(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise errors.invalid_request(f"{name} must be object")
        self._name = name
        self._values: Mapping[str, Any] = value

    def __contains__(self, field: str) -> bool:
        return field in self._values

    def is_null(self, field: str) -> bool:
        """Whether the field is there, as null."""
        return field in self._values and self._values[field] is None

    def required(self, *fields: str) -> None:
        """Raise StorageError if one of these fields is absent."""
        for field in fields:
            if field not in self._values:
                raise errors.invalid_request(f"{self._name} must have required property '{field}'")

    def text(self, field: str, default: str = "", *, among: Collection[str] = ()) -> str:
        """A text; if `among` is given, one of these."""
        value = self._values.get(field)
        if value is None:
            return default
        if not isinstance(value, str):
            raise errors.invalid_request(f"{self._name}/{field} must be string")
        if among and value not in among:
            raise errors.invalid_request(f"{self._name}/{field} must be equal to one of the allowed values")
        return _storable(value)

    def integer(self, field: str, default: int, *, minimum: int) -> int:
        """A whole number, as one or as a text."""
        value = self._values.get(field)
        if value is None:
            return default
        try:
            number = value if isinstance(value, int) and not isinstance(value, bool) else int(str(value))
        except ValueError as error:
            raise errors.invalid_request(f"{self._name}/{field} must be integer") from error
        if not minimum <= number < 2**53:
            raise errors.invalid_request(f"{self._name}/{field} must be >= {minimum}")
        return number

    def boolean(self, field: str, default: bool) -> bool:
        """True or false."""
        value = self._values.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise errors.invalid_request(f"{self._name}/{field} must be boolean")
        return value

    def texts(self, field: str) -> list[str]:
        """A list of texts; it has no default."""
        value = self._values.get(field)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise errors.invalid_request(f"{self._name}/{field} must be array")
        return [_storable(one) for one in value]

    def paths(self, field: str, most: int) -> list[str]:
        """Between one and `most` texts."""
        self.required(field)
        paths = self.texts(field)
        if not paths:
            raise errors.invalid_request(f"{self._name}/{field} must NOT have fewer than 1 items")
        if len(paths) > most:
            raise errors.invalid_request(f"{self._name}/{field} must NOT have more than {most} items")
        return paths

    def child(self, field: str) -> Fields:
        """An object in this one; an empty one if it is absent."""
        return Fields(f"{self._name}/{field}", self._values.get(field) or {})

    def value(self, field: str) -> object:
        """Whatever the field is."""
        return self._values.get(field)


def _storable(text: str) -> str:
    """Return a text that Postgres can take. Raises StorageError for NUL and for half of a surrogate pair."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise errors.invalid_request("invalid character")
    return text
