"""Parses the payload of a join. Pure, no I/O.

As on the hosted server (v2.129.8), options that are missing or have the wrong type count as not set, except where the
hosted server fails.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devstack.realtime.binding import binding_id, inspect


class JoinRefused(Exception):
    """A join that is rejected; the text is the reason."""


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """The parsed payload of `phx_join`.

    `token` is None if the client sent none. `replay` is not validated yet, see `parse_replay`. `legacy` clients use
    the original protocol: they join `realtime:schema:table:filter`, and a change's event is named after its action.
    """

    token: str | None
    private: bool
    ack: bool
    receive_self: bool
    presence_enabled: bool
    presence_key: str
    bindings: tuple[Mapping[str, Any], ...]
    replay: Any
    replication_ready: bool
    legacy: bool

    def response(self) -> dict[str, Any]:
        """Return the response to an accepted join."""
        return {"postgres_changes": [{"id": binding_id(params), **params} for params in self.bindings]}


def parse_join(name: str, payload: Any) -> JoinConfig:
    """Parse a join of the topic `name` (without the prefix `realtime:`). Raises JoinRefused."""
    if not isinstance(payload, Mapping):
        raise JoinRefused(f"UnknownErrorOnChannel: expected params to be a :map, got: `{inspect(payload)}`")
    sent = payload.get("config")
    config: Mapping[str, Any] = sent if isinstance(sent, Mapping) else {}
    broadcast = config.get("broadcast")
    if (sent is not None and not isinstance(sent, Mapping)) or (
        broadcast is not None and not isinstance(broadcast, Mapping)
    ):
        raise JoinRefused("UnknownErrorOnChannel: no function clause matching in Access.get/3")
    broadcast = broadcast or {}
    presence = config.get("presence")
    presence = presence if isinstance(presence, Mapping) else {}
    key = presence.get("key")
    legacy = "config" not in payload
    return JoinConfig(
        token=_token(payload),
        private=_flag(config.get("private")),
        ack=_flag(broadcast.get("ack")),
        receive_self=_flag(broadcast.get("self")),
        presence_enabled=_flag(presence.get("enabled")),
        presence_key=key if isinstance(key, str) and key else str(uuid.uuid1()),
        bindings=_bindings(name, config, legacy=legacy),
        replay=broadcast.get("replay"),
        replication_ready=bool(broadcast.get("replication_ready")),
        legacy=legacy,
    )


def parse_replay(replay: Any, *, private: bool) -> tuple[int, int]:
    """Return `since` (Unix time in ms) and `limit` of a replay. Raises JoinRefused."""
    if not private:
        raise JoinRefused("UnableToReplayMessages: Replay is not allowed for public channels")
    since = replay.get("since") if isinstance(replay, Mapping) else None
    limit = replay.get("limit", 25) if isinstance(replay, Mapping) else None
    if not isinstance(since, int) or not isinstance(limit, int):
        raise JoinRefused("UnableToReplayMessages: Replay params are not valid")
    return since, limit


def _token(payload: Mapping[str, Any]) -> str | None:
    user, access = payload.get("user_token"), payload.get("access_token")
    if isinstance(user, str):
        return user
    return access if isinstance(access, str) else None


def _flag(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _bindings(name: str, config: Mapping[str, Any], *, legacy: bool) -> tuple[Mapping[str, Any], ...]:
    if legacy:
        return (dict(zip(("schema", "table", "filter"), name.split(":", 2), strict=False)),)
    sent = config.get("postgres_changes")
    if not isinstance(sent, list):
        return ()
    bindings = tuple(params for params in sent if params is not None)
    if not all(isinstance(params, Mapping) for params in bindings):
        raise JoinRefused("UnknownErrorOnChannel: expected a map")
    return bindings
