"""Handlers: Python code that answers instead of a BAML function. `make dev` answers with those in this file.

`Research` is for you to try, change or delete. docs/functions.md explains how it works.
"""

from collections.abc import AsyncGenerator

from baml_client import b
from baml_client.types import Finding, ReadFile, WriteReport
from bridge import FileWrite, NoAnswer, ToolFailed, Turn, handler

MOST_STEPS = 8
MOST_LINES = 20  # that a search gives


@handler(
    "Research",
    description="Searches and reads the session's files, shows how, and asks before it saves a report",
    suggestions=["What do these files do?", "Where are users signed in?"],
    reads_files=True,
)
async def research(turn: Turn) -> AsyncGenerator[str | FileWrite, None]:
    """Plan, search and read until the question can be answered; then report, and save the report if the user agrees."""
    files = {file.path: file.content for file in turn.files}

    def search_files(query: str) -> str:
        return search(files, query)

    def read_file(path: str) -> str:
        if path not in files:
            raise ToolFailed(f"There is no file {path}.")
        return files[path]

    plan = await turn.call(b.PlanResearch, turn.messages, turn.message, list(files))
    yield "\n".join(f"{number}. {step}" for number, step in enumerate(plan.steps, 1)) + "\n\n"
    findings: list[Finding] = []
    for _ in range(MOST_STEPS):
        step = await turn.call(b.NextResearchStep, turn.message, plan.steps, list(files), findings)
        if isinstance(step, WriteReport):
            break
        try:
            if isinstance(step, ReadFile):
                about = step.path
                result = await turn.tool("read_file", read_file, path=about)
            else:
                about = step.query
                result = await turn.tool("search_files", search_files, query=about)
        except ToolFailed as error:
            result = str(error)
        findings.append(Finding(tool=step.tool, about=about, result=result))
    report = await turn.say(b.ReportResearch, turn.message, findings)
    try:
        answer = await turn.ask("save", "Save this report as report.md?")
    except NoAnswer:
        return
    if answer.approved:
        yield FileWrite("report.md", report, "markdown")
        yield "\n\nSaved as `report.md`."


def search(files: dict[str, str], query: str) -> str:
    """The lines that contain a word of the query, each with its file and number."""
    words = [word.strip("?.,;:!\"'()").casefold() for word in query.split()]
    wanted = [word for word in words if len(word) > 3] or words
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, content in files.items()
        for number, line in enumerate(content.splitlines(), 1)
        if any(word in line.casefold() for word in wanted)
    ]
    more = f"\n… and {len(found) - MOST_LINES} more" if len(found) > MOST_LINES else ""
    return "\n".join(found[:MOST_LINES]) + more if found else "No file contains this."
