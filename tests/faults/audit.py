"""An audit log of every write to `bridge.jobs`, to steps and to replies, with the worker and the attempt that wrote it.

Triggers record the writes. Wrappers around the worker's functions record whose call a write belongs to; the functions
themselves move to the schema `audit` and keep their names, by which they refer to their arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row

from tests.support.database import Row

# the worker's functions, and the items of a call
_CALLS = {
    "bridge_claim": "'[]'",
    "bridge_beat": "bridge_beat.jobs",
    "bridge_step": "bridge_step.steps",
    "bridge_finish": "bridge_finish.results",
}
_SIGNATURE = """
select pg_get_function_arguments(p.oid) as declared, array_to_string(p.proargnames, ', ') as arguments
  from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = %s
"""
_INSTALL = """
create schema audit;
create table audit.writes (
    id bigint generated always as identity primary key,
    at timestamptz not null,
    relation text not null,
    operation text not null,
    message_id uuid not null,
    session_id uuid not null,
    ordinal bigint not null,
    attempt int not null,
    worker text,
    status text,
    call text,
    caller text,
    caller_attempt int,
    content text,
    transaction bigint not null default pg_current_xact_id()::text::bigint
);
create table audit.steps (
    id bigint primary key default nextval('audit.writes_id_seq'),
    operation text not null,
    question_id uuid not null,
    name text not null,
    kind text not null,
    value jsonb,
    is_done boolean not null,
    attempt int not null,
    chars int not null,
    transaction bigint not null default pg_current_xact_id()::text::bigint
);
create function audit.note_step() returns trigger language plpgsql security definer set search_path = '' as $$
declare
    step bridge.steps := case when tg_op = 'DELETE' then old else new end;
begin
    insert into audit.steps (operation, question_id, name, kind, value, is_done, attempt, chars)
    values (lower(tg_op), step.question_id, step.name, step.kind, step.value, step.is_done, step.attempt, step.chars);
    return null;
end
$$;
create trigger audited after insert or update or delete on bridge.steps
    for each row execute function audit.note_step();
create function audit.note() returns trigger language plpgsql security definer set search_path = '' as $$
declare
    touched jsonb := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
    question uuid := touched ->> case tg_table_name when 'jobs' then 'question_id' else 'reply_to' end;
    call jsonb := nullif(current_setting('audit.call', true), '')::jsonb;
begin
    insert into audit.writes (at, relation, operation, message_id, session_id, ordinal, attempt, worker, status,
                              call, caller, caller_attempt, content)
    values (clock_timestamp(), tg_table_name, lower(tg_op), question, (touched ->> 'session_id')::uuid,
            (touched ->> 'ordinal')::bigint, (touched ->> 'attempt')::int, touched ->> 'worker', touched ->> 'status',
            call ->> 'name', call ->> 'worker', (call -> 'attempts' ->> question::text)::int, touched ->> 'content');
    return null;
end
$$;
create trigger audited after insert or update or delete on bridge.jobs for each row execute function audit.note();
create trigger audited_insert after insert on public.messages
    for each row when (new.role = 'assistant') execute function audit.note();
create trigger audited_update after update on public.messages
    for each row when (new.role = 'assistant') execute function audit.note();
create function audit.begin(name text, worker text, items jsonb) returns void
language plpgsql set search_path = '' as $$
begin
    perform set_config('audit.call', jsonb_build_object('name', name, 'worker', worker, 'attempts', (
        select coalesce(jsonb_object_agg(i ->> 'question_id', i -> 'attempt'), '{}')
          from jsonb_array_elements(items) i))::text, true);
end
$$;
"""
_WRAP = """
alter function public.{name} set schema audit;
create function public.{name}({declared}) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    perform audit.begin('{name}', {name}.worker, {items});
    return audit.{name}({passed});
end
$$;
revoke all on function public.{name} from public, anon, authenticated;
grant execute on function public.{name} to service_role;
"""
_UNWRAP = "drop function public.{name}; alter function audit.{name} set schema public;"


@dataclass(frozen=True, slots=True)
class Write:
    """A write to a job (`jobs`) or a reply (`messages`).

    `attempt`, `worker` and `status` are the row's. `call`, `caller` and `caller_attempt` are the function, the worker
    that called it, and the attempt that it believed to hold; None if a user's call wrote the row. `transaction` is the
    id of the transaction, 0 if it is not known. `content` is a reply's text.
    """

    id: int
    at: datetime
    relation: Literal["jobs", "messages"]
    operation: Literal["insert", "update", "delete"]
    message_id: str
    session_id: str
    ordinal: int
    attempt: int
    worker: str | None = None
    status: str | None = None
    call: str | None = None
    caller: str | None = None
    caller_attempt: int | None = None
    transaction: int = 0
    content: str | None = None


@dataclass(frozen=True, slots=True)
class StepWrite:
    """A write to a step, as the row is then. Its `id` is in one order with those of `Write`."""

    id: int
    operation: Literal["insert", "update", "delete"]
    question_id: str
    name: str
    kind: str
    value: Any
    is_done: bool
    attempt: int
    chars: int
    transaction: int = 0


class Audit:
    """Install it as the database's superuser; `remove` restores everything.

    Without `calls` no write has a caller, and migrations may replace the functions meanwhile.
    """

    def __init__(self, db: psycopg.AsyncConnection[Row], *, calls: bool = True) -> None:
        self._db = db
        self._calls = _CALLS if calls else {}

    async def install(self) -> None:
        async with self._db.transaction():
            await self._db.execute(_INSTALL)
            for name, items in self._calls.items():
                (found,) = await (await self._db.execute(_SIGNATURE, (name,))).fetchall()
                passed = ", ".join(f"{name}.{argument}" for argument in found["arguments"].split(", "))
                wrap = _WRAP.format(name=name, declared=found["declared"], passed=passed, items=items)
                await self._db.execute(wrap.encode())

    async def remove(self) -> None:
        async with self._db.transaction():
            for name in self._calls:
                await self._db.execute(_UNWRAP.format(name=name).encode())
            await self._db.execute("drop schema audit cascade")

    async def writes(self) -> Sequence[Write]:
        """All writes, in order."""
        async with self._db.cursor(row_factory=class_row(Write)) as cursor:
            await cursor.execute(
                "select id, at, relation, operation, message_id::text, session_id::text, ordinal, attempt, worker,"
                " status, call, caller, caller_attempt, transaction, content from audit.writes order by id"
            )
            return await cursor.fetchall()

    async def steps(self) -> Sequence[StepWrite]:
        """All writes to steps, in order."""
        async with self._db.cursor(row_factory=class_row(StepWrite)) as cursor:
            await cursor.execute(
                "select id, operation, question_id::text, name, kind, value, is_done, attempt, chars, transaction"
                " from audit.steps order by id"
            )
            return await cursor.fetchall()
