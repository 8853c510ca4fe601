"""Failures of the provider and of the model's answer, as the functions of baml_src report them."""

import socket

import pytest

from bridge.errors import (
    AnswerTooLong,
    BadOutput,
    BadRequest,
    ModelDenied,
    ModelNotSetUp,
    ModelRefused,
    ModelUnavailable,
    ModelUnreachable,
    TurnFailure,
    verdict,
)
from bridge.functions import Functions
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import collect, fail, turn, variables


@pytest.mark.parametrize(
    ("directive", "kind", "code"),
    [
        ("error=400", ModelRefused, "model_refused"),
        ("error=401", ModelDenied, "model_refused"),
        ("error=403", ModelDenied, "model_refused"),
        ("error=404", ModelDenied, "model_refused"),
        ("error=429", ModelUnavailable, "model_busy"),
        ("error=500", ModelUnavailable, "model_unavailable"),
        ("error=503", ModelUnavailable, "model_unavailable"),
        ("error=529", ModelUnavailable, "model_unavailable"),
        ("cut=0", ModelUnavailable, "model_cut"),
        ("tokens=20 cut=10", ModelUnavailable, "model_cut"),
        ("tokens=20 clean_cut=0", ModelUnavailable, "model_cut"),
        ("tokens=20 clean_cut=10", ModelUnavailable, "model_cut"),
        ("tokens=20 fail=10", ModelUnavailable, "model_unavailable"),
        ("tokens=20 finish=content_filter", ModelRefused, "model_filtered"),
    ],
)
@pytest.mark.parametrize("function", ["Chat", "Code"])
async def test_provider_failure_has_its_code(
    functions: Functions, function: str, directive: str, kind: type[TurnFailure], code: str
) -> None:
    failure = await fail(functions, f"[[{directive}]]", function)
    assert type(failure) is kind
    assert failure.code == code
    assert failure.detail
    assert failure.retry_after is None


@pytest.mark.parametrize(("status", "code"), [(429, "model_busy"), (503, "model_unavailable")])
async def test_retry_waits_as_long_as_the_provider_asks(functions: Functions, status: int, code: str) -> None:
    failure = await fail(functions, f"[[error={status} retry_after=3]]")
    assert (failure.code, failure.retry_after) == (code, 3.0)
    assert verdict(failure, 0, 5).after == 3.0


async def test_failed_request_is_not_repeated(functions: Functions, model: ModelServer) -> None:
    """The worker retries, and not BAML."""
    await fail(functions, "[[error=503 times=1]]")
    assert len(model.requests) == 1
    _, completion = await collect(functions, turn("[[error=503 times=1]]"))
    assert completion.text


async def test_missing_server_and_unknown_host_are_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for url in (f"http://127.0.0.1:{closed.getsockname()[1]}/v1", "http://nowhere.invalid/v1"):
            failure = await fail(Functions.load(["Chat"], env=variables(url)), "hello")
            assert type(failure) is ModelUnreachable
            assert failure.code == "model_unreachable"


async def test_client_with_an_invalid_url_is_a_setup_failure() -> None:
    failure = await fail(Functions.load(["Chat"], env=variables("not a url")), "hello")
    assert (type(failure), failure.code) == (ModelNotSetUp, "model_setup")


@pytest.mark.parametrize("sent", ['"no JSON at all"', '"{\\"reply\\": "', '{"files": [{"path": 1}]}'])
async def test_broken_or_wrong_structure_is_retried(functions: Functions, sent: str) -> None:
    failure = await fail(functions, f"[[json={sent}]]", "Code")
    assert (type(failure), failure.code) == (BadOutput, "model_output")
    assert verdict(failure, 0, 5).retry


async def test_answer_at_the_output_limit_is_kept_only_as_text(functions: Functions) -> None:
    _, completion = await collect(functions, turn("[[tokens=5 finish=length]]"))
    assert completion.text == "word00 word01 word02 word03 word04 "
    for directive in ("tokens=50 finish=length", 'finish=length json="{\\"reply\\": \\"I wr"'):
        failure = await fail(functions, f"[[{directive}]]", "Code")
        assert (type(failure), failure.code) == (AnswerTooLong, "model_length")
        assert not verdict(failure, 0, 5).retry


async def test_unknown_function_is_refused(functions: Functions) -> None:
    failure = await fail(functions, "hello", "Nope")
    assert (type(failure), failure.code) == (BadRequest, "unknown_function")
    failure = await fail(functions, "hello", "__init__")
    assert failure.code == "unknown_function"


async def test_missing_argument_fails_before_the_model_is_asked(functions: Functions, model: ModelServer) -> None:
    failure = await fail(functions, "hello", "Title")
    assert (type(failure), failure.code) == (BadRequest, "bad_arguments")
    assert "`reply`" in failure.message
    assert not model.requests
