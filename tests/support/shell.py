"""Check the commands of a shell block without running them: the program, its subcommand and its options exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

from devstack.migrations import PROJECT, script
from devstack.node import node

BIN = Path(sys.executable).parent
ELSEWHERE = {
    "docker": "needs a container engine",
    "fly": "needs an account at Fly.io",
    "gh": "needs an account at GitHub",
    "git": "changes a repository",
    "npx": "fetches a package",
    "ssh": "needs a host",
    "curl": "needs a server",
    "psql": "comes with Postgres",
    "promtool": "comes with Prometheus",
    "railway": "needs an account at Railway",
}
# as argparse, clap and the Supabase CLI print it
_WANTS_COMMAND = re.compile(r"^usage: .*\b(command|action) \.\.\.|<COMMAND>|<subcommand>", re.M)
_CHOICES = re.compile(r"^usage: .*\{([\w,]+)\}\]?$", re.M)
_VARIABLE = re.compile(r"\w+=")
_TARGET = re.compile(r"^([a-z-]+):", re.M)


def commands(text: str) -> list[list[str]]:
    """The simple commands of a block, each as its words, without leading variable assignments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||[|;]", line.split(" #")[0]):
            words = shlex.split(part, comments=True)
            while words and _VARIABLE.match(words[0]):
                words.pop(0)
            if words:
                found.append(words)
    return found


def check(words: list[str]) -> str | None:
    """Check that a command exists. Returns the reason if it cannot be checked here. Raises AssertionError."""
    if words[:2] == ["npx", "supabase"]:
        words = words[1:]
    name, *arguments = words
    if name in ELSEWHERE:
        return f"{name} {ELSEWHERE[name]}"
    if name == "make":
        makefile = (PROJECT / "Makefile").read_text()
        assert {word for word in arguments if "=" not in word} <= set(_TARGET.findall(makefile)), words
        if given := [word.removeprefix("ARGS=") for word in arguments if word.startswith("ARGS=")]:
            (program,) = re.findall(rf"^{arguments[0]}:.*\n\t.*?-m ([\w.]+) .*\$\(ARGS\)", makefile, re.M)
            _with_options((str(BIN / "python"), "-m", program), shlex.split(given[0]))
    elif name in ("cp", "cd"):
        assert (PROJECT / arguments[0]).exists(), words
    elif name == "pytest":
        assert all((PROJECT / word).exists() for word in arguments if not word.startswith("-")), words
    elif Path(name).name in ("python", "python3"):
        assert arguments[0] == "-m", words
        assert importlib.util.find_spec(arguments[1]), words
        _with_options((str(BIN / "python"), "-m", arguments[1]), arguments[2:])
    elif name == "npm":
        command, *rest = arguments
        assert command in ("install", "pack"), words
        if "--workspace" in rest:
            assert (PROJECT / rest[rest.index("--workspace") + 1] / "package.json").exists(), words
    elif name == "supabase":  # `npx supabase` runs the version in package-lock.json
        _with_options((node(), str(script())), arguments)
    else:
        program = BIN / Path(name).name
        assert name.startswith(".venv/bin/") or name == "bridge", f"unknown: {words}"
        assert program.is_file(), words
        _with_options((str(program),), arguments)
    return None


def _with_options(program: tuple[str, ...], arguments: list[str]) -> None:
    """Find the subcommand and the options in the program's own `--help`. Raises AssertionError."""
    command, text = program, _help(program)
    for word in arguments:
        if word.startswith("-"):
            break
        if not re.search(rf"^ +{re.escape(word)}(,|  |$)", text, re.M):
            choices = _CHOICES.search(text)
            assert not _WANTS_COMMAND.search(text), f"{command} has no {word}"
            assert choices is None or word in choices[1].split(","), f"{command} does not take {word}"
            break  # an argument
        command = (*command, word)
        text = _help(command)
    for word in arguments:
        if word.startswith("-"):
            option = re.escape(word.split("=")[0])
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{command} has no {word}"


@cache
def _help(command: tuple[str, ...]) -> str:
    ran = subprocess.run([*command, "--help"], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
