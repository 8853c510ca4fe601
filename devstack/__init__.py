"""An embedded Supabase for development and tests: Postgres, REST, Auth and Realtime behind one port.

`devstack.stack.Stack` is the whole of it; `python -m devstack` runs one until it is stopped.
Everything listens on loopback alone and keeps its data in one folder.
"""

from __future__ import annotations


class DevstackError(Exception):
    """The devstack cannot do what was asked. The text is one line, with the remedy."""


class PortInUse(DevstackError):
    """Another program listens on the front port."""
