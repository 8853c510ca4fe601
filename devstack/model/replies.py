"""The demo model's replies: answers about this project by keyword, code files, comparisons, titles, any structure."""

from __future__ import annotations

import json
import re

from . import code, compare, media
from .loops import next_step
from .output_format import without_schema
from .prompt import Prompt, Tool, quote
from .script import without_directives
from .shapes import Record, Scalar, sample


def answer(prompt: Prompt) -> str:
    """Return the complete reply to a prompt, as the raw output of a model."""
    if prompt.kind == "title":
        return _title(prompt.last)
    if prompt.kind == "code":
        return json.dumps(code.write(prompt.last, prompt.system), indent=1)
    if prompt.kind == "compare":
        return json.dumps(compare.write(prompt.last), indent=1, ensure_ascii=False)
    if prompt.kind == "describe":
        return json.dumps(media.describe(prompt.media), indent=1, ensure_ascii=False)
    if prompt.kind == "own":
        return _unfollowed(prompt)
    if prompt.wanted is not None:
        wanted, question = next_step(prompt, prompt.wanted)
        value = sample(wanted, without_schema(question), prompt.system)
        is_word = isinstance(value, str) and not prompt.is_json
        return str(value) if is_word else json.dumps(value, indent=1, ensure_ascii=False)
    return _chat(prompt) if not prompt.media else f"{media.seen(prompt.media)}\n\n{_chat(prompt)}"


def with_text(prompt: Prompt, text: str) -> str:
    """Return this text as the reply. Where an object with a `reply` is asked for, it is that field."""
    shape = prompt.wanted.top if prompt.wanted is not None else None
    if prompt.wanted is None or not isinstance(shape, Record) or shape.fields.get("reply") != Scalar("string"):
        return text
    if prompt.kind in ("code", "compare", "describe"):
        return json.dumps({name: text if name == "reply" else [] for name in shape.fields})
    value = sample(prompt.wanted, "")
    return json.dumps({**value, "reply": text}, ensure_ascii=False)


def arguments(tool: Tool, question: str) -> str:
    """Return the arguments of a call of this tool, as JSON."""
    return json.dumps(sample(tool.arguments, question), ensure_ascii=False)


_IDENTITY = (
    "I'm the **demo model**: not a language model, but a small program on your machine that recognises a few keywords. "
    "I'm here so you can try everything without an API key."
)

_REAL = "for that, start `make dev MODEL=local`, or set `LLM_BASE_URL`, `LLM_API_KEY` and `LLM_MODEL` in `.env`."
_UNFOLLOWED = "I'm the **demo model**, a small program that cannot follow the prompt of this function"

