"""Signed URLs: a token that allows one thing, without a policy being asked again, until it expires."""

from __future__ import annotations

import time
from typing import Any, Literal

import jwt

from devstack.storage import errors
from devstack.storage.access import read_token

Scope = Literal["download", "upload"]
UPLOAD_SECONDS = 7200


class Signer:
    """Signs and verifies with the project's JWT secret."""

    def __init__(self, jwt_secret: str) -> None:
        self._secret = jwt_secret

    def sign(self, scope: Scope, bucket: str, key: str, seconds: int, **claims: object) -> str:
        """Return a token for an object that is valid for so long; `claims` are read when it is used."""
        now = int(time.time())
        payload = {**claims, "url": f"{bucket}/{key}", "scope": scope, "iat": now, "exp": now + seconds}
        return jwt.encode(payload, self._secret, "HS256")

    def verify(self, token: str, scope: Scope, bucket: str, key: str) -> dict[str, Any]:
        """Return the claims of a token for this object. Raises StorageError."""
        try:
            claims = read_token(token, self._secret)
        except ValueError as error:
            raise errors.invalid_token(str(error)) from error
        if claims.get("scope") != scope:
            raise errors.invalid_signature(f"Token is not scoped for {scope}")
        if claims.get("url") != f"{bucket}/{key}":
            raise errors.invalid_signature()
        return claims


def signed_url(bucket: str, key: str, token: str, *, kind: str = "sign") -> str:
    """Return the URL, relative to `/storage/v1`. Clients escape what they must; a `?` would end the path for them."""
    return f"/object/{kind}/{bucket}/{key}".replace("?", "%3F") + f"?token={token}"
