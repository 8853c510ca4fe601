"""The demo model's small stock of code files."""

from __future__ import annotations

import re
from typing import Any, TypedDict


class File(TypedDict):
    """A file as the function `Code` wants it."""

    path: str
    content: str
    language: str


_FIBONACCI = {
    "python": '''"""Fibonacci numbers."""

from collections.abc import Iterator


def fibonacci() -> Iterator[int]:
    """Yield 0, 1, 1, 2, 3, 5 … without end."""
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b


if __name__ == "__main__":
    for number, _ in zip(fibonacci(), range(10)):
        print(number)
''',
    "javascript": """// Yields 0, 1, 1, 2, 3, 5 … without end.
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
    """Give Fizz for multiples of 3, Buzz for those of 5, both for those of 15, else the number."""
    return ("Fizz" * (n % 3 == 0) + "Buzz" * (n % 5 == 0)) or str(n)


if __name__ == "__main__":
    for n in range(1, 101):
        print(fizzbuzz(n))
''',
    "javascript": """// Fizz for multiples of 3, Buzz for those of 5, both for those of 15, else the number.
export function fizzbuzz(n) {
  return (n % 3 ? "" : "Fizz") + (n % 5 ? "" : "Buzz") || String(n);
}
""",
}
_HELLO = {
    "python": '''"""A greeting."""


def hello(name: str = "world") -> str:
    """Greet somebody."""
    return f"Hello, {name}!"


if __name__ == "__main__":
    print(hello())
''',
    "javascript": """// Greets somebody.
export function hello(name = "world") {
  return `Hello, ${name}!`;
}
""",
}
_TABLE = """-- Notes, each visible to its owner alone.
create table public.notes (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null default auth.uid() references auth.users on delete cascade,
  body text not null,
  created_at timestamptz not null default now()
);

alter table public.notes enable row level security;

create policy "owners read and write" on public.notes
  for all to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()));
"""
_STOCK = (("fibonacci", _FIBONACCI), ("fizzbuzz", _FIZZBUZZ), ("hello", _HELLO))
_ENDING = {"python": "py", "javascript": "js"}
_COMMENT = {"py": "#", "sh": "#", "yaml": "#", "toml": "#", "sql": "--", "js": "//", "ts": "//", "tsx": "//"}
_GIVEN = re.compile(r'<file path="([^"]+)">\n(.*?)\n?</file>', re.S)


def write(request: str, system: str) -> dict[str, Any]:
    """Answer a request for code: what `Code` promises, `reply` and `files`.

    A file of the session (`<file path="…">` in the system prompt) that the request names is changed; else one is made.
    """
    for path, content in _GIVEN.findall(system):
        if path in request:
            return _changed(path, content, request)
    if not re.search(r"\w", request) or re.match(r"^\W*(hi|hello|hey|thanks?|thank you)\W*$", request, re.I):
        return {"reply": "The demo model here. Ask me for a function, a script or a table.", "files": []}
    file = _file(request)
    reply = (
        f"I wrote `{file['path']}`. I am the demo model, so it comes from a small stock and not from thought; with a "
        "real model this is where your code would appear."
    )
    return {"reply": reply, "files": [file]}


def _changed(path: str, content: str, request: str) -> dict[str, Any]:
    ending = path.rpartition(".")[2]
    mark = _COMMENT.get(ending, "#")
    asked = " ".join(request.split())[:120]
    new = f"{content.rstrip()}\n\n{mark} Asked of the demo model: {asked}\n"
    language = {"py": "python", "js": "javascript", "ts": "typescript"}.get(ending, ending)
    reply = f"I added a line to the end of `{path}`. The demo model can do no more than that."
    return {"reply": reply, "files": [{"path": path, "content": new, "language": language}]}


def _file(request: str) -> File:
    if re.search(r"\b(sql|table|migration|postgres)\b", request, re.I):
        return {"path": "notes.sql", "content": _TABLE, "language": "sql"}
    script = re.search(r"\b(java ?script|js|node|type ?script|react)\b", request, re.I)
    language = "javascript" if script else "python"
    for name, versions in _STOCK:
        if re.search(rf"\b{name}", request, re.I):
            return {
                "path": f"{name}.{_ENDING[language]}",
                "content": versions[language],
                "language": language,
            }
    return {"path": f"hello.{_ENDING[language]}", "content": _HELLO[language], "language": language}
