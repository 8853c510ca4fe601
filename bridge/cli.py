"""The command `bridge`. `bridge.commands` has what each command does.

Exit codes: 0 success, 1 failure, 2 a setting or another precondition is missing or wrong, 130 Ctrl-C, 143 SIGTERM. A
worker that has started drains on these signals instead, and exits with 0.

Nothing here takes long to import: the rest is imported by `main`, when a signal no longer prints a traceback.
"""

import argparse
import asyncio
import contextlib
import errno
import json
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import Any, NoReturn

from bridge.errors import BridgeError, SetupError
from bridge.printable import escape, open_streams

# What writing to a full disk or a closed terminal raises, besides BrokenPipeError.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, then exit the process."""
    _exit_on_signals()
    open_streams()
    try:
        try:
            code = _run(parse(arguments))
        finally:
            _exit_on_signals()  # the event loop has put Python's own handlers back
            sys.stdout.flush()
    except BridgeError as error:
        code = 2 if isinstance(error, SetupError) else 1
        _complain(str(error))
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno not in _UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes the rest at exit
        code = 1
        if not isinstance(error, BrokenPipeError):  # as in `bridge dead list | head`: the reader knows
            _complain(f"The output cannot be written ({error.strerror}). Send it elsewhere.")
    sys.exit(code)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line. Exits the process after `--help` and on a mistake."""
    parser = _Parser(
        prog="bridge",
        description="Answers the messages of a Supabase project with BAML functions.",
        epilog="Settings are read from the environment and a .env file; .env.example lists them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add(commands, "run", "run the worker until SIGTERM or Ctrl-C")
    status = _add(commands, "status", "show the queue, the workers and the last hour")
    checks = "settings, functions, project, schema, publication, topics, Realtime and model"
    doctor = _add(commands, "doctor", f"check {checks}")
    doctor.add_argument("--token", metavar="JWT", help="check a user's access token too; `-` reads it from stdin")
    ask = _add(commands, "ask", "ask a function one question, and print the reply as it streams")
    ask.epilog = """examples:
  bridge ask Chat "What is this?"
  bridge ask Translate "Good morning" --data '{"language": "French"}'

It asks as a user of its own, bridge-ask-…@example.com, which it creates, and deletes the session afterwards."""
    ask.formatter_class = argparse.RawDescriptionHelpFormatter
    ask.add_argument("function", metavar="FUNCTION", help="one of BRIDGE_FUNCTIONS")
    ask.add_argument("question", metavar="QUESTION", help="the message; `-` reads it from stdin")
    ask.add_argument(
        "--data", type=_json_object, metavar="JSON", help="further arguments of the function, as an object"
    )
    ask.add_argument("--session", type=_uuid, metavar="ID", help="continue a session that was kept")
    ask.add_argument("--keep", action="store_true", help="keep the session, and print its id")
    ask.add_argument("--answer", metavar="TEXT", help="answer whatever the reply asks: yes, no, or one of its choices")
    ask.add_argument("--token", metavar="JWT", help="ask as the user of this access token; `-` reads it from stdin")
    dead = _add(commands, "dead", "list, retry or drop dead letters: questions that were given up")
    actions = dead.add_subparsers(dest="action", required=True, metavar="action")
    listing = _add(actions, "list", "list dead letters, newest first")
    listing.add_argument("--most", type=int, default=100, metavar="N", help="list at most N (default: 100)")
    for name, text in (("retry", "requeue dead letters"), ("drop", "delete dead letters; the questions stay failed")):
        action = _add(actions, name, text)
        action.add_argument("ids", nargs="*", metavar="QUESTION_ID", help="ids as shown by `list`")
        action.add_argument("--all", action="store_true", help="all dead letters")
        action.set_defaults(parser=action)
    steps = _add(commands, "steps", "list the steps of a question: what its handler has done, and what it waits for")
    steps.add_argument("question", type=_uuid, metavar="QUESTION_ID", help="the id of the question or of its reply")
    ask.add_argument("--json", action="store_true", help="print the reply's row as JSON, at its end")
    for command in (status, doctor, listing, steps):
        command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if getattr(options, "action", None) in ("retry", "drop") and bool(options.ids) == options.all:
        options.parser.error("give question ids, or --all")
    if options.command == "ask" and options.question == options.token == "-":
        ask.error("only one of QUESTION and --token can be read from stdin: pass the other as an argument")
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(escape(message))  # it may quote an argument


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return parser


def _json_object(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise argparse.ArgumentTypeError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("""not an object, like '{"language": "French"}'""")
    return value


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError("not an id (a UUID)") from error


def _run(options: argparse.Namespace) -> int:
    from bridge import settings, surroundings

    env = settings.environment(beside_dev=options.command != "run")
    surroundings.check(env, has_model=options.command in ("run", "doctor"))
    from bridge.commands import run_command  # aiohttp reads what `check` checks when it is imported

    # not on uvloop 0.23, for 5 % less CPU: it forks to start a process, and hangs if one of BAML's threads is starting
    return asyncio.run(run_command(options, env))


def _complain(problem: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        print(f"bridge: {escape(problem)}", file=sys.stderr, flush=True)


def _exit_on_signals() -> None:
    """End the process at once on Ctrl-C and SIGTERM, unless its parent has it ignore them.

    Python's own handler prints a traceback from wherever it was, and the first process of a container gets no default.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: os._exit(128 + number))


if __name__ == "__main__":
    main()
