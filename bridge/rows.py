"""Encodes the arguments of the `bridge_*` functions and decodes their answers; `supabase/schemas` defines both.

Answers are read by name: a newer schema may add keys that this worker does not know.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from bridge.model import (
    Attachment,
    Checkpoint,
    Claim,
    CodeFile,
    Description,
    Dispatch,
    Job,
    Kept,
    Message,
    QueueHints,
    Result,
    Session,
    Settled,
    Snapshot,
    Step,
    StepWrite,
    Turn,
    Wait,
)
from bridge.sanitize import (
    MAX_FILE_BYTES,
    UNPRINTABLE,
    sanitize_json,
    sanitize_line,
    sanitize_text,
    truncate_utf8,
)

# The bounds of `public.functions`, in bytes; a suggestion has its share of those of all.
MAX_NAME, MAX_TITLE, MAX_DESCRIPTION, MAX_SCHEMA, MAX_SUGGESTION = 128, 256, 1024, 60_000, 400
MAX_SUGGESTIONS = 8
# In JSON: a control character that is not a newline, a return or a tab.
_CONTROL = re.compile(r"(?<!\\)(?:\\\\)*\\[bfu]")

STEP = tuple(field.name for field in fields(Step))


def decode_claim(answer: Mapping[str, Any]) -> Claim:
    """Read the answer of `bridge_claim`. A malformed one raises KeyError, TypeError, AttributeError or ValueError."""
    snapshot = Snapshot.read(answer["snapshot"]) if "snapshot" in answer else None
    jobs = tuple(_job(item) for item in answer["jobs"])
    elsewhere = frozenset(answer.get("elsewhere", ()))
    return Claim(jobs, decode_hints(answer), snapshot, answer.get("held_back", False), elsewhere)


def _kept(item: Mapping[str, Any]) -> Kept | None:
    if not item.get("steps") or item.get("seq") is None:
        return None
    return Kept(item["seq"], item["content"], item["reply_data"], tuple(item["parts"] or ()))


def decode_hints(answer: Mapping[str, Any]) -> QueueHints:
    """Read the part that every answer has. A malformed one raises KeyError or TypeError."""
    lease_in, at = (_seconds(answer.get(key)) for key in ("lease_in_ms", "at_ms"))
    return QueueHints(
        _seconds(answer["next_in_ms"]),
        answer["workers"],
        answer.get("ready"),
        lease_in=lease_in,
        tells_leases="lease_in_ms" in answer,
        watches=answer.get("watches", True),
        missed=answer.get("missed", False),
        orphans=answer.get("orphans", False),
        at=at,
    )


def decode_dispatch(item: Mapping[str, Any]) -> Dispatch:
    """Read what the database sends of a dispatched question.

    A malformed one raises KeyError, TypeError, AttributeError or ValueError.
    """
    is_whole = "session" in item or bool(item.get("broken"))
    return Dispatch(item["question_id"], item["attempt"], _job(item) if is_whole else None, item["at_ms"] / 1000)


def encode_checkpoint(item: Checkpoint) -> dict[str, Any]:
    """An item of `bridge_beat`."""
    encoded: dict[str, Any] = {"question_id": item.question_id, "attempt": item.attempt}
    return encoded | _reply(item)


def _reply(item: Checkpoint | Settled) -> dict[str, Any]:
    """The reply up to its `seq`, as far as the row may not have it."""
    if item.seq is None:
        return {}
    encoded: dict[str, Any] = {"seq": item.seq, "content": truncate_utf8(item.text)}
    if item.data is not None:
        encoded["data"] = sanitize_json(item.data)
    if item.parts is not None:
        encoded["parts"] = list(item.parts)
    return encoded


def encode_result(item: Result) -> dict[str, Any]:
    """An item of `bridge_finish`. Absent keys keep what the row has."""
    encoded: dict[str, Any] = {"question_id": item.question_id, "attempt": item.attempt, "outcome": item.outcome}
    encoded |= {"user_id": item.user_id, "run": _run(item)}
    if item.text is not None:
        encoded["content"] = truncate_utf8(item.text)
        encoded["data"] = sanitize_json(item.data)
    if item.seq is not None:
        encoded["seq"] = item.seq
    if item.parts:
        encoded["parts"] = list(item.parts)
    if item.waits:
        encoded["waits"] = [_wait(item, wait) for wait in item.waits]
    if item.error is not None:
        encoded["error"] = sanitize_json(item.error)
    if item.retry_ms is not None:
        encoded["retry_in_ms"] = item.retry_ms
    if item.hand_over_ms is not None:
        encoded["hand_over_in_ms"] = item.hand_over_ms
    if item.wants_title:
        encoded["name"] = True
    if item.is_unconfirmed:
        encoded["unconfirmed"] = True
    if item.files:
        encoded["files"] = [
            {
                "path": sanitize_text(file.path),
                # too large: enough for the database to refuse it, as half a file must not replace a whole one
                "content": truncate_utf8(file.content, MAX_FILE_BYTES + 4),
                "language": file.language and sanitize_text(file.language),
                "revision": item.revisions.get(file.path, 0),
            }
            for file in item.files
        ]
    return encoded


def _wait(item: Result, wait: Wait) -> dict[str, Any]:
    """An item of `waits`: with how much of the reply there is."""
    place = {"chars": len(truncate_utf8(item.text or "")), "n_parts": len(item.parts)}
    return asdict(wait) | place


def encode_step(item: StepWrite) -> dict[str, Any]:
    """An item of `bridge_step`."""
    settled = item.settled
    encoded: dict[str, Any] = {
        "question_id": item.question_id,
        "attempt": item.attempt,
        "name": item.name,
        "ordinal": item.ordinal,
        "kind": item.kind,
        "value": item.value,
        "emitted_before": item.emitted_before,
        "emitted": item.emitted,
        "chars": settled.chars,
        "n_parts": settled.part_count,
    }
    if item.usage is not None:
        encoded["run"] = {key: value for key, value in asdict(item.usage).items() if value is not None}
    return encoded | _reply(settled)


def decode_step(row: Mapping[str, Any]) -> Step:
    """An item of the answer of `bridge_steps`, or of a job's `known`. A malformed one raises KeyError or TypeError."""
    return Step(*(row[name] for name in STEP))


