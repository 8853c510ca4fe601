"""The output of the commands for operators: plain lines for people, JSON for machines."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.doctor import examine
from bridge.printable import dumps, escape, escape_lines
from bridge.store import Store


async def doctor(env: Mapping[str, str], token: str | None, *, as_json: bool) -> int:
    """Print each precondition as it is checked. Returns the exit code: 0 if all hold, else 2."""
    code = 0
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    green, red, plain = ("\033[32m", "\033[31m", "\033[0m") if is_coloured else ("", "", "")
    async for finding in examine(env, token):
        if finding.problem is not None:
            code = 2
        if as_json:
            answer = {"name": finding.name, "problem": finding.problem, "remedy": finding.remedy, "note": finding.note}
            print(dumps(answer), flush=True)
        elif finding.problem is None:
            print(f"{green}ok{plain}       {escape(': '.join(filter(None, (finding.name, finding.note))))}", flush=True)
        else:
            print(f"{red}problem{plain}  {escape(f'{finding.name}: {finding.problem}')}", flush=True)
            print(f"         {escape_lines(finding.remedy, '         ')}", flush=True)
    return code


async def status(store: Store, *, as_json: bool) -> None:
    """Print the queue, the live workers and the last hour. Raises StoreError."""
    answer = await store.status()
    if as_json:
        print(dumps(answer))
        return
    _show(
        f"queued {answer['queued']} (oldest {answer['oldest_seconds']:.1f} s), running {answer['running']}, "
        f"behind an earlier question {answer['waiting']}, waiting to retry {answer['retrying']}, "
        f"waiting for a user or a time {answer.get('asking', 0) + answer.get('scheduled', 0)}, "
        f"dead letters {answer['dead_letters']}"
    )
    if unknown := answer.get("unknown_function", 0):  # absent in an older schema
        _show(f"waiting for a function that no live worker knows: {unknown}")
    hour = answer["last_hour"]
    _show(
        f"last hour: {hour['done']} done, {hour['failed']} failed attempts, {hour['cancelled']} cancelled, "
        f"{hour['input_tokens']} input tokens, {hour['output_tokens']} output tokens"
    )
    for worker in answer["workers"]:
        _show(f"worker {worker['name']}: {worker['running']} running, last seen {worker['seen_at']}")
    if not answer["workers"]:
        print("no workers are running")


async def dead_letters(store: Store, most: int, *, as_json: bool) -> None:
    """Print the dead letters, each with its attempts. Raises StoreError."""
    letters = [_without_answer(letter) for letter in await store.dead_letters(most)]
    if as_json:
        print(dumps(letters))
        return
    for letter in letters:
        error = letter["error"]
        why = ": ".join(error[name] for name in ("code", "message") if name in error)
        _show(f"{letter['question_id']}  {letter['created_at'][:19]}  {letter['function']}  {why}")
        for run in letter["runs"]:
            error = run["error"] or {}
            code, detail = error.get("code", ""), error.get("detail", "")
            why = detail if detail.startswith(code) else f"{code} {detail}"
            attempt = f"    attempt {run['attempt']}: {run['outcome']} {why}".rstrip()
            print(escape_lines(attempt, "        "))  # a handler's traceback has several lines
    if not letters:
        print("no dead letters")


async def steps(store: Store, question_id: str, *, as_json: bool) -> int:
    """Print the steps of a question. Returns the exit code: 1 if there is no such question. Raises StoreError."""
    answer = await store.list_steps(question_id)
    if answer is None:
        print("There is no such question.", file=sys.stderr)
        return 1
    if as_json:
        print(dumps(answer))
        return 0
    _show(f"question {answer['question_id']}: {answer['status']}, attempt {answer['attempt'] or 0}")
    for step in answer["steps"]:
        cost = step["run"] or {}
        tokens = sum(cost.get(f"{kind}_tokens") or 0 for kind in ("input", "output"))
        about = [f"attempt {step['attempt']}", _state(step), f"{step['bytes']} bytes"]
        if tokens:
            about.append(f"{tokens} tokens")
        _show(f"{step['created_at'][:19]}  {step['name']}  {', '.join(about)}")
    if not answer["steps"]:
        print("no steps")
    return 0


def _state(step: Mapping[str, Any]) -> str:
    """What became of a step."""
    if step["kind"] in ("done", "failed", "begun"):
        return str(step["kind"])
    what = {"ask": "an answer", "sleep": "a time", "run": "another reply"}[step["kind"]]
    return f"{what} came" if step["is_done"] else f"waits for {what} until {step['due_at'][:19]}"


async def retry(store: Store, ids: Sequence[str] | None) -> None:
    """Requeue dead letters (None: all) and print how many. Raises StoreError."""
    # no more than there are now: a question that fails again at once is not retried for ever
    most = (await store.status())["dead_letters"] if ids is None else 0
    count = batch = await store.retry_dead(ids)
    while batch and count < most:
        count += (batch := await store.retry_dead(None))
    _show(f"requeued {count} {'message' if count == 1 else 'messages'}")


async def drop(store: Store, ids: Sequence[str] | None) -> None:
    """Delete dead letters (None: all) and print how many. Raises StoreError."""
    count = await store.drop_dead(ids)
    _show(f"dropped {count} {'message' if count == 1 else 'messages'}")


def _without_answer(letter: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out a message that may have the model's or the user's own words in it: it is for the user alone."""
    code = letter["error"]["code"]
    return {**letter, "error": {"code": code}} if code in ("model_filtered", "bad_arguments") else letter


def _show(line: str) -> None:
    print(escape(line))
