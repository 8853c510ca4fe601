"""Generates the BAML client, and says what is wrong in `baml_src` by file and line.

`python -m devstack.generate` writes `baml_client/` in this folder; the Makefile runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from devstack import DevstackError
from devstack.migrations import PROJECT
from devstack.process import before_exec
from devstack.source import read

_SECONDS = 60.0
# what baml-cli 0.226.3 prints for each mistake, once its own indent is taken away
_MISTAKE = re.compile(r"^(error|warning): (.*?)\n\s*-->\s+(\S.*?):(\d+)\s*$", re.MULTILINE | re.DOTALL)
_LOG = re.compile(r"^\S+ \[BAML \w+\] ")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong in a file, on one line. Without a file, it is not known where."""

    message: str
    file: str = ""
    line: int = 0
    is_warning: bool = False  # the new version is used all the same

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{'warning: ' if self.is_warning else ''}{self.message}"

    def as_json(self) -> dict[str, Any]:
        """Return it for the page."""
        return asdict(self)


async def generate(sources: Mapping[str, bytes], out: Path) -> list[Problem]:
    """Write sources into `out`, and the client that they give beside them; return why there is none.

    Raises `DevstackError` if `baml-cli` cannot run.
    """
    if not sources:
        return [Problem("there is no BAML file: add one, such as baml_src/chat.baml", "baml_src")]
    await asyncio.to_thread(_write, sources, out)
    if broken := [
        Problem("is not text in UTF-8", name, 1) for name, content in sources.items() if not _is_text(content)
    ]:
        return broken  # BAML would leave it out in silence
    failed, said = await run("generate", out)
    if failed:
        problems = read_problems(said)
        has_error = any(not problem.is_warning for problem in problems)
        return problems if has_error else [Problem(_first_line(said), "baml_src"), *problems]
    if not (out / "baml_client").is_dir():
        message = 'the Python generator must write baml_client beside baml_src: set output_dir "../"'
        return [Problem(message, "baml_src/generators.baml")]
    return []


async def warnings(out: Path) -> list[Problem]:
    """Return the warnings about sources that `generate` has accepted, such as a variable that a prompt lacks."""
    return read_problems((await run("check", out))[1])


def read_problems(said: str) -> list[Problem]:
    """Read what `baml-cli` prints, errors first, each once."""
    text = "\n".join(line.removeprefix("    ") if line.startswith("    ") else line for line in said.splitlines())
    found = [
        Problem(" ".join(message.split()), file.removeprefix("./"), int(line), kind == "warning")
        for kind, message, file, line in _MISTAKE.findall(text.partition("Stack backtrace")[0])
    ]
    return sorted(dict.fromkeys(found), key=lambda problem: problem.is_warning)


def _first_line(said: str) -> str:
    lines = [_LOG.sub("", line).strip() for line in said.partition("Stack backtrace")[0].splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Generating clients", "Caused by"))]
    return " ".join(kept[:3]) or "baml-cli failed and said nothing"


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _write(sources: Mapping[str, bytes], out: Path) -> None:
    for name, content in sources.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)


async def run(command: str, folder: Path) -> tuple[bool, str]:
    """Run `baml-cli` in a folder. Return whether it failed, and what it printed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(_cli(), command),
            cwd=folder,
            env={**os.environ, "BAML_LOG": "info", "NO_COLOR": "1"},  # with less, it does not say what is wrong
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # only this process receives Ctrl-C
            preexec_fn=before_exec(signal.SIGKILL),
        )
    except OSError as error:
        raise DevstackError(f"baml-cli cannot be started ({error.strerror}): run `make setup`") from error
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise DevstackError(f"baml-cli {command} took more than {_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode != 0, output.decode(errors="replace")


def _cli() -> str:
    return str(Path(sysconfig.get_path("scripts")) / "baml-cli")


def main(arguments: Sequence[str]) -> int:
    """Generate the client of the project in this folder. Print each problem on one line; return 1 if it failed."""
    folder = Path(arguments[0]) if arguments else PROJECT
    try:
        problems = asyncio.run(_generate_in_place(folder))
    except DevstackError as error:
        problems = [Problem(str(error))]
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(any(not problem.is_warning for problem in problems))


async def _generate_in_place(folder: Path) -> list[Problem]:
    with tempfile.TemporaryDirectory() as out:  # a mistake leaves the client that is there as it was
        problems = await generate(read(folder, folder / ".env").baml, Path(out)) or await warnings(Path(out))
    if all(problem.is_warning for problem in problems):
        failed, said = await run("generate", folder)
        if failed:
            problems.append(Problem(_first_line(said), "baml_src"))
    return problems


def install(out: Path, folder: Path) -> None:
    """Put the client that `generate` wrote into `out` in the place of the one in `folder`."""
    new, old = folder / ".baml_client.new", folder / ".baml_client.old"
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(out / "baml_client", new, ignore=shutil.ignore_patterns("__pycache__"))
    with contextlib.suppress(FileNotFoundError):
        (folder / "baml_client").rename(old)
    new.rename(folder / "baml_client")
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