def encode_description(item: Description) -> dict[str, Any] | None:
    """Encode an item of `bridge_describe`: what is too long is cut, and a schema left out. None if it has no name."""
    name = sanitize_line(item.name, MAX_NAME)
    if name != item.name:
        return None
    if item.is_internal:
        return {"name": name, "internal": True}
    suggestions = [sanitize_line(text, MAX_SUGGESTION) for text in item.suggestions]
    return {
        "name": name,
        "title": item.title and sanitize_line(item.title, MAX_TITLE),
        "description": item.description and sanitize_line(item.description, MAX_DESCRIPTION),
        "parameters": _schema(item.parameters),
        "result": _schema(item.result),
        "suggestions": [text for text in suggestions if text][:MAX_SUGGESTIONS],
        "reads_files": item.reads_files,
        "accepts": list(item.accepts),
    }


def _schema(schema: Mapping[str, Any] | None) -> Any:
    if schema is None:
        return None
    value = sanitize_json(schema)
    text = json.dumps(value, ensure_ascii=False)
    is_storable = len(text.encode()) <= MAX_SCHEMA and not _CONTROL.search(text) and not UNPRINTABLE.search(text)
    return value if is_storable else None


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _run(item: Result) -> dict[str, Any]:
    values = asdict(item.stats)
    values |= values.pop("usage")
    return {key: sanitize_json(value) for key, value in values.items() if value is not None}


def _job(item: Mapping[str, Any]) -> Job:
    base = {key: item[key] for key in ("question_id", "attempt", "failures", "cancel")}
    base["taken_over"] = item.get("taken_over", False)
    base["is_used_up"] = item.get("used_up", False)
    base |= {"since": item.get("since", 0), "steps": item.get("steps", 0)}
    if "known" in item:
        base["known"] = tuple(decode_step(row) for row in item["known"])
    if item.get("broken"):
        return Job(**base, broken=item["broken"])
    row, files = item["session"], item["files"]
    session = Session(row["id"], row["user_id"], row["title"], row["function"], row["metadata"])
    turn = Turn(
        function=session.function,
        message=item["message"],
        messages=tuple(
            Message(message["role"], message["content"], message.get("data"), _attachments(message))
            for message in item["history"]
        ),
        files=tuple(
            CodeFile(file["path"], file["content"], file["language"], file["revision"])
            for file in files
            if file["content"] is not None  # too large for a claim: only its revision is known
        ),
        session=session,
        user_id=session.user_id,
        data=item["data"] or {},
        question_id=item["question_id"],
        attempt=item["attempt"],
        attachments=_attachments(item),
        model=item.get("model"),
    )
    return Job(
        **base,
        reply_id=item["reply_id"] or "",
        queued_ms=item["queued_ms"],
        ready_ms=item.get("ready_ms", 0),
        turn=turn,
        kept=_kept(item),
        revisions={file["path"]: file["revision"] for file in files},
    )


def _attachments(item: Mapping[str, Any]) -> tuple[Attachment, ...]:
    rows = item.get("attachments") or ()
    return tuple(Attachment(row["name"], None, row["type"], row["path"], row["size"]) for row in rows)
