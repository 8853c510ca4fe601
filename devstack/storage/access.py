"""Who calls, and transactions as that caller, so that the policies on Storage's tables decide."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jwt
import psycopg

from devstack.pool import Connection, Pool
from devstack.storage import errors
from devstack.storage.errors import StorageError

T = TypeVar("T")
_ALGORITHMS = ("HS256", "HS384", "HS512")


@dataclass(frozen=True, slots=True)
class Caller:
    """A role and the claims of its token. `is_known` is false for a caller without a valid token."""

    role: str
    claims: Mapping[str, Any] = field(default_factory=dict)
    is_known: bool = True

    @property
    def id(self) -> str | None:
        """The user's ID, which becomes the owner of what is created."""
        sub = self.claims.get("sub")
        return sub if isinstance(sub, str) else None


# Storage itself, which the policies do not concern.
STORAGE = Caller("service_role", {"role": "service_role"})
NOBODY = Caller("anon", {"role": "anon"}, is_known=False)


class Tokens:
    """Verifies JWTs signed with the project's secret, and opaque API keys (a mapping from key to role)."""

    def __init__(self, jwt_secret: str, api_keys: Mapping[str, str]) -> None:
        self._secret = jwt_secret
        self._api_keys = dict(api_keys)

    def verify(self, headers: Mapping[str, str]) -> Caller:
        """Return who sends a request with these headers: `Authorization` first, then `apikey`. Raises StorageError."""
        kind, _, bearer = headers.get("Authorization", "").partition(" ")
        token = bearer.strip() if kind.lower() == "bearer" else kind
        if not token:
            token = headers.get("apikey", "")
        if not token:
            raise errors.invalid_request("headers must have required property 'authorization'")
        role = self._api_keys.get(token)
        if role is not None:
            return Caller(role, {"iss": "supabase", "role": role})
        try:
            claims = read_token(token, self._secret)
        except ValueError as error:
            raise errors.access_denied(str(error)) from error
        role = claims.get("role", "anon")
        if not isinstance(role, str):
            raise errors.access_denied("invalid role")
        return Caller(role, claims)

    def verify_if_any(self, headers: Mapping[str, str]) -> Caller:
        """The same, but nobody instead of a refusal."""
        try:
            return self.verify(headers)
        except StorageError:
            return NOBODY


def read_token(token: str, secret: str) -> dict[str, Any]:
    """Return the claims of a JWT. Raises ValueError, with the words of the library that the hosted service uses."""
    try:
        claims: dict[str, Any] = jwt.decode(token, secret, algorithms=list(_ALGORITHMS), options={"verify_aud": False})
    except jwt.ExpiredSignatureError as error:
        raise ValueError('"exp" claim timestamp check failed') from error
    except jwt.ImmatureSignatureError as error:
        raise ValueError('"nbf" claim timestamp check failed') from error
    except jwt.InvalidSignatureError as error:
        raise ValueError("signature verification failed") from error
    except jwt.InvalidTokenError as error:
        raise ValueError("Invalid Compact JWS") from error
    return claims


class Database:
    """Runs transactions as a caller."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(
        self,
        caller: Caller,
        operation: str,
        work: Callable[[Connection], Awaitable[T]],
        *,
        commit: bool = True,
    ) -> T:
        """Run `work` in a transaction as this caller, and return its result; without `commit`, roll back.

        `operation` is what `storage.operation()` returns meanwhile. Raises StorageError as `work` does, and for errors
        of Postgres.
        """

        async def transaction(connection: Connection) -> T | StorageError:
            try:
                await connection.execute("begin")
                await _become(connection, caller, operation)
                result = await work(connection)
            except StorageError as error:  # returned, because the pool closes the connection of what raises
                await connection.rollback()
                return error
            await connection.execute("commit" if commit else "rollback")
            return result

        try:
            result = await self._pool.run(transaction)
        except psycopg.Error as error:
            raise errors.of_postgres(error) from error
        except (TimeoutError, OSError) as error:
            raise errors.database_timeout() from error
        if isinstance(result, StorageError):
            raise result
        return result


async def _become(connection: Connection, caller: Caller, operation: str) -> None:
    # A token could name any role, and this connection may become any: only what REST may become is allowed.
    found = await connection.execute(
        "select from pg_catalog.pg_roles where rolname = %s and pg_has_role('authenticator', oid, 'member')",
        (caller.role,),
    )
    if await found.fetchone() is None:
        raise errors.access_denied(f'permission denied to set role "{caller.role}"')
    await connection.execute(
        "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true),"
        " set_config('request.jwt.claim.sub', %s, true), set_config('request.jwt.claim.role', %s, true),"
        " set_config('storage.operation', %s, true), set_config('storage.allow_delete_query', 'true', true)",
        (caller.role, json.dumps(dict(caller.claims)), caller.id or "", caller.role, operation),
    )
