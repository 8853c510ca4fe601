"""Copies of BAML functions that return the model's text as it is, because baml-py must not parse what a model wrote.

Its parser takes time and memory without a bound: 1,000 opening brackets abort the process after 13 s and 4 GB, and
100,000 nested objects overflow its stack (baml-py 0.226.3). It runs as soon as the provider's stream ends. The last
event and the end can arrive together, so that an abort comes too late. Only a function that returns `string` is not
parsed. So each other function gets a copy that does:

    function Note(message: string) -> Note {            function NoteUnparsed(message: string) -> string {
      client Model                                        client Model
      prompt #"{{ message }} {{ ctx.output_format }}"#    prompt #"{{ message }} {{ "Answer in JSON …" }}"#
    }                                                   }

The prompt is the same: the output format does not depend on the arguments, and is rendered here, once.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baml_py import BamlRuntime
from baml_py.baml_py import BamlError

from bridge.errors import SetupError

TOKEN = re.compile(
    r"""//[^\n]*+ | \{//.*?//\}             # comments
      | (?P<raw>\#++)".*?"(?P=raw)          # #"a raw string"#
      | "(?:[^"\\]|\\.)*+"                  # "a string"
      | -> | \w++ | [^\s]""",
    re.S | re.X,
)
OPENS, CLOSES = frozenset("([{"), frozenset(")]}")
_FORMAT = re.compile(r"\bctx\s*\.\s*output_format\b")
# In its arguments: literals, the arguments' names, and anything else, which is not known here.
_ARGUMENT = re.compile(
    r"""\bctx\s*\.\s*output_format\b | "(?:[^"\\]|\\.)*+" | '(?:[^'\\]|\\.)*+'
      | \b(?:true|false|none)\b | \b\w+\s*=(?!=) | (?P<variable>\b[a-z_]\w*)""",
    re.I | re.X,
)
_NAME = "BridgeOutputFormat"  # of what is added to the sources for a moment
_CLIENT = f"""
client<llm> {_NAME} {{
  provider openai-generic
  options {{
    base_url "http://localhost"
    model "none"
  }}
}}
"""
_EDGE = "\u2060"  # BAML trims prompts: an edge keeps the blanks


@dataclass(frozen=True, slots=True)
class FunctionSource:
    """The source of a BAML function, in parts: `function {name}{parameters}-> {returns}{body}`."""

    parameters: str
    returns: str
    body: str


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A runtime that has a copy of each function named; `names` has the names of the copies by those of the functions.

    A function without a copy has its own name there.
    """

    runtime: BamlRuntime
    names: Mapping[str, str]


def copy_unparsed(sources: Mapping[str, str], names: Sequence[str], structured: Sequence[str]) -> Unparsed:
    """Compile `sources` with a copy of each `structured` function. Raises SetupError if one cannot be copied."""
    found = {name: function for text in sources.values() for name, function in functions_in(text)}
    for name in structured:
        if name not in found:
            problem = f"The source of the BAML function {name} cannot be read."
            raise SetupError(problem, "Write it as `function Name(…) -> Type { client … prompt … }`.")
    chosen = {name: found[name] for name in structured}
    formats = _render_formats(sources, chosen)
    copies = [
        f"function {name}Unparsed{function.parameters}-> string {_replaced(function.body, formats[name])}\n"
        for name, function in chosen.items()
    ]
    runtime = _compile(sources, "".join(copies), ", ".join(chosen))
    return Unparsed(runtime, {name: f"{name}Unparsed" if name in chosen else name for name in names})


