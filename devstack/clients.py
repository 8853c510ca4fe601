"""Reads from `baml_src` which model answers: the one in the LLM_* variables, or a client with a provider of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

NAMES = ("LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL")
_PROMPT = re.compile(r'(#+)".*?"\1', re.DOTALL)
_BLOCK = re.compile(r"^\s*(client<llm>|function)\s+(\w+)[^{]*\{", re.MULTILINE)
_LLM = re.compile(r"\benv\.(LLM_\w+)")


def variables(baml: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the LLM_* variables that the sources read. Each must be set, also if its client is not in use."""
    found = {name for _, _, body in _blocks(baml) for name in _LLM.findall(body)}
    return tuple(sorted(found, key=lambda name: (NAMES.index(name) if name in NAMES else len(NAMES), name)))


def own(baml: Mapping[str, bytes]) -> tuple[tuple[str, ...], bool]:
    """Return the functions' clients that do not read LLM_*, as a line each, and whether there is one that does."""
    blocks = list(_blocks(baml))
    clients = {name: body for kind, name, body in blocks if kind != "function"}
    named = [found[1] for kind, _, body in blocks if kind == "function" and (found := _named("client", body))]
    lines: list[str] = []
    reads = False
    seen: set[str] = set()
    while named:
        name = named.pop()
        if name in seen:
            continue
        seen.add(name)
        body = clients.get(name)
        if body is None:
            provider, _, model = name.partition("/")  # as in `client "openai/gpt-5-mini"`
            lines.append(f"{model} at {provider} (named by a function in baml_src)" if model else name)
        elif strategy := re.search(r"\bstrategy\s*\[([^\]]*)\]", body):
            named += re.findall(r"[\w./-]+", strategy[1])
        elif _LLM.search(body):
            reads = True
        else:
            lines.append(_describe(name, body))
    return tuple(sorted(lines)), reads


def _describe(name: str, body: str) -> str:
    provider, model, url = (_named(key, body) for key in ("provider", "model", "base_url"))
    what = model[1] if model else "its model"
    where = f"{provider[1] if provider else 'its provider'}{f' ({url[1]})' if url else ''}"
    return f"{what} at {where}: the client {name} in baml_src"


def _named(key: str, body: str) -> re.Match[str] | None:
    return re.search(rf'^\s*{key}\s+"?([^\s"]+)', body, re.MULTILINE)


def _blocks(baml: Mapping[str, bytes]) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and body of each client and function. Comments, and braces in prompts, do not count."""
    for content in baml.values():
        # prompts first: they may contain `//`; a URL's `//` stands inside of quotes
        text = _PROMPT.sub('""', content.decode(errors="replace"))
        text = re.sub(r'"[^"\n]*"|//[^\n]*', lambda found: found[0] if found[0].startswith('"') else "", text)
        for found in _BLOCK.finditer(text):
            depth, end = 1, found.end()
            while depth and end < len(text):
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            yield found[1], found[2], text[found.end() : end]
