"""`bridge ask`: asks a function one question, as a user does, and prints the reply while it streams.

It follows the session's topic, and reads the row where a delta is missing: the rule of docs/frontend.md.
"""

import argparse
import asyncio
import contextlib
import json
import re
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from bridge.account import Account, Row
from bridge.errors import RealtimeError, SetupError, StoreError, StoreUnavailable
from bridge.printable import dumps, escape, escape_lines
from bridge.realtime.connection import Connection, dict_at
from bridge.sanitize import sanitize_json, sanitize_text
from bridge.settings import Settings
from bridge.store import Store

# How long a reply may be silent before its row is read, and how long a missing delta is waited for.
SILENT_SECONDS = 5.0
GAP_SECONDS = 1.0
QUEUED_SECONDS = 3.0  # after this, it says why nothing happens
CANCEL_SECONDS = 3.0  # for the worker to confirm that it stopped
STDIN_BYTES = 1_000_000  # more than any question may have
TITLE_LENGTH = 60
ENDED = ("done", "failed", "cancelled")
_TOKEN = re.compile(r"[!-~]+")  # what a header holds


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask. `session_id` continues a session; `keep` keeps the one that is opened for it."""

    function: str
    text: str
    data: Row | None = None
    session_id: str | None = None
    keep: bool = False
    token: str | None = None
    as_json: bool = False
    answer: str | None = None
    is_from_stdin: bool = False  # its text or token: then nobody can answer there

    @classmethod
    def read(cls, options: argparse.Namespace) -> Self:
        """Take it from the command line, or its text or token from standard input if that is `-`.

        Raises SetupError if the token is not valid.
        """
        text, token = options.question, options.token
        if text == "-":
            text = sys.stdin.buffer.read(STDIN_BYTES).decode("utf-8", "replace").rstrip("\n")
        if token == "-":
            token = sys.stdin.buffer.readline(STDIN_BYTES).decode("ascii", "replace").strip()
        if token is not None and not _TOKEN.fullmatch(token):
            raise SetupError("What --token got is not an access token.", "Pass the `access_token` of a user's session.")
        others = (sanitize_json(options.data), options.session, options.keep, token, options.json, options.answer)
        is_from_stdin = "-" in (options.question, options.token)
        return cls(sanitize_text(options.function), sanitize_text(text), *others, is_from_stdin)


class Interrupt:
    """Ctrl-C or SIGTERM: `happened` is done once there was one, and `code` is then the exit code."""

    def __init__(self) -> None:
        self.happened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.code = 0

    def note(self, number: int) -> None:
        """Note a signal."""
        if not self.happened.done():
            self.code = 128 + number
            self.happened.set_result(None)


async def ask(settings: Settings, question: Question) -> int:
    """Ask, and print the reply. Returns the exit code: 0 done, 1 not, 130 Ctrl-C. Raises BridgeError and OSError."""
    store = await Store.open(settings, "ask")
    try:
        try:
            await store.check()
        except StoreUnavailable as error:
            problem = f"{settings.supabase_url} does not answer ({error})."
            raise StoreUnavailable(f"{problem} Check SUPABASE_URL, the network, and that the project runs.") from error
        account = await Account.open(settings, question.token)
        try:
            return await _ask(settings, store, account, question)
        finally:
            await account.close()
    finally:
        await store.close()


async def _ask(settings: Settings, store: Store, account: Account, question: Question) -> int:
    known = await account.functions()
    if (
        known and question.function not in known
    ):  # asked all the same: an older worker does not describe what it answers
        _note(f"no worker has described a function named {question.function!r}; they answer {', '.join(known)}")
    with _interrupts() as interrupt:
        session_id = question.session_id
        if session_id is None:
            title = " ".join(question.text.split())[:TITLE_LENGTH] or "bridge ask"
            session_id = await account.open_session(question.function, title)
        else:
            await account.continue_session(session_id, question.function)
        try:
            reply = Reply(settings, store, account, session_id, question, interrupt)
            return await reply.run()
        finally:
            if question.session_id is None and not question.keep:
                await account.delete_session(session_id)
            elif question.keep:
                _note(f"session {session_id}")


class Reply:
    """One question, its reply, and what of it was printed."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        account: Account,
        session_id: str,
        question: Question,
        interrupt: Interrupt,
    ) -> None:
        self._settings = settings
        self._store = store
        self._account = account
        self._session_id = session_id
        self._question = question
        self._interrupt = interrupt
        self._id = str(uuid.uuid4())
        self._row: dict[str, Any] = {}  # the reply's, with the deltas since
        self._asked: Row = {}  # the question's row
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_gap = False
        self._printed = ""
        self._is_noted = False
        self._answered: set[str] = set()

    @property
    def _ended(self) -> Row | None:
        """The row that says how it ended, once it has."""
        return next((row for row in (self._row, self._asked) if row.get("status") in ENDED), None)

    async def run(self) -> int:
        """Ask, follow the reply to its end, and return the exit code."""
        settings, topic = self._settings, f"session:{self._session_id}"
        async with Connection(settings.realtime_url, settings.supabase_key, self._account.token) as connection:
            try:
                channel = connection.channel(topic)
                connection.on_broadcast(channel, "delta", self._on_delta)
                connection.on_broadcast(channel, "message", self._on_message)
                live: Connection | None = None
                with contextlib.suppress(Exception):  # whatever the library raises: the row is read every second
                    await connection.join(channel)
                    live = connection
                await self._account.ask(self._id, self._session_id, self._question.text, self._question.data)
                await self._follow(live)
                if self._ended is None:
                    if self._printed:
                        print(flush=True)
                    return self._interrupt.code
                return await self._finish()
            finally:
                if self._ended is None:
                    await self._cancel()

    async def _follow(self, live: Connection | None) -> None:
        loop = asyncio.get_running_loop()
        began = read_at = loop.time()
        while self._ended is None and not self._interrupt.happened.done():
            pause = GAP_SECONDS if live is None or self._has_gap or not self._row else SILENT_SECONDS
            try:
                if live is None:
                    await asyncio.wait({self._interrupt.happened}, timeout=GAP_SECONDS)
                else:
                    await live.wait(max(0.05, read_at + pause - loop.time()), self._changed, self._interrupt.happened)
            except RealtimeError:
                live = None
            if self._changed.done():
                self._changed = loop.create_future()
                if not self._has_gap:
                    read_at = loop.time()
            self._show()
            await self._answer()
            if self._interrupt.happened.done():
                return
            if live is None or self._has_gap or loop.time() - read_at >= pause - 0.01 or self._ended is not None:
                await self._read()
                read_at = loop.time()
                self._show()
            if not self._row and not self._is_noted and loop.time() - began >= QUEUED_SECONDS:
                self._is_noted = True
                await self._explain()

    def _on_delta(self, message: Any) -> None:
        delta, row = dict_at(message, "payload"), self._row
        if delta.get("reply_to") != self._id:
            return
        attempt, seq = delta.get("attempt"), delta.get("seq")
        if row.get("attempt") == attempt and seq == row["seq"] + 1 and "omitted" not in delta:
            row["seq"] = seq
            row["content"] = delta.get("content", row["content"] + delta.get("text", ""))
            row["data"] = delta.get("data", row["data"])
            self._has_gap = False
        elif not row or (attempt, seq) > (row["attempt"], row["seq"]):
            self._has_gap = True  # the row will contain it
        self._wake()

    def _on_message(self, message: Any) -> None:
        row = dict_at(message, "payload")
        if "omitted" in row:
            self._has_gap = True
        else:
            self._take(row)
        self._wake()

    def _wake(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)

    async def _read(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # it is read again
            for row in await self._account.rows(self._id):
                self._take(row)
            self._has_gap = False

    def _take(self, row: Row) -> None:
        if row.get("id") == self._id:
            self._asked = row
        elif row.get("reply_to") == self._id:
            old = self._row
            if old and (row["attempt"] < old["attempt"] or row["updated_at"] < old["updated_at"]):
                return
            is_behind = bool(old) and row["attempt"] == old["attempt"] and row["seq"] < old["seq"]
            kept = {name: old[name] for name in ("content", "data", "seq")} if is_behind else {}
            self._row = {**row, **(kept if row["status"] not in ENDED else {})}

    def _show(self) -> None:
        """Print what is new of the text."""
        text = self._row.get("content") or ""
        if self._question.as_json or text == self._printed:
            return
        if not text.startswith(self._printed):
            if self._row["status"] == "queued":
                return  # between two attempts
            print(flush=True)
            _note("the reply begins again")
            self._printed = ""
        print(_shown(text[len(self._printed) :]), end="", flush=True)
        self._printed = text

    async def _answer(self) -> None:
        """Answer what the reply asks: as --answer says, or as whoever sits at the terminal says."""
        for part in self._row.get("parts") or () if self._row.get("status") == "waiting" else ():
            name = part.get("toolCallId")
            if part.get("state") != "approval-requested" or name in self._answered:
                continue
            self._answered.add(name)
            asked = part.get("input") or {}
            if not self._question.as_json:
                print(flush=True)
            title, choices = str(asked.get("title") or name), asked.get("choices")
            ways = [str(choice) for choice in choices or ("yes", "no")]
            said = self._question.answer
            if said is None and sys.stdin.isatty() and not self._question.is_from_stdin:
                print(escape(f"{title} ({'/'.join(ways)}) "), end="", file=sys.stderr, flush=True)
                said = await self._read_line()
            if self._interrupt.happened.done():
                return
            if said is None:
                problem = f"The reply asks: {title}"
                raise SetupError(problem, f"Answer in a terminal, or with --answer {ways[0]}.")
            approved = {"approved": said in ways} if choices else {"approved": said.casefold() in ("y", "yes")}
            state = await self._account.answer(self._id, name, approved | ({"choice": said} if choices else {}))
            if state != "taken":
                _note(f"the answer was not taken: {state}")

    async def _read_line(self) -> str | None:
        """A line from the terminal; None if the command was interrupted."""
        loop = asyncio.get_running_loop()
        line: asyncio.Future[str] = loop.create_future()

        def read() -> None:
            if not line.done():
                line.set_result(sys.stdin.readline())

        loop.add_reader(sys.stdin, read)  # not in a thread, which would keep the process from ending
        try:
            either: set[asyncio.Future[Any]] = {line, self._interrupt.happened}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(sys.stdin)
        return line.result().strip() if line.done() else None

    async def _explain(self) -> None:
        with contextlib.suppress(StoreError):
            if not (await self._store.status())["workers"]:
                _note("queued: no worker is running (start `make dev` or `bridge run`)")
            else:
                _note("queued: the workers are busy, or none of them answers this function")

    async def _finish(self) -> int:
        """Read how it ended, and print what did not stream."""
        await self._read()
        row = self._ended or {}
        self._show()
        if self._question.as_json:
            print(dumps(row), flush=True)
        elif self._printed and not self._printed.endswith("\n"):
            print(flush=True)
        if row["status"] != "done":
            error = row.get("error") or {"code": row["status"], "message": "The reply was stopped."}
            _note(f"{error.get('code')}: {error.get('message')}")
            return 1
        if not self._question.as_json:
            files = await self._account.files(row["id"])
            _print_data(row, has_files=bool(files))
            for file in files:
                print(escape(f"file {file['path']} ({len(file['content'].encode()):,} bytes)"), flush=True)
        return 0

    async def _cancel(self) -> None:
        """Stop the reply, and wait a moment until it has stopped."""
        with contextlib.suppress(StoreError, TimeoutError):
            await self._account.cancel(self._id)
            async with asyncio.timeout(CANCEL_SECONDS):
                while self._ended is None:
                    await self._read()
                    await asyncio.sleep(0.1)


def _print_data(row: Row, *, has_files: bool) -> None:
    """Print the structured part of a reply, without what was shown as text and as files."""
    data = row["data"]
    if isinstance(data, Mapping):
        hidden = {"reply": data.get("reply") == row["content"], "files": has_files}
        data = {name: value for name, value in data.items() if not hidden.get(name)}
    if data is None or (data == {} and row["data"]):
        return
    if sys.stdout.isatty():
        print(escape_lines(json.dumps(data, indent=2, ensure_ascii=False)), flush=True)
    else:
        print(dumps(data), flush=True)


def _shown(text: str) -> str:
    """The text with its lines and tabs, and without what commands a terminal."""
    return "".join(part if part in ("\n", "\t") else escape(part) for part in re.split(r"([\n\t])", text))


def _note(line: str) -> None:
    print(escape(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _interrupts() -> Iterator[Interrupt]:
    """Note the first Ctrl-C or SIGTERM. A second one ends the process, as before."""
    loop, interrupt = asyncio.get_running_loop(), Interrupt()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: old for number in numbers if (old := signal.getsignal(number)) is not signal.SIG_IGN}

    def put_back() -> None:
        for number, old in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, old)

    def on_signal(number: int) -> None:
        interrupt.note(number)
        put_back()

    for number in before:
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, on_signal, number)
    try:
        yield interrupt
    finally:
        put_back()
