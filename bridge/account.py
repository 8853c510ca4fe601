"""The project as one of its users sees it: sessions, questions and replies under row level security.

Without a user's access token it signs in as a user of its own, `bridge-ask@example.com`, which it creates with the
secret key. That user's password is derived from the key, so nothing is stored, and several commands can run at once.
"""

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import httpx
from supabase import AsyncClient, AuthError

from bridge.errors import SetupError, StoreError, StoreRefused, StoreUnavailable
from bridge.settings import Settings
from bridge.store import CALL_SECONDS, connect, send

EMAIL = "bridge-ask@example.com"
PAGES = 20  # of users, to find this one among
PAGE_SIZE = 1000

Row = Mapping[str, Any]


class Account:
    """A user and what it may do. Every call raises StoreError."""

    def __init__(self, client: AsyncClient, http: httpx.AsyncClient, token: str, *, is_signed_in: bool) -> None:
        self.token = token
        self._client = client
        self._http = http
        self._is_signed_in = is_signed_in

    @classmethod
    async def open(cls, settings: Settings, token: str | None) -> Self:
        """Act as the user of this access token, or sign in as the user of this command. Raises SetupError too."""
        client, http = await connect(settings)
        try:
            if token is not None:
                client.postgrest.auth(token)
                return cls(client, http, token, is_signed_in=False)
            password = hmac.new(settings.supabase_key.encode(), b"bridge ask", hashlib.sha256).hexdigest()
            # the letters are for projects that require each kind
            return cls(client, http, await _sign_in(client, f"Aa1!{password[:40]}"), is_signed_in=True)
        except BaseException:
            await http.aclose()
            raise

    async def close(self) -> None:
        """Sign out, and close the connections."""
        try:
            if self._is_signed_in:
                with contextlib.suppress(AuthError, httpx.HTTPError, TimeoutError):
                    async with asyncio.timeout(CALL_SECONDS):
                        await self._client.auth.sign_out({"scope": "local"})
        finally:
            await self._http.aclose()

    async def functions(self) -> Sequence[str]:
        """The functions that workers have described, by name; none in a schema that is too old for it."""
        try:
            rows = await send("functions", self._client.table("functions").select("name").order("name"))
        except StoreRefused as error:
            if error.code in ("PGRST205", "42P01", "404"):
                return []
            raise
        return [str(row["name"]) for row in _rows(rows)]

    async def open_session(self, function: str, title: str) -> str:
        """Open a session and return its id. Its title keeps the worker from asking a model for one."""
        rows = await send("sessions", self._client.table("sessions").insert({"function": function, "title": title}))
        return str(_rows(rows)[0]["id"])

    async def continue_session(self, session_id: str, function: str) -> None:
        """Let this function answer in a session of this user. Raises SetupError if it has no such session."""
        request = self._client.table("sessions").update({"function": function}).eq("id", session_id)
        if not _rows(await send("sessions", request)):
            problem = f"This user has no session {session_id}."
            raise SetupError(problem, "Use one that was kept with --keep, or pass its user's --token.")

    async def delete_session(self, session_id: str) -> None:
        """Delete a session with everything in it."""
        await send("sessions", self._client.table("sessions").delete().eq("id", session_id))

    async def ask(self, question_id: str, session_id: str, text: str, data: Row | None) -> None:
        """Insert a question. It can be repeated, as the id is chosen by the caller."""
        row: dict[str, Any] = {"id": question_id, "session_id": session_id, "content": text, "data": data}
        try:
            await send("ask", self._client.table("messages").insert(row))
        except StoreRefused as error:
            if error.code != "23505":  # an earlier try arrived, and its answer was lost
                raise

    async def rows(self, question_id: str) -> Sequence[Row]:
        """The question's row, and its reply's if there is one."""
        either = f"id.eq.{question_id},reply_to.eq.{question_id}"
        return _rows(await send("messages", self._client.table("messages").select("*").or_(either)))

    async def files(self, reply_id: str) -> Sequence[Row]:
        """The code files that a reply wrote."""
        request = self._client.table("code_files").select("path, content, language").eq("message_id", reply_id)
        return _rows(await send("code_files", request.order("path")))

    async def cancel(self, question_id: str) -> None:
        """Stop the reply."""
        await send("cancel_message", self._client.rpc("cancel_message", {"message_id": question_id}))


def _rows(answer: Any) -> Sequence[Row]:
    if not isinstance(answer, list):
        raise StoreUnavailable("unexpected response (a proxy's error page?)")
    return cast(Sequence[Row], answer)


async def _sign_in(client: AsyncClient, password: str) -> str:
    """Sign in as EMAIL, which is created at the first time, and return its access token."""
    try:
        async with asyncio.timeout(3 * CALL_SECONDS):
            with contextlib.suppress(AuthError):  # there is no such user yet, or the secret key was another one
                return await _token(client, password)
            await _create(client, password)
            return await _token(client, password)
    except AuthError as error:
        remedy = "Pass the access token of a user: --token."
        raise SetupError(f"Auth refused to sign in {EMAIL} ({error.message}; {error.code}).", remedy) from error
    except (TimeoutError, httpx.HTTPError) as error:
        raise StoreUnavailable(f"auth: {type(error).__name__} {error}".rstrip()) from error


async def _token(client: AsyncClient, password: str) -> str:
    answer = await client.auth.sign_in_with_password({"email": EMAIL, "password": password})
    if answer.session is None:
        raise StoreError("auth: no session")
    return answer.session.access_token


async def _create(client: AsyncClient, password: str) -> None:
    """Create the user, or give it this password. Raises AuthError."""
    try:
        await client.auth.admin.create_user({"email": EMAIL, "password": password, "email_confirm": True})
    except AuthError as error:
        if error.code != "email_exists":
            raise
        for page in range(1, PAGES + 1):
            users = await client.auth.admin.list_users(page=page, per_page=PAGE_SIZE)
            for user in users:
                if user.email == EMAIL:
                    await client.auth.admin.update_user_by_id(user.id, {"password": password})
                    return
            if not users:
                break
        raise
