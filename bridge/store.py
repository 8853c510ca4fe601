"""The worker's calls to Supabase: claim, beat, finish, and a session's title.

Every call is safe to repeat (see `supabase/migrations`), so a lost answer is simply asked for again. A batch
that the server refuses is halved until the item that it refuses stands alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import httpx
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from bridge.errors import SetupError, StoreError, StoreRefused, StoreUnavailable
from bridge.model import Answers, Checkpoint, Claim, CodeFile, Job, Message, Result, Session, Snapshot, Turn
from bridge.settings import Settings
from bridge.wire import MAX_FILE_BYTES, cut, fit, fit_json

log = logging.getLogger(__name__)

# The functions end themselves after 6 s (statement_timeout); what takes longer is not answered any more.
CALL_SECONDS = 9.0
TRIES = 3
LEAVE_SECONDS = 1.0

# SQLSTATE classes that pass by themselves: connection, rollback, resources, operator's intervention, system.
_PASSING_SQLSTATE = re.compile(r"(?:08|0A|25|40|53|55|57|58|XX)[0-9A-Z]{3}")
# What is refused for what is in it: data, constraints, sizes. Any other refusal (a key, a missing function, a read-only
# project) is no fault of the batch.
_ABOUT_CONTENT = re.compile(r"(?:22|23|54|PT4)[0-9A-Z]+|PGRST102|400|413|422")
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_PASSING_STATUS = frozenset({408, 425, 429, *range(500, 600)})
# The HTTP status of the call under way: APIError has none (supabase 2.34.1), and a gateway's body no code.
_status: ContextVar[int] = ContextVar("status", default=0)

Item = TypeVar("Item")
Kind = TypeVar("Kind")


class Store:
    """A connection to the project's REST interface, with the secret key."""

    def __init__(self, client: AsyncClient, http: httpx.AsyncClient, worker: str, settings: Settings) -> None:
        self._client = client
        self._http = http
        self._worker = worker
        self._settings = settings
        self.calls = 0

    @classmethod
    async def open(cls, settings: Settings, worker: str) -> Store:
        """Connect under the name `worker`. Nothing is sent yet."""
        # HTTP/1.1: multiplexing costs more CPU than it saves with a handful of calls a second
        http = httpx.AsyncClient(
            timeout=httpx.Timeout(CALL_SECONDS, connect=5),
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=60),
            event_hooks={"response": [_note_status]},
        )
        options = AsyncClientOptions(
            httpx_client=http, auto_refresh_token=False, persist_session=False, postgrest_client_retry=False
        )
        client = await acreate_client(settings.supabase_url, settings.supabase_key, options)
        return cls(client, http, worker, settings)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def claim(self, slots: int, holding: Sequence[str]) -> Claim:
        """Take up to `slots` jobs: those this worker holds without knowing it (one at least), then others.

        Raises:
            StoreError: nothing was learnt; what may have been claimed comes with the next claim.
        """
        answer = await self._call(
            "bridge_claim",
            {
                "worker": self._worker,
                "slots": slots,
                "holding": list(holding),
                "lease_seconds": self._settings.lease_seconds,
                "history": self._settings.history,
            },
            dict,
        )
        try:
            jobs = tuple(_job(item) for item in answer["jobs"])
            snapshot = Snapshot.read(answer["snapshot"]) if "snapshot" in answer else None
            return Claim(jobs, _seconds(answer["next_in_ms"]), answer["workers"], snapshot)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StoreUnavailable(f"bridge_claim: an answer of another version ({error!r})") from error

    async def leave(self) -> None:
        """Be counted as a live worker no more; the others' share of the quota grows at once.

        Raises:
            StoreError: it is counted until it has been silent for a lease.
        """
        await self._send("bridge_leave", self._client.rpc("bridge_leave", {"worker": self._worker}), LEAVE_SECONDS)

    async def beat(self, checkpoints: Sequence[Checkpoint]) -> Answers:
        """Extend leases and write checkpoints. States are `ok`, `lost` or `cancel`.

        Raises:
            StoreError: nothing was learnt.
        """
        # all tries together stay well within a lease
        seconds = min(CALL_SECONDS, self._settings.lease_seconds / 6)
        return await self._batch("bridge_beat", "jobs", checkpoints, _checkpoint, seconds)

    async def finish(self, results: Sequence[Result]) -> Answers:
        """End attempts. States are `ok`, `lost`, `gone` or `refused` (it was ended as failed).

        Raises:
            StoreError: nothing was learnt.
        """
        return await self._batch("bridge_finish", "results", results, _result)

    async def set_title(self, session_id: str, title: str) -> None:
        """Give a session that has no title this one.

        Raises:
            StoreError: it has none still.
        """
        query = (
            self._client.table("sessions").update({"title": fit(title)[:200]}).eq("id", session_id).is_("title", "null")
        )
        await self._send("sessions.title", query)

    async def status(self) -> Mapping[str, Any]:
        """What `bridge_status()` says of queue, workers and the last hour.

        Raises:
            StoreError: nothing was learnt.
        """
        return await self._call("bridge_status", {}, dict)

    async def doctor(self) -> Mapping[str, Any]:
        """What `bridge_doctor()` sees of publication and policies from inside.

        Raises:
            StoreError: nothing was learnt.
        """
        return await self._call("bridge_doctor", {}, dict)

    async def dead_letters(self, most: int) -> Sequence[Mapping[str, Any]]:
        """The questions that were given up, newest first, each with its attempts.

        Raises:
            StoreError: nothing was learnt.
        """
        return await self._call("bridge_dead_letters", {"max_rows": most}, list)

    async def retry_dead(self, message_ids: Sequence[str] | None) -> int:
        """Give dead letters (None: up to 500 of all) another set of attempts; returns how many.

        Raises:
            StoreError: it is not known whether it was done; it can be repeated.
        """
        return await self._call("bridge_dead_retry", {"question_ids": message_ids}, int)

    async def drop_dead(self, message_ids: Sequence[str] | None) -> int:
        """Forget dead letters (None: all); returns how many.

        Raises:
            StoreError: it is not known whether it was done; it can be repeated.
        """
        return await self._call("bridge_dead_drop", {"question_ids": message_ids}, int)

    async def check(self) -> None:
        """See that the project is there, the key is taken and the schema is the one this worker knows.

        Raises:
            SetupError: one line with the remedy.
            StoreUnavailable: the project did not answer.
        """
        try:
            await self.status()
        except StoreRefused as error:
            if error.code in ("PGRST202", "PGRST205", "42883", "3F000"):
                raise SetupError(
                    "The project has no bridge schema. Apply the migrations: supabase db push --remote."
                ) from error
            if error.code in ("401", "403", "42501", "PGRST301", "PGRST302", "PGRST303"):
                raise SetupError(
                    "The project refused SUPABASE_SECRET_KEY. Copy a secret key (sb_secret_…) of this project."
                ) from error
            raise SetupError(f"The project refused the worker's first call: {error}") from error

    async def _batch(
        self,
        function: str,
        argument: str,
        items: Sequence[Item],
        encode: Callable[[Item], dict[str, Any]],
        seconds: float = CALL_SECONDS,
    ) -> Answers:
        try:
            arguments = {"worker": self._worker, argument: [encode(item) for item in items]}
            answer = await self._call(function, arguments, dict, seconds)
        except StoreRefused as error:
            if not _ABOUT_CONTENT.fullmatch(error.code or ""):
                raise StoreUnavailable(str(error), code=error.code) from error
            if len(items) < 2:
                if items:
                    log.error("%s refused an item: %s", function, error)
                raise
            log.warning("%s refused a batch of %d, halving it: %s", function, len(items), error)
            half = len(items) // 2
            states: dict[str, str] = {}
            last: Answers | None = None
            for part in (items[:half], items[half:]):
                try:
                    last = await self._batch(function, argument, part, encode, seconds)
                    states.update(last.states)
                except StoreRefused:
                    continue  # the one item was logged; its lease runs out or it is tried as failed
            if last is None:
                raise
            return Answers(states, last.next_in, last.workers, last.ready)
        try:
            return Answers(answer["results"], _seconds(answer["next_in_ms"]), answer["workers"], answer.get("ready"))
        except (KeyError, TypeError) as error:
            raise StoreUnavailable(f"{function}: an answer of another version ({error!r})") from error

    async def _call(
        self, function: str, arguments: dict[str, Any], kind: type[Kind], seconds: float = CALL_SECONDS
    ) -> Kind:
        # supabase types the parameters as strings; it encodes any JSON
        request = self._client.rpc(function, cast(dict[str, str], arguments))
        answer = await self._send(function, request, seconds)
        if not isinstance(answer, kind):  # supabase hands on whatever came with HTTP 200: a page of a proxy, say
            raise StoreUnavailable(f"{function}: the answer is none of a Supabase project's")
        return answer

    async def _send(self, name: str, request: Any, seconds: float = CALL_SECONDS) -> Any:
        for attempt in range(1, TRIES + 1):
            self.calls += 1
            try:
                async with asyncio.timeout(seconds):
                    return (await request.execute()).data
            except (TimeoutError, httpx.HTTPError, APIError) as error:
                failure = _failure(name, error)
                if isinstance(failure, StoreRefused) or attempt == TRIES:
                    raise failure from error
                log.debug("%s, trying again", failure)
            await asyncio.sleep(random.uniform(0.5, 1) * 0.1 * 2**attempt)
        raise AssertionError("unreachable")


