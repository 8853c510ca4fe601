"""The contract between worker and schema, version 1: what a worker sends, and the shapes that it reads.

After a release a shape is never edited: a deploy upgrades the schema first, so older workers still rely on it.
A shape is a type, a tuple of types, a dict (at least these keys), or a list of one shape (for all its items).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

Shape = Any
TEXT = (str, NoneType)
NUMBER = (int, float)
WHEN = (int, NoneType)

JOB: Shape = {
    "question_id": str,
    "reply_id": TEXT,
    "attempt": int,
    "failures": int,
    "cancel": bool,
    "taken_over": bool,
    "queued_ms": int,
    "ready_ms": int,
    "message": str,
    "data": (dict, NoneType),
    "session": {"id": str, "user_id": str, "title": TEXT, "function": str, "metadata": dict},
    "history": [{"role": str, "content": str}],
    "files": [{"path": str, "content": TEXT, "language": TEXT, "revision": int}],
}
HINTS: Mapping[str, Shape] = {"next_in_ms": WHEN, "workers": int, "ready": bool}

# the arguments that each function is called with, by name
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "bridge_claim": ("worker", "slots", "holding", "lease_seconds", "history"),
    "bridge_beat": ("worker", "jobs"),
    "bridge_finish": ("worker", "results"),
    "bridge_leave": ("worker",),
    "bridge_probe": ("nonce",),
    "bridge_status": (),
    "bridge_doctor": (),
    "bridge_dead_letters": ("max_rows",),
    "bridge_dead_retry": ("question_ids",),
    "bridge_dead_drop": ("question_ids",),
}
ANSWERS: Mapping[str, Shape] = {
    "bridge_claim": {"jobs": [JOB], "snapshot": str, **HINTS},
    "bridge_beat": {"results": dict, **HINTS},
    "bridge_finish": {"results": dict, **HINTS},
    "bridge_leave": NoneType,
    "bridge_probe": NoneType,
    "bridge_status": {
        "queued": int,
        "waiting": int,
        "retrying": int,
        "running": int,
        "oldest_seconds": NUMBER,
        "dead_letters": int,
        "workers": [{"name": str, "seen_at": str, "running": int}],
        "last_hour": {"done": int, "failed": int, "cancelled": int, "input_tokens": int, "output_tokens": int},
    },
    "bridge_doctor": {"unpublished": list, "topics_policy": TEXT, "can_announce": bool},
    "bridge_dead_letters": [
        {
            "question_id": str,
            "created_at": str,
            "function": str,
            "error": {"code": str, "message": str},
            "runs": [{"attempt": int, "outcome": str, "error": (dict, NoneType)}],
        }
    ],
    "bridge_dead_retry": int,
    "bridge_dead_drop": int,
}
# the events on `bridge:inbox`
EVENTS: Mapping[str, Shape] = {"work": {"question_ids": [str], "xid": int}, "cancel": {"question_id": str}}


def differs(value: Any, shape: Shape, where: str = "answer") -> list[str]:
    """Return where a value does not match a shape; extra keys are allowed."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{where} is {value!r}"]
        missing = [f"{where}.{key} is missing" for key in shape if key not in value]
        return missing + [d for k, s in shape.items() if k in value for d in differs(value[k], s, f"{where}.{k}")]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where} is {value!r}"]
        return [d for n, item in enumerate(value) for d in differs(item, shape[0], f"{where}[{n}]")]
    if (isinstance(value, bool) and shape is not bool) or not isinstance(value, shape):
        return [f"{where} is {value!r}"]
    return []
