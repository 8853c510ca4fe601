"""What the demo model says: about this project by keyword, a small code file, a comparison, a short title."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from . import code, compare

Kind = Literal["chat", "code", "compare", "title"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as the demo model understands it. `last` is the last user message, byte by byte."""

    kind: Kind
    system: str
    earlier: Sequence[tuple[str, str]]
    last: str
    tokens: int

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read a chat completion request. Raises ValueError, TypeError, KeyError or AttributeError if it is none."""
        messages = [(str(m["role"]), _text(m["content"])) for m in body["messages"]]
        if not messages:
            raise ValueError("no messages")
        system = "\n".join(text for role, text in messages if role in ("system", "developer"))
        spoken = [(role, text) for role, text in messages if role not in ("system", "developer")]
        at = max((n for n, (role, _) in enumerate(spoken) if role == "user"), default=None)
        last = "" if at is None else spoken[at][1]
        earlier = [m for n, m in enumerate(spoken) if n != at]
        tokens = max(1, sum(len(text) for _, text in messages) // 4)
        return cls(_kind(system, last), system, earlier, last, tokens)


def answer(prompt: Prompt) -> str:
    """Give the whole reply to a prompt, as the model's raw output."""
    if prompt.kind == "title":
        return _title(prompt.last)
    if prompt.kind == "code":
        return json.dumps(code.write(prompt.last, prompt.system), indent=1)
    if prompt.kind == "compare":
        return json.dumps(compare.write(prompt.last), indent=1, ensure_ascii=False)
    return _chat(prompt)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _kind(system: str, last: str) -> Kind:
    # By what the functions in baml_src ask for: an output format with `reply` and `files` or `options`, or a title.
    if re.search(r"^\s*reply:", system, re.M):
        if re.search(r"^\s*files:", system, re.M):
            return "code"
        if re.search(r"^\s*options:", system, re.M):
            return "compare"
    if last.startswith("<question>") and last.rstrip().endswith("Title:"):
        return "title"
    return "chat"


_IDENTITY = (
    "I am the **demo model**: a small program on your machine, not a language model. I answer by keyword, so that "
    "you can see the whole path work without a key or a bill."
)

