"""The project as one of its users sees it: sessions, questions and replies under row level security.

Without a user's access token it signs in as a user of its own, which it creates with the secret key. The address and
the password are derived from the key: nothing is stored, several commands can run at once, and nobody can guess the
address and sign up with it first. Another key makes another account. A mark in `app_metadata`, which only a secret key
can write, tells it from an account that somebody else made.
"""

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import httpx
from supabase import AsyncClient, AuthError, AuthRetryableError
from supabase_auth.types import User

from bridge.errors import SetupError, StoreError, StoreRefused, StoreUnavailable
from bridge.rest import CALL_SECONDS, connect, send, unexpected
from bridge.settings import Settings

MARK = {"bridge": "ask"}  # in `app_metadata`

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
            return cls(client, http, await _sign_in(client, *credentials(settings.supabase_key)), is_signed_in=True)
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

    async def answer(self, question_id: str, name: str, answer: Mapping[str, Any]) -> str:
        """Answer a question of the reply; `taken`, or why not."""
        arguments = {"message_id": question_id, "ask": name, "answer": dict(answer)}
        return str(await send("answer_message", self._client.rpc("answer_message", arguments)))

    async def cancel(self, question_id: str) -> None:
        """Stop the reply."""
        await send("cancel_message", self._client.rpc("cancel_message", {"message_id": question_id}))


def _rows(answer: Any) -> Sequence[Row]:
    if not isinstance(answer, list):
        raise unexpected("rest")
    return cast(Sequence[Row], answer)


def credentials(key: str) -> tuple[str, str]:
    """The address and the password of the account that belongs to a secret key."""

    def derived(purpose: bytes) -> str:
        return hmac.new(key.encode(), purpose, hashlib.sha256).hexdigest()

    # the letters are for projects that require each kind
    return f"bridge-ask-{derived(b'bridge ask address')[:12]}@example.com", f"Aa1!{derived(b'bridge ask')[:40]}"


async def _sign_in(client: AsyncClient, email: str, password: str) -> str:
    """Sign in as this user, which is created at the first time, and return its access token."""
    try:
        async with asyncio.timeout(5 * CALL_SECONDS):
            with contextlib.suppress(AuthError):  # there is no such user yet, or it has another password
                return await _token(client, email, password)
            await _create(client, email, password)
            return await _token(client, email, password)
    except AuthRetryableError as error:
        raise StoreUnavailable(f"auth: {error.message}") from error
    except AuthError as error:
        remedy = "Delete that user in the dashboard if there is one, or pass a user's access token: --token."
        raise SetupError(f"Auth refused to sign in {email} ({error.message}; {error.code}).", remedy) from error
    except (TimeoutError, httpx.HTTPError) as error:
        raise StoreUnavailable(f"auth: {type(error).__name__} {error}".rstrip()) from error


async def _token(client: AsyncClient, email: str, password: str) -> str:
    """An access token. Raises AuthError, SetupError."""
    answer = await client.auth.sign_in_with_password({"email": email, "password": password})
    if answer.session is None:
        raise StoreError("auth: no session")
    if not _is_marked(answer.session.user):
        await client.auth.sign_out({"scope": "local"})
        raise _foreign(email)
    return answer.session.access_token


async def _create(client: AsyncClient, email: str, password: str) -> None:
    """Create the user, unless the address has one: that one is left as it is. Raises AuthError."""
    try:
        await client.auth.admin.create_user(
            {"email": email, "password": password, "email_confirm": True, "app_metadata": MARK}
        )
    except AuthError as error:
        if error.code != "email_exists":  # made at the same time by another command, or by somebody else
            raise


def _is_marked(user: User) -> bool:
    return MARK.items() <= user.app_metadata.items()


def _foreign(email: str) -> SetupError:
    problem = f"The account {email} was not made by this command, so somebody else may read what it asks."
    return SetupError(
        problem, "Delete it (Authentication, Users in the dashboard), or pass a user's access token: --token."
    )
