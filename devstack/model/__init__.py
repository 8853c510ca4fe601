"""A demo model: OpenAI's streaming chat completions, without a model, a key or a bill.

It answers by keyword about this project, writes a small code file when it is asked for code, compares what it is asked
to compare, and can be told by a directive in the last user message to be slow, busy, broken or precise, which is how
tests and benchmarks steer it.

    python -m devstack.model --port 54330          for people
    async with ModelServer() as server: ...        for tests; `server.url` is the base URL

Directives are described in `devstack.model.script`, and by `python -m devstack.model --help`.
"""

from .script import Script, read_script
from .server import Exchange, ModelServer

__all__ = ["Exchange", "ModelServer", "Script", "read_script"]
