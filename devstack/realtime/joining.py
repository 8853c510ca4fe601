"""What a client asks for when it joins a channel. Pure, no I/O.

What is missing or of a wrong type counts as not asked for, as on the hosted server (v2.129.8), unless that fails there.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devstack.realtime.binding import binding_id, inspect


class JoinRefused(Exception):
    """A join that is answered with an error; the text is its reason."""


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """The parsed payload of `phx_join`.

    `token` None: none was sent. `replay` is what was asked for, unchecked. `whole`: false for clients of the first
    protocol, that join `realtime:schema:table:filter` and get changes under the action's name.
    """

    token: str | None
    private: bool
    ack: bool
    hear_self: bool
    presence_enabled: bool
    presence_key: str
    bindings: tuple[Mapping[str, Any], ...]
    replay: Any
    replication_ready: bool
    whole: bool

    def response(self) -> dict[str, Any]:
        """Return what an accepted join is answered with."""
        return {"postgres_changes": [{"id": binding_id(params), **params} for params in self.bindings]}


def parse_join(name: str, payload: Any) -> JoinConfig:
    """Read the payload of a join of the topic `name` (without `realtime:`). Raises JoinRefused."""
    if not isinstance(payload, Mapping):
        raise JoinRefused(f"UnknownErrorOnChannel: expected params to be a :map, got: `{inspect(payload)}`")
    asked = payload.get("config")
    config: Mapping[str, Any] = asked if isinstance(asked, Mapping) else {}
    broadcast = config.get("broadcast")
    if (asked is not None and not isinstance(asked, Mapping)) or (
        broadcast is not None and not isinstance(broadcast, Mapping)
    ):
        raise JoinRefused("UnknownErrorOnChannel: no function clause matching in Access.get/3")
    broadcast = broadcast or {}
    presence = config.get("presence")
    presence = presence if isinstance(presence, Mapping) else {}
    key = presence.get("key")
    return JoinConfig(
        token=_token(payload),
        private=_flag(config.get("private")),
        ack=_flag(broadcast.get("ack")),
        hear_self=_flag(broadcast.get("self")),
        presence_enabled=_flag(presence.get("enabled")),
        presence_key=key if isinstance(key, str) and key else str(uuid.uuid1()),
        bindings=_bindings(name, config, whole="config" in payload),
        replay=broadcast.get("replay"),
        replication_ready=bool(broadcast.get("replication_ready")),
        whole="config" in payload,
    )


def _token(payload: Mapping[str, Any]) -> str | None:
    user, access = payload.get("user_token"), payload.get("access_token")
    if isinstance(user, str):
        return user
    return access if isinstance(access, str) else None


def _flag(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _bindings(name: str, config: Mapping[str, Any], *, whole: bool) -> tuple[Mapping[str, Any], ...]:
    if not whole:
        return (dict(zip(("schema", "table", "filter"), name.split(":", 2), strict=False)),)
    asked = config.get("postgres_changes")
    if not isinstance(asked, list):
        return ()
    bindings = tuple(params for params in asked if params is not None)
    if not all(isinstance(params, Mapping) for params in bindings):
        raise JoinRefused("UnknownErrorOnChannel: expected a map")
    return bindings
