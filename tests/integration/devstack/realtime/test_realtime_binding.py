"""Parsing bindings and their filters."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.realtime.binding import Binding, BindingRefused, Filter, binding_id, parse


def filters(text: str) -> tuple[Filter, ...]:
    return parse({"schema": "public", "table": "t", "filter": text}).filters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("a=eq.1", (Filter("a", "eq", "1", False),)),
        ("a=eq.", (Filter("a", "eq", "", False),)),
        ("a=eq.b=c.d", (Filter("a", "eq", "b=c.d", False),)),
        ("a=not.in.(1,2)", (Filter("a", "in", "{1,2}", True),)),
        ("a=gt.1,b=lt.2", (Filter("a", "gt", "1", False), Filter("b", "lt", "2", False))),
        ('a=in.("x,y",z),b=is.null', (Filter("a", "in", '{"x,y",z}', False), Filter("b", "is", "null", False))),
        ('a=eq."x,\\"y"', (Filter("a", "eq", 'x,"y', False),)),
        ('a=eq."x"y', (Filter("a", "eq", '"x"y', False),)),
    ],
)
def test_filter_parses(text: str, expected: tuple[Filter, ...]) -> None:
    assert filters(text) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a", '["a"]'),
        ("a=eq", '["eq"]'),
        ("a=foo.1", '["foo", "1"]'),
        ("a=in.1", "`in` filter value must be wrapped by parentheses"),
        ("a=eq.1,", "filter must not contain empty segments (check for extra commas)"),
    ],
)
def test_invalid_filter_is_rejected(text: str, error: str) -> None:
    with pytest.raises(BindingRefused) as refused:
        filters(text)
    assert str(refused.value) == f"Error parsing `filter` params: {error}"


@pytest.mark.parametrize(
    ("params", "binding"),
    [
        ({"schema": "s"}, Binding("*", "s", "*", (), None)),
        ({"table": "t", "event": "insert"}, Binding("INSERT", "public", "t", (), None)),
        ({"schema": "s", "table": "t", "event": "odd"}, Binding("*", "s", "t", (), None)),
        ({"schema": "s", "table": "t", "select": ["b", "a"]}, Binding("*", "s", "t", (), ("a", "b"))),
    ],
)
def test_binding_parses(params: dict[str, Any], binding: Binding) -> None:
    assert parse(params) == binding


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"schema": 5},
        {"filter": "a=eq.1"},
        {"schema": "*", "table": "*", "select": ["a"]},
        5,
        {"schema": "s", "select": "a"},
    ],
)
def test_invalid_binding_is_rejected(params: Any) -> None:
    with pytest.raises(BindingRefused):
        parse(params)


@given(st.text())
def test_any_filter_is_parsed_or_rejected(text: str) -> None:
    with contextlib.suppress(BindingRefused):
        assert all(filter_.operator for filter_ in filters(text))


def test_equal_bindings_have_equal_ids() -> None:
    assert binding_id({"schema": "s"}) == binding_id({"schema": "s"})
    assert binding_id({"schema": "s"}) != binding_id({"schema": "t"})
