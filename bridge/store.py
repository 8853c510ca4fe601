"""The worker's calls to Supabase: claim, beat, finish, a session's title, and what operators ask for.

Every call is safe to repeat (see `supabase/schemas`): after a lost answer it is made again. A batch that the server
refuses is halved until the refused item is on its own.
"""

import asyncio
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self, TypeVar

import httpx
from supabase import AsyncClient, AuthError

from bridge.breaker import Plan
from bridge.errors import SetupError, StoreRefused, StoreUnavailable
from bridge.model import (
    BatchAck,
    Checkpoint,
    Claim,
    Description,
    Dispatch,
    Result,
    Session,
    Step,
    StepAck,
    StepWrite,
    Usage,
)
from bridge.rest import CALL_SECONDS, Rpc, connect, unexpected, unreachable
from bridge.rows import (
    decode_claim,
    decode_dispatch,
    decode_hints,
    decode_step,
    encode_checkpoint,
    encode_description,
    encode_result,
    encode_step,
)
from bridge.sanitize import sanitize_text
from bridge.settings import Settings
from bridge.storage import Storage

log = logging.getLogger(__name__)

LEAVE_SECONDS = 1.0
# How long a worker counts as hearing after each call, at least.
LEAST_HEARS_SECONDS = 15
PROBE_SECONDS = 2.0

# Refusals caused by an item's content: data, constraints, sizes. Any other (a key, a missing function) has nothing to
# do with the batch.
_CONTENT_REFUSED = re.compile(r"(?:22|23|54|PT4)[0-9A-Z]+|PGRST102|400|413|422")
# There is no such function, in the words of REST and of Postgres.
_MISSING = ("PGRST202", "42883")

Item = TypeVar("Item")
Kind = TypeVar("Kind")