_TOPICS: tuple[tuple[str, str], ...] = (
    (
        r"\b(real|other|another|own|actual|openai|anthropic|claude|gemini|ollama|gpt|llama)\b.*\b(model|provider|llm)\b"
        r"|\b(switch|change|replace|use)\b.*\b(model|provider)\b|\b(LLM_|api key|openai|anthropic|gemini|ollama)",
        "To use a real model, set three variables in `.env` and start again:\n\n"
        "```\nLLM_BASE_URL=https://api.openai.com/v1\nLLM_API_KEY=...\nLLM_MODEL=gpt-5-mini\n```\n\n"
        "Anything that speaks OpenAI's chat completions works. For Anthropic, Gemini or Ollama, "
        "`baml_src/clients.baml` has an example of each: put it in the place of the client `Model`.",
    ),
    (
        r"\b(add|new|write|create|make|define)\b.*\b(functions?|endpoints?)\b|\bbaml\b",
        "To add a function:\n\n"
        "1. Write it in a file of its own in `baml_src/`, say `summary.baml`.\n"
        "2. Run `baml-cli generate`, or any `make` target, which does it for you.\n"
        "3. Add its name to `BRIDGE_FUNCTIONS`.\n"
        "4. Set `function` to that name on a session.\n\n"
        '```baml\nfunction Summary(message: string) -> string {\n  client Model\n  prompt #"\n'
        '    {{ _.role("user") }}\n    Sum this up in two sentences: {{ message }}\n  "#\n}\n```\n\n'
        "Parameters are bound by name: `messages`, `message`, `files`, `session`, `user_id`; any other comes from the "
        "message's `data`. Nobody writes a server.",
    ),
    (
        r"\bhandlers?\b|\bpython code\b|\btools?\b|\bagents?\b",
        "Python joins in with a handler: an async generator that gets the turn and yields text, structured values or "
        'files.\n\n```python\nfrom bridge import Turn, handler\n\n\n@handler("Shout")\nasync def shout(turn: Turn):\n'
        "    yield turn.message.upper()\n```\n\nName its module in `BRIDGE_HANDLERS` and `Shout` in "
        "`BRIDGE_FUNCTIONS`.",
    ),
    (
        r"\bdeploy|\bhost(ed|ing)?\b|\bproduction\b|\bfly\b|\brailway\b|\brender\b|\bdocker\b",
        "To deploy it, you need a Supabase project and one place that runs a container.\n\n"
        "1. `supabase db push --remote` applies the migrations to your project.\n"
        "2. Set `SUPABASE_URL`, `SUPABASE_SECRET_KEY` and the `LLM_...` variables where the worker runs.\n"
        "3. Start the image. It opens no public port: it only calls Supabase and your model.\n\n"
        "`bridge doctor` checks every precondition and says how to mend what fails. Run as many workers as you like: "
        "each message is worked on by one of them at a time.",
    ),
    (
        r"\bstream|\bdelta|\brealtime\b|\bwebsocket|\blive\b",
        "A reply is streamed in two lanes:\n\n"
        "- **Deltas** go by Realtime broadcast to the private topic `session:<id>`, the first at once, then a few "
        "a second. They are fast and may be lost.\n"
        "- **The reply's row** is checkpointed about once a second and finally written. It is the truth.\n\n"
        "Each delta carries an `attempt` and a `seq`, so a page that joins late or misses one reads the row and goes "
        "on from there. You can try it: reload this page while I am still writing.",
    ),
    (
        r"\bcancel|\bstop\b|\binterrupt",
        "Press stop, or call `cancel_message` with the message's id. The worker closes its connection to the model "
        "at once, keeps the text so far, and marks the reply `cancelled`.",
    ),
    (
        r"\bfail|\bcrash|\berrors?\b|\bretry|\blost\b|\bdown\b|\breliab",
        "Nothing is lost when something breaks. A message is worked on under a lease: if a worker dies, another takes "
        "over when the lease ends. If Realtime is down, a sweep still finds every message. A busy model is tried "
        "again; a message that keeps failing ends with an error that you can read on it and retry.",
    ),
    (
        r"\bsecur|\brls\b|\bpolic(y|ies)\b|\bauth|\bprivate\b|\bpermission|\bwho can\b",
        "Row level security decides everything: a user reads and writes own sessions, messages and files alone, and "
        "the topic `session:<id>` is open to that session's owner only. The worker's functions can be called with the "
        "secret key alone. Your page needs nothing but the publishable key.",
    ),
    (
        r"\bfront ?end|\breact\b|\bclient\b|\bpage\b|\bbrowser\b|\bjavascript\b|\btypescript\b",
        "A frontend talks to Supabase alone: it inserts a row into `messages`, subscribes to `session:<id>`, and reads "
        "the rows. It needs nothing but the project's URL and publishable key. `client/` has a small TypeScript client "
        "that merges deltas and rows, and `web/` is this page, built on it.",
    ),
    (
        r"\bfiles?\b",
        "A session keeps code files beside the conversation. Set the session's function to `Code` and ask me for "
        "some code: the file appears next to the chat, with its earlier versions kept.",
    ),
    (
        r"\bwhat (is|does|are)\b.*\b(this|it|project|bridge|you)\b"
        r"|\bhow does (this|it) work|\babout this\b|\bwho are you",
        "This is **supabase-baml-bridge**: it joins a frontend, a Supabase project and functions written in BAML, "
        "without a server in between.\n\n"
        "Your page inserts a row into `messages`. A trigger makes it a job and wakes a worker. The worker calls the "
        "BAML function, streams its reply to you through Supabase Realtime, and writes the finished row. Adding a "
        "function to `baml_src/` adds an endpoint.\n\n" + _IDENTITY,
    ),
)

