"""Titles from the function `Title`."""

from bridge.functions import Functions
from bridge.titles import make_title
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import variables


async def test_title_is_one_short_line(functions: Functions) -> None:
    title = await make_title(functions, "How do I deploy the worker to a server of my own?", "Build the image …")
    assert title is not None
    assert title.text == "Deploy the worker to a server"
    assert title.usage.output_tokens


async def test_title_needs_its_function(model: ModelServer) -> None:
    assert await make_title(Functions.load(["Chat"], env=variables(model.url)), "a", "b") is None