_TOPICS: tuple[tuple[str, str], ...] = (
    (
        r"\b(real|other|another|own|actual|openai|anthropic|claude|gemini|ollama|gpt|llama)\b.*\b(model|provider|llm)\b"
        r"|\b(switch|change|replace|use)\b.*\b(model|provider)\b|\b(LLM_|api key|openai|anthropic|gemini|ollama)",
        "To use a real model, set three variables in `.env`, then restart:\n\n"
        "```\nLLM_BASE_URL=https://api.openai.com/v1\nLLM_API_KEY=...\nLLM_MODEL=gpt-5-mini\n```\n\n"
        "Any provider with an OpenAI-compatible API works. For Anthropic, Gemini or Ollama, replace the client `Model` "
        "with one of the examples in `baml_src/clients.baml`.",
    ),
    (
        r"\b(add|new|write|create|make|define)\b.*\b(functions?|endpoints?)\b|\bbaml\b",
        "To add a function:\n\n"
        "1. Write it in a new file in `baml_src/`, for example `summary.baml`.\n"
        '2. Ask it: `make dev` uses what you save. In a terminal: `.venv/bin/bridge ask Summary "…"`.\n'
        "3. In a frontend, set `function` to its name on a session.\n"
        "4. In production, add its name to `BRIDGE_FUNCTIONS`.\n\n"
        '```baml\nfunction Summary(message: string) -> string {\n  client Model\n  prompt #"\n'
        '    {{ _.role("user") }}\n    Summarise this in two sentences: {{ message }}\n  "#\n}\n```\n\n'
        "Parameters are filled in by name: `messages`, `message`, `files`, `session` and `user_id` are provided, and "
        "anything else is taken from the message's `data`. There's no server code to write.",
    ),
    (
        r"\bhandlers?\b|\bpython code\b|\btools?\b|\bagents?\b",
        "To run your own Python code, write a handler: an async generator that receives the turn and yields text, "
        'structured values or files.\n\n```python\nfrom bridge import Turn, handler\n\n\n@handler("Shout")\n'
        "async def shout(turn: Turn):\n    yield turn.message.upper()\n```\n\nSave it in "
        "`handlers.py`, and `make dev` answers with it. In production, set `BRIDGE_HANDLERS=handlers` and "
        "add `Shout` to `BRIDGE_FUNCTIONS`.",
    ),
    (
        r"\bdeploy|\bhost(ed|ing)?\b|\bproduction\b|\bfly\b|\brailway\b|\brender\b|\bdocker\b",
        "To deploy, you need a Supabase project and somewhere to run a container.\n\n"
        "1. Apply the migrations to your project with `supabase db push --remote`.\n"
        "2. Set `SUPABASE_URL`, `SUPABASE_SECRET_KEY` and the `LLM_...` variables for the worker.\n"
        "3. Start the image. It needs no public port, because it only calls Supabase and your model.\n\n"
        "`bridge doctor` checks the setup and tells you how to fix any problem. You can run as many workers as you "
        "like: only one of them handles each message at a time.",
    ),
    (
        r"\bstream|\bdelta|\brealtime\b|\bwebsocket|\blive\b",
        "A reply reaches your page in two ways:\n\n"
        "- **Deltas** are broadcast through Realtime on the private topic `session:<id>`, the first one immediately, "
        "then a few per second. They are fast, but may get lost.\n"
        "- **The reply's row** is checkpointed about once per second and written in full at the end. It is the source "
        "of truth.\n\n"
        "Each delta has an `attempt` and a `seq`, so a page that joins late or misses a delta can read the row and "
        "continue from there. Try it: reload this page while I'm still writing.",
    ),
    (
        r"\bcancel|\bstop\b|\binterrupt",
        "Press Stop, or call `cancel_message` with the message's id. The worker immediately closes its connection to "
        "the model, keeps the text received so far, and marks the reply as `cancelled`.",
    ),
    (
        r"\bfail|\bcrash|\berrors?\b|\bretry|\blost\b|\bdown\b|\breliab",
        "No message is lost when something fails:\n\n"
        "- A worker holds a lease on each message it handles. If the worker dies, another one takes over when the "
        "lease expires.\n"
        "- If Realtime is down, workers still find every message by polling the database.\n"
        "- If the model is overloaded, the call is retried. If it keeps failing, the message ends with an error that "
        "you can see and retry.",
    ),
    (
        r"\bsecur|\brls\b|\bpolic(y|ies)\b|\bauth|\bprivate\b|\bpermission|\bwho can\b",
        "Row level security controls all access. Users can only read and write their own sessions, messages and files, "
        "and only the owner of a session can join its topic, `session:<id>`. The worker's database functions require "
        "the secret key; your page only needs the publishable key.",
    ),
    (
        r"\bfront ?end|\breact\b|\bclient\b|\bpage\b|\bbrowser\b|\bjavascript\b|\btypescript\b",
        "A frontend only talks to Supabase: it inserts a row into `messages`, subscribes to `session:<id>` and reads "
        "the rows. All it needs is the project's URL and publishable key. `client/` contains a small TypeScript client "
        "that merges deltas and rows, and `web/` contains this page, which is built on it.",
    ),
    (
        r"\bfiles?\b",
        "A session can store code files alongside the conversation. Set the session's function to `Code` and ask me "
        "for some code: the file appears next to the chat, together with its version history.",
    ),
    (
        r"\bwhat (is|does|are)\b.*\b(this|it|project|bridge|you)\b"
        r"|\bhow does (this|it) work|\babout this\b|\bwho are you",
        "This is **supabase-baml-bridge**. It connects a frontend to LLM functions written in BAML through a Supabase "
        "project, so you don't need an API server.\n\n"
        "Your page inserts a row into `messages`. A trigger turns it into a job and wakes a worker. The worker calls "
        "the BAML function, streams the reply to your page through Supabase Realtime, and saves the finished row. To "
        "add an endpoint, add a function to `baml_src/`.\n\n" + _IDENTITY,
    ),
)

