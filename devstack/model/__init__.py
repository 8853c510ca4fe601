"""A demo model: an OpenAI-compatible server with canned replies, free and without an API key.

    python -m devstack.model --port 54330          on the command line
    async with ModelServer() as server: ...        in tests; `server.url` is the base URL

It answers questions about this project by keyword, writes small code files and compares options. Tests and benchmarks
control it with directives in the last user message, which can make a reply slow, failing or exact; see
`devstack.model.script` or `python -m devstack.model --help`.
"""

from .script import Script, read_script
from .server import Exchange, ModelServer

__all__ = ["Exchange", "ModelServer", "Script", "read_script"]
