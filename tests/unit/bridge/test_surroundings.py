"""What `check` lets pass, the libraries can use; what they cannot use, it reports."""

from __future__ import annotations

import os
from unittest import mock

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.uri import get_proxy, parse_proxy, parse_uri

from bridge import surroundings
from bridge.errors import SetupError

PROJECT = "https://abcd.supabase.co"
HOSTS = st.sampled_from(
    ["proxy.example", "127.0.0.1", "[::1]", "[::1", "::1", "", "a b", "ü.example", "xn--", "a..b", "10.0.0.0/8", "x_y"]
)
PROXIES = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["", "http://", "https://", "HTTP://", "socks5://", "socks4://", "ftp://", "//", "://"]),
    st.sampled_from(["", "user@", "user:pass@", "user:@", ":@", "ü:ü@", "us%zz:p@"]),
    HOSTS,
    st.sampled_from(["", ":3128", ":0", ":", ":99999", ":port", ":-1", ":٣"]),
    st.sampled_from(["", "/", "/path", "?query", "#fragment", " "]),
)
ENTRIES = st.one_of(
    st.sampled_from(
        ["*", "localhost", ".example.com", "*.example.com", "10.0.0.0/8", "::1", "::1/128", "[::1]", "fe80::%eth0"]
    ),
    st.builds("{}{}".format, HOSTS, st.sampled_from(["", ":80", ":port", "/8", "/"])),
    st.builds("{}://{}".format, st.sampled_from(["http", "all", ""]), HOSTS),
    st.text(st.characters(blacklist_characters=",\0", codec="utf-8"), max_size=5),
)
EXCEPTIONS = st.lists(ENTRIES, max_size=3).map(",".join)


def is_reported(env: dict[str, str]) -> bool:
    """Whether `check` reports a problem, in a line without the password."""
    try:
        surroundings.check(env, has_model=True)
    except SetupError as error:
        return _is_fit(error)
    return False


def _is_fit(error: SetupError) -> bool:
    assert len(str(error).splitlines()) == 1
    assert "pass" not in error.problem.replace("without a password", "")
    return True


def httpx_can_use_it() -> bool:
    """Whether REST's client for what is rare can be made."""
    try:
        httpx.AsyncClient(proxy=surroundings.proxy_for(PROJECT), trust_env=False)
    except (ImportError, ValueError, httpx.InvalidURL):
        return False
    return True


def websockets_can_use_it(url: str) -> bool:
    try:
        proxy = get_proxy(parse_uri(url))
        return proxy is None or not parse_proxy(proxy).scheme.startswith("socks")
    except Exception:
        return False


@given(st.sampled_from(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "WSS_PROXY", "SOCKS_PROXY"]), PROXIES)
@example("HTTPS_PROXY", "http://user:pass@proxy.example:3128/")
@example("HTTPS_PROXY", "http://ü:ü@a..b")
def test_proxy_that_passes_can_be_used(name: str, proxy: str) -> None:
    with mock.patch.dict(os.environ, {name: proxy}, clear=True):
        if not is_reported(dict(os.environ)):
            assert httpx_can_use_it()
            assert websockets_can_use_it("wss://abcd.supabase.co/realtime/v1/websocket")


@given(EXCEPTIONS)
@example("10.0.0.0/8,192.168.0.0/16,::1,localhost,.internal")
@example("::1/128")
@example(".supabase.co")
@example("b.co, abcd.supabase.co:443")
def test_rest_and_realtime_go_the_same_way_whatever_is_excepted(exceptions: str) -> None:
    with mock.patch.dict(os.environ, {"NO_PROXY": exceptions, "HTTPS_PROXY": "http://proxy.example:3128"}, clear=True):
        assert not is_reported(dict(os.environ))
        assert surroundings.proxy_for(PROJECT) == get_proxy(parse_uri("wss://abcd.supabase.co/realtime/v1/websocket"))


@pytest.mark.parametrize(
    "value", ["http://proxy.example:3128", "https://user:pass@10.0.0.1:8443", "http://[fd00::1]:80"]
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
def test_ordinary_proxy_passes(name: str, value: str) -> None:
    with mock.patch.dict(os.environ, {name: value, "NO_PROXY": "localhost,127.0.0.1,.internal"}, clear=True):
        assert not is_reported(dict(os.environ))


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
def test_proxy_without_a_scheme_passes_where_only_rest_reads_it(name: str) -> None:
    with mock.patch.dict(os.environ, {name: "proxy.example:3128"}, clear=True):
        assert not is_reported(dict(os.environ))
        assert surroundings.proxy_for("http://127.0.0.1:9") == "http://proxy.example:3128"
        assert httpx_can_use_it()
