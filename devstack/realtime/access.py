"""Who somebody is, and what they may do: tokens, and the policies on `realtime.messages`.

Error texts are those of Realtime v2.129.8, as recorded.
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

from devstack.realtime.pool import Connection, Pool

ALGORITHMS = ("HS256", "HS384", "HS512")


class TokenRefused(Exception):
    """A token that is not accepted. `code` opens the reason of a refused join; `pushed` answers a push of it."""

    def __init__(self, code: str, text: str, *, pushed: str | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.pushed = pushed or text


class AccessUnavailable(Exception):
    """Postgres could not be asked."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A verified token. `expires` is in seconds of Unix time, None for an opaque API key."""

    token: str
    role: str
    claims: Mapping[str, Any]
    expires: float | None

    @property
    def claims_json(self) -> str:
        """The claims as Postgres gets them in `request.jwt.claims`."""
        return json.dumps(self.claims, separators=(",", ":"), sort_keys=True)


class Tokens:
    """Verifies tokens: JWTs signed with the project's secret, and opaque API keys (key → role)."""

    def __init__(self, jwt_secret: str, api_keys: Mapping[str, str]) -> None:
        self._secret = jwt_secret
        self._api_keys = dict(api_keys)

    def verify(self, token: str) -> Credential:
        """Return what `token` says. Raises TokenRefused."""
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
    """Raise TokenRefused if the token is no longer valid."""
    if credential.expires is not None and (over := int(time.time()) - int(credential.expires)) >= 0:
        raise TokenRefused("InvalidJWTToken", f"Token has expired {over} seconds ago")


@dataclass(frozen=True, slots=True)
class Permission:
    """What the policies allow on a topic, for each extension of Realtime."""

    broadcast: bool
    presence: bool


class Authorization:
    """Asks the policies on `realtime.messages`, each time in a transaction that is rolled back."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(
        self, topic: str, credential: Credential, headers: Mapping[str, str], *, presence: bool
    ) -> Permission:
        """Say whether a row of each extension on `topic` could be selected. Raises AccessUnavailable.

        A policy that fails, and a role that does not exist, count as a refusal.
        """
        extensions = {"broadcast": uuid.uuid4()}
        if presence:
            extensions["presence"] = uuid.uuid4()

        async def ask(connection: Connection) -> set[object]:
            async with connection.pipeline():
                await connection.execute("begin")
                for extension, probe in extensions.items():
                    await connection.execute(
                        "insert into realtime.messages (id, topic, extension) values (%s, %s, %s)",
                        (probe, topic, extension),
                    )
                await _become(connection, topic, credential, headers)
                seen = await connection.execute(
                    "select id from realtime.messages where id = any(%s)", (list(extensions.values()),)
                )
                rows = await seen.fetchall()
            await connection.rollback()
            return {row[0] for row in rows}

        found = await self._ask(ask, credential)
        return Permission(broadcast=extensions["broadcast"] in found, presence=extensions.get("presence") in found)

    async def write(self, topic: str, credential: Credential, headers: Mapping[str, str], extension: str) -> bool:
        """Say whether a row of `extension` on `topic` could be inserted. Raises AccessUnavailable."""

        async def ask(connection: Connection) -> set[object]:
            async with connection.pipeline():
                await connection.execute("begin")
                await _become(connection, topic, credential, headers)
                await connection.execute(
                    "insert into realtime.messages (topic, extension) values (%s, %s)", (topic, extension)
                )
            await connection.rollback()
            return {extension}

        return extension in await self._ask(ask, credential)

    async def _ask(self, ask: Any, credential: Credential) -> set[object]:
        if credential.role == "none":  # SET ROLE none would mean the superuser
            return set()
        try:
            found: set[object] = await self._pool.run(ask)
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
