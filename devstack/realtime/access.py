"""Authentication and authorisation: tokens, and the policies on `realtime.messages`.

Error texts are copied from recordings of Realtime v2.129.8.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import psycopg
from jwt.types import Options

from devstack.pool import Connection, Pool

ALGORITHMS = ("HS256", "HS384", "HS512")


class TokenRefused(Exception):
    """A rejected token. A rejected join gives `code` and the text as its reason; a pushed token gets `pushed`."""

    def __init__(self, code: str, text: str, *, pushed: str | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.pushed = pushed or text


class AccessUnavailable(Exception):
    """Postgres cannot be reached, so access cannot be checked."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A verified token. `expires` is a Unix time in seconds, None for an opaque API key."""

    token: str
    role: str
    claims: Mapping[str, Any]
    expires: float | None

    @property
    def claims_json(self) -> str:
        """The claims as JSON, for the setting `request.jwt.claims`."""
        return json.dumps(self.claims, separators=(",", ":"), sort_keys=True)


class Tokens:
    """Verifies JWTs signed with the project's secret, and opaque API keys (a mapping from key to role)."""

    def __init__(self, jwt_secret: str, api_keys: Mapping[str, str]) -> None:
        self._secret = jwt_secret
        self._api_keys = dict(api_keys)

    def verify(self, token: str) -> Credential:
        """Verify a token. Raises TokenRefused."""
        role = self._api_keys.get(token)
        if role is not None:
            return Credential(token, role, {"iss": "supabase", "role": role}, None)
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
        except jwt.InvalidTokenError as error:
            raise TokenRefused("MalformedJWT", "The token provided is not a valid JWT") from error
        if algorithm not in ALGORITHMS:
            raise TokenRefused(
                "JwtSignerError",
                "Failed to generate JWT signer, check your JWT secret or JWKS configuration",
                pushed=":error_generating_signer",
            )
        try:
            claims = jwt.decode(token, self._secret, algorithms=[algorithm], options=_UNCHECKED)
        except jwt.InvalidSignatureError as error:
            raise TokenRefused(
                "JwtSignatureError", "Failed to validate JWT signature", pushed=":signature_error"
            ) from error
        except jwt.InvalidTokenError as error:
            raise TokenRefused("MalformedJWT", "The token provided is not a valid JWT") from error
        role, expires = claims.get("role"), claims.get("exp")
        if not isinstance(role, str) or not isinstance(expires, int):
            raise TokenRefused("InvalidJWTToken", "Fields `role` and `exp` are required in JWT")
        credential = Credential(token, role, claims, expires)
        check_expiry(credential)
        return credential


_UNCHECKED: Options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}


def check_expiry(credential: Credential) -> None:
    """Raise TokenRefused if the token has expired."""
    if credential.expires is not None and (over := int(time.time()) - int(credential.expires)) >= 0:
        raise TokenRefused("InvalidJWTToken", f"Token has expired {over} seconds ago")


@dataclass(frozen=True, slots=True)
class Permission:
    """What the policies allow on a topic, for each Realtime extension."""

    broadcast: bool
    presence: bool


class Authorization:
    """Checks the policies on `realtime.messages`, in transactions that are rolled back."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(
        self, topic: str, credential: Credential, headers: Mapping[str, str], *, presence: bool
    ) -> Permission:
        """Return which extensions' rows on `topic` could be selected. Raises AccessUnavailable.

        A policy that fails and a role that does not exist count as denied.
        """
        probes = {"broadcast": uuid.uuid4()}
        if presence:
            probes["presence"] = uuid.uuid4()

        async def select_probes(connection: Connection) -> set[object]:
            async with connection.pipeline():
                await connection.execute("begin")
                for extension, probe in probes.items():
                    await connection.execute(
                        "insert into realtime.messages (id, topic, extension) values (%s, %s, %s)",
                        (probe, topic, extension),
                    )
                await _become(connection, topic, credential, headers)
                visible = await connection.execute(
                    "select id from realtime.messages where id = any(%s)", (list(probes.values()),)
                )
                rows = await visible.fetchall()
            await connection.rollback()
            return {row[0] for row in rows}

        found = await self._run(select_probes, credential)
        return Permission(broadcast=probes["broadcast"] in found, presence=probes.get("presence") in found)

    async def write(self, topic: str, credential: Credential, headers: Mapping[str, str], extension: str) -> bool:
        """Return whether a row of `extension` on `topic` could be inserted. Raises AccessUnavailable."""

        async def insert_probe(connection: Connection) -> set[object]:
            async with connection.pipeline():
                await connection.execute("begin")
                await _become(connection, topic, credential, headers)
                await connection.execute(
                    "insert into realtime.messages (topic, extension) values (%s, %s)", (topic, extension)
                )
            await connection.rollback()
            return {extension}

        return extension in await self._run(insert_probe, credential)

    async def _run(self, check: Any, credential: Credential) -> set[object]:
        if credential.role == "none":  # SET ROLE none would switch to the superuser
            return set()
        try:
            found: set[object] = await self._pool.run(check)
        except (psycopg.OperationalError, TimeoutError, OSError) as error:
            if isinstance(error, psycopg.errors.QueryCanceled):
                return set()
            raise AccessUnavailable("Realtime was unable to connect to the project database") from error
        except psycopg.Error:
            return set()
        return found


async def _become(connection: Connection, topic: str, credential: Credential, headers: Mapping[str, str]) -> None:
    sub = credential.claims.get("sub")
    await connection.execute(
        "select set_config('role', %s, true), set_config('realtime.topic', %s, true),"
        " set_config('request.jwt.claims', %s, true), set_config('request.jwt.claim.sub', %s, true),"
        " set_config('request.jwt.claim.role', %s, true), set_config('request.headers', %s, true)",
        (
            credential.role,
            topic,
            credential.claims_json,
            sub if isinstance(sub, str) else "",
            credential.role,
            json.dumps(dict(headers)),
        ),
    )
