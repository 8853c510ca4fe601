"""The table `conformance_notes`, and requests to it."""

from __future__ import annotations

from typing import Any, cast

from postgrest import ReturnMethod

from tests.conformance.conftest import Supabase, User

Rows = list[dict[str, Any]]
NOTES = "conformance_notes"
MINIMAL = ReturnMethod.minimal


def bodies(response: Any) -> list[str]:
    return [row["body"] for row in cast(Rows, response.data)]


async def fill(user: User) -> None:
    """Insert four notes that differ in every filtered column."""
    rows = [
        {"body": "alpha", "rank": 1, "tags": ["a", "b"], "data": {"kind": "x", "deep": {"n": 1}}},
        {"body": "Beta", "rank": 2, "tags": ["b"], "data": {"kind": "y"}, "due": "2026-01-02T03:04:05+00:00"},
        {"body": "gamma, (ray)", "rank": 3, "tags": [], "data": {"list": [1, "two", None]}},
        {"body": "delta", "rank": 4, "tags": ["a", 'c"d'], "data": {"kind": "x"}},
    ]
    rows = [{"due": None, **row} for row in rows]
    await user.client.table(NOTES).insert(cast(Any, rows), returning=MINIMAL).execute()


def authorized(supabase: Supabase, user: User) -> dict[str, str]:
    return {"apikey": supabase.publishable_key, "Authorization": f"Bearer {user.token}"}


def notes(user: User, columns: str = "body") -> Any:
    return user.client.table(NOTES).select(columns).order("rank")