async def _note_status(response: httpx.Response) -> None:
    _status.set(response.status_code)


def _failure(name: str, error: Exception) -> StoreError:
    if not isinstance(error, APIError):
        return StoreUnavailable(f"{name}: {type(error).__name__} {error}".rstrip())
    code, status = error.code or "", _status.get()
    text = f"{name}: {error.message or 'no message'} ({code or 'no code'}, HTTP {status})"
    if _SQLSTATE.fullmatch(code) and not code.startswith("PGRST"):
        passes = _PASSING_SQLSTATE.fullmatch(code) is not None
    else:
        passes = status in _PASSING_STATUS
    return (StoreUnavailable if passes else StoreRefused)(text, code=code or str(status))


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _job(item: Mapping[str, Any]) -> Job:
    base = {key: item[key] for key in ("attempt", "failures", "cancel")}
    base["message_id"] = item["question_id"]
    base["taken_over"] = item.get("taken_over", False)
    if item.get("broken"):
        return Job(**base, broken=item["broken"])
    # by name, so that a newer schema may say more than this worker knows
    told = item["session"]
    session = Session(told["id"], told["user_id"], told["title"], told["function"], told["metadata"])
    files = item["files"]
    return Job(
        **base,
        reply_id=item["reply_id"] or "",
        queued_ms=item["queued_ms"],
        ready_ms=item.get("ready_ms", 0),
        revisions={file["path"]: file["revision"] for file in files},
        turn=Turn(
            function=session.function,
            message=item["message"],
            messages=tuple(Message(message["role"], message["content"]) for message in item["history"]),
            files=tuple(
                CodeFile(file["path"], file["content"], file["language"], file["revision"])
                for file in files
                if file["content"] is not None
            ),
            session=session,
            user_id=session.user_id,
            data=item["data"] or {},
        ),
    )


