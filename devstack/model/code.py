"""The demo model's sample code files."""

from __future__ import annotations

import re
from typing import Any, TypedDict


class File(TypedDict):
    """A file in the output of the function `Code`."""

    path: str
    content: str
    language: str


_FIBONACCI = {
    "python": '''"""Fibonacci numbers."""

from collections.abc import Iterator


def fibonacci() -> Iterator[int]:
    """Yield 0, 1, 1, 2, 3, 5 and so on, forever."""
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b


if __name__ == "__main__":
    for number, _ in zip(fibonacci(), range(10)):
        print(number)
''',
    "javascript": """// Yields 0, 1, 1, 2, 3, 5 and so on, forever.
export function* fibonacci() {
  let [a, b] = [0, 1];
  for (;;) {
    yield a;
    [a, b] = [b, a + b];
  }
}
""",
}
_FIZZBUZZ = {
    "python": '''"""FizzBuzz."""


def fizzbuzz(n: int) -> str:
    """Return Fizz for multiples of 3, Buzz for multiples of 5, FizzBuzz for both, otherwise the number."""
    return ("Fizz" * (n % 3 == 0) + "Buzz" * (n % 5 == 0)) or str(n)


if __name__ == "__main__":
    for n in range(1, 101):
        print(fizzbuzz(n))
''',
    "javascript": """// Fizz for multiples of 3, Buzz for multiples of 5, FizzBuzz for both, otherwise the number.
export function fizzbuzz(n) {
  return (n % 3 ? "" : "Fizz") + (n % 5 ? "" : "Buzz") || String(n);
}
""",
}
_HELLO = {
    "python": '''"""A greeting."""


def hello(name: str = "world") -> str:
    """Return a greeting."""
    return f"Hello, {name}!"


if __name__ == "__main__":
    print(hello())
''',
    "javascript": """// Returns a greeting.
export function hello(name = "world") {
  return `Hello, ${name}!`;
}
""",
}
_TABLE = """-- Notes that only their owner can read and write.
create table public.notes (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null default auth.uid() references auth.users on delete cascade,
  body text not null,
  created_at timestamptz not null default now()
);

alter table public.notes enable row level security;

create policy "owners can read and write" on public.notes
  for all to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()));
"""
_SAMPLES = (("fibonacci", _FIBONACCI), ("fizzbuzz", _FIZZBUZZ), ("hello", _HELLO))
_ENDING = {"python": "py", "javascript": "js"}
_COMMENT = {"py": "#", "sh": "#", "yaml": "#", "toml": "#", "sql": "--", "js": "//", "ts": "//", "tsx": "//"}
_EXISTING = re.compile(r'<file path="([^"]+)">\n(.*?)\n?</file>', re.S)


def write(request: str, system: str) -> dict[str, Any]:
    """Return the output of the function `Code`, `reply` and `files`.

    If the request names a file of the session (`<file path="…">` in the system prompt), that file is changed;
    otherwise a new one is written.
    """
    for path, content in _EXISTING.findall(system):
        if path in request:
            return _changed(path, content, request)
    if not re.search(r"\w", request) or re.match(r"^\W*(hi|hello|hey|thanks?|thank you)\W*$", request, re.I):
        return {
            "reply": "Hi, I'm the demo model. Ask me for a small piece of code, such as *FizzBuzz in JavaScript* or "
            "*a table for notes*.",
            "files": [],
        }
    file = _file(request)
    reply = (
        f"Here's `{file['path']}`. I'm the demo model, so this is one of a few samples I have on hand. "
        "A real model would write the code you asked for."
    )
    return {"reply": reply, "files": [file]}


def _changed(path: str, content: str, request: str) -> dict[str, Any]:
    ending = path.rpartition(".")[2]
    mark = _COMMENT.get(ending, "#")
    summary = " ".join(request.split())[:120]
    new = f"{content.rstrip()}\n\n{mark} Requested change (demo model): {summary}\n"
    language = {"py": "python", "js": "javascript", "ts": "typescript"}.get(ending, ending)
    reply = (
        f"I added your request as a comment at the end of `{path}`. "
        "I'm the demo model, so that's the only edit I can make."
    )
    return {"reply": reply, "files": [{"path": path, "content": new, "language": language}]}


def _file(request: str) -> File:
    if re.search(r"\b(sql|table|migration|postgres)\b", request, re.I):
        return {"path": "notes.sql", "content": _TABLE, "language": "sql"}
    script = re.search(r"\b(java ?script|js|node|type ?script|react)\b", request, re.I)
    language = "javascript" if script else "python"
    for name, versions in _SAMPLES:
        if re.search(rf"\b{name}", request, re.I):
            return {
                "path": f"{name}.{_ENDING[language]}",
                "content": versions[language],
                "language": language,
            }
    return {"path": f"hello.{_ENDING[language]}", "content": _HELLO[language], "language": language}
