"""What the process finds around it: proxies, certificates, encodings. Each fault is one line with a remedy.

The libraries read these variables by themselves, and raise whatever comes when they cannot use one: websockets 15 at
each connection, httpx 0.28 when a client is made, aiohttp 3.14 when it is imported. So they are checked before. Of
NO_PROXY and ALL_PROXY each has a reading of its own: `proxy_for` has one for REST, that of websockets.
"""

import os
import re
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

import httpx

from bridge.errors import SetupError

_HTTP_PROXY = "Set it to an HTTP proxy, like http://proxy.example:3128, or unset it."
_CERTIFICATE = re.compile(r"[0-9a-f]{8}\.\d+")  # how OpenSSL names the files of a folder: `openssl rehash` does


Problems = Iterator[tuple[str, str]]


def check(env: Mapping[str, str], *, has_model: bool) -> None:
    """Raise SetupError for the first thing around the process that would stop it. `has_model`: it calls the model."""
    for problem, remedy in (*(_encoding(env) if has_model else ()), *_certificates(env), *_proxies()):
        raise SetupError(problem, remedy)


def proxy_for(url: str) -> str | None:
    """The address of the proxy for a URL; None: it is reached without one."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(f"{parts.hostname}:{port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _encoding(env: Mapping[str, str]) -> Problems:
    for name, value in env.items():
        try:
            f"{name}{value}".encode()
        except UnicodeError:  # baml-py 0.226.3 passes every variable on, and fails at this one
            yield f"The variable {name} is not in UTF-8.", "Write it in UTF-8, or unset it."


def _certificates(env: Mapping[str, str]) -> Problems:
    file, folder = env.get("SSL_CERT_FILE"), env.get("SSL_CERT_DIR")
    if log := env.get("SSLKEYLOGFILE"):
        try:
            os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        except (OSError, ValueError) as error:
            yield f"SSLKEYLOGFILE cannot be written ({_reason(error)}).", "Name another file, or unset it."
            return
    if file:
        remedy = "Set it to a file of certificates in PEM format, or unset it."
        try:
            ssl.create_default_context(cafile=file)
        except ssl.SSLError:
            yield f"SSL_CERT_FILE names {file}, which holds no certificate.", remedy
        except (OSError, ValueError) as error:
            yield f"SSL_CERT_FILE names {file}, which cannot be read ({_reason(error)}).", remedy
    elif folder:
        remedy = "Set it to a folder of certificates that `openssl rehash` has prepared, or unset it."
        try:
            names = [name for one in folder.split(os.pathsep) if os.path.exists(one) for name in os.listdir(one)]
        except (OSError, ValueError) as error:
            yield f"SSL_CERT_DIR names {folder}, which cannot be read ({_reason(error)}).", remedy
            return
        if not any(map(_CERTIFICATE.fullmatch, names)):
            yield f"SSL_CERT_DIR names {folder}, where there are no certificates.", remedy


def _proxies() -> Problems:
    proxies = urllib.request.getproxies()
    if "*" in (entry.strip() for entry in proxies.get("no", "").split(",")):
        return  # no proxy is used
    for scheme in ("http", "https", "all", "ws", "wss", "socks"):
        if proxy := proxies.get(scheme):
            for problem, remedy in _proxy(scheme, proxy):
                yield f"{_variable(scheme)} {problem}", remedy  # without the value: it may hold a password


def _proxy(scheme: str, proxy: str) -> Problems:
    # of a project with https, websockets reads neither
    is_of_rest_only = scheme in ("http", "all")
    if is_of_rest_only and "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        is_address = bool(parts.hostname) and parts.port != 0 and httpx.Proxy(proxy).url.host != ""
        (parts.hostname or "").encode("idna")  # as websockets does, if any part of the address is not in ASCII
    except (ValueError, httpx.InvalidURL):
        is_address = False
    if not is_address:
        yield "is not the address of a proxy.", _HTTP_PROXY
    elif scheme == "socks" or parts.scheme.startswith("socks"):
        if find_spec("socksio") is None or find_spec("aiohttp_socks") is None:
            remedy = f"{_HTTP_PROXY} Or install httpx[socks] and aiohttp-socks."
            yield "names a SOCKS proxy, and the packages for SOCKS are not installed.", remedy
    elif not is_of_rest_only and (parts.path.strip("/") or parts.query or parts.fragment):
        yield "has more than the address of a proxy.", _HTTP_PROXY
    elif not is_of_rest_only and parts.username is not None and parts.password is None:
        yield "has a user without a password.", "Write it as http://user:password@host:port."


def _variable(scheme: str) -> str:
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
        if os.environ.get(name):
            return name
    return f"The system's proxy ({scheme})"


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