_SNIPPET = re.compile(
    r"\b(write|show|give|make|create|need)\b.*\b(code|script|program|function|class|snippet)\b"
    r"|\b(fibonacci|fizzbuzz|hello world|sort(s|ing)?)\b",
    re.I | re.S,
)
_ABOUT_US = re.compile(r"^\W*how\b|\bbaml\b|\bendpoint", re.I)
_NAME = re.compile(r"\bmy name is (\w[\w'-]{0,40})|\bi am called (\w[\w'-]{0,40})", re.I)
_GREETING = re.compile(r"^\W*(hi|hello|hey|hallo|good (morning|day|evening))\b", re.I)
_THANKS = re.compile(r"\b(thanks|thank you|great|perfect|nice|cool)\b", re.I)


def _chat(prompt: Prompt) -> str:
    last = prompt.last
    name = _name(prompt)
    if re.search(r"\bmy name\b", last, re.I) and re.search(r"\b(what|know|remember)\b", last, re.I):
        return f"Your name is {name}: you told me earlier." if name else "You have not told me yet."
    if told := _NAME.search(last):
        return f"Nice to meet you, {told[1] or told[2]}! {_IDENTITY} What would you like to know about this project?"
    if re.search(r"\bwhat did (i|we)\b.*\b(say|ask|talk)", last, re.I):
        asked = [text for role, text in prompt.earlier if role == "user"]
        if not asked:
            return "Nothing yet: this is your first message here."
        return "You asked:\n\n" + "\n".join(f"- {_short(text)}" for text in asked[-5:])
    if _SNIPPET.search(last) and not _ABOUT_US.search(last):
        file = code.write(last, "")["files"][0]
        return (
            f"Here is `{file['path']}`, from the demo model's small stock:\n\n"
            f"```{file['language']}\n{file['content']}```\n\n"
            "In a session whose function is `Code` I would have saved it as a file."
        )
    for pattern, reply in _TOPICS:
        if re.search(pattern, last, re.I | re.S):
            return reply if _IDENTITY in reply else f"{reply}\n\n*(The demo model speaking.)*"
    if _GREETING.search(last):
        return (
            f"Hello{f', {name}' if name else ''}! {_IDENTITY}\n\nTry one of these:\n\n- What is this?\n"
            "- How do I add a function?\n- How is a reply streamed?\n- How do I use a real model?\n"
            "- How do I deploy it?"
        )
    if _THANKS.search(last):
        return "You are welcome. Ask me how a reply is streamed, or how to deploy this, whenever you like."
    return (
        f"You wrote: “{_short(last)}”\n\n{_IDENTITY} I know something about this project, though: ask me what it is, "
        "how to add a function, how a reply is streamed, how to use a real model, or how to deploy it."
    )


def _name(prompt: Prompt) -> str | None:
    for role, text in reversed(prompt.earlier):
        if role == "user" and (told := _NAME.search(text)):
            return str(told[1] or told[2])
    return None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:199] + "…"


_FILLER = re.compile(
    r"^(please|hi|hello|hey|can you|could you|would you|i want to|i would like to|i need|tell me|show me|give me"
    r"|how do i|how can i|how is|how are|how does|what is|what are|why is|write|create|make"
    r"|a|an|the|me|some|to|this)\b\W*",
    re.I,
)


def _title(last: str) -> str:
    quoted = re.search(r"<question>(.*?)</question>", last, re.S)
    question = re.sub(r"\[\[.*?\]\]", " ", quoted[1] if quoted else last, flags=re.S)
    line = " ".join(question.split())
    rest = line
    while (shorter := _FILLER.sub("", rest)) != rest:
        rest = shorter
    words = re.findall(r"[\w'’./+#-]+", rest or line)[:6]
    title = " ".join(words).strip(".-/ ")[:60]
    return title[:1].upper() + title[1:] if title else "A short chat"
