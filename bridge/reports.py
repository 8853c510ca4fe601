"""What the commands for operators print: for people first, as JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from bridge.doctor import examine
from bridge.store import Store


async def doctor(env: Mapping[str, str], *, as_json: bool) -> int:
    """Print every precondition as it is checked; 0 if all hold, 2 otherwise."""
    troubles = 0
    green, red, plain = ("\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
    async for finding in examine(env):
        troubles += finding.trouble is not None
        if as_json:
            print(json.dumps({"name": finding.name, "trouble": finding.trouble, "remedy": finding.remedy}))
        elif finding.trouble is None:
            print(f"{green}ok{plain}       {finding.name}", flush=True)
        else:
            print(f"{red}trouble{plain}  {finding.name}: {finding.trouble}\n         {finding.remedy}", flush=True)
    return 2 if troubles else 0


async def status(store: Store, *, as_json: bool) -> None:
    """Print queue, live workers and the last hour. Raises StoreError."""
    seen = await store.status()
    if as_json:
        print(json.dumps(seen))
        return
    print(
        f"queued {seen['queued']} (oldest {seen['oldest_seconds']:.1f} s), running {seen['running']}, "
        f"behind another {seen['waiting']}, to be retried {seen['retrying']}, dead letters {seen['dead_letters']}"
    )
    hour = seen["last_hour"]
    print(
        f"last hour: {hour['done']} done, {hour['failed']} failed attempts, {hour['cancelled']} cancelled, "
        f"{hour['input_tokens']} tokens in, {hour['output_tokens']} out"
    )
    for worker in seen["workers"]:
        print(f"worker {worker['name']}: {worker['running']} running, seen {worker['seen_at']}")
    if not seen["workers"]:
        print("no worker is running")


async def dead_letters(store: Store, most: int, *, as_json: bool) -> None:
    """Print the messages that were given up, each with its attempts. Raises StoreError."""
    letters = await store.dead_letters(most)
    if as_json:
        print(json.dumps(letters))
        return
    for letter in letters:
        print(
            f"{letter['question_id']}  {letter['created_at'][:19]}  {letter['function']}  "
            f"{letter['error']['code']}: {letter['error']['message']}"
        )
        for run in letter["runs"]:
            error = run["error"] or {}
            code, detail = error.get("code", ""), error.get("detail", "")
            why = detail if detail.startswith(code) else f"{code} {detail}"
            print(f"    attempt {run['attempt']}: {run['outcome']} {why}".rstrip())
    if not letters:
        print("no dead letters")