def _checkpoint(item: Checkpoint) -> dict[str, Any]:
    encoded: dict[str, Any] = {"question_id": item.message_id, "attempt": item.attempt}
    if item.seq is not None:
        encoded |= {"seq": item.seq, "content": cut(item.text)}
        if item.data is not None:
            encoded["data"] = fit_json(item.data)
    return encoded


def _result(item: Result) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "question_id": item.message_id,
        "attempt": item.attempt,
        "outcome": item.outcome,
        "user_id": item.user_id,
        "run": _run(item),
    }
    if item.text is not None:
        encoded["content"] = cut(item.text)
        encoded["data"] = fit_json(item.data)
    if item.seq is not None:
        encoded["seq"] = item.seq
    if item.error is not None:
        encoded["error"] = fit_json(item.error)
    if item.retry_ms is not None:
        encoded["retry_in_ms"] = item.retry_ms
    if item.files:
        encoded["files"] = [
            {
                "path": fit(file.path),
                "content": cut(file.content, MAX_FILE_BYTES),
                "language": file.language and fit(file.language),
                "revision": item.revisions.get(file.path, 0),
            }
            for file in item.files
        ]
    return encoded


def _run(item: Result) -> dict[str, Any]:
    run, usage = item.run, item.run.usage
    values = {
        "function": run.function,
        "model": usage.model,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "queue_ms": run.queue_ms,
        "first_delta_ms": run.first_delta_ms,
        "duration_ms": run.duration_ms,
        "error": fit_json(run.error) if run.error else None,
    }
    return {key: value for key, value in values.items() if value is not None}