_SNIPPET = re.compile(
    r"\b(write|show|give|make|create|need)\b.*\b(code|script|program|function|class|snippet)\b"
    r"|\b(fibonacci|fizzbuzz|hello world|sort(s|ing)?)\b",
    re.I | re.S,
)
_ABOUT_PROJECT = re.compile(r"^\W*how\b|\bbaml\b|\bendpoint", re.I)
_NAME = re.compile(r"\bmy name is (\w[\w'-]{0,40})|\bi am called (\w[\w'-]{0,40})", re.I)
_GREETING = re.compile(r"^\W*(hi|hello|hey|hallo|good (morning|day|evening))\b", re.I)
_THANKS = re.compile(r"\b(thanks|thank you|great|perfect|nice|cool)\b", re.I)


def _chat(prompt: Prompt) -> str:
    last = without_directives(prompt.last)
    name = _name(prompt)
    if re.search(r"\bmy name\b", last, re.I) and re.search(r"\b(what|know|remember)\b", last, re.I):
        return f"Your name is {name}." if name else "You haven't mentioned your name yet."
    if match := _NAME.search(last):
        return f"Nice to meet you, {match[1] or match[2]}! {_IDENTITY} What would you like to know about this project?"
    if re.search(r"\bwhat did (i|we)\b.*\b(say|ask|talk)", last, re.I):
        questions = [text for role, text in prompt.earlier if role == "user"]
        if not questions:
            return "Nothing yet. This is your first message here."
        return "You wrote:\n\n" + "\n".join(f"- {quote(text)}" for text in questions[-5:])
    if _SNIPPET.search(last) and not _ABOUT_PROJECT.search(last):
        file = code.write(last, "")["files"][0]
        return (
            f"Here's `{file['path']}`, one of the demo model's samples:\n\n"
            f"```{file['language']}\n{file['content']}```\n\n"
            "In a session that uses the function `Code`, I would have saved it as a file."
        )
    for pattern, reply in _TOPICS:
        if re.search(pattern, last, re.I | re.S):
            return reply if _IDENTITY in reply else f"{reply}\n\n*This is a canned reply from the demo model.*"
    if _GREETING.search(last):
        return (
            f"Hello{f', {name}' if name else ''}! {_IDENTITY}\n\nTry one of these:\n\n- What is this?\n"
            "- How do I add a function?\n- How is a reply streamed?\n- How do I use a real model?\n"
            "- How do I deploy it?"
        )
    if _THANKS.search(last):
        return "You're welcome! If you have more questions, ask me how replies are streamed or how to deploy this."
    return (
        f"You wrote: “{quote(last)}”\n\n{_IDENTITY} I can answer questions about this project: ask me what it is, "
        "how to add a function, how replies are streamed, how to use a real model, or how to deploy it. I can't follow "
        f"a prompt; {_REAL}"
    )


def _unfollowed(prompt: Prompt) -> str:
    """Say why a function's own prompt is not followed: once in a conversation."""
    said = f"You wrote: “{quote(without_directives(prompt.last))}”"
    if any(_UNFOLLOWED in text for role, text in prompt.earlier if role == "assistant"):
        return f"{said}\n\n*The demo model cannot follow a prompt.*"
    return f"{said}\n\n{_UNFOLLOWED}; {_REAL}"


def _name(prompt: Prompt) -> str | None:
    for role, text in reversed(prompt.earlier):
        if role == "user" and (match := _NAME.search(text)):
            return str(match[1] or match[2])
    return None


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
