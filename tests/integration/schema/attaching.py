"""Transactions about attachments in a random order, and what must hold after each commit; as in `interleaving`.

Users upload, name objects in questions and delete sessions; workers look for orphans and remove them; time passes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg

from tests.integration.schema.interleaving import Hand, Interleaving, State, Step
from tests.support.database import Row

OBJECTS = """
select (select coalesce(array_agg(o.name order by o.name), '{}') from storage.objects o
         where o.bucket_id = 'attachments') as objects,
       (select coalesce(array_agg(o.name order by o.name), '{}') from storage.objects o
         where o.bucket_id = 'attachments' and o.created_at < now() - interval '1 day') as old,
       (select coalesce(array_agg(distinct a.path), '{}') from bridge.attachments a) as named,
       (select coalesce(array_agg(o.prefix), '{}') from bridge.orphans o) as orphans,
       (select coalesce(jsonb_object_agg(s.id, s.function), '{}') from public.sessions s) as sessions
"""
INSERT = (
    "insert into public.messages (id, session_id, content, attachments)"
    " select r.id, r.session_id, 'look', r.attachments"
    " from jsonb_to_recordset(%(rows)s) r (id uuid, session_id uuid, attachments jsonb)"
)
QUERIES = {
    "search": "select public.bridge_orphans(%(worker)s, 3) as answer",
    "remove": "delete from storage.objects where bucket_id = 'attachments'"
    " and (name = %(prefix)s or (right(%(prefix)s, 1) = '/' and name ^@ %(prefix)s))",
    "done": "select public.bridge_orphans_done('w', array[%(prefix)s]) as answer",
    "trim": "select public.bridge_trim(attachments_days => 1) as answer",
    "due": "update bridge.orphan_search set position = '', next_at = '-infinity'",
    "expire": "update bridge.orphans set taken_until = '-infinity'",
    "end": "delete from bridge.jobs where id = any (array("
    "select j.id from bridge.jobs j where j.session_id = %(session)s for update skip locked))",
    "age": "update bridge.attachments set created_at = now() - interval '2 days' where (path, message_id) in ("
    "select a.path, a.message_id from bridge.attachments a where a.path = %(path)s for update skip locked)",
    "upload": "insert into storage.objects (bucket_id, name, metadata, created_at) values"
    """ ('attachments', %(path)s, '{"mimetype": "image/png", "size": 9}', now() - make_interval(days => %(days)s))""",
}


@dataclass(frozen=True)
class Kept(State):
    """What is committed."""

    objects: Sequence[str]
    old: Sequence[str]
    named: Sequence[str]
    orphans: Sequence[str]


class Attaching(Interleaving):
    """One run."""

    def __init__(self, seed: int, db: psycopg.AsyncConnection[Row], hands: list[Hand]) -> None:
        super().__init__(seed, db, hands)
        self.draw = random.Random(f"attachments {seed}")  # ids of its own: those of deleted rows are refused
        self.workers = []
        self.kept: list[Kept] = []
        self.given: set[str] = set()  # to a worker, which has not removed it yet
        self.removed: set[str] = set()  # by a worker, which has not said so yet

    async def prepare(self) -> None:
        """Sign up the users, with some objects in each of their sessions."""
        for connection in (self.db, *(hand.connection for hand in self.hands)):
            await connection.execute("set storage.allow_delete_query = 'true'")
        await self.db.execute("delete from storage.objects where bucket_id = 'attachments'")
        await self.db.execute("delete from bridge.orphans")
        await self.db.execute(QUERIES["due"].encode())
        await super().prepare()
        for session in self.sessions:
            for days in (0, 2, 2):
                await self.db.execute(QUERIES["upload"].encode(), {"path": self._path(session), "days": days})
        await self._observe()

    def _path(self, session: str) -> str:
        return f"{session}/{self._uuid()}.png"

    async def _observe(self) -> None:
        (row,) = await (await self.db.execute(OBJECTS.encode())).fetchall()
        nothing: Mapping[str, Row] = {}
        self.kept.append(Kept(nothing, nothing, row.pop("sessions"), nothing, nothing, (), **row))
        self.states.append(self.kept[-1])

    # steps ------------------------------------------------------------------------------------------

    def _any_step(self) -> Step:
        kinds = {"user": 8, "search": 4, "remove": 4, "done": 3, "due": 4, "expire": 1, "end": 5, "age": 3, "trim": 2}
        kind = self.draw.choices([*kinds, "upload"], [*kinds.values(), 8])[0]
        if kind in ("remove", "done"):
            prefixes = sorted(self.given if kind == "remove" else self.removed)
            if not prefixes:
                kind = "search"
            else:
                return self._step(kind, prefix=self.draw.choice(prefixes))
        if kind == "age" and not self.kept[-1].named:
            kind = "user"
        match kind:
            case "user":
                return self._user_step(self.draw.choice(self.users))
            case "end":
                return self._step(kind, session=self.draw.choice(list(self.sessions)))
            case "age":
                return self._step(kind, path=self.draw.choice(sorted(self.kept[-1].named)))
            case "upload":
                session = self.draw.choice(list(self.sessions))
                return self._step(kind, path=self._path(session), days=self.draw.choice([0, 2, 2]))
        return self._step(kind, worker=self.draw.choice(["a", "b"]))

    def _step(self, kind: str, **parameters: object) -> Step:
        return Step(kind, QUERIES[kind], parameters, "w")

    def _user_step(self, user: str) -> Step:
        draw, now = self.draw, self.kept[-1]
        sessions = [s for s, owner in self.sessions.items() if owner == user and s in now.sessions]
        if not sessions or draw.random() < 0.1:
            return Step("think", "select now()::text as answer", {}, user)
        session = draw.choice(sessions)
        if len(sessions) > 1 and draw.random() < 0.06:
            return Step("delete", "delete from public.sessions where id = %(id)s", {"id": session}, user)
        rows = []
        for _ in range(draw.choice([1, 1, 2])):
            known = {*now.objects}
            if draw.random() < 0.2:  # what was there a moment ago
                known |= {*now.orphans, *(path for kept in self.kept[-8:] for path in kept.objects)}
            paths = sorted(path for path in known if path.startswith(session) and not path.endswith("/"))
            chosen = draw.sample(paths, min(len(paths), draw.choice([1, 1, 2])))
            attachments = [{"path": path, "name": "a.png"} for path in chosen]
            rows.append({"id": self._uuid(), "session_id": session, "attachments": attachments})
        return Step("insert", INSERT, {"rows": json.dumps(rows)}, user)

    def _tell(self, steps: list[Step]) -> None:
        """Let the workers learn what was committed."""
        for step in steps:
            prefix = str(step.parameters.get("prefix"))
            match step.kind:
                case "search":
                    self.given.update(step.answer)
                case "remove":
                    self.removed.add(prefix)
                case "done":
                    self.removed.discard(prefix)
                    self.given.discard(prefix)

    # checks -----------------------------------------------------------------------------------------

    def _check(self, before: State, after: State, steps: list[Step], seen: list[State]) -> None:
        assert isinstance(after, Kept)
        gone = set(after.named) - set(after.objects)
        assert not gone, ("a message names an object that is gone", gone, steps)
        doomed = {
            path for path in after.named if path in after.orphans or path.partition("/")[0] + "/" in after.orphans
        }
        assert not doomed, ("a message names an object that will be removed", doomed, steps)

    async def finish_all(self) -> None:
        """Let replies end, and one worker remove until there is nothing to do: then nothing needless is left."""
        await self.db.execute("delete from bridge.jobs")
        await self.db.execute("update bridge.limits set value = null where name = 'running_replies'")
        for _ in range(50):
            for kind in ("due", "expire", "search"):
                await self._begin(self.hands[0], self._step(kind, worker="w"))
                await self._end(self.hands[0], commit=True)
            if not self.given:
                break
            for prefix in sorted(self.given):
                for kind in ("remove", "done"):
                    await self._begin(self.hands[0], self._step(kind, prefix=prefix))
                    await self._end(self.hands[0], commit=True)
        last = self.kept[-1]
        assert not last.orphans
        needless = [path for path in last.objects if path.partition("/")[0] not in last.sessions]
        assert not needless, ("of sessions that are gone", needless)
        assert set(last.old) <= set(last.named), "old, and not named"