def functions_in(text: str) -> Iterator[tuple[str, FunctionSource]]:
    """Find the functions of a source file that have a prompt."""
    tokens = [token for token in TOKEN.finditer(text) if not token[0].startswith(("//", "{//"))]
    at = depth = 0
    while at < len(tokens):
        token = tokens[at][0]
        depth += (token in OPENS) - (token in CLOSES)
        if token == "function" and depth == 0 and at + 2 < len(tokens):
            opening = at + 2
            arrow = _skip(tokens, opening)
            body = arrow + 1
            while body < len(tokens) and tokens[body][0] != "{":
                body = _skip(tokens, body)
            if body >= len(tokens) or tokens[opening][0] != "(" or tokens[arrow][0] != "->":
                return
            end = _skip(tokens, body)
            if any(token[0] == "prompt" for token in tokens[body:end]):
                yield (
                    tokens[at + 1][0],
                    FunctionSource(
                        text[tokens[opening].start() : tokens[arrow].start()],
                        text[tokens[arrow].end() : tokens[body].start()],
                        text[tokens[body].start() : tokens[end - 1].end()],
                    ),
                )
            at = end
        else:
            at += 1


def words_in(text: str) -> list[str]:
    """The words of a source without its comments. A string is one word, with its quotes."""
    return [token[0] for token in TOKEN.finditer(text) if not token[0].startswith(("//", "{//"))]


def _skip(tokens: Sequence[re.Match[str]], at: int) -> int:
    """The place after the token at `at`, or after what it opens."""
    depth = 0
    while at < len(tokens):
        token = tokens[at][0]
        depth += (token in OPENS) - (token in CLOSES)
        at += 1
        if depth <= 0:
            break
    return at


def _expressions_in(body: str) -> Iterator[tuple[int, int]]:
    """Where the output format stands in a body: `ctx.output_format`, or with arguments in parentheses."""
    for found in _FORMAT.finditer(body):
        end = found.end()
        if body.startswith("(", end):
            tokens = list(TOKEN.finditer(body, end))
            end = tokens[_skip(tokens, 0) - 1].end()
        yield found.start(), end


def _render_formats(sources: Mapping[str, str], functions: Mapping[str, FunctionSource]) -> dict[str, list[str]]:
    """Render the output formats of each function, in the order in which they stand in its body."""
    formats: dict[str, list[str]] = {}
    for name, function in functions.items():
        written = [function.body[start:end] for start, end in _expressions_in(function.body)]
        if not written:
            formats[name] = []
            continue
        for text in written:
            if variable := next((found["variable"] for found in _ARGUMENT.finditer(text) if found["variable"]), None):
                raise _refused(name, f"it depends on `{variable}`")
        added = "".join(
            f"""
function {_NAME}{number}() -> {function.returns} {{
  client {_NAME}
  prompt #####"{_EDGE}{{{{ {text} }}}}{_EDGE}"#####
}}
"""
            for number, text in enumerate(written)
        )
        runtime = _compile(sources, _CLIENT + added, name)
        formats[name] = [_rendered(runtime, f"{_NAME}{number}", name) for number in range(len(written))]
    return formats


def _rendered(runtime: BamlRuntime, copy: str, name: str) -> str:
    context = runtime.create_context_manager()
    try:
        request = runtime.build_request_sync(copy, {}, context, None, None, dict(os.environ), False)
    except BamlError as error:
        raise _refused(name, error) from error
    content: Any = json.loads(request.body.text())["messages"][0]["content"]
    text: str = content if isinstance(content, str) else content[0]["text"]
    return text[len(_EDGE) : -len(_EDGE)]


def _replaced(body: str, formats: Sequence[str]) -> str:
    """Put the rendered formats in the places of the expressions, as literals without a quote inside."""
    pieces, at = [], 0
    for (start, end), text in zip(_expressions_in(body), formats, strict=True):
        literal = re.sub(r"\\(.)", lambda found: r"\u0022" if found[1] == '"' else found[0], json.dumps(text))
        pieces += [body[at:start], literal]
        at = end
    return "".join([*pieces, body[at:]])


def _compile(sources: Mapping[str, str], added: str, names: str) -> BamlRuntime:
    try:
        return BamlRuntime.from_files("baml_src", {**sources, f"{_NAME}.baml": added}, dict(os.environ))
    except BamlError as error:
        raise _refused(names, error) from error


def _refused(names: str, error: BamlError | str) -> SetupError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return SetupError(
        f"The output format of {names} cannot be rendered ({reason}).",
        'Give `ctx.output_format` no arguments but literals, as in `ctx.output_format(prefix="Answer in JSON:")`.',
    )