class Store:
    """Calls to the project's REST API. Each raises StoreError without an answer: done or not, it can be repeated."""

    def __init__(self, client: AsyncClient, http: httpx.AsyncClient, worker: str, settings: Settings) -> None:
        self._client = client
        self._http = http
        self._rpc = Rpc(client)
        self._worker = worker
        self._settings = settings

    @classmethod
    async def open(cls, settings: Settings, worker: str) -> Self:
        """Connect under the name `worker`. Nothing is sent yet."""
        client, http = await connect(settings)
        return cls(client, http, worker, settings)

    async def close(self) -> None:
        """Close the connections."""
        await self._rpc.close()
        await self._http.aclose()

    @property
    def storage(self) -> Storage:
        """The objects of the project."""
        return Storage(self._client, self._http)

    async def claim(
        self,
        slots: int,
        holding: Sequence[str],
        functions: Sequence[str] | None = None,
        reserve: int = 0,
        plan: Plan = Plan(),  # noqa: B008  it is frozen
        capacity: int | None = None,
    ) -> Claim:
        """Take up to `slots` jobs: first those this worker holds without knowing it (at least one), then others.

        The others are those of the `functions` that it answers (None: all), and those whose function no live worker
        has known for half a minute. The last `reserve` slots are for users who have asked little.
        `capacity`: how many jobs may be dispatched to this worker (0: none, as it does not hear its topic or drains;
        None: it has no topic).
        """
        lease = {"lease_seconds": self._settings.lease_seconds, "history": self._settings.history}
        arguments = {"worker": self._worker, "slots": slots, "holding": list(holding), **lease}
        arguments["functions"] = None if functions is None else list(functions)
        arguments |= {"reserve": reserve, **asdict(plan), "capacity": capacity, "knows_steps": True}
        # it claims at least once a sweep
        arguments["hears_seconds"] = math.ceil(max(LEAST_HEARS_SECONDS, 1.5 * self._settings.sweep_seconds))
        answer = await self._call("bridge_claim", arguments, dict)
        try:
            return decode_claim(answer)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StoreUnavailable(f"bridge_claim: an answer of another version ({error!r})") from error

    async def retire(self, holding: Sequence[str], functions: Sequence[str]) -> None:
        """Get no more, and let no other worker rely on this one, which still answers what it holds."""
        await self.claim(0, holding, functions, 0, Plan(paused=tuple(functions), failing=tuple(functions)), capacity=0)

    async def leave(self) -> None:
        """Stop counting as a live worker; the others' share of the quota grows at once."""
        await self._rpc.call("bridge_leave", {"worker": self._worker}, LEAVE_SECONDS)

    async def probe(self, nonce: str, *, row_event: bool = False) -> bool:
        """Let the database send `probe` with this nonce on `bridge:inbox`; False if the schema is too old for it.

        With `row_event`, an INSERT of a row with the nonce is reported for `bridge.probes` too.
        """
        arguments = {"nonce": nonce} | ({"row_event": True} if row_event else {})
        try:
            await self._rpc.call("bridge_probe", arguments, PROBE_SECONDS)
        except StoreRefused as error:
            if error.code in _MISSING:
                return False
            raise
        return True

    async def describe(self, descriptions: Sequence[Description]) -> None:
        """Publish what users see of the functions that it answers. A schema that is too old for it keeps none."""
        functions = [item for item in map(encode_description, descriptions) if item is not None]
        try:
            await self._rpc.call("bridge_describe", {"functions": functions})
        except StoreRefused as error:
            if error.code not in _MISSING:
                raise

    async def beat(self, checkpoints: Sequence[Checkpoint]) -> BatchAck:
        """Extend leases and write checkpoints. States are `ok`, `lost`, `cancel` or `busy` (locked: beat again)."""
        # all tries together must fit well within a lease
        seconds = min(CALL_SECONDS, self._settings.lease_seconds / 6)
        return await self._batch("bridge_beat", "jobs", checkpoints, encode_checkpoint, seconds)

    async def finish(self, results: Sequence[Result]) -> BatchAck:
        """End attempts.

        States are `ok`, `lost`, `gone` (deleted), `refused` (ended as failed instead) or `busy` (locked: send again).
        """
        return await self._batch("bridge_finish", "results", results, encode_result, knows_busy=True)

    async def remember(self, steps: Sequence[StepWrite]) -> StepAck:
        """Remember steps.

        States are `ok`, `lost`, `cancel`, `busy` (locked: send again), `given` (meanwhile, by somebody else),
        `too_many_steps`, `step_too_large` or `refused`.
        """
        arguments = {"worker": self._worker, "steps": [encode_step(step) for step in steps]}
        try:
            answer = await self._call("bridge_step", arguments, dict)
        except StoreRefused as error:
            if not _CONTENT_REFUSED.fullmatch(error.code or ""):
                raise StoreUnavailable(str(error), code=error.code) from error
            if len(steps) < 2:
                log.error("bridge_step refused a step: %s", error)
                return StepAck({(step.question_id, step.name): "refused" for step in steps}, frozenset())
            half = len(steps) // 2
            parts = [await self.remember(part) for part in (steps[:half], steps[half:])]
            return StepAck(
                {key: state for part in parts for key, state in part.states.items()},
                frozenset().union(*(part.used_up for part in parts)),
            )
        try:
            results = answer["results"]
            states = {(step.question_id, step.name): results[f"{step.question_id} {step.name}"] for step in steps}
            return StepAck(states, frozenset(answer["used_up"]))
        except (KeyError, TypeError) as error:
            raise StoreUnavailable(f"bridge_step: an answer of another version ({error!r})") from error

    async def steps(self, question_id: str, attempt: int) -> Sequence[Step] | None:
        """What earlier attempts at a question have done, in their order; None if this worker does not hold it."""
        arguments = {"worker": self._worker, "question_id": question_id, "attempt": attempt}
        answer = await self._rpc.call("bridge_steps", arguments)
        if answer is None:
            return None
        try:
            return [decode_step(row) for row in answer]
        except (KeyError, TypeError) as error:
            raise StoreUnavailable(f"bridge_steps: an answer of another version ({error!r})") from error

    async def list_steps(self, question_id: str) -> Mapping[str, Any] | None:
        """The steps of a question, for operators; None if there is no such question."""
        answer: Mapping[str, Any] | None = await self._rpc.call("bridge_list_steps", {"question_id": question_id})
        return answer

    async def title(self, session: Session, title: str | None, usage: Usage) -> bool:
        """Set the title of a session that has none (None: no title was found), and charge what it cost.

        Returns False if the session is locked: call again.
        """
        shown = None if title is None else sanitize_text(title)[:200]
        run = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        arguments = {"session_id": session.id, "user_id": session.user_id, "title": shown, "run": run}
        return await self._call("bridge_title", arguments, str) != "busy"

    async def orphans(self) -> Sequence[str]:
        """Objects that no message names, for this worker to remove: paths, and folders that end with a slash."""
        prefixes: Sequence[str] = await self._call("bridge_orphans", {"worker": self._worker}, list)
        return prefixes

    async def orphans_done(self, prefixes: Sequence[str]) -> None:
        """These are removed."""
        await self._rpc.call("bridge_orphans_done", {"worker": self._worker, "prefixes": list(prefixes)})

    async def status(self) -> Mapping[str, Any]:
        """The queue, the workers and the last hour, from `bridge_status()`."""
        return await self._call("bridge_status", {}, dict)

    async def doctor(self) -> Mapping[str, Any]:
        """The state of publication and policies, from `bridge_doctor()`."""
        return await self._call("bridge_doctor", {}, dict)

    async def user(self, token: str) -> str:
        """The id of the user in `auth.users` whose access token this is. Raises StoreError if there is none."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                found = await self._client.auth.get_user(token)
        except (TimeoutError, httpx.HTTPError) as error:
            raise unreachable("auth.user", error) from error
        except AuthError as error:
            raise StoreRefused(f"auth.user: {error.message} ({error.code})", code=error.code) from error
        if found is None:
            raise StoreRefused("auth.user: no such user")
        return found.user.id

    async def dead_letters(self, most: int) -> Sequence[Mapping[str, Any]]:
        """The questions that were given up, newest first, each with its attempts."""
        return await self._call("bridge_dead_letters", {"max_rows": most}, list)

    async def retry_dead(self, question_ids: Sequence[str] | None) -> int:
        """Give dead letters (None: the 500 oldest) another set of attempts; returns how many."""
        return await self._call("bridge_dead_retry", {"question_ids": question_ids}, int)

    async def drop_dead(self, question_ids: Sequence[str] | None) -> int:
        """Delete dead letters (None: all); returns how many."""
        return await self._call("bridge_dead_drop", {"question_ids": question_ids}, int)

    async def check(self) -> None:
        """Check that the project answers (or StoreUnavailable), accepts the key and has the schema (or SetupError)."""
        try:
            await self.status()
        except StoreRefused as error:
            problem = "The project has no bridge schema."
            remedy = "Apply the migrations: supabase db push --remote --include-all."
            if error.code in ("401", "403", "42501", "PGRST301", "PGRST302", "PGRST303"):
                problem = "The project refused SUPABASE_SECRET_KEY."
                remedy = "Copy a secret key (sb_secret_…) of this project."
            elif error.code not in (*_MISSING, "PGRST205", "3F000"):
                problem = f"The project refused the worker's first call: {error}."
                remedy = "Check SUPABASE_URL, and the API logs in the dashboard."
            raise SetupError(problem, remedy) from error

    async def _batch(
        self,
        function: str,
        argument: str,
        items: Sequence[Item],
        encode: Callable[[Item], dict[str, Any]],
        seconds: float = CALL_SECONDS,
        **others: Any,
    ) -> BatchAck:
        try:
            arguments = {"worker": self._worker, argument: [encode(item) for item in items], **others}
            answer = await self._call(function, arguments, dict, seconds)
        except StoreRefused as error:
            if not _CONTENT_REFUSED.fullmatch(error.code or ""):
                raise StoreUnavailable(str(error), code=error.code) from error
            if len(items) < 2:
                if items:
                    log.error("%s refused an item: %s", function, error)
                raise
            log.warning("%s refused a batch of %d, halving it: %s", function, len(items), error)
            half = len(items) // 2
            states: dict[str, str] = {}
            untitled: frozenset[str] = frozenset()
            dispatches: tuple[Dispatch, ...] = ()
            last: BatchAck | None = None
            for part in (items[:half], items[half:]):
                try:
                    last = await self._batch(function, argument, part, encode, seconds, **others)
                    states.update(last.states)
                    untitled |= last.untitled
                    dispatches += last.dispatches
                except StoreRefused:
                    continue  # the item was logged; its lease runs out, or it is sent as failed
            if last is None:
                raise
            return BatchAck(states, last.hints, untitled, dispatches)
        try:
            dispatches = tuple(decode_dispatch(item) for item in answer.get("jobs", ()))
            return BatchAck(answer["results"], decode_hints(answer), frozenset(answer.get("untitled", ())), dispatches)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StoreUnavailable(f"{function}: an answer of another version ({error!r})") from error

    async def _call(
        self, function: str, arguments: dict[str, Any], kind: type[Kind], seconds: float = CALL_SECONDS
    ) -> Kind:
        answer = await self._rpc.call(function, arguments, seconds)
        if not isinstance(answer, kind):
            raise unexpected(function)
        return answer
